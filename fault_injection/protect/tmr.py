"""Triple modular redundancy: three copies of each register, everybody reads their majority.

A register that holds its value takes the majority back, so an upset lasts one cycle: whatever reads
the register reads the majority, its own hold path included. The voter itself is not tripled: a
transient in it is a wrong value. Two upsets in the same bit of two copies pass as right; their
third copy raises `corrected`, not `detected`. Registers that stop a clock (of the falling edge, in
front of its gate) stay single: an upset of one is overwritten before the next rising edge.

Ref: R. Lyons, W. Vanderkulk, IBM Journal 6 (1962) 200, The use of triple-modular redundancy.
"""

from __future__ import annotations

from bankside.fault_injection.protect.mechanism import Mechanism, Target
from bankside.fault_injection.protect.netlist import Bit

__all__ = ["TMR"]


def apply(target: Target) -> None:
    """Add two copies of a register and the voter that drives what the register drove."""
    module, cell, name = target.module, target.cell, target.name
    read = list(cell["connections"]["Q"])
    initial = module.initial(read)
    module.forget_initial(read)
    copies = [_own_net(target, read, initial)]
    cell["connections"]["Q"] = copies[0]
    for number in (1, 2):
        copy_name = module.fresh(f"{name}__tmr{number}")
        copies.append(module.wire(len(read), copy_name, initial))
        module.copy_cell(cell, {"Q": copies[-1]})
        module.added.append(copy_name)
    a, b, c = copies
    module.either(module.both(a, b), module.both(c, module.either(a, b)), read)
    target.alarm("corrected", module.differ([*a, *a], [*b, *c]))


def _own_net(target: Target, read: list[Bit], initial: str) -> list[Bit]:
    """New output net of the first copy; it keeps the register's name unless that is a port's."""
    module, name = target.module, target.name
    if name not in module.ports:
        module.release(name)
        if all(other.startswith("$") for other in module.names(read)):
            module.wires[module.fresh(f"{name}__voted")] = {
                "hide_name": 0,
                "bits": read,
                "attributes": {},
            }
        return module.wire(len(read), name, initial)
    module.renamed[name] = module.fresh(f"{name}__tmr0")
    return module.wire(len(read), module.renamed[name], initial)


TMR = Mechanism(("registers",), apply, alarms=("corrected",))
