"""Control of the `npu` engine: every cycle of random programs against the timing model, faults."""

import importlib.util
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from bankside.hw.lib.testing import simulate
from bankside.hw.npu.control.control import Control
from bankside.hw.npu.control.fetch import BURST_WORDS, FIFO_WORDS
from bankside.hw.npu.control.layouts import SPEC
from bankside.hw.npu.control.stalls import StallCounters
from bankside.hw.npu.operation import VECTOR_OPERATIONS
from bankside.isa.machines import load_machine
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.program import Builder, Program
from bankside.sim.random_programs_npu import random_programs
from bankside.sim.timing.npu import NpuTiming


def _player():
    """The file beside this one; tests are not a package."""
    name = "npu_control_player"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


player = _player()
MEMORIES = {
    "plain": {},
    "near": {"read_latency_cycles": 1, "write_latency_cycles": 1},
    "jittery": {"read_latency_cycles": 9, "jitter_cycles": 70, "seed": 2463534242},
    "slow": {"read_latency_cycles": 61, "beat_cycles": 3, "jitter_cycles": 5, "seed": 7},
}


def changed(preset: str, memory: dict | None = None, **npu: int) -> NpuMachine:
    """A preset with other numbers."""
    config = load_machine(preset).config
    new = {"memory": config.memory.model_copy(update=memory or {}),
           "npu": config.npu.model_copy(update=npu)}  # fmt: skip
    return NpuMachine.of(config.model_copy(update=new))


def short_programs(machine: NpuMachine, count: int, seed: int) -> list:
    """(program, result of the timing model) of the shortest ones of some random programs."""
    timing, listed = NpuTiming(machine), []
    for named in random_programs(np.random.default_rng(seed), machine):
        listed.append((named.program, timing.run(named.program, trace=True)))
        if len(listed) == 6 * count:
            return sorted(listed, key=lambda pair: pair[1].cycles)[:count]
    raise AssertionError("random programs end")


def compare(machine: NpuMachine, program: Program, traced) -> None:
    played = player.play(machine, program, traced)
    assert played.cycles == traced.cycles
    assert played.position == len(program.words) - 1
    counts = dict(zip(SPEC.stalls, played.counts, strict=True))
    expected = dict(traced.counters)
    # The played MAC engine does not tell why no step is under way.
    inside = ("mac", "weights", "output")
    assert sum(map(counts.pop, inside)) == sum(map(expected.pop, inside))
    assert counts == expected


# --- cycle by cycle -----------------------------------------------------------------------------


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("preset", ["npu_u55_32", "npu_llm_64"])
def test_every_dispatch_start_and_count_is_in_its_cycle(preset, memory):
    machine = changed(preset, MEMORIES[memory])
    for program, traced in short_programs(machine, 1, seed=len(memory)):
        compare(machine, program, traced)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("preset", ["npu_u55_32", "npu_llm_32"])
def test_many_programs(preset, depth):
    machine = changed(preset, MEMORIES["jittery"], queue_depth=depth)
    for program, traced in short_programs(machine, 8, seed=depth):
        compare(machine, program, traced)


def stream(*commands) -> Program:
    """Registers of dictionaries, commands of (name, operands); ends as given."""
    b = Builder("npu", 64)
    for command in commands:
        if isinstance(command, dict):
            for name, value in command.items():
                b.SET(reg=name, value=value & 0xFFFFFFFF)
        else:
            name, operands = command if isinstance(command, tuple) else (command, {})
            getattr(b, name)(**operands)
    rows = np.zeros((64, 64), np.uint16)
    return Program("npu", tuple(b.words), rows, regions=((0, 4096), (4096, 4096)))


LLM = load_machine("npu_llm_32")
ROWS = {"rows": 3, "row_bytes": 256, "row_step": 512, "buf": 128, "buf_step": 384, "region": 1}
POOL = {
    "ifm": 0, "ifm_sx": 1, "ifm_sy": 4, "ifm_h": 4, "ifm_w": 4, "ifm_c": 20, "ofm": 64,
    "ofm_sx": 1, "ofm_sy": 4, "ofm_h": 4, "ofm_w": 4, "ofm_c": 20, "ofm_max": 99, "ofm_min": -100,
    "kernel_h": 1, "kernel_w": 1, "stride_y": 1, "stride_x": 1, "dilation_y": 1, "dilation_x": 1,
    "block": 16,
}  # fmt: skip
DMA = ("DMA", {"direction": "to_shared"})


