"""A bit line of one bank of one chip fails: the same bit of every row."""

from __future__ import annotations

from collections.abc import Mapping

from bankside.fault_injection.fault import Fault
from bankside.fault_injection.models.base import FaultModel
from bankside.fault_injection.models.dram import KINDS, Cells, Wide, damaged, is_cells, kept
from bankside.sim.faults import Action, Site


def _places(site: Site, options: Wide) -> int:
    if not is_cells(site):
        return 0
    cells = Cells.of(site, options)
    if cells.is_store:  # only what the memory reaches in the first row of each bank
        return min(cells.depth, cells.used_banks * cells.row_bytes) * site.width
    return cells.lines


def _fault(site: Site, place: int, cycle: int, options: Wide) -> Fault:
    word, bit = divmod(place, site.width)
    duration = None if options.hold else 0
    return Fault(site.path, MODEL.name, cycle, duration, bit, word, kept(options))


def actions(fault: Fault, sites: Mapping[str, Site]) -> tuple[Action, ...]:
    """The bit in all rows of the bank."""
    site = sites[fault.site]
    words = Cells.of(site, fault.parameters).line(fault.word)
    return tuple(damaged(fault, words, site, 1 << fault.bit))


MODEL = FaultModel(
    "dram_column", "bit line of a DRAM bank", KINDS, _places, _fault, actions, Wide, unit="bit line"
)
