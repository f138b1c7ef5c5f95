"""Dual-core lockstep: the whole design twice, its outputs compared in every cycle.

Both copies run in the same cycle and from the same clock: what hits both alike (clock, supply) is
not modelled, and a delay between the copies, which guards against it, is not built.
"""

from __future__ import annotations

from typing import Any

from bankside.fault_injection.protect.mechanism import Mechanism, Target
from bankside.fault_injection.protect.netlist import FLOPS, Bit

__all__ = ["DCLS"]


def apply(target: Target) -> None:
    """Copy every cell and instance of the top; inputs are shared, output ports compared."""
    module = target.module
    cells = list(module.cells.items())
    names = {id(cell): module.register_name(cell) for _, cell in cells if cell["type"] in FLOPS}
    driven: dict[Bit, Bit] = {}
    for _, cell in cells:
        for port, bits in _outputs(cell):
            new = _second_net(target, cell, port, bits, names.get(id(cell)))
            driven |= dict(zip(bits, new, strict=True))
    for name, cell in cells:
        new_name = None
        if not cell["type"].startswith("$") or cell["type"] == "$mem_v2":
            new_name = module.fresh(f"{name}__dcls")
            module.added.append(new_name)
        connections = {p: [driven.get(b, b) for b in c] for p, c in cell["connections"].items()}
        twin = module.copy_cell(cell, connections, new_name)
        if cell["type"] == "$mem_v2":
            twin["parameters"]["MEMID"] = f"\\{new_name}"
    for bits in module.alarms.values():
        bits += [driven[bit] for bit in list(bits) if bit in driven]
    ports = (p["bits"] for p in module.ports.values() if p["direction"] == "output")
    own = [bit for bits in ports for bit in bits if bit in driven]
    target.alarm("detected", module.differ(own, [driven[bit] for bit in own]))


def _outputs(cell: dict[str, Any]) -> list[tuple[str, list[Bit]]]:
    directions = cell["port_directions"]
    return [(p, bits) for p, bits in cell["connections"].items() if directions[p] == "output"]


def _second_net(
    target: Target, cell: dict[str, Any], port: str, bits: list[Bit], register: str | None
) -> list[Bit]:
    """Nets of the copy's output; those of a register have a name and a power-on value."""
    module = target.module
    if register is None:
        return module.wire(len(bits))
    name = module.fresh(f"{register}__dcls")
    module.added.append(name)
    return module.wire(len(bits), name, module.initial(bits))


DCLS = Mechanism(("top",), apply)
