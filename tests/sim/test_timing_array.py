"""The event-driven timing model of the array against the machine written down cycle by cycle."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from bankside.config import HardwareConfig
from bankside.errors import ProgramError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.program import Builder, Program
from bankside.isa.spec import load_spec
from bankside.sim.timing.array import ArrayTiming, Busy
from bankside.sim.timing.array_dma import Port
from bankside.sim.timing.array_schedule import STALLS, Block, Schedule


def _sibling(name: str):
    """A module of this folder (tests are not a package)."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


programs = _sibling("array_timing_programs")
Reference = _sibling("reference_array_timing").Reference
TINY = ArrayMachine.of(HardwareConfig.load("array_4x4"))
SPEC = load_spec("array")


def facts(machine: ArrayMachine, program: Program, kind: type = Reference) -> tuple:
    """Cycles, counters, passes and macro-commands of the machine stepped cycle by cycle."""
    stepped = kind(machine, program)
    cycles = stepped.run()
    macros = sorted(stepped.macros, key=lambda m: (m[2], m[0]))
    return cycles, stepped.counters, [(c, n, 0, row, 0) for c, n, row in stepped.passes], macros


def modelled(machine: ArrayMachine, program: Program) -> tuple:
    """The same of the timing model, after a look at its other ways to the same result."""
    traced = ArrayTiming(machine).run(program, trace=True)
    for skipping in (True, False):
        plain = ArrayTiming(machine, skipping=skipping).run(program)
        assert (plain.cycles, plain.counters) == (traced.cycles, traced.counters)
    assert sum(traced.counters.values()) == traced.cycles
    return traced.cycles, traced.counters, traced.commands.tolist(), traced.macros.tolist()


def drawn(seed: int, length: int = 8) -> tuple[ArrayMachine, Program]:
    rng = np.random.default_rng(seed)
    machine = programs.random_machine(rng)
    return machine, programs.random_program(rng, machine, length)


@pytest.mark.parametrize("block", range(10))
def test_random_programs_agree_with_the_cycle_by_cycle_machine(block):
    for seed in range(20 * block, 20 * block + 20):
        machine, program = drawn(seed)
        assert modelled(machine, program) == facts(machine, program), f"seed {seed}"


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_many_random_programs_agree(block):
    for seed in range(1000 + 300 * block, 1300 + 300 * block):
        machine, program = drawn(seed, 4 + seed % 17)
        assert modelled(machine, program) == facts(machine, program), f"seed {seed}"


def test_random_programs_meet_every_reason_and_command():
    counted, met = dict.fromkeys(SPEC.stalls, 0), set()
    for seed in range(80):
        machine, program = drawn(seed)
        met |= {ins.name for ins in program.instructions()}
        for reason, cycles in ArrayTiming(machine).run(program).counters.items():
            counted[reason] += cycles
    assert [reason for reason, cycles in counted.items() if not cycles] == []
    assert met == set(SPEC.commands)


# --- known-bad twins ----------------------------------------------------------------------------


class LateSettle(Reference):
    def __init__(self, machine, program):
        super().__init__(machine, program)
        self.settle += 1


class LateFree(Reference):
    def __init__(self, machine, program):
        super().__init__(machine, program)
        self.free_latency += 1


class OneBurstMore(Reference):
    def __init__(self, machine, program):
        super().__init__(machine, program)
        self.outstanding += 1


class EarlyTokens(Reference):
    """Tokens can be taken in the cycle in which they are given."""

    def arrived(self):
        self.c += 1
        super().arrived()
        self.c -= 1


class NoEarlyEnd(Reference):
    def marks(self):
        super().marks()
        return False


class DrainedRuns(Reference):
    """A RUN waits for the iterations of the one before."""

    def decide(self):
        if self.run_now is None and any(self.pipe[:-1]):
            return None
        return super().decide()


class ImpatientStore(Reference):
    """The next write address in the cycle of the last beat."""

    def store_engine(self):
        changes = super().store_engine()
        if self.written in changes and self.write[0] == 1:
            self.written()
            return super().store_engine()
        return changes


class ForgottenPage(Reference):
    def bursts_of(self, command):
        found = super().bursts_of({**command, "mem": 0, "inner_bytes": 0, "outer_bytes": 0})
        return found


TWINS = (LateSettle, LateFree, OneBurstMore, EarlyTokens, NoEarlyEnd, DrainedRuns, ImpatientStore,
         ForgottenPage)  # fmt: skip