def test_interrupts_and_brackets_of_the_pmu():
    program = stream(
        ("IRQ", {"code": 0x1234}), ("PMU", {"enable": 0}), POOL, "POOL", "KERNEL_WAIT",
        ("PMU", {"enable": 1}), ("IRQ", {"code": 7}), "STOP",
    )  # fmt: skip
    traced = NpuTiming(LLM).run(program, trace=True)
    played = player.play(LLM, program, traced)
    assert [code for _, code in played.interrupts] == [0x1234, 7]
    first, second = (cycle for cycle, _ in played.interrupts)
    counts = dict(zip(SPEC.stalls, played.counts, strict=True))
    # The first PMU's cycle counts, the second's does not.
    assert sum(played.counts) == first + 2 + played.cycles - second
    assert counts == dict(traced.counters) and not counts["mac"] and not counts["output"]


def test_queues_fill_and_the_control_waits():
    many = [DMA] * 7 + [POOL] + ["POOL"] * 7 + ["STOP"]
    program = stream(ROWS, *many)
    machine = changed("npu_llm_32", queue_depth=2)
    traced = NpuTiming(machine).run(program, trace=True)
    assert traced.counters["dma"] > 20
    compare(machine, program, traced)


# --- fetch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stall", [0, 5])
def test_bursts_are_whole_one_at_a_time_and_stay_offered(stall):
    words = stream(*[{"ifm": i} for i in range(149)], "STOP").words
    program = Program("npu", words, np.zeros((1, 64), np.uint16), regions=())
    asked = []

    async def bench(ctx):
        memory = player.Words(dut, LLM, words, base=0x1F80, stall=stall)
        await begin(ctx, dut, len(words), 0x1F80)
        cycle = 0
        while ctx.get(dut.running):
            memory.before(ctx, cycle)
            memory.after(ctx, cycle)
            await ctx.tick()
            cycle += 1
        asked.extend(memory.asked)
        assert ctx.get(dut.quiet) and ctx.get(dut.fault) == 0

    dut = Control(LLM)
    simulate(dut, bench)
    assert [first for _, first, _ in asked] == list(range(0, len(program.words), BURST_WORDS))
    assert [beats for _, _, beats in asked] == [16] * 9 + [6]


def test_the_fifo_never_takes_more_than_it_has_room_for():
    """A command that waits for ever: bursts stop when fewer than 16 words are free."""
    waiting = stream(POOL, "POOL", "STOP", *[{"ifm": i} for i in range(200)]).words
    at = [SPEC.decode(w).name for w in waiting].index("STOP")

    async def bench(ctx):
        memory = player.Words(dut, LLM, waiting)
        await begin(ctx, dut, len(waiting))
        for cycle in range(800):
            memory.before(ctx, cycle)
            ctx.set(dut.mac.ready, 1)  # the operation starts and never completes
            memory.after(ctx, cycle)
            await ctx.tick()
        received = sum(beats for _, _, beats in memory.asked)
        assert ctx.get(dut.running) and ctx.get(dut.position) == at
        assert FIFO_WORDS - BURST_WORDS < received - at <= FIFO_WORDS

    dut = Control(LLM)
    simulate(dut, bench)


async def begin(ctx, dut, words: int, base: int = 0, regions=((0, 4096), (4096, 4096))) -> None:
    ctx.set(dut.qbase, base)
    ctx.set(dut.qsize, words)
    for i, (at, size) in enumerate(regions):
        ctx.set(dut.regions[i].base, at)
        ctx.set(dut.regions[i].size, size)
    for name in ("mac_idle", "vector_idle", "start"):
        ctx.set(getattr(dut, name), 1)
    await ctx.tick()
    ctx.set(dut.start, 0)


# --- faults -------------------------------------------------------------------------------------

