"""Single-event transient: a bit of a combinational net is inverted for whole cycles.

What is latched is what a real pulse may leave when it is wide enough and meets a clock edge: the
share of pulses that do (latching window, electrical masking) is not in this model and belongs into
the raw rate. Nets are those of the word-level netlist, not gates.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from bankside.fault_injection.fault import Fault
from bankside.fault_injection.models.base import FaultModel, Options
from bankside.sim.faults import Action, Site


class Transient(Options):
    """Attributes:
    cycles: that the net stays inverted.
    """

    cycles: int = Field(default=1, ge=1)


def _places(site: Site, options: Transient) -> int:
    return site.width


def _fault(site: Site, place: int, cycle: int, options: Transient) -> Fault:
    return Fault(site.path, MODEL.name, cycle, options.cycles, place)


def actions(fault: Fault, sites: Mapping[str, Site]) -> tuple[Action, ...]:
    """Inverted for everybody who reads it."""
    last = fault.cycle + max(fault.duration or 1, 1) - 1
    return (Action("force", fault.site, 0, 1 << fault.bit, None, fault.cycle, last),)


MODEL = FaultModel("set_net", "transient on a net", ("net",), _places, _fault, actions, Transient)
