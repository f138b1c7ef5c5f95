"""Even parity on registers and memories: an odd number of wrong bits in a group is detected.

The parity bit of a register is computed from what the register is about to take and kept by the
same kind of cell; it is checked in every cycle. Those of a memory lie in a memory beside it and are
checked at every read port.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from bankside.fault_injection.protect.coded import Code, add_check_memory
from bankside.fault_injection.protect.mechanism import Mechanism, Target
from bankside.fault_injection.protect.netlist import Bit, binary
from bankside.schema import Section

__all__ = ["PARITY", "ParityOptions"]

_VALUES = ("ARST_VALUE", "SRST_VALUE")


class ParityOptions(Section):
    """bits: at most so many bits share a parity bit; by default a whole register or granule."""

    bits: Annotated[int, Field(ge=1)] | None = None


def apply(target: Target) -> None:
    """Add the parity bits of one register or memory."""
    if target.cell["type"] == "$mem_v2":
        add_check_memory(target, Code("parity", _sets, _check, corrects=False), target.options.bits)
    else:
        _register(target)


def _sets(data_bits: int) -> list[list[int]]:
    return [list(range(data_bits))]


def _check(target: Target, data: list[Bit], check: list[Bit]) -> list[Bit]:
    target.alarm("detected", target.module.odd([*data, *check]))
    return []


def _register(target: Target) -> None:
    module, cell = target.module, target.cell
    held, taken = cell["connections"]["Q"], cell["connections"]["D"]
    size = target.options.bits or len(held)
    groups = [range(at, min(at + size, len(held))) for at in range(0, len(held), size)]
    initial = module.initial(held)
    parity = "".join(_odd(initial, group) for group in reversed(groups))
    name = module.fresh(f"{target.name}__parity")
    bits = module.wire(len(groups), name, parity)
    expected = [module.odd([taken[i] for i in group]) for group in groups]
    twin = module.copy_cell(cell, {"D": expected, "Q": bits})
    twin["parameters"]["WIDTH"] = binary(len(groups))
    for key in _VALUES:
        if key in twin["parameters"]:
            text = cell["parameters"][key]
            twin["parameters"][key] = "".join(_odd(text, group) for group in reversed(groups))
    module.added.append(name)
    for group, bit in zip(groups, bits, strict=True):
        target.alarm("detected", module.odd([*(held[i] for i in group), bit]))


def _odd(text: str, group: range) -> str:
    """Parity of some bits of a constant, most significant bit first."""
    return str(sum(text[len(text) - 1 - i] == "1" for i in group) % 2)


PARITY = Mechanism(("registers", "memories"), apply, ParityOptions)
