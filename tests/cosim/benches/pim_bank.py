"""Bench of one bank: cells, multipliers, adders and result buffer, without a chip around them.

The environment gives the machine (BANKSIDE_PRESET) and the fault of a twin (BANKSIDE_FAULT).
"""

import os
from random import Random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge
from pim_bank_reference import BankReference, random_mac, step_fields
from pim_chip_model import Traffic, join

from bankside.config import HardwareConfig
from bankside.hw.pim.bank import add_layout, result_read_layout
from bankside.isa.machine import Machine

PORTS = (
    "open", "row", "read", "column", "write", "write_column", "wdata", "read_result", "source",
    "query", "probability", "acc_operand", "multiply", "add", "step", "k",
)  # fmt: skip


class Driver:
    """Drives one bank; every method takes at least one cycle and leaves the strobes low."""

    def __init__(self, dut) -> None:
        self.dut = dut
        self.machine = Machine.of(HardwareConfig.load(os.environ["BANKSIDE_PRESET"]))

    async def start(self) -> None:
        for port in PORTS:
            getattr(self.dut, port).value = 0
        if hasattr(self.dut, "fault"):
            self.dut.fault.value = int(os.environ["BANKSIDE_FAULT"])
        cocotb.start_soon(Clock(self.dut.clk, 2, unit="ns").start())
        self.dut.rst.value = 1
        await self.pulse("open", row=1)
        self.dut.rst.value = 0
        await self.pulse("open", row=1)

    async def pulse(self, *strobes: str, **values: int) -> None:
        for name, value in values.items():
            getattr(self.dut, name).value = value
        for name in strobes:
            getattr(self.dut, name).value = 1
        await FallingEdge(self.dut.clk)
        for name in strobes:
            getattr(self.dut, name).value = 0

    async def cell(self, column: int, data: int) -> None:
        await self.pulse("write", write_column=column, wdata=data)

    async def mac(self, mac) -> None:
        """The three stages of a MAC, with cycles between them in which nothing may move."""
        machine, lanes = self.machine, self.machine.lanes
        await self.pulse("read", column=mac.column)
        await self.pulse(
            "multiply", query=join(mac.query, machine.slice_bits), acc_operand=mac.mode,
            probability=join(mac.probability, 16),
        )  # fmt: skip
        rubbish = (1 << machine.slice_bits * lanes) - 1
        await self.pulse(query=rubbish, probability=(1 << 16 * lanes) - 1, acc_operand=1 - mac.mode)
        fields, layout = step_fields(mac), add_layout(machine)
        await self.pulse("add", step=layout.const(fields).as_bits(), k=join(mac.k, 8))
        # Everything else on the same word: an addition at the wrong time would be seen.
        wrong = {f: v if f == "rb" else ~v & (1 << layout[f].width) - 1 for f, v in fields.items()}
        await self.pulse(step=layout.const(wrong).as_bits(), k=0)

    async def result(self, lane: int, word: int, half: int) -> int:
        layout = result_read_layout(self.machine)
        source = layout.const({"lane": lane, "rb": word, "half": half})
        await self.pulse("read_result", source=source.as_bits())
        self.dut.source.value = 0
        return self.dut.rdata.value.to_unsigned()


@cocotb.test()
async def cells_keep_their_bits(dut) -> None:
    """Columns of two rows keep what was written; a read holds its data."""
    driver = Driver(dut)
    await driver.start()
    rng = Random(cocotb.RANDOM_SEED)
    cells = {}
    for row in (1, 0, 1, 0):
        await driver.pulse("open", row=row)
        for column in range(driver.machine.columns):
            if (row, column) in cells:
                await driver.pulse("read", column=column)
                await driver.pulse(column=0, wdata=0)
                assert dut.rdata.value.to_unsigned() == cells[row, column], (row, column)
            cells[row, column] = rng.getrandbits(driver.machine.slice_bits)
            await driver.cell(column, cells[row, column])


async def macs(dut, mode: int) -> None:
    """Random MACs of one mode; after each the touched word of every lane equals the reference."""
    driver = Driver(dut)
    await driver.start()
    machine, seed = driver.machine, cocotb.RANDOM_SEED
    traffic, reference = Traffic(machine, seed), BankReference(machine)
    for number in range(120):
        mac = random_mac(machine, traffic, mode, number)
        await driver.cell(mac.column, mac.cells)
        await driver.mac(mac)
        reference.mac(mac)
        for lane in range(machine.lanes):
            for half in range(2):
                want = reference.half(lane, mac.word, half)
                if want is None:
                    continue
                got = await driver.result(lane, mac.word, half)
                assert got == want, f"seed {seed}, MAC {number}: {mac}: {got:#x}, not {want:#x}"


@cocotb.test()
async def tree(dut) -> None:
    """Mode tree."""
    await macs(dut, 0)


@cocotb.test()
async def acc(dut) -> None:
    """Mode acc, with every kind of scale step."""
    await macs(dut, 1)
