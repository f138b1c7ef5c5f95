"""Bench of the store engine: random STOREs to cocotbext-axi's memory with random pauses."""

from random import Random

import array_dma_reference as reference
import cocotb
from array_engines import MACHINE, Tokens, feed
from axi_checkers import ChannelChecker, pause_all, start
from cocotb.triggers import FallingEdge, ReadOnly, RisingEdge
from cocotbext.axi import AxiRamWrite, AxiWriteBus

from bankside.hw.array.control.layouts import store_layout
from bankside.hw.array.store import StoreEngine
from bankside.sim.rtl.cocotb_runner import Bench

UNITS = {"array_store": Bench(lambda: StoreEngine(MACHINE))}


class Banks:
    """Column banks of random contents; counts bursts accepted and answered."""

    def __init__(self, dut, random: Random) -> None:
        self.dut, self.accepted, self.answered = dut, 0, 0
        self.begins = self.lasts = self.completes = 0
        self.words = [
            [random.getrandbits(8 * MACHINE.bus_elements * 2) for _ in range(256)]
            for _ in range(MACHINE.columns)
        ]
        dut.data.value = 0
        cocotb.start_soon(self._run())

    def progress(self, name: str) -> int:
        """Bursts accepted before a take, answered up to a give."""
        return self.accepted if name == "take" else self.answered + 1

    async def _run(self) -> None:
        dut = self.dut
        while True:
            await FallingEdge(dut.clk)
            await ReadOnly()
            accepted = dut.axi__awvalid.value == dut.axi__awready.value == 1
            answered = dut.axi__bvalid.value == dut.axi__bready.value == 1
            read = None
            if dut.en.value == 1 and dut.rst.value == 0:
                read = self.words[dut.bank.value.to_unsigned()][dut.address.value.to_unsigned()]
            self.begins += int(dut.begin.value == 1)
            self.lasts += int(dut.last.value == 1)
            self.completes += int(dut.complete.value == 1)
            await RisingEdge(dut.clk)
            self.accepted += bool(accepted)
            self.answered += bool(answered)
            if read is not None:
                dut.data.value = read


@cocotb.test(timeout_time=400, timeout_unit="us")
@cocotb.parametrize(share=[0.0, 0.4, 0.8])
async def random_stores(dut, share: float) -> None:
    """Memory holds every word in its place; tokens are taken and given at the right points."""
    random, size = Random(cocotb.RANDOM_SEED), MACHINE.bus_elements * 2
    ram = AxiRamWrite(AxiWriteBus.from_prefix(dut, "axi_"), dut.clk, dut.rst,
                      size=MACHINE.config.memory.bytes)  # fmt: skip
    memory = bytearray(random.randbytes(MACHINE.config.memory.bytes))
    ram.write(0, bytes(memory))
    pause_all([ram.aw_channel, ram.w_channel, ram.b_channel], random, share)
    checkers = [ChannelChecker(dut, "axi__", channel).start() for channel in ("aw", "w")]
    # All inputs before the reset: Icarus begins with unknown values.
    for name in ("stop", "commands__valid", "commands__payload"):
        dut[name].value = 0
    banks = Banks(dut, random)
    tokens = Tokens(dut, random, 1 - share, banks.progress)
    await start(dut)
    commands = [reference.random_command(MACHINE, random, load=False) for _ in range(25)]
    bursts = reference.bursts_of(MACHINE, commands)
    with_start = [reference.with_start(c) for c in commands]
    await feed(dut, store_layout(MACHINE), with_start, random, share)
    while dut.busy.value:
        await FallingEdge(dut.clk)
    for burst in bursts:
        for k in range(burst.beats):
            at = burst.address + k * size
            memory[at : at + size] = banks.words[burst.bank][burst.word + k].to_bytes(
                size, "little"
            )
    seed = f"seed {cocotb.RANDOM_SEED}"
    assert ram.read(0, len(memory)) == bytes(memory), f"{seed}: memory differs"
    taken = [(burst.take, number) for number, burst in enumerate(bursts) if burst.take]
    given = [(burst.give, number + 1) for number, burst in enumerate(bursts) if burst.give]
    assert tokens.taken == taken, f"{seed}: tokens taken"
    assert tokens.given == given, f"{seed}: tokens given"
    assert checkers[0].moved == len(bursts) > 40
    assert (banks.begins, banks.lasts, banks.completes) == (len(commands),) * 3
