"""A row (word line) of one bank of one chip fails."""

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
    return cells.rows * (cells.chips if cells.is_store else 1)


def _fault(site: Site, place: int, cycle: int, options: Wide) -> Fault:
    cells = Cells.of(site, options)
    row, chip = divmod(place, cells.chips if cells.is_store else 1)
    word = row * (cells.row_bytes if cells.is_store else cells.columns) + chip
    # The last row of the main memory may end before it has reached every chip.
    word = min(word, cells.depth - 1)
    return Fault(site.path, MODEL.name, cycle, None if options.hold else 0, 0, word, kept(options))


def actions(fault: Fault, sites: Mapping[str, Site]) -> tuple[Action, ...]:
    """All cells of the row."""
    site = sites[fault.site]
    cells = Cells.of(site, fault.parameters)
    row, rest = divmod(fault.word, cells.row_bytes if cells.is_store else cells.columns)
    return tuple(damaged(fault, cells.row(row, rest % cells.chips), site))


MODEL = FaultModel(
    "dram_row", "row of a DRAM bank", KINDS, _places, _fault, actions, Wide, unit="row"
)
