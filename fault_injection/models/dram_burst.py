"""Neighbouring DRAM cells of one word (main memory: of one byte) are inverted at once."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from bankside.fault_injection.fault import Fault
from bankside.fault_injection.models.base import FaultModel, bits_from
from bankside.fault_injection.models.dram import KINDS, Dram, depth_of, is_cells
from bankside.sim.faults import Action, Site


class Burst(Dram):
    """Attributes:
    bits: neighbours that are inverted.
    """

    bits: int = Field(default=2, ge=2, le=64)


def _room(site: Site, options: Burst) -> int:
    return max(0, site.width - options.bits + 1)


def _places(site: Site, options: Burst) -> int:
    return _room(site, options) * depth_of(site, options.model_dump()) if is_cells(site) else 0


def _fault(site: Site, place: int, cycle: int, options: Burst) -> Fault:
    word, bit = divmod(place, _room(site, options))
    return Fault(site.path, MODEL.name, cycle, 0, bit, word, {"bits": options.bits})


def actions(fault: Fault, sites: Mapping[str, Site]) -> tuple[Action, ...]:
    """All of them inverted once."""
    mask = bits_from(fault.bit, fault.parameters.get("bits", 2))
    return (Action("flip", fault.site, fault.word, mask, first=fault.cycle),)


MODEL = FaultModel(
    "dram_burst", "upset of neighbouring DRAM cells", KINDS, _places, _fault, actions, Burst,
    unit="burst",
)  # fmt: skip
