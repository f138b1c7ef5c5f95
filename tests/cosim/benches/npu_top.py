"""Bench of the whole `npu` machine: cocotbext-axi is its host, its main memory and the memory of
its commands.

Random programs must give the bits of the golden model however the buses pause. Each fault must stop
the machine with its code and the position of its command, after which nothing is written: memory is
watched, the shared buffer is read back after the clear and compared.
"""

from itertools import islice
from random import Random

import cocotb
import numpy as np
from axi_checkers import ChannelChecker, FailingRam, pause_all, start
from cocotb.triggers import ClockCycles, FallingEdge, ReadOnly
from cocotbext.axi import (
    AxiBus,
    AxiLiteBus,
    AxiLiteMaster,
    AxiRam,
    AxiRamRead,
    AxiReadBus,
    AxiResp,
)

from bankside.hw.npu.top import NpuTop
from bankside.isa.machines import load_machine
from bankside.isa.npu_commands import REGIONS
from bankside.isa.npu_machine import WORD_BYTES
from bankside.isa.npu_registers import CONTROL, STATUS, addresses
from bankside.isa.program import Builder, Program
from bankside.isa.spec import load_spec
from bankside.sim.golden.npu import NpuGolden
from bankside.sim.random_programs_npu import random_programs
from bankside.sim.rtl.cocotb_runner import Bench

PRESET = "npu_u55_32"
MACHINE = load_machine(PRESET)
SPEC = load_spec("npu")
UNITS = {"npu_top": Bench(lambda: NpuTop(MACHINE))}
REGISTER = addresses()
START, CLEAR = (1 << field.lsb for field in CONTROL.fields)
FIELDS = {field.name: field for field in STATUS.fields}
BEAT = MACHINE.bus_bytes
SHARED_BYTES = MACHINE.shared_words * WORD_BYTES
#: Bytes of the shared buffer that the fault tests fill and compare.
USED = 4096
PROGRAM_MEMORY = 1 << 20
QUEUE_AT = 0x4000


def field(status: int, name: str) -> int:
    return status >> FIELDS[name].lsb & (1 << FIELDS[name].width) - 1


class HaltChecker:
    """After a fault no burst begins and no beat with strobes is offered: fails the test otherwise.

    The cycle after the fault is the first one; what was offered before may stay.
    """

    def __init__(self, dut) -> None:
        self.dut, self.muted = dut, 0

    def start(self) -> "HaltChecker":
        cocotb.start_soon(self._run())
        return self

    async def _run(self) -> None:
        dut, ran, over = self.dut, False, False
        offered = dict.fromkeys(("ar", "aw", "w"), False)
        while True:
            await FallingEdge(dut.clk)
            await ReadOnly()
            running = int(dut.events.value) & 1
            over = (over or ran) and not running
            for channel in offered:
                valid = int(dut[f"m0_axi_{channel}valid"].value)
                if over and valid and not offered[channel]:
                    assert channel == "w", f"m0_axi_{channel}: a burst begins after the end"
                    assert not int(dut.m0_axi_wstrb.value), "m0_axi_w: strobes after the end"
                    self.muted += 1
                ready = int(dut[f"m0_axi_{channel}ready"].value)
                offered[channel] = bool(valid and not ready)
            ran = bool(running)