@pytest.mark.parametrize("twin", TWINS)
def test_a_wrong_machine_would_be_noticed(twin):
    """Each differs from the page in one place; some of the programs above show it."""
    for seed in range(200):
        machine, program = drawn(seed)
        if modelled(machine, program) != facts(machine, program, twin):
            return
    pytest.fail("no program shows the difference")


# --- directed -----------------------------------------------------------------------------------


def registers(b: Builder, **values: int) -> None:
    for name, value in values.items():
        b.SET(reg=name, value=value)


def blocks(b: Builder, ii: int, *placed: tuple) -> None:
    """KERNEL and blocks (op, start, length, stage, flags)."""
    b.KERNEL(ii=ii)
    for index, (op, start, length, stage, *flags) in enumerate(placed):
        b.BLOCK(index=index, op=op, start=start, length=length, stage=stage,
                **dict.fromkeys(flags, 1))  # fmt: skip


def test_a_program_of_halt_alone():
    result = ArrayTiming(TINY).run(Builder("array", 4).build(), trace=True)
    assert result.cycles == 1 and result.counters["control"] == 1
    assert result.clock_domain == "array" and result.outputs is None
    assert not len(result.commands) and not len(result.macros)


def test_a_load_takes_latency_and_beats():
    """SETs in cycles 0..4, LOAD in 5, addresses in 6 and 7, 4 beats from 6 + latency on."""
    b = Builder("array", 4)
    registers(b, mem=4096 - 16, outer=1, inner=1, beats=4, ring=1)
    b.LOAD()
    result = ArrayTiming(TINY).run(b.build(), trace=True)
    latency = TINY.config.memory.read_latency_cycles
    last = 6 + latency + 3
    assert result.macros.tolist() == [(0, 0x10, 6, 7, last)]
    assert result.cycles == last + 2
    assert result.counters["load"] == last - 5 and result.counters["control"] == 7


def test_runs_follow_each_other_without_draining():
    """5 tiles of 2 stages in two RUNs: 6 passes of 10 slots, then the machine settles."""
    b = Builder("array", 4)
    blocks(b, 10, ("qk", 0, 4, 0), ("exp", 2 + 2, 6, 1, "done"))
    b.RUN(tiles=3, signal="store")
    b.RUN(tiles=2)
    result = ArrayTiming(TINY).run(b.build(), trace=True)
    starts = result.commands["cycle"]
    assert np.diff(starts).tolist() == [10] * 5
    assert result.commands["code"].tolist() == [1] * 5 + [0]
    assert result.commands["row"].tolist() == [0, 1, 2, 0, 1, 0]
    # KERNEL and two BLOCKs, the first RUN in cycle 3, its decision in 4.
    assert starts[0] == 5
    assert result.macros.tolist() == [
        (1, 0x20, 4, 44, 44 + TINY.settle),
        (1, 0x20, 34, 64, 64 + TINY.settle),
    ]
    assert result.counters == dict.fromkeys(SPEC.stalls, 0) | {
        "mac": 5 * 10, "bubble": 4 + 6, "settle": TINY.settle, "control": 6,
    }  # fmt: skip
    assert result.cycles == 65 + TINY.settle + 1


def test_a_pass_ends_with_done_when_nothing_younger_is_there():
    """One stage: every pass has 6 of its 20 slots, and a decision follows."""
    b = Builder("array", 4)
    blocks(b, 20, ("qk", 0, 4, 0), ("lm", 5, 1, 0, "done"))
    b.RUN(tiles=50)
    result = ArrayTiming(TINY).run(b.build(), trace=True)
    assert set(np.diff(result.commands["cycle"]).tolist()) == {7}
    assert result.counters["mac"] == 50 * 5 and result.counters["slot"] == 50
    assert ArrayTiming(TINY).run(b.build()).counters == result.counters


