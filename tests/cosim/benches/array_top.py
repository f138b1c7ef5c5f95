"""Bench of the whole `array` machine: cocotbext-axi is its host and its main memory.

A small attention must give the bits of the golden model however the bus pauses; an illegal word
and an error of the memory must stop the machine, and a clear must bring it back.
"""

from random import Random

import cocotb
import numpy as np
from array_top_program import attention_float, attention_program, random_operands
from axi_checkers import ChannelChecker, FailingRam, pause_all, start
from cocotb.triggers import ClockCycles
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam, AxiResp

from bankside.hw.array import host
from bankside.hw.array.top import ArrayTop
from bankside.isa.machines import load_machine
from bankside.isa.program import Program
from bankside.isa.spec import load_spec
from bankside.sim.golden.array import ArrayGolden
from bankside.sim.rtl.cocotb_runner import Bench

PRESET = "array_4x4"
MACHINE = load_machine(PRESET)
SPEC = load_spec("array")
UNITS = {"array_top": Bench(lambda: ArrayTop(MACHINE))}
RUNNING, DONE, ERROR, BUS_ERROR = (1 << bit for bit in range(len(host.STATUS_BITS)))


class Host:
    """Drives the machine as software would."""

    def __init__(self, dut, random: Random, share: float) -> None:
        self.dut = dut
        self.master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        size = MACHINE.config.memory.bytes
        self.ram = AxiRam(AxiBus.from_prefix(dut, "m_axi"), dut.clk, dut.rst, size=size)
        self.fail = FailingRam(self.ram)
        write, read = self.ram.write_if, self.ram.read_if
        self.channels = [write.aw_channel, write.w_channel, write.b_channel, read.ar_channel,
                         read.r_channel]  # fmt: skip
        pause_all(self.channels, random, share)
        self.checkers = [ChannelChecker(dut, "m_axi_", name).start() for name in ("ar", "aw", "w")]
        self.checkers += [ChannelChecker(dut, "s_axil_", name).start() for name in ("b", "r")]

    async def read(self, address: int) -> int:
        found = await self.master.read(address, 8)
        assert found.resp == AxiResp.OKAY, f"register {address:#x}: {found.resp}"
        return int.from_bytes(found.data, "little")

    async def write(self, address: int, value: int) -> bool:
        """Whether the machine took it."""
        done = await self.master.write(address, value.to_bytes(8, "little"))
        return done.resp == AxiResp.OKAY

    async def load(self, program: Program) -> None:
        self.ram.write(0, program.host_in.astype("<u2").tobytes())
        data = np.array(program.words, "<u8").tobytes()
        await self.master.write(host.PROGRAM, data)

    async def run(self, program: Program, limit: int = 20_000) -> int:
        """Status after the end of the program."""
        await self.load(program)
        assert await self.write(host.CONTROL, host.START)
        for _ in range(limit // 50):
            await ClockCycles(self.dut.clk, 50)
            status = await self.read(host.STATUS)
            if not status & RUNNING:
                return status
        raise AssertionError(f"not finished, at command {await self.read(host.POSITION)}")

    def memory(self, program: Program) -> np.ndarray:
        size = program.host_in.nbytes
        return np.frombuffer(self.ram.read(0, size), "<u2").reshape(program.host_in.shape)

    async def counters(self) -> dict[str, int]:
        return {
            name: await self.read(host.COUNTERS + 8 * index)
            for index, name in enumerate(SPEC.stalls)
        }


async def bench(dut, share: float) -> tuple[Host, np.random.Generator]:
    machine_host = Host(dut, Random(cocotb.RANDOM_SEED), share)
    await start(dut)
    return machine_host, np.random.default_rng(cocotb.RANDOM_SEED)


async def check_attention(machine_host: Host, rng, keys: int, causal: bool) -> None:
    """One attention: bits of the golden model, near float64, counters that explain the cycles."""
    operands = random_operands(rng, MACHINE.columns, keys)
    program = attention_program(MACHINE, *operands, causal=causal)
    want = ArrayGolden(MACHINE).run(program)
    assert await machine_host.run(program) == DONE
    got, where = machine_host.memory(program), f"seed {cocotb.RANDOM_SEED}, {keys} keys"
    different = np.argwhere(got != want.outputs)
    assert not len(different), f"{where}: bits differ from the golden model at {different[0]}"
    exact = attention_float(*operands, causal=causal)
    first, count = program.outputs["out"]
    error = np.abs(got[first : first + count].view(np.float16).reshape(exact.shape) - exact)
    assert error.max() < 4e-3, f"{where}: {error.max()} from float64"
    counters = await machine_host.counters()
    assert sum(counters.values()) == await machine_host.read(host.CYCLES), where
    assert counters["mac"] >= -(-keys // MACHINE.rows) * 25, where


@cocotb.test(timeout_time=4, timeout_unit="ms")
@cocotb.parametrize(share=[0.0, 0.3, 0.7])
async def attention(dut, share: float) -> None:
    """Three programs one after the other, at any speed of the memory."""
    machine_host, rng = await bench(dut, share)
    for keys, causal in ((4, False), (13, True), (30, False)):
        await check_attention(machine_host, rng, keys, causal)
    assert all(checker.moved for checker in machine_host.checkers)


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def refused_words(dut) -> None:
    """An illegal word stops the program; nothing starts before the error is cleared."""
    machine_host, rng = await bench(dut, 0.2)
    program = attention_program(MACHINE, *random_operands(rng, MACHINE.columns, 13))
    words = list(program.words)
    place = next(i for i, w in enumerate(words) if SPEC.decode(w).name == "STORE")
    words[place] = 0
    bad = Program("array", tuple(words), program.host_in, program.outputs)
    assert await machine_host.run(bad) == ERROR
    assert await machine_host.read(host.POSITION) == place
    assert not await machine_host.write(host.CONTROL, host.START)
    assert not await machine_host.write(host.STATUS, 0)
    assert await machine_host.write(host.CONTROL, host.CLEAR)
    await ClockCycles(dut.clk, 200)
    assert await machine_host.read(host.STATUS) == 0
    await check_attention(machine_host, rng, 13, causal=False)


@cocotb.test(timeout_time=2, timeout_unit="ms")
@cocotb.parametrize(part=["cache", "out"])
async def failing_memory(dut, part: str) -> None:
    """An error answer to a read or a write stops the program; after a clear the next one runs."""
    machine_host, rng = await bench(dut, 0.2)
    program = attention_program(MACHINE, *random_operands(rng, MACHINE.columns, 22))
    bus = MACHINE.bus_elements * 2
    first, count = program.outputs["out"]
    fail = machine_host.fail
    fail.first, fail.last = (
        (first * bus + 16, (first + count) * bus) if part == "out" else (500, 600)
    )
    assert await machine_host.run(program) == ERROR | BUS_ERROR
    fail.first = fail.last = -1
    assert await machine_host.write(host.CONTROL, host.CLEAR)
    await ClockCycles(dut.clk, 200)
    assert await machine_host.read(host.STATUS) == 0
    await check_attention(machine_host, rng, 22, causal=True)


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_running_program(dut) -> None:
    """While it runs neither its words nor a second start are accepted; a clear ends it."""
    machine_host, rng = await bench(dut, 0.7)
    program = attention_program(MACHINE, *random_operands(rng, MACHINE.columns, 60))
    await machine_host.load(program)
    assert await machine_host.write(host.CONTROL, host.START)
    assert not await machine_host.write(host.PROGRAM, 0)
    assert not await machine_host.write(host.CONTROL, host.START)
    await ClockCycles(dut.clk, 100)
    assert await machine_host.read(host.STATUS) == RUNNING
    assert await machine_host.write(host.CONTROL, host.CLEAR)
    for _ in range(100):
        if not await machine_host.read(host.STATUS):
            break
    else:
        raise AssertionError("the machine does not come to rest")
    await check_attention(machine_host, rng, 5, causal=False)
