"""Bench of the load engine: random LOADs from cocotbext-axi's memory with random pauses."""

from random import Random

import array_dma_reference as reference
import cocotb
from array_engines import MACHINE, Tokens, feed
from axi_checkers import ChannelChecker, pause_all, start
from cocotb.triggers import FallingEdge, ReadOnly
from cocotbext.axi import AxiRamRead, AxiReadBus

from bankside.hw.array.control.layouts import load_layout
from bankside.hw.array.load import LoadEngine
from bankside.sim.rtl.cocotb_runner import Bench

UNITS = {"array_load": Bench(lambda: LoadEngine(MACHINE))}


class Banks:
    """Notes every bus word that is written: (side, bank, word, data), and bursts accepted."""

    def __init__(self, dut) -> None:
        self.dut, self.words, self.bursts = dut, [], 0
        self.begins = self.lasts = self.completes = 0
        cocotb.start_soon(self._run())

    def progress(self, name: str) -> int:
        """Bursts accepted before a take, words that came up to a give."""
        return self.bursts if name == "take" else len(self.words) + self._writes()

    def _writes(self) -> int:
        return (self.dut.row_en.value == 1) + (self.dut.column_en.value == 1)

    async def _run(self) -> None:
        dut = self.dut
        while True:
            await FallingEdge(dut.clk)
            await ReadOnly()
            # Counted at the end of the cycle, when everybody has looked.
            accepted = dut.axi__arvalid.value == dut.axi__arready.value == 1
            word = None
            if self._writes() and dut.rst.value == 0:
                assert self._writes() == 1
                where = (dut.column_en, dut.bank, dut.address, dut.data)
                word = tuple(int(signal.value) for signal in where)
            self.begins += int(dut.begin.value == 1)
            self.lasts += int(dut.last.value == 1)
            self.completes += int(dut.complete.value == 1)
            await cocotb.triggers.RisingEdge(dut.clk)
            self.bursts += bool(accepted)
            if word is not None:
                self.words.append(word)


@cocotb.test(timeout_time=400, timeout_unit="us")
@cocotb.parametrize(share=[0.0, 0.4, 0.8])
async def random_loads(dut, share: float) -> None:
    """Every word comes to its place in order; tokens are taken and given at the right points."""
    random, size = Random(cocotb.RANDOM_SEED), MACHINE.bus_elements * 2
    ram = AxiRamRead(AxiReadBus.from_prefix(dut, "axi_"), dut.clk, dut.rst,
                     size=MACHINE.config.memory.bytes)  # fmt: skip
    content = random.randbytes(MACHINE.config.memory.bytes)
    ram.write(0, content)
    pause_all([ram.ar_channel, ram.r_channel], random, share)
    checker = ChannelChecker(dut, "axi__", "ar").start()
    # All inputs before the reset: Icarus begins with unknown values.
    for name in ("stop", "commands__valid", "commands__payload"):
        dut[name].value = 0
    banks = Banks(dut)
    tokens = Tokens(dut, random, 1 - share, banks.progress)
    await start(dut)
    commands = [reference.random_command(MACHINE, random, load=True) for _ in range(25)]
    bursts = reference.bursts_of(MACHINE, commands)
    with_start = [reference.with_start(c) for c in commands]
    await feed(dut, load_layout(MACHINE), with_start, random, share)
    while dut.busy.value:
        await FallingEdge(dut.clk)
    wanted, taken, given = [], [], []
    for number, burst in enumerate(bursts):
        if burst.take:
            taken.append((burst.take, number))
        for k in range(burst.beats):
            at = burst.address + k * size
            data = int.from_bytes(content[at : at + size], "little")
            wanted.append((burst.side, burst.bank, burst.word + k, data))
        if burst.give:
            given.append((burst.give, len(wanted)))
    assert banks.words == wanted, f"seed {cocotb.RANDOM_SEED}: words differ"
    assert tokens.taken == taken, f"seed {cocotb.RANDOM_SEED}: tokens taken"
    assert tokens.given == given, f"seed {cocotb.RANDOM_SEED}: tokens given"
    assert checker.moved == len(bursts) > 40
    assert (banks.begins, banks.lasts, banks.completes) == (len(commands),) * 3