SOFTMAX = ("SOFTMAX", {})
ILLEGAL = {
    "opcode": 0x7F << 56,
    "reserved bit": SPEC.encode("STOP") | 1,
    "enumeration": SPEC.encode("DMA") | 3,
    "register": SPEC.encode("SET", reg="ifm") | 14 << 32,
}
# name -> (code, registers, command)
REFUSED = {
    "rows 0": (2, ROWS | {"rows": 0}, DMA),
    "outside the region": (3, ROWS | {"row_step": 2048}, DMA),
    "no such region": (3, ROWS | {"region": 8}, DMA),
    "misaligned": (4, ROWS | {"buf": 64}, DMA),
    "outside the buffer": (7, ROWS | {"buf": LLM.shared_words * 32 - 128}, DMA),
    "size 0": (2, POOL | {"ofm_w": 0}, ("POOL", {})),
    "a word that is not narrow": (2, POOL | {"ifm": 1 << 20}, ("POOL", {})),
    "overlap": (6, POOL | {"ofm": 15}, ("POOL", {})),
    "operation outside": (7, POOL | {"ofm": LLM.shared_words - 15}, ("POOL", {})),
    "lowest code": (3, ROWS | {"row_step": 2048, "buf": 64}, DMA),
}  # fmt: skip


class Stopped:
    """Runs words on a control whose engines take everything and complete nothing unless told;
    records what was taken and when the machine stopped. taking: False: they take nothing, what is
    offered is recorded.
    """

    def __init__(self, words, *, stimulus=(), bad=(), cycles=700, taking=True) -> None:
        self.words, self.stimulus, self.bad, self.cycles = words, dict(stimulus), bad, cycles
        self.taking = taking
        self.taken, self.halted_at, self.status = [], None, None
        self.dut = Control(LLM)
        simulate(self.dut, self.bench)

    async def bench(self, ctx) -> None:
        dut = self.dut
        memory = player.Words(dut, LLM, self.words, bad=self.bad)
        await begin(ctx, dut, len(self.words))
        for cycle in range(self.cycles):
            memory.before(ctx, cycle)
            for name in ("dma", "mac", "vector"):
                ctx.set(getattr(dut, name).ready, self.taking)
            for name, value in self.stimulus.get(cycle, {}).items():
                ctx.set(getattr(dut, name), value)
            for name in ("bus_error", "clash", "illegal_weights"):
                if name not in self.stimulus.get(cycle, {}):
                    ctx.set(getattr(dut, name), 0)
            memory.after(ctx, cycle)
            if self.halted_at is None and ctx.get(dut.halted):
                self.halted_at = cycle
                self.status = (ctx.get(dut.fault), ctx.get(dut.position))
            for name in ("dma", "mac", "vector"):
                port = getattr(dut, name)
                if ctx.get(port.valid):
                    self.taken.append((cycle, name))
            assert not (ctx.get(dut.halted) and ctx.get(dut.running))
            await ctx.tick()
        if self.halted_at is not None:
            assert self.status == (ctx.get(dut.fault), ctx.get(dut.position)), "status is kept"
            assert ctx.get(dut.quiet), "what was asked for has been drained"


@pytest.mark.parametrize("name", ILLEGAL)
def test_illegal_words_stop_the_machine(name):
    good = stream(POOL, "POOL").words
    found = Stopped((*good, ILLEGAL[name], *good, SPEC.encode("STOP")))
    assert found.status == (1, len(good))
    assert [name for _, name in found.taken] == ["mac"]
    assert max(cycle for cycle, _ in found.taken) < found.halted_at


@pytest.mark.parametrize("name", REFUSED)
def test_refused_commands_stop_before_anything_of_them_happens(name):
    code, registers, command = REFUSED[name]
    head = stream(POOL, "POOL", registers).words
    words = (*head, *stream(command, ROWS, DMA, POOL, "POOL", "STOP").words)
    found = Stopped(words)
    assert found.status == (code, len(head))
    assert [name for _, name in found.taken] == ["mac"]


def test_a_stream_without_an_end_stops_behind_its_last_word():
    words = stream(POOL, "POOL").words
    assert Stopped(words).status == (1, len(words))
    assert Stopped(()).status == (1, 0)


def test_an_error_response_to_a_word_is_a_fault_when_its_turn_comes():
    words = stream(POOL, "POOL", "STOP").words
    found = Stopped(words, bad=(3,))
    assert found.status == (5, 3) and not found.taken
    beyond = stream(ROWS, "STOP", POOL).words  # behind STOP nothing matters
    assert Stopped(beyond, bad=(len(ROWS) + 1,), cycles=200).halted_at is None


