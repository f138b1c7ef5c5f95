"""Bench of one chip: random legal commands against the Python model, cycles and bits.

The environment gives the machine (BANKSIDE_PRESET), the number of steps (BANKSIDE_STEPS) and the
fault of a twin (BANKSIDE_FAULT, 0 for none).
"""

import os

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge
from pim_chip_model import ChipModel, Traffic

from bankside.config import HardwareConfig
from bankside.hw.pim.layouts import command_codes, command_layout
from bankside.isa.machine import Machine


@cocotb.test()
async def random_commands(dut) -> None:
    """Every burst comes in its cycle with its bits, and no other burst comes."""
    machine = Machine.of(HardwareConfig.load(os.environ["BANKSIDE_PRESET"]))
    seed = cocotb.RANDOM_SEED
    issues = Traffic(machine, seed).make(int(os.environ["BANKSIDE_STEPS"]))
    want = ChipModel(machine).run(issues)
    words = {i.cycle: _word(machine, i) for i in issues}
    writes = {i.cycle + machine.write_latency: i.data for i in issues if i.name[:2] == "WR"}
    if hasattr(dut, "fault"):
        dut.fault.value = int(os.environ["BANKSIDE_FAULT"])
    dut.valid.value = dut.command.value = dut.wdata.value = 0
    cocotb.start_soon(Clock(dut.clk, 2, unit="ns").start())
    dut.rst.value = 1
    for _ in range(3):
        await FallingEdge(dut.clk)
    dut.rst.value = 0
    seen = 0
    for cycle in range(issues[-1].cycle + 2 * machine.read_latency):
        dut.valid.value = cycle in words
        dut.command.value = words.get(cycle, cycle % 16)
        # Outside its cycle the bus carries rubbish, so that a late or early look is noticed.
        dut.wdata.value = writes.get(cycle, cycle * 0x12345 & 0xFFFFFFFF)
        assert int(dut.rvalid.value) == (cycle in want), f"seed {seed}: rvalid in cycle {cycle}"
        if cycle in want:
            got = dut.rdata.value.to_unsigned()
            assert got == want[cycle], f"seed {seed}: cycle {cycle}: {got:#x}, not {want[cycle]:#x}"
            seen += 1
        await FallingEdge(dut.clk)
    assert seen == len(want) > 20


def _word(machine: Machine, issue) -> int:
    code = command_codes(machine)[issue.name]
    return command_layout(machine).const({"code": code, **issue.operands}).as_bits()