@pytest.mark.parametrize(
    ("pattern", "slots", "cut", "named"),
    [
        ((0, 0), 8, False, {"bubble": 7, "slot": 1}),
        ((1, 0), 8, False, {"mac": 3, "bubble": 4, "slot": 1}),
        ((1, 1), 8, False, {"mac": 3, "move": 2, "bubble": 2, "slot": 1}),
        ((1, 2), 8, False, {"mac": 3, "move": 2, "lane": 2, "slot": 1}),
        ((0, 2), 7, True, {"move": 2, "lane": 3, "bubble": 2}),
    ],
)
def test_slots_are_classified_by_the_iterations_present(pattern, slots, cut, named):
    """qk 0..2 of stage 0; fill 4..5, av 2..3 and rcp 6 of stage 1; nothing in 7."""
    ops, schedule = SPEC.enums["block_op"], Schedule(8)
    schedule.add(Block(0, ops["qk"], 0, 3, 0, 1, 0))
    schedule.add(Block(1, ops["fill"], 4, 2, 1, 0, 0))
    schedule.add(Block(8, ops["av"], 2, 2, 1, 0, 0))
    schedule.add(Block(9, ops["rcp"], 6, 1, 1, 0, 1))
    one = schedule.of(pattern)
    counts = {r: n for r, n in zip(STALLS, one.counts, strict=True) if n}
    assert (one.slots, one.cut, counts) == (slots, cut, named)
    assert one.frees == (((2, 0),) if pattern[0] else ())


def test_a_port_remembers_steps_without_changing_them():
    """Equal steps from equal states, against a port that starts anew for each of them."""
    rng = np.random.default_rng(3)
    kept = Port(9, 0, 2, 3, False)
    for _ in range(300):
        bursts = tuple(int(n) for n in rng.integers(1, 4, 5))
        start = kept.earliest() + int(rng.integers(0, 2)) * int(rng.integers(0, 60))
        plain = Port(9, 0, 2, 3, False)
        plain.next_address, plain._begun, plain._left = start, kept._begun, kept._left
        assert kept.play(bursts, start) == plain.play(bursts, start)
        assert [max(s, start) for s in kept.ends()] == [max(s, start) for s in plain.ends()]


def test_busy_times_are_cut_and_complemented():
    busy = Busy([[2, 4], [8, 8], [10, 20]])
    assert busy.within(0, 30) == 15 and busy.within(4, 11) == 3 and busy.within(5, 8) == 0
    assert busy.between(3, 12) == [(5, 8), (9, 10)]
    assert busy.between(21, 25) == [(21, 25)] and busy.between(11, 12) == []


def test_deadlocks_say_who_waits_for_whom():
    b = Builder("array", 4)
    registers(b, outer=1, inner=1, beats=1, ring=1)
    blocks(b, 4, ("qk", 0, 4, 0, "done"))
    b.LOAD(wait="compute", signal="compute")
    b.RUN(tiles=1, wait="load", signal="load")
    with pytest.raises(ProgramError) as found:
        ArrayTiming(TINY).run(b.build())
    assert str(found.value) == (
        "deadlock at command 8 HALT: load: command 6 LOAD waits for a token of compute; "
        "compute: command 7 RUN waits for a token of load; give these tokens with `signal` of an "
        "earlier command, or do not wait for them"
    )


def test_refused_programs():
    b = Builder("array", 4)
    b.LOAD()
    with pytest.raises(ProgramError, match="command 0 LOAD: register outer is 0; SET it to at"):
        ArrayTiming(TINY).run(b.build())
    b = Builder("array", 4)
    blocks(b, 4, ("qk", 0, 4, 0))
    b.RUN(tiles=1)
    with pytest.raises(ProgramError, match="0 blocks of the schedule have `done`"):
        ArrayTiming(TINY).run(b.build())
    with pytest.raises(ProgramError, match="runs past its end; end it with HALT"):
        ArrayTiming(TINY).run(Program("array", b.build().words[:2], np.zeros((0, 4), np.uint16)))


def test_too_many_tokens_are_refused():
    b = Builder("array", 4)
    registers(b, outer=SPEC.token_max + 1, inner=1, beats=1, ring=1)
    b.LOAD(each=1, signal="store")
    with pytest.raises(ProgramError, match="more than 4095 tokens of load wait for store"):
        ArrayTiming(TINY).run(b.build())


def test_long_runs_are_cheap():
    """A million keys on 16 rows, resident: the passes are not stepped through."""
    machine = ArrayMachine.of(HardwareConfig.load("array_16x16"))
    b = Builder("array", machine.bus_elements)
    blocks(b, 137, ("qk", 0, 64, 0), ("lm", 64, 1, 0), ("exp", 65, 7, 1), ("sld", 72, 1, 1),
           ("slnv", 73, 64, 1, "done"))  # fmt: skip
    b.RUN(tiles=65535)
    model = ArrayTiming(machine)
    result = model.run(b.build())
    assert result.counters["mac"] == 65535 * 137
    # The RUN in cycle 6, its decision in 7, slot 0 in 8.
    assert result.cycles == 8 + 65536 * 137 + machine.settle + 1
