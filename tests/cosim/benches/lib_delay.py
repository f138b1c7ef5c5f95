"""Bench of `DelayLine`: every input comes out exactly `depth` cycles later."""

import os
from random import Random

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly

from bankside.hw.lib.delay import DelayLine
from bankside.sim.rtl.cocotb_runner import Bench
from bankside.sim.rtl.streams import start_clock

UNITS = {
    f"delay{depth}": Bench(lambda depth=depth: DelayLine(16, depth), env={"DELAY": str(depth)})
    for depth in (0, 1, 5, 20)
}


@cocotb.test(timeout_time=100, timeout_unit="us")
async def exact(dut) -> None:
    """Output and `busy` in every cycle."""
    depth, random = int(os.environ["DELAY"]), Random(cocotb.RANDOM_SEED)
    dut.i_valid.value = dut.i_payload.value = 0
    await start_clock(dut)
    history = [(0, 0)] * depth
    for cycle in range(300):
        history.append((int(random.random() < 0.3), random.getrandbits(16)))
        dut.i_valid.value, dut.i_payload.value = history[-1]
        await ReadOnly()
        valid, word = history[-1 - depth]
        assert dut.o_valid.value == valid, f"cycle {cycle}"
        if valid:
            assert dut.o_payload.value.to_unsigned() == word, f"cycle {cycle}"
        inside = any(v for v, _ in history[len(history) - 1 - depth : -1])
        assert dut.busy.value == inside, f"cycle {cycle}"
        await FallingEdge(dut.clk)
