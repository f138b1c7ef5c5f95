"""Bench of the whole `npu` machine: cocotbext-axi is its host, its main memory and the memory of
its commands.

Random programs must give the bits of the golden model however the buses pause. Each fault must stop
the machine with its code and the position of its command, after which nothing is written: memory is
watched, the shared buffer is read back after the clear and compared.
"""

from itertools import islice

import cocotb
import numpy as np
from axi_checkers import start
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from npu_top_faults import (
    BACK,
    FAIL_FIRST,
    FAIL_LAST,
    FAILING,
    FAULTS,
    INTERRUPT,
    LATER,
    OUT,
    Fault,
    FaultyStream,
    beats_copied,
    buffer_after,
    failing_write,
    faulty_stream,
)
from npu_top_host import (
    BEAT,
    CLEAR,
    MACHINE,
    MACHINES,
    SPEC,
    START,
    USED,
    FailingWords,
    Host,
    dump,
    wipe,
)

from bankside.hw.npu.top import NpuTop
from bankside.isa.npu_commands import BUS
from bankside.isa.program import Program
from bankside.sim.golden.npu import NpuGolden
from bankside.sim.random_programs_npu import random_programs
from bankside.sim.rtl.cocotb_runner import Bench

UNITS = {
    f"npu_top_{profile}": Bench(
        lambda machine=machine: NpuTop(machine), env={"BANKSIDE_PROFILE": profile}
    )
    for profile, machine in MACHINES.items()
}
PMU = SPEC.commands["PMU"].opcode


async def bench(dut, share: float) -> tuple[Host, np.random.Generator]:
    host = Host(dut, share)
    await start(dut)
    return host, np.random.default_rng(cocotb.RANDOM_SEED)


async def check(host: Host, golden: NpuGolden, program: Program, kind: str) -> None:
    """Bits of the golden model; counters that explain the cycles."""
    want, where = golden.run(program).outputs, f"seed {cocotb.RANDOM_SEED}, {kind}"
    await host.run_well(program, where)
    different = np.argwhere(host.memory(program) != want)
    assert not len(different), f"{where}: bits differ from the golden model at {different[0]}"
    counted = sum([await host.read(f"counters.{name}") for name in SPEC.stalls])
    cycles = await host.read("cycles")
    paused = any(word >> 56 == PMU and not word & 1 for word in program.words)
    assert counted < cycles if paused else counted == cycles, f"{where}: {counted} of {cycles}"


@cocotb.test(timeout_time=6, timeout_unit="ms")
@cocotb.parametrize(share=[0.0, 0.3, 0.7])
async def programs(dut, share: float) -> None:
    """Programs one after the other, at any speed of the memories."""
    host, rng = await bench(dut, share)
    golden = NpuGolden(MACHINE)
    await check(host, golden, wipe(), "wipe")
    for kind, program in islice(random_programs(rng, MACHINE), 3):
        await check(host, golden, program, kind)
    assert all(checker.moved for checker in host.checkers)


# --- faults -------------------------------------------------------------------------------------


@cocotb.test(timeout_time=3, timeout_unit="ms")
@cocotb.parametrize(wrong=list(FAULTS), share=[0.0, 0.4])
async def faults(dut, wrong, share: float) -> None:
    """Code and position; memory and buffer afterwards; a machine that works after the clear."""
    host, rng = await bench(dut, share)
    fault = FAULTS[wrong]
    stream = faulty_stream(wrong, rng, waits=fault.waits)
    host.fail.first, host.fail.last = FAIL_FIRST, FAIL_LAST
    status = await host.run(stream.program)
    assert status == expected_status(stream, fault.code), status
    assert bool(dut.irq.value) == stream.interrupts
    await nothing_written(host, stream, wrong)
    await stands_still(host, stream, fault)
    host.fail.first = host.fail.last = -1
    await host.clear()
    assert not dut.irq.value
    await host.run_well(dump(), "after the clear")
    got = host.memory(dump()).view(np.uint8).reshape(-1)
    want = buffer_after(stream, wrong)
    assert (got == want)[want >= 0].all(), "the buffer has changed"
    if not share:
        await works(host, rng)


def expected_status(stream: FaultyStream, code: int) -> dict[str, int]:
    return {
        "running": 0, "done": 0, "fault": 1, "fault_code": code, "position": stream.position,
        "interrupt": stream.interrupts, "interrupt_code": INTERRUPT * stream.interrupts,
    }  # fmt: skip


async def nothing_written(host: Host, stream: FaultyStream, wrong) -> None:
    """Memory: the transfers before the fault, up to some beat; it stays so."""
    program, areas = stream.program, (BACK, FAILING) if wrong is failing_write else (BACK,)
    after = host.memory(program)
    copied = beats_copied(program.host_in, after, *areas)
    rows = USED // BEAT
    if FAULTS[wrong].waits:
        assert copied[0] == rows, f"{copied[0]} beats of a transfer that was complete"
    assert 0 < copied[-1] < rows or areas == (BACK,) and FAULTS[wrong].waits, "not cut"
    await ClockCycles(host.dut.clk, 400)
    assert (host.memory(program) == after).all(), "memory changes after the fault"


async def stands_still(host: Host, stream: FaultyStream, fault: Fault) -> None:
    """Nothing is accepted but a clear."""
    assert not await host.write("control", START)
    assert not await host.write("status", 0)
    assert await host.status() == expected_status(stream, fault.code)


async def works(host: Host, rng: np.random.Generator) -> None:
    """As if nothing had been. Wiping takes most of the time."""
    golden = NpuGolden(MACHINE)
    await check(host, golden, wipe(), "wipe after the clear")
    kind, program = next(random_programs(rng, MACHINE))
    await check(host, golden, program, f"{kind} after the clear")


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def failing_fetch(dut) -> None:
    """An error answer to the fetch: words before it are executed, its position is told."""
    host, rng = await bench(dut, 0.2)
    program = faulty_stream(lambda b: None, rng).program
    failing = FailingWords(host, 32)
    status = await host.run(program)
    assert (status["fault"], status["fault_code"], status["position"]) == (1, BUS, 32), status
    beats_copied(program.host_in, host.memory(program), BACK)
    failing.active = False
    await host.clear()
    await works(host, rng)


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_running_stream(dut) -> None:
    """IRQ raises the line while the stream goes on; neither registers nor a second start are
    accepted, a clear takes the interrupt away and nothing else.
    """
    host, rng = await bench(dut, 0.6)
    program = faulty_stream(lambda b: None, rng, interrupts=True).program
    assert not dut.irq.value
    await host.start(program)
    await with_timeout(RisingEdge(dut.irq), 50, "us")
    for name, value in (("qbase", 128), ("qsize", 1), ("region3.size", 64), ("control", START)):
        assert not await host.write(name, value), name
    status = await host.status()
    assert (status["interrupt"], status["interrupt_code"], status["running"]) == (1, INTERRUPT, 1)
    assert await host.write("control", CLEAR)
    status = await host.status()
    assert (status["interrupt"], status["interrupt_code"], status["running"]) == (0, 0, 1)
    assert not dut.irq.value
    status = await host.finish()
    assert status["done"] and status["interrupt_code"] == LATER and dut.irq.value
    copied = beats_copied(program.host_in, host.memory(program), BACK, OUT)
    assert copied == [USED // BEAT] * 2
    assert await host.read("qsize") == len(program.words)
    assert not await host.write("qbase", 64)
    await host.clear()
