"""Bench of `Queue`: random traffic against a deque, exact in every cycle."""

import os
from collections import deque
from random import Random

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly

from bankside.hw.lib.queue import Queue
from bankside.sim.rtl.cocotb_runner import Bench
from bankside.sim.rtl.streams import StreamChecker, StreamDriver, StreamMonitor, start_clock

DEPTH = 4
UNITS = {"queue": Bench(lambda: Queue(8, DEPTH), env={"QUEUE_DEPTH": str(DEPTH)})}


@cocotb.test(timeout_time=100, timeout_unit="us")
async def order_under_stalls(dut) -> None:
    """What goes in comes out, in order, at any mix of idle and stalled cycles."""
    await start_clock(dut)
    random = Random(cocotb.RANDOM_SEED)
    StreamChecker(dut, "o").start()
    for idle, stall in ((0.0, 0.0), (0.6, 0.0), (0.0, 0.6), (0.4, 0.4)):
        monitor = StreamMonitor(dut, "o", stall=stall, random=random).start()
        driver = StreamDriver(dut, "i", idle=idle, random=random)
        items = [random.getrandbits(8) for _ in range(50)]
        await driver.put_all(items)
        assert await monitor.wait_for(50, 1000) == items, f"seed {cocotb.RANDOM_SEED}"
        monitor.stop()


@cocotb.test(timeout_time=100, timeout_unit="us")
async def exact_in_every_cycle(dut) -> None:
    """`valid`, `ready`, `level` and the oldest item, against a deque."""
    depth, random, model = int(os.environ["QUEUE_DEPTH"]), Random(cocotb.RANDOM_SEED), deque()
    dut.i__valid.value = dut.i__payload.value = dut.o__ready.value = 0
    await start_clock(dut)
    for cycle in range(400):
        push, pop, word = random.random() < 0.6, random.random() < 0.5, cycle % 256
        dut.i__valid.value, dut.i__payload.value, dut.o__ready.value = int(push), word, int(pop)
        await ReadOnly()
        want = (bool(model), len(model) < depth, len(model))
        got = (bool(dut.o__valid.value), bool(dut.i__ready.value), dut.level.value.to_unsigned())
        assert got == want, f"cycle {cycle}: {got}, expected {want}"
        push = push and len(model) < depth
        if model:
            assert dut.o__payload.value.to_unsigned() == model[0], f"cycle {cycle}"
            if pop:
                model.popleft()
        if push:
            model.append(word)
        await FallingEdge(dut.clk)
