"""What a fault model is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from bankside.fault_injection.fault import Fault
from bankside.schema import Section
from bankside.sim.faults import Action, Site

__all__ = ["FaultModel", "NoOptions", "Options", "bits_from", "pattern"]


class Options(Section):
    """What every model lets the user choose.

    Attributes:
        sites: patterns (`*`, `?`) of the paths of sites.
    """

    sites: list[str] = Field(default_factory=lambda: ["*"], min_length=1)


class NoOptions(Options):
    """Nothing else to choose."""


@dataclass(frozen=True)
class FaultModel:
    """A kind of fault.

    Attributes:
        name: in `FAULT_MODELS`. title: for reports.
        kinds: of the sites that it hits.
        places: (site, options) -> how many different faults it can make at a site in one cycle; 0:
            none, such as four neighbouring bits in a register of two.
        fault: (site, number of the place, cycle, options) -> that fault.
        actions: (fault, sites) -> what it does.
        options: class of its options.
        when: `cycle`: a fault begins in any cycle; `run`: it is there from the first one on.
        unit: what one place is, for tables.
    """

    name: str
    title: str
    kinds: tuple[str, ...]
    places: Callable[[Site, Any], int]
    fault: Callable[[Site, int, int, Any], Fault]
    actions: Callable[[Fault, Mapping[str, Site]], tuple[Action, ...]]
    options: type[Options] = NoOptions
    when: Literal["cycle", "run"] = "cycle"
    unit: str = "bit"


def bits_from(low: int, count: int = 1) -> int:
    """Mask of `count` bits from `low` on."""
    return ((1 << count) - 1) << low


def pattern(seed: int, word: int, width: int) -> int:
    """Bits that have nothing to do with what was stored: each set with probability 1/2, always the
    same for one seed and word.
    """
    size = -(-width // 8)
    text = f"{seed}:{word}".encode()
    digest = hashlib.shake_128(text).digest(size)
    return int.from_bytes(digest, "little") & bits_from(0, width)
