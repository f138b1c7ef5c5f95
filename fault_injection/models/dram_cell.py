"""Upset of one DRAM cell, until the word is written again."""

from __future__ import annotations

from bankside.fault_injection.fault import Fault
from bankside.fault_injection.models.base import FaultModel
from bankside.fault_injection.models.dram import KINDS, Dram, depth_of, is_cells
from bankside.fault_injection.models.seu import flip
from bankside.sim.faults import Site


def _places(site: Site, options: Dram) -> int:
    return site.width * depth_of(site, options.model_dump()) if is_cells(site) else 0


def _fault(site: Site, place: int, cycle: int, options: Dram) -> Fault:
    word, bit = divmod(place, site.width)
    return Fault(site.path, MODEL.name, cycle, bit=bit, word=word)


MODEL = FaultModel("dram_cell", "upset of a DRAM cell", KINDS, _places, _fault, flip, Dram)
