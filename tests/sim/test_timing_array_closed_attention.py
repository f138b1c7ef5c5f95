"""The closed form of attention on the array against its programs on the exact timing model."""

import dataclasses
import functools
import random
import statistics

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.array_schedule import Block, Schedule
from bankside.isa.machines import load_machine
from bankside.mapping.binding.loader import load_binding
from bankside.mapping.lower_array import ArrayKernels, AttentionShape
from bankside.mapping.lower_array_shape import row_blocks
from bankside.sim.timing.array import ArrayTiming
from bankside.sim.timing.array_closed_attention import ClosedAttention, Estimate
from bankside.sim.timing.array_closed_work import count

PRESETS = ("array_4x4", "array_8x8_deep", "array_6x10", "array_16x16", "array_32x32")
#: Head sizes; a few, so that schedules are solved once.
HEADS = ((16, 16), (64, 64), (20, 8), (8, 64))


def sizes(shape: AttentionShape) -> tuple:
    """The shape as arguments of `count` and `estimate`."""
    names = ("queries", "keys", "heads", "kv_heads", "batch", "causal", "window", "first_position")
    return tuple(getattr(shape, name) for name in names)


def drawn(rng: random.Random, machine: ArrayMachine) -> AttentionShape:
    group, kv = rng.choice([1, 1, 2, 3, 8, 24]), rng.choice([1, 1, 2, 3])
    keys = rng.randint(1, 40 * machine.rows)
    queries = rng.choice([1, rng.randint(1, 4 * machine.columns)])
    causal, window = rng.random() < 0.4, rng.choice([0, 0, 0, rng.randint(1, keys)])
    first = rng.randint(0, keys) if (causal or window) and queries > keys else None
    e, f = rng.choice(HEADS)
    return AttentionShape(
        queries, keys, group * kv, kv, e, f, rng.choice([1, 1, 2]), causal, window, first
    )


@functools.cache
def model(machine: ArrayMachine, binding: str, e: int, f: int, residency: str) -> ClosedAttention:
    found = load_binding(binding)
    schedules = [k.schedule(machine, e, f, "fp16")[0] for k in found.kernels]
    return ClosedAttention(machine, schedules, found.scores, residency)


def simulated(kernels: ArrayKernels) -> int:
    """Cycles of all programs; their data do not matter."""
    engine = ArrayTiming(kernels.machine)
    programs = [kernels._emit(part)[0].build() for part in kernels.parts]
    return sum(engine.run(program).cycles or 0 for program in programs)


def waits(closed: ClosedAttention, found: Estimate) -> bool:
    """Whether the closed form knows of waiting times besides those of the first tile."""
    return found.load > found.programs * closed.estimate(1, 1).load


def measured(binding: str, residency: str = "auto", number: int = 150):
    """(cycles, closed form, whether it knows of waits) of random shapes that fit."""
    rng, rows = random.Random(7), []
    while len(rows) < number:
        machine = load_machine(rng.choice(PRESETS))
        shape = drawn(rng, machine)
        try:
            kernels = ArrayKernels(machine, shape, binding, residency=residency)
        except ConfigError:
            continue
        closed = model(machine, binding, shape.e, shape.f, residency)
        found = closed.estimate(*sizes(shape))
        rows.append((simulated(kernels), found, waits(closed, found)))
    return rows


# --- counts -------------------------------------------------------------------------------------


def test_blocks_and_tiles_are_those_of_the_programs():
    rng = random.Random(3)
    for _ in range(1500):
        machine = load_machine(rng.choice(PRESETS))
        shape = drawn(rng, machine)
        work = count(machine.rows, machine.columns, *sizes(shape))
        blocks = row_blocks(shape, machine.rows, machine.columns)
        first = min(b.first_tile for b in blocks)
        reach = max(b.first_tile + b.tiles for b in blocks) - first
        assert work.blocks == len(blocks) and work.heads == shape.key_heads
        assert work.tiles == sum(b.tiles for b in blocks)
        assert work.last == blocks[-1].used and work.used == sum(b.used for b in blocks)
        assert work.reach == reach or blocks[-1].tiles == 1


def test_arrays_of_shapes_give_what_numbers_give():
    rng = random.Random(4)
    machine = load_machine("array_6x10")
    shapes = [drawn(rng, machine) for _ in range(400)]
    shapes = [dataclasses.replace(s, first_position=s.position) for s in shapes if s.position >= 0]
    for binding in ("interleaved", "flat", "unfused"):
        closed = model(machine, binding, 16, 16, "auto")
        found = closed.estimate(
            *(np.array(column) for column in zip(*map(sizes, shapes), strict=True))
        )
        for i, shape in enumerate(shapes):
            one = closed.estimate(*sizes(shape))
            assert tuple(int(np.broadcast_to(x, len(shapes))[i]) for x in found) == one, shape


# --- time ---------------------------------------------------------------------------------------

#: Binding, residency -> largest and median error of 150 random shapes, relative.
ERRORS = {
    ("interleaved", "auto"): (0.20, 0.005),
    ("interleaved", "stream"): (0.10, 0.005),
    ("architecture", "auto"): (0.20, 0.003),
    ("cascade", "auto"): (0.20, 0.003),
    ("flat", "auto"): (0.30, 0.010),
    ("flat_2pass", "auto"): (0.30, 0.015),
    ("unfused", "auto"): (0.25, 0.025),
}


@pytest.mark.slow
@pytest.mark.parametrize(("binding", "residency"), ERRORS)
def test_errors_over_random_shapes(binding: str, residency: str):
    worst, median = ERRORS[binding, residency]
    rows = measured(binding, residency)
    errors = sorted(abs(found.total - cycles) / cycles for cycles, found, _ in rows)
    assert statistics.median(errors) <= median and errors[-1] <= worst, errors[-5:]
    for _, found, _ in rows:
        assert sum(found[1:7]) == found.total and min(found) >= 0


@pytest.mark.slow
@pytest.mark.parametrize("binding", ("interleaved", "architecture", "cascade"))
def test_shapes_that_never_wait_are_exact_but_for_a_residue(binding: str):
    """Half of them to the cycle; the others end a pass or two apart."""
    rows = [(found.total - cycles, cycles) for cycles, found, late in measured(binding) if not late]
    off = sorted(abs(difference) for difference, _ in rows)
    assert len(rows) > 40 and statistics.median(off) <= 1, off
    assert max(abs(difference) / cycles for difference, cycles in rows) < 0.09


@pytest.mark.parametrize("queries", (16, 32, 64))
def test_long_resident_shapes_are_exact(queries: int):
    machine = load_machine("array_16x16")
    for binding in ("interleaved", "architecture", "cascade"):
        shape = AttentionShape(queries, 1024, 1, 1, 64, 64)
        kernels = ArrayKernels(machine, shape, binding)
        found = model(machine, binding, 64, 64, "auto").estimate(*sizes(shape))
        assert found.total == simulated(kernels)
        assert found.read_beats == queries * 4 + 1024 * 8 and found.write_beats == queries * 4


def test_no_attention_is_refused():
    schedule = Schedule(4, (Block("qk", 0, 4),)).marked()
    with pytest.raises(ConfigError, match="no schedule has a block slnv; give the schedules of a"):
        ClosedAttention(load_machine("array_4x4"), [schedule])
