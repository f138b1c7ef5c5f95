"""Shared by the benches of load and store engine: machine, command and token partners."""

from random import Random

import cocotb
from cocotb.triggers import FallingEdge

from bankside.config import HardwareConfig
from bankside.isa.array_machine import ArrayMachine

MACHINE = ArrayMachine.of(
    HardwareConfig.parse(
        "name: dma\nengine: array\narray:\n  rows: 3\n  columns: 5\n  bus_bytes: 16\n"
        "  row_words: 300\n  column_words: 200\nmemory:\n  bytes: 65536\n  outstanding: 4\n"
    )
)
ENGINES = 3


class Tokens:
    """The other engines: give tokens at random, note takes and gives with `progress()`.

    A token is given only while fewer than two of its kind are there, so that the engine often
    waits.
    """

    def __init__(self, dut, random: Random, share: float, progress) -> None:
        self.dut, self.random, self.share, self.progress = dut, random, share, progress
        self.present = [0] * ENGINES
        self.taken: list[tuple[int, int]] = []
        self.given: list[tuple[int, int]] = []
        dut.tokens__present.value = 0
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        dut = self.dut
        while True:
            await FallingEdge(dut.clk)
            # What was taken in the cycle before was subtracted at its end.
            mask = sum((count > 0) << engine for engine, count in enumerate(self.present))
            dut.tokens__present.value = mask
            await cocotb.triggers.ReadOnly()
            for name, events in (("take", self.taken), ("give", self.given)):
                value = dut[f"tokens__{name}"].value.to_unsigned()
                if value and not dut.rst.value:
                    events.append((value, self.progress(name)))
            take = dut.tokens__take.value.to_unsigned()
            assert not take & ~mask, f"takes {take:b} of {mask:b}"
            for engine in range(ENGINES):
                self.present[engine] -= take >> engine & 1
                if self.present[engine] < 2 and self.random.random() < self.share:
                    self.present[engine] += 1


async def feed(dut, layout, commands: list[dict], random: Random, idle: float) -> None:
    """Offer the commands one after the other; returns when the last one is taken."""
    dut.commands__valid.value = 0
    for command in commands:
        while random.random() < idle:
            await FallingEdge(dut.clk)
        dut.commands__payload.value = layout.const(command).as_bits()
        dut.commands__valid.value = 1
        taken = False
        while not taken:
            await cocotb.triggers.ReadOnly()
            taken = bool(dut.commands__ready.value)
            await FallingEdge(dut.clk)
        dut.commands__valid.value = 0
        dut.commands__payload.value = random.getrandbits(len(dut.commands__payload))
