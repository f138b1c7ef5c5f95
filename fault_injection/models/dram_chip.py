"""A whole DRAM chip fails: all cells of all its banks."""

from __future__ import annotations

from collections.abc import Mapping

from bankside.fault_injection.fault import Fault
from bankside.fault_injection.models.base import FaultModel
from bankside.fault_injection.models.dram import (
    KINDS,
    Cells,
    Wide,
    banks_of,
    chip_of,
    damaged,
    depth_of,
    is_cells,
    kept,
)  # fmt: skip
from bankside.sim.faults import Action, Site


def _places(site: Site, options: Wide) -> int:
    if not is_cells(site):
        return 0
    if site.kind == "store":
        return min(options.chips, depth_of(site, options.model_dump()))
    # The chip is named by its first bank.
    return 1 if chip_of(site)[1] == 0 else 0


def _fault(site: Site, place: int, cycle: int, options: Wide) -> Fault:
    duration = None if options.hold else 0
    return Fault(site.path, MODEL.name, cycle, duration, 0, place, kept(options))


def actions(fault: Fault, sites: Mapping[str, Site]) -> tuple[Action, ...]:
    """All words of all banks of the chip."""
    site = sites[fault.site]
    if site.kind == "store":
        words = Cells.of(site, fault.parameters).chip(fault.word)
        return tuple(damaged(fault, words, site))
    return tuple(
        action
        for bank in banks_of(site, sites)
        for action in damaged(fault, iter(range(bank.depth)), bank)
    )


MODEL = FaultModel(
    "dram_chip", "whole DRAM chip", KINDS, _places, _fault, actions, Wide, unit="chip"
)
