"""Bench of the whole rank: a small attention over the host streams, bits as the golden model's.

BANKSIDE_PRESET names the machine, BANKSIDE_TOKENS the context; BANKSIDE_FLIP=1 turns one bit of
the expected output, which the bench must notice.
"""

import os
from random import Random

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge, Timer
from pim_checkers import BusChecker, small_attention

from bankside.config import HardwareConfig
from bankside.hw.pim.layouts import command_layout
from bankside.hw.pim.top import PimTop
from bankside.isa.machine import Machine
from bankside.sim.golden.pim import PimGolden
from bankside.sim.rtl.cocotb_runner import Bench
from bankside.sim.timing.pim import PimTiming

DEFAULT = {"BANKSIDE_PRESET": "pim_tiny_ddr4", "BANKSIDE_TOKENS": "5", "BANKSIDE_FLIP": "0"}


def make_machine(preset: str) -> Machine:
    return Machine.of(HardwareConfig.load(preset))


UNITS = {"pim_full": Bench(lambda: PimTop(make_machine("pim_tiny_ddr4")), env=DEFAULT)}


class Rank:
    """Programs in, bursts in and out; `slow` is the share of cycles in which the host pauses."""

    def __init__(self, dut, machine: Machine, slow: float) -> None:
        self.dut, self.machine, self.slow = dut, machine, slow
        self.random, self.bus, self.now = Random(cocotb.RANDOM_SEED), BusChecker(machine), 0
        self.layout = command_layout(machine)

    async def tick(self) -> None:
        await RisingEdge(self.dut.clk)
        await Timer(1, unit="ns")
        self.now += 1

    async def reset(self) -> None:
        dut = self.dut
        for port in ("program_en", "program_addr", "program_data", "start", "host_in__valid",
                     "host_in__payload", "host_out__ready"):  # fmt: skip
            dut[port].value = 0
        dut.refresh.value = int(self.machine.refresh)
        cocotb.start_soon(Clock(dut.clk, 10, unit="ns").start())
        dut.rst.value = 1
        for _ in range(3):
            await self.tick()
        dut.rst.value = 0
        # The core's reset is a register: it ends some cycles later.
        for _ in range(4):
            await self.tick()

    async def run(self, program) -> tuple[np.ndarray, int]:
        """Bursts that the host received, and cycles up to HALT."""
        dut = self.dut
        while not dut.ready.value:
            await self.tick()
        dut.program_en.value = 1
        for address, word in enumerate(program.words):
            dut.program_addr.value, dut.program_data.value = address, word
            await self.tick()
        dut.program_en.value, dut.start.value = 0, 1
        await self.tick()
        dut.start.value = 0
        sent = [int.from_bytes(b.astype("<u2").tobytes(), "little") for b in program.host_in]
        wanted = sum(count for _, count in program.outputs.values())
        got, cycles = [], 0
        for cycle in range(100_000):
            await self._cycle(sent, got)
            cycles = cycles or (cycle + 1 if dut.done.value else 0)
            await self.tick()
            if cycles and len(got) == wanted:
                break
        else:
            raise AssertionError(f"{len(got)} of {wanted} bursts, done after {cycles} cycles")
        assert not sent, f"{len(sent)} bursts of the host were never taken"
        assert not dut.violation.value.to_unsigned(), f"violation {dut.violation.value}"
        assert not self.bus.errors, self.bus.errors[:5]
        size = self.machine.burst_elements * 2
        data = b"".join(value.to_bytes(size, "little") for value in got)
        return np.frombuffer(data, "<u2").reshape(wanted, size // 2), cycles

    async def _cycle(self, sent: list[int], got: list[int]) -> None:
        """Drive both streams in this cycle, look at everything once it has settled."""
        dut = self.dut
        offer = bool(sent) and self.random.random() >= self.slow
        take = self.random.random() >= self.slow
        dut.host_in__valid.value, dut.host_out__ready.value = int(offer), int(take)
        dut.host_in__payload.value = sent[0] if offer else 0
        await Timer(1, unit="ns")
        assert not dut.error.value, f"refused at command {dut.pc.value.to_unsigned()}"
        if offer and dut.host_in__ready.value:
            sent.pop(0)
        if take and dut.host_out__valid.value:
            got.append(dut.host_out__payload.value.to_unsigned())
        if dut.trace_valid.value:
            view = self.layout.from_bits(dut.trace_command.value.to_unsigned())
            self.bus.command(self.now, view["code"], view["bank"], view["row"])


async def attention(dut, slow: float) -> None:
    machine, seed = make_machine(os.environ["BANKSIDE_PRESET"]), cocotb.RANDOM_SEED
    rng = np.random.default_rng(seed)
    _, programs = small_attention(machine, int(os.environ["BANKSIDE_TOKENS"]), rng)
    rank, golden, timing = Rank(dut, machine, slow), PimGolden(machine), PimTiming(machine)
    await rank.reset()
    for number, program in enumerate(programs):
        want, where = golden.run(program).outputs.copy(), f"seed {seed}: program {number}"
        if program.outputs and os.environ["BANKSIDE_FLIP"] == "1":
            want[0, 0] ^= np.uint16(1)
        bursts, cycles = await rank.run(program)
        different = np.argwhere(bursts != want)
        assert not len(different), f"{where}: bits differ from the golden model at {different[0]}"
        if not slow:
            expected = timing.run(program).cycles
            assert cycles == expected, f"{where}: {cycles} cycles, expected {expected}"
    assert any(program.outputs for program in programs) and rank.bus.seen > 50


@cocotb.test()
async def attention_with_a_fast_host(dut) -> None:
    """Bits of the golden model in the cycles of the timing model, no command out of place."""
    await attention(dut, 0.0)


@cocotb.test()
async def attention_with_a_slow_host(dut) -> None:
    """The same bits when the host pauses in most cycles."""
    await attention(dut, 0.7)
