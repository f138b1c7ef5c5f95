"""Bench of one combinational arithmetic unit; the top-level name says which.

The operands are those of the unit tests, with a seed of their own.
"""

import cocotb
from cocotb.triggers import Timer

from bankside.isa.numerics_vectors import UNITS

COUNT = 400


def check(unit, values, got, widths) -> str:
    """Empty, or what is wrong with the outputs `got` (unsigned words of `widths` bits)."""
    want = [w & (1 << n) - 1 for w, n in zip(unit.reference(*values), widths, strict=True)]
    return "" if got == want else f"{values} -> {got}, expected {want}"


@cocotb.test()
async def equals_reference(dut) -> None:
    """Every output equals the integer reference on all corners and on random operands."""
    unit = UNITS[dut._name.removeprefix("bankside_").removeprefix("bad_")]
    ins = [getattr(dut, name) for name in unit.inputs]
    outs = [getattr(dut, name) for name in unit.outputs]
    widths = [len(out) for out in outs]
    seed = cocotb.RANDOM_SEED
    for values in unit.operands(seed, COUNT):
        for port, value in zip(ins, values, strict=True):
            port.value = value & (1 << len(port)) - 1
        await Timer(1, unit="ns")
        got = [out.value.to_unsigned() for out in outs]
        wrong = check(unit, values, got, widths)
        assert not wrong, f"seed {seed}: {wrong}"
