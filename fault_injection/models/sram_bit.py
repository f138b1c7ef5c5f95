"""Upset of one bit of an SRAM in the design, until the word is written again."""

from __future__ import annotations

from bankside.fault_injection.fault import Fault
from bankside.fault_injection.models.base import FaultModel, NoOptions
from bankside.fault_injection.models.seu import flip
from bankside.fault_injection.sites import is_dram
from bankside.sim.faults import Site


def _places(site: Site, options: NoOptions) -> int:
    return 0 if is_dram(site) else site.width * site.depth


def _fault(site: Site, place: int, cycle: int, options: NoOptions) -> Fault:
    word, bit = divmod(place, site.width)
    return Fault(site.path, MODEL.name, cycle, bit=bit, word=word)


MODEL = FaultModel("sram_bit", "upset of an SRAM bit", ("memory",), _places, _fault, flip)
