"""Transfer fault: a bit of a port of the top is inverted for whole cycles."""

from __future__ import annotations

from bankside.fault_injection.fault import Fault
from bankside.fault_injection.models.base import FaultModel
from bankside.fault_injection.models.set_net import Transient, actions
from bankside.sim.faults import Site


def _places(site: Site, options: Transient) -> int:
    return site.width


def _fault(site: Site, place: int, cycle: int, options: Transient) -> Fault:
    return Fault(site.path, MODEL.name, cycle, options.cycles, place)


MODEL = FaultModel("bus_bit", "bit of a port", ("port",), _places, _fault, actions, Transient)
