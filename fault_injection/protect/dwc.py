"""Duplication with comparison: the block twice, the same inputs, outputs compared in every cycle.

A wrong value that never reaches an output of the block stays unseen, as does one that both copies
take from outside.
"""

from __future__ import annotations

from bankside.fault_injection.protect.mechanism import Mechanism, Target
from bankside.fault_injection.protect.netlist import ALARM_PREFIX, ALARMS, Bit

__all__ = ["DWC"]


def apply(target: Target) -> None:
    """Add a second instance of the block and the comparison of its outputs."""
    module, cell = target.module, target.cell
    own, other = [], []
    outputs: dict[str, list[Bit]] = {}
    for port, direction in cell["port_directions"].items():
        if direction != "output":
            continue
        bits = cell["connections"][port]
        outputs[port] = module.wire(len(bits))
        alarm = port.removeprefix(ALARM_PREFIX)
        if alarm != port and alarm in ALARMS:
            module.alarms[alarm] += outputs[port]
        else:
            own += bits
            other += outputs[port]
    name = module.fresh(f"{target.name}__dwc")
    module.copy_cell(cell, outputs, name)
    module.added.append(name)
    target.alarm("detected", module.differ(own, other))


DWC = Mechanism(("instance",), apply)