@pytest.mark.parametrize(
    ("signals", "code", "position"),
    [
        ({"bus_error": 1, "transfer_position": 5}, 5, 5),
        ({"clash": 1, "transfer_position": 6}, 6, 6),
        ({"illegal_weights": 1}, 7, len(POOL)),
        ({"illegal_weights": 1, "clash": 1, "transfer_position": 9}, 6, 9),
    ],
)
def test_faults_of_the_engines_stop_the_control(signals, code, position):
    """They come in cycle 120, while the control waits; only what was taken before is taken."""
    words = stream(POOL, "POOL", "KERNEL_WAIT", ROWS, DMA, "STOP").words
    later = {121: {"mac_complete": 1}, 122: {"mac_complete": 0}}
    found = Stopped(words, stimulus={120: signals, **later})
    assert (found.halted_at, found.status) == (121, (code, position))
    assert [name for _, name in found.taken] == ["mac"]


def test_what_waits_in_the_queues_is_not_offered_after_a_fault():
    words = stream(ROWS, DMA, DMA, POOL, "POOL", "DMA_WAIT").words
    found = Stopped(words, stimulus={150: {"clash": 1, "transfer_position": 1}}, taking=False)
    assert (found.halted_at, found.status) == (151, (6, 1))
    for name in ("dma", "mac"):
        assert max(cycle for cycle, offered in found.taken if offered == name) == 150


def test_without_a_fault_the_same_stream_goes_on():
    words = stream(POOL, "POOL", "KERNEL_WAIT", ROWS, DMA, "STOP").words
    found = Stopped(words, stimulus={121: {"mac_complete": 1}, 122: {"mac_complete": 0}})
    assert found.halted_at is None
    assert [name for _, name in found.taken] == ["mac", "dma"]


def test_a_machine_can_start_again_after_stop():
    """Registers, counters, FIFO and PMU are as at the first start; leftover words are forgotten."""
    words = stream(ROWS, ("PMU", {"enable": 0}), "STOP", *[{"ifm": 1}] * 9).words
    seen = []

    async def bench(ctx):
        for _ in range(2):
            memory = player.Words(dut, LLM, words)
            await begin(ctx, dut, len(words))
            cycle = 0
            while ctx.get(dut.running) or not ctx.get(dut.quiet) or memory.beats:
                memory.before(ctx, cycle)
                memory.after(ctx, cycle)
                await ctx.tick()
                cycle += 1
            seen.append((ctx.get(dut.cycle), [ctx.get(count) for count in dut.counts]))
        # Without its SETs the transfer that was legal before is not.
        short = stream(DMA, "STOP").words
        memory = player.Words(dut, LLM, short)
        await begin(ctx, dut, len(short))
        for cycle in range(60):
            memory.before(ctx, cycle)
            memory.after(ctx, cycle)
            await ctx.tick()
        assert ctx.get(dut.fault) == 2 and ctx.get(dut.position) == 0

    dut = Control(LLM)
    simulate(dut, bench)
    assert seen[0] == seen[1] and sum(seen[0][1]) < seen[0][0]


# --- counters -----------------------------------------------------------------------------------

FLAGS = ("in_step", "lacks_weights", "lacks_output", "mac_busy", "waits_for_dma", "transfers",
         "fetched")  # fmt: skip


def expected_reason(case: dict) -> str:
    """docs/npu.md section 8, from the top of the table."""
    if case["in_step"]:
        return "mac"
    if case["kind"]:
        return VECTOR_OPERATIONS[case["kind"].bit_length() - 1].lower()
    for flag, reason in (("lacks_weights", "weights"), ("lacks_output", "output"),
                         ("mac_busy", "setup")):  # fmt: skip
        if case[flag]:
            return reason
    if case["waits_for_dma"] and case["transfers"]:
        return "dma"
    return "control" if case["fetched"] else "fetch"


def test_reasons_in_the_order_of_precedence():
    rng, dut = random.Random(3), StallCounters()
    expected = dict.fromkeys(SPEC.stalls, 0)

    async def bench(ctx):
        for _ in range(1500):
            case = {flag: rng.random() < 0.3 for flag in FLAGS}
            case["kind"] = rng.choice((0, 0, 0, 1, 2, 4, 8))
            for name, value in case.items():
                ctx.set(getattr(dut, name), value)
            counts = rng.random() < 0.9
            ctx.set(dut.enable, counts)
            expected[expected_reason(case)] += counts
            await ctx.tick()
        assert [ctx.get(count) for count in dut.counts] == list(expected.values())
        assert min(expected.values()) > 5
        ctx.set(dut.clear, 1)
        await ctx.tick()
        assert not any(ctx.get(count) for count in dut.counts)

    simulate(dut, bench)
