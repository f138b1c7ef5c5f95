"""Single-event upset: one bit of a register is inverted, until the register is written again."""

from __future__ import annotations

from collections.abc import Mapping

from bankside.fault_injection.fault import Fault
from bankside.fault_injection.models.base import FaultModel, NoOptions
from bankside.sim.faults import Action, Site

__all__ = ["MODEL", "flip"]


def flip(fault: Fault, sites: Mapping[str, Site]) -> tuple[Action, ...]:
    """The bit of the fault is inverted once."""
    return (Action("flip", fault.site, fault.word, 1 << fault.bit, first=fault.cycle),)


def _places(site: Site, options: NoOptions) -> int:
    return site.width


def _fault(site: Site, place: int, cycle: int, options: NoOptions) -> Fault:
    return Fault(site.path, MODEL.name, cycle, bit=place)


MODEL = FaultModel("seu", "upset of a register bit", ("flop",), _places, _fault, flip)
