"""Permanent fault: a bit of a register, memory, net or port keeps one value for the whole run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from bankside.fault_injection.fault import Fault
from bankside.fault_injection.models.base import FaultModel, Options
from bankside.sim.faults import DEPOSITED, Action, Site

Kind = Literal["flop", "memory", "net", "port"]


class Stuck(Options):
    """Which values, and where.

    Attributes:
        values: that bits are stuck at. kinds: of sites.
    """

    values: list[Literal[0, 1]] = Field(default=[0, 1], min_length=1, max_length=2)
    kinds: list[Kind] = Field(default=["flop"], min_length=1)


def _places(site: Site, options: Stuck) -> int:
    return site.width * site.depth * len(options.values) if site.kind in options.kinds else 0


def _fault(site: Site, place: int, cycle: int, options: Stuck) -> Fault:
    rest, value = divmod(place, len(options.values))
    word, bit = divmod(rest, site.width)
    return Fault(
        site.path, MODEL.name, cycle, None, bit, word, {"value": options.values[value]}
    )  # fmt: skip


def held(fault: Fault, site: Site, first: int, last: int | None) -> Action:
    """The bit of the fault at its value in cycles first..last."""
    mask = 1 << fault.bit
    value = mask if fault.parameters.get("value", 0) else 0
    op = "hold" if site.kind in DEPOSITED else "force"
    return Action(op, fault.site, fault.word, mask, value, first, last)


def actions(fault: Fault, sites: Mapping[str, Site]) -> tuple[Action, ...]:
    """Held from the fault's cycle to the end of the run, or for its duration."""
    last = None if fault.duration is None else fault.cycle + max(fault.duration, 1) - 1
    return (held(fault, sites[fault.site], fault.cycle, last),)


MODEL = FaultModel(
    "stuck_at", "stuck bit", ("flop", "memory", "net", "port"), _places, _fault, actions, Stuck,
    when="run", unit="bit and value",
)  # fmt: skip
