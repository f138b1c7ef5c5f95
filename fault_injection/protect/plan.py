"""Which block gets which protection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError

from bankside.errors import ConfigError
from bankside.fault_injection.protect.mechanism import Kind, Mechanism
from bankside.fault_injection.protect.mechanisms import MECHANISMS
from bankside.schema import Section

__all__ = ["Plan", "Use", "by_kind", "read_plan"]


@dataclass(frozen=True)
class Use:
    """A mechanism with its options.

    Attributes:
        name: of the mechanism in `MECHANISMS`.
        options: of the class that the mechanism names.
    """

    name: str
    options: Section

    @property
    def mechanism(self) -> Mechanism:
        return MECHANISMS.get(self.name)

    def key(self) -> dict[str, Any]:
        """Plain data that is equal for equal uses."""
        return {"mechanism": self.name, **self.options.model_dump()}


#: Path of a block -> its mechanisms. A block is an instance path ("" for the whole design) or the
#: path of one register or memory; it holds all registers and memories below its path that are not
#: below a longer path of the plan.
Plan = Mapping[str, tuple[Use, ...]]


def read_plan(data: Mapping[str, Any]) -> dict[str, tuple[Use, ...]]:
    """Plan from plain data, as in YAML.

    ::

        {"core.control": ["tmr", "secded"],
         "core.mac": {"mechanism": "parity", "bits": 8},
         "core.dma": "none"}

    `none` takes a block out of the one around it.

    Raises:
        ConfigError: unknown mechanism or option, or two mechanisms for the same things.
    """
    plan = {}
    for block, given in data.items():
        chosen = given if isinstance(given, list | tuple) else [given]
        uses = tuple(_use(block, one) for one in chosen if one != "none")
        _check_kinds(block, uses)
        plan[block] = uses
    return plan


def _use(block: str, given: object) -> Use:
    where = f"protection of {block or 'the whole design'!r}"
    if isinstance(given, Use):
        return given
    settings = {"mechanism": given} if isinstance(given, str) else given
    if not isinstance(settings, Mapping) or not isinstance(settings.get("mechanism"), str):
        raise ConfigError(
            f"{where}: {given!r} is no mechanism; expected one of {', '.join(MECHANISMS)}, none, "
            f"or {{mechanism: NAME, option: value}}"
        )
    rest = {key: value for key, value in settings.items() if key != "mechanism"}
    try:
        model = MECHANISMS.get(settings["mechanism"]).options
        return Use(settings["mechanism"], model.model_validate(rest))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        valid = ", ".join(model.model_fields) or "it has none"
        raise ConfigError(
            f"{where}: options of {settings['mechanism']}: {problems}; valid options: {valid}"
        ) from error


def by_kind(uses: Sequence[Use]) -> dict[str, Use]:
    """Mechanism of each kind of thing: with parity and SEC-DED, the latter has the memories.

    A mechanism for one kind comes before one for several.
    """
    return {
        kind: min(found, key=lambda use: len(use.mechanism.kinds))
        for kind in get_args(Kind)
        if (found := [use for use in uses if kind in use.mechanism.kinds])
    }


def _check_kinds(block: str, uses: Sequence[Use]) -> None:
    """Every mechanism has something to do, and where it can be done."""
    where = f"protection of {block or 'the whole design'!r}"
    chosen = by_kind(uses)
    for use in uses:
        kinds = use.mechanism.kinds
        if all(chosen[kind] is not use for kind in kinds):
            other = chosen[kinds[0]].name
            raise ConfigError(
                f"{where}: {other} and {use.name} are both for {' and '.join(kinds)}; choose one, "
                f"or put one on a block of its own"
            )
        if "top" in kinds and block:
            raise ConfigError(
                f"{where}: {use.name} is for the whole design; use dwc, or give it to the block ''"
            )
        if "instance" in kinds and not block:
            raise ConfigError(
                f"{where}: {use.name} needs an instance; use dcls, or name a block below the top"
            )
