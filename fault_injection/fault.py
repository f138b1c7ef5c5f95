"""One fault: a model at a place and a time. Ref: docs/inject.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from bankside.errors import ConfigError
from bankside.registry import nearest
from bankside.sim.faults import Site

__all__ = ["Fault", "check_fault"]

_KEYS = ("site", "model", "cycle", "duration", "bit", "word")


@dataclass(frozen=True)
class Fault:
    """What happens where and when; `FAULT_MODELS` says what it does, as actions.

    Attributes:
        site: path of the site. model: name in `FAULT_MODELS`.
        cycle: first one that sees it (docs/faults.md). duration: cycles that it acts in; 0: once,
            at the beginning of `cycle`; None: to the end of the run.
        bit: lowest bit that it hits. word: of a memory or of the main memory (byte).
        parameters: what else its model has, as plain numbers.
    """

    site: str
    model: str
    cycle: int = 0
    duration: int | None = 0
    bit: int = 0
    word: int = 0
    parameters: Mapping[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data; parameters stand beside the other keys."""
        return {key: getattr(self, key) for key in _KEYS} | dict(self.parameters)

    def to_json(self) -> str:
        """One line of text that `from_json` reads."""
        return json.dumps(self.as_dict(), separators=(",", ":"))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`. Raises ConfigError for what is no fault."""
        for key in ("site", "model"):
            if not isinstance(data.get(key), str):
                raise ConfigError(f"fault {dict(data)}: {key} is missing; expected its name")
        for key, value in data.items():
            whole = isinstance(value, int) and not isinstance(value, bool)
            if key not in ("site", "model") and not (
                whole or (key == "duration" and value is None)
            ):
                raise ConfigError(f"fault {dict(data)}: {key} is {value!r}; expected an integer")
        known = {key: data[key] for key in _KEYS if key in data}
        return cls(**known, parameters={k: v for k, v in data.items() if k not in _KEYS})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote. Raises ConfigError."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{text!r} is no fault: {error}; expected JSON") from error
        if not isinstance(data, dict):
            raise ConfigError(f"{text!r} is no fault; expected a JSON object")
        return cls.from_dict(data)

    def __str__(self) -> str:
        return self.to_json()


def check_fault(fault: Fault, sites: Mapping[str, Site], cycles: int) -> Site:
    """The site of a fault that fits a design and a run of `cycles` cycles.

    Raises:
        ConfigError: no such site (the nearest one is named), bit, word or cycle.
    """
    site = sites.get(fault.site)
    if site is None:
        raise ConfigError(
            f"fault {fault}: no site {fault.site!r}{nearest(fault.site, sites)}; "
            f"the design has {len(sites)} sites"
        )
    if not 0 <= fault.cycle < cycles:
        raise ConfigError(
            f"fault {fault}: cycle {fault.cycle}; the run has {cycles} cycles: expected 0 to "
            f"{cycles - 1}"
        )
    for name, value, end in (("bit", fault.bit, site.width), ("word", fault.word, site.depth)):
        if not 0 <= value < end:
            raise ConfigError(f"fault {fault}: {name} {value}; {site.path!r} has 0 to {end - 1}")
    return site