class Host:
    """Drives the machine as software would."""

    def __init__(self, dut, random: Random, share: float) -> None:
        self.dut = dut
        self.master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        size = MACHINE.config.memory.bytes
        self.ram = AxiRam(AxiBus.from_prefix(dut, "m0_axi"), dut.clk, dut.rst, size=size)
        self.words = AxiRamRead(
            AxiReadBus.from_prefix(dut, "m1_axi"), dut.clk, dut.rst, size=PROGRAM_MEMORY
        )
        self.fail = FailingRam(self.ram)
        write, read = self.ram.write_if, self.ram.read_if
        pause_all(
            [write.aw_channel, write.w_channel, write.b_channel, read.ar_channel, read.r_channel,
             self.words.ar_channel, self.words.r_channel], random, share,
        )  # fmt: skip
        self.checkers = [ChannelChecker(dut, "m0_axi_", name).start() for name in ("ar", "aw", "w")]
        self.checkers.append(ChannelChecker(dut, "m1_axi_", "ar").start())
        self.checkers += [ChannelChecker(dut, "s_axil_", name).start() for name in ("b", "r")]
        self.halt = HaltChecker(dut).start()

    async def read(self, name: str) -> int:
        found = await self.master.read(REGISTER[name], 8)
        assert found.resp == AxiResp.OKAY, f"register {name}: {found.resp}"
        return int.from_bytes(found.data, "little")

    async def write(self, name: str, value: int) -> bool:
        """Whether the machine took it."""
        done = await self.master.write(REGISTER[name], value.to_bytes(8, "little"))
        return done.resp == AxiResp.OKAY

    async def start(self, program: Program) -> None:
        self.ram.write(0, program.host_in.astype("<u2").tobytes())
        self.words.write(QUEUE_AT, np.array(program.words, "<u8").tobytes())
        registers = {"qbase": QUEUE_AT, "qsize": len(program.words)}
        regions = [*program.regions, *[(0, 0)] * REGIONS][:REGIONS]
        for i, (base, size) in enumerate(regions):
            registers |= {f"region{i}.base": base, f"region{i}.size": size}
        for name, value in registers.items():
            assert await self.write(name, value), f"{name} = {value:#x} is refused"
        assert await self.write("control", START)

    async def run(self, program: Program, limit: int = 200_000) -> int:
        """Status after the end of the program."""
        await self.start(program)
        for _ in range(limit // 50):
            await ClockCycles(self.dut.clk, 50)
            status = await self.read("status")
            if not field(status, "running"):
                return status
        raise AssertionError(f"not finished, at command {field(status, 'position')}")

    async def clear(self) -> None:
        assert await self.write("control", CLEAR)
        for _ in range(20):
            if not await self.read("status"):
                return
        raise AssertionError("the machine does not come to rest")

    def memory(self, rows: np.ndarray) -> np.ndarray:
        """What stands where `rows` stood."""
        return np.frombuffer(self.ram.read(0, rows.nbytes), "<u2").reshape(rows.shape)


async def bench(dut, share: float) -> tuple[Host, np.random.Generator]:
    machine_host = Host(dut, Random(cocotb.RANDOM_SEED), share)
    await start(dut)
    return machine_host, np.random.default_rng(cocotb.RANDOM_SEED)


async def check(machine_host: Host, golden: NpuGolden, program: Program, kind: str) -> None:
    """Bits of the golden model; counters that explain the cycles."""
    want = golden.run(program).outputs
    status = await machine_host.run(program)
    where = f"seed {cocotb.RANDOM_SEED}, {kind}"
    assert field(status, "done") and not field(status, "fault"), f"{where}: status {status:#x}"
    different = np.argwhere(machine_host.memory(want) != want)
    assert not len(different), f"{where}: bits differ from the golden model at {different[0]}"
    counted = [await machine_host.read(f"counters.{name}") for name in SPEC.stalls]
    assert sum(counted) <= await machine_host.read("cycles"), where
    assert field(await machine_host.read("status"), "position") == len(program.words) - 1


def set_registers(b: Builder, **registers: int) -> None:
    for name, value in registers.items():
        b.SET(reg=name, value=value & 0xFFFFFFFF)


def wipe() -> Program:
    """Zeros into both buffers: no reset clears them, a test begins with what the last one left."""
    rows, size = np.zeros((USED // BEAT, BEAT // 2), np.uint16), USED
    b = Builder("npu", BEAT // 2)
    for direction, end in (
        ("to_shared", SHARED_BYTES),
        ("to_weights", MACHINE.config.npu.weight_bytes),
    ):
        set_registers(b, region=0, offset=0, rows=end // size, row_step=0, row_bytes=size, buf=0,
                      buf_step=size)  # fmt: skip
        b.DMA(direction=direction)
    b.STOP()
    return Program("npu", tuple(b.words), rows, regions=((0, rows.nbytes),))


@cocotb.test(timeout_time=6, timeout_unit="ms")
@cocotb.parametrize(share=[0.0, 0.3, 0.7])
async def programs(dut, share: float) -> None:
    """Programs one after the other, at any speed of the memories."""
    machine_host, rng = await bench(dut, share)
    golden = NpuGolden(MACHINE)
    await check(machine_host, golden, wipe(), "wipe")
    for kind, program in islice(random_programs(rng, MACHINE), 3):
        await check(machine_host, golden, program, kind)
    assert all(checker.moved for checker in machine_host.checkers)


# --- faults -------------------------------------------------------------------------------------


def unknown_opcode(b: Builder) -> None:
    b.words.append(0x7F << 56)


def unable(b: Builder) -> None:
    set_registers(b, weight_mode=1)
    b.CONV()


def outside_region(b: Builder) -> None:
    set_registers(b, region=1, offset=0, rows=2, row_step=64, row_bytes=64, buf=0)
    b.DMA(direction="to_memory")


def misaligned(b: Builder) -> None:
    set_registers(b, region=0, offset=4, row_bytes=64, buf=0)
    b.DMA(direction="to_shared")


def failing_read(b: Builder) -> None:
    set_registers(b, region=2, offset=0, rows=1, row_bytes=512, buf=1024)
    b.DMA(direction="to_shared")


def failing_write(b: Builder) -> None:
    set_registers(b, region=2, offset=0, rows=4, row_bytes=1024, row_step=1024, buf=0,
                  buf_step=0)  # fmt: skip
    b.DMA(direction="to_memory")


def overlap(b: Builder) -> None:
    set_registers(b, n0=1, n1=1, n2=64, src=0, dst=63, src_s2=1, dst_s2=1)
    b.COPY()


def outside_buffer(b: Builder) -> None:
    set_registers(b, n0=1, n1=1, n2=64, src=0, dst=SHARED_BYTES - 63, src_s2=1, dst_s2=1)
    b.COPY()


def meets_operation(b: Builder) -> None:
    """A copy inside the part that is compared, and a transfer into its bank."""
    set_registers(b, n0=1, n1=1, n2=256, src=0, dst=2048, src_s2=0, dst_s2=0)
    b.COPY()
    set_registers(b, region=0, offset=0, rows=1, row_bytes=512, buf=3072)
    b.DMA(direction="to_shared")


#: What is wrong and the code of its fault.
FAULTS = {
    unknown_opcode: 1, unable: 2, outside_region: 3, misaligned: 4, failing_read: 5,
    failing_write: 5, overlap: 6, meets_operation: 6, outside_buffer: 7,
}  # fmt: skip
OUT, FAILING = 2 * USED, 3 * USED


def faulty_program(wrong, rng) -> tuple[Program, int]:
    """Fills the buffer, does what is wrong, then writes it to memory: (program, position)."""
    rows = rng.integers(0, 1 << 16, (5 * USED // BEAT, BEAT // 2)).astype(np.uint16)
    b = Builder("npu", BEAT // 2)
    set_registers(b, region=0, offset=0, rows=1, row_bytes=USED, buf=0)
    b.DMA(direction="to_shared")
    b.IRQ(code=0xBEE)
    b.DMA_WAIT(outstanding=0)
    wrong(b)
    position = len(b.words) - 1
    set_registers(b, region=0, offset=OUT, rows=1, row_bytes=USED, buf=0)
    b.DMA(direction="to_memory")
    b.STOP()
    regions = ((0, rows.nbytes), (OUT, 64), (FAILING, 4096))
    return Program("npu", tuple(b.words), rows, regions=regions), position


def dump() -> Program:
    """The filled part of the buffer to memory."""
    b = Builder("npu", BEAT // 2)
    set_registers(b, region=0, offset=0, rows=1, row_bytes=USED, buf=0)
    b.DMA(direction="to_memory")
    b.STOP()
    rows = np.zeros((USED // BEAT, BEAT // 2), np.uint16)
    return Program("npu", tuple(b.words), rows, regions=((0, rows.nbytes),))


@cocotb.test(timeout_time=3, timeout_unit="ms")
@cocotb.parametrize(wrong=[fault.__name__ for fault in FAULTS], share=[0.0, 0.4])
async def faults(dut, wrong: str, share: float) -> None:
    """Code and position; memory and buffer afterwards; a machine that works after the clear."""
    machine_host, rng = await bench(dut, share)
    what = next(fault for fault in FAULTS if fault.__name__ == wrong)
    program, position = faulty_program(what, rng)
    if wrong.startswith("failing"):
        # Not the first beats: what comes before is taken.
        machine_host.fail.first, machine_host.fail.last = FAILING + 256, FAILING + 320
    status = await machine_host.run(program)
    got = {name: field(status, name) for name in FIELDS}
    assert got == {
        "running": 0, "done": 0, "fault": 1, "interrupt": 1, "fault_code": FAULTS[what],
        "interrupt_code": 0xBEE, "position": position,
    }, got  # fmt: skip
    assert int(dut.irq.value)
    await nothing_written(machine_host, program, wrong)
    assert not await machine_host.write("control", START)
    assert not await machine_host.write("status", 0)
    machine_host.fail.first = machine_host.fail.last = -1
    await machine_host.clear()
    assert not int(dut.irq.value)
    await buffer_unchanged(machine_host, program, wrong)
    kind, good = next(random_programs(rng, MACHINE))
    golden = NpuGolden(MACHINE)
    golden.shared.reshape(-1)[:USED] = program.host_in.view(np.uint8).reshape(-1)[:USED]
    await check(machine_host, golden, good, kind)


async def nothing_written(machine_host: Host, program: Program, wrong: str) -> None:
    """Memory is that of the start; of the transfer that failed only what went before the fault."""
    before = machine_host.memory(program.host_in).copy()
    await ClockCycles(machine_host.dut.clk, 400)
    after = machine_host.memory(program.host_in)
    assert (before == after).all(), "memory changes after the fault"
    changed = np.flatnonzero((after != program.host_in).any(axis=1)) * BEAT
    if wrong != "failing_write":
        assert not len(changed), f"memory changes from byte {changed[0]} on"
        return
    assert len(changed) and changed[0] >= FAILING and changed[-1] < FAILING + 4096
    assert changed[-1] < FAILING + 2048 or machine_host.halt.muted, "the transfer goes on"


async def buffer_unchanged(machine_host: Host, program: Program, wrong: str) -> None:
    """What the buffer holds after the clear: what was filled in, but for what a command that began
    had written before the fault.
    """
    status = await machine_host.run(dump())
    assert field(status, "done") and not field(status, "fault")
    got = machine_host.memory(dump().host_in).view(np.uint8).reshape(-1)
    filled = program.host_in.view(np.uint8).reshape(-1)[:USED]
    may = {"failing_read": slice(1024, 1536), "meets_operation": slice(2048, 3584)}
    kept = np.ones(USED, bool)
    kept[may.get(wrong, slice(0, 0))] = False
    assert (got == filled)[kept].all(), "the buffer has changed"
    if wrong == "failing_read":
        assert (got == filled)[1024 + 320 : 1536].any(), "beats after the fault are written"


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def failing_fetch(dut) -> None:
    """An error answer to the fetch: words before it are executed, its position is told."""
    machine_host, rng = await bench(dut, 0.2)
    program, _ = faulty_program(lambda b: [b.PMU(enable=1) for _ in range(40)], rng)
    failing = FailingWords(machine_host.words, QUEUE_AT + 8 * 32)
    status = await machine_host.run(program)
    assert field(status, "fault") and field(status, "fault_code") == 5
    assert field(status, "position") == 32
    failing.last = -1
    await machine_host.clear()
    status = await machine_host.run(dump())
    assert field(status, "done") and not field(status, "fault")


class FailingWords:
    """Bursts that read the byte `last` fail."""

    def __init__(self, ram: AxiRamRead, last: int) -> None:
        self.last, access = last, ram._read

        async def hooked(address, length):
            if address <= self.last < address + length:
                raise ValueError(f"address {address:#x} fails on purpose")
            return await access(address, length)

        ram._read = hooked


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_running_stream(dut) -> None:
    """While it runs neither registers nor a second start are accepted."""
    machine_host, rng = await bench(dut, 0.6)
    program, _ = faulty_program(lambda b: None, rng)
    await machine_host.start(program)
    for name, value in (("qbase", 0), ("qsize", 1), ("region3.size", 64), ("control", START)):
        assert not await machine_host.write(name, value), name
    assert not await machine_host.write("qbase", 64)
    status = 1
    while field(status, "running"):
        status = await machine_host.read("status")
    assert field(status, "done") and field(status, "interrupt")
    got = machine_host.memory(program.host_in)
    want = program.host_in.copy()
    want[OUT // BEAT : (OUT + USED) // BEAT] = want[: USED // BEAT]
    assert (got == want).all()
    assert await machine_host.read("qsize") == len(program.words)
