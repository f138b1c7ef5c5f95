"""cocotb bench for the speed comparison: one program on the rank, streams fed and every DRAM
command recorded.

It does per cycle what the C++ shim of the `rtl` execution does, the way a cocotb user writes it.
Input and output files are
named by the environment (BANKSIDE_SPEED_IN, BANKSIDE_SPEED_OUT, numpy archives).
"""

import os
import time

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ReadOnly, RisingEdge, Timer


async def _start(dut, words: list[int]) -> None:
    for name in ("start", "program_en", "refresh", "host_in__valid"):
        dut[name].value = 0
    dut["host_out__ready"].value = 1
    dut.rst.value = 1
    Clock(dut.clk, 10, unit="ns").start()
    for _ in range(3):
        await RisingEdge(dut.clk)
    dut.rst.value = 0
    dut.program_en.value = 1
    for address, word in enumerate(words):
        dut.program_addr.value = address
        dut.program_data.value = word
        await RisingEdge(dut.clk)
    dut.program_en.value = 0


@cocotb.test()
async def speed(dut) -> None:
    """Run the program, record outputs and the command bus, write them with the time it took."""
    given = np.load(os.environ["BANKSIDE_SPEED_IN"])
    bursts = [int.from_bytes(row.astype("<u2").tobytes(), "little") for row in given["host_in"]]
    await _start(dut, [int(w) for w in given["words"]])
    dut.refresh.value = int(given["refresh"])
    taken, outputs, commands, cycle = 0, [], [], 0
    dut["host_in__valid"].value = int(bool(bursts))
    dut["host_in__payload"].value = bursts[0] if bursts else 0
    dut.start.value = 1
    await RisingEdge(dut.clk)
    dut.start.value = 0
    begin = time.process_time()
    while True:
        await ReadOnly()
        if int(dut.trace_valid.value):
            commands.append((cycle, int(dut.trace_command.value)))
        if int(dut["host_out__valid"].value):
            outputs.append(int(dut["host_out__payload"].value))
        accepted = int(dut["host_in__valid"].value) and int(dut["host_in__ready"].value)
        done = int(dut.done.value)
        cycle += 1
        if done:
            break
        await RisingEdge(dut.clk)
        if accepted:
            taken += 1
            dut["host_in__valid"].value = int(taken < len(bursts))
            if taken < len(bursts):
                dut["host_in__payload"].value = bursts[taken]
    seconds = time.process_time() - begin
    size = given["host_in"].shape[1]
    data = [np.frombuffer(value.to_bytes(2 * size, "little"), "<u2") for value in outputs]
    np.savez(
        os.environ["BANKSIDE_SPEED_OUT"],
        seconds=seconds,
        cycles=cycle,
        outputs=np.array(data, "<u2").reshape(-1, size),
        command_cycles=np.array([c for c, _ in commands]),
    )
    await Timer(1, unit="ns")
