"""Closed forms of the array's time against the event-driven timing model."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from bankside.errors import ProgramError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.array_schedule import LANE_OPS, PE_OPS, Block, Schedule
from bankside.isa.program import Builder, Program
from bankside.sim.timing.array import ArrayTiming
from bankside.sim.timing.array_closed import Kernel, Segment, floor_sum, program_cycles


def _sibling(name: str):
    """A module of this folder (tests are not a package)."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


random_machine = _sibling("array_timing_programs").random_machine


def random_schedule(rng: np.random.Generator) -> Schedule:
    """Blocks side by side in a pass, some of them until its end, in any stage."""
    ii, at, blocks = int(rng.integers(1, 60)), 0, []
    deepest = int(rng.choice([0, 0, 1, 2, 7]))
    ops = list(rng.permutation(PE_OPS + LANE_OPS))
    while at < ii and len(blocks) < 6:
        at = min(ii - 1, at + int(rng.choice([0, 0, 1, 5])))
        length = int(rng.integers(1, ii - at + 1))
        stage = int(rng.integers(0, deepest + 1))
        blocks.append(Block(str(ops.pop()), at, length, stage))
        at += length
    return Schedule(ii, tuple(blocks)).marked()


def random_segments(rng: np.random.Generator) -> list[tuple[Schedule, list[int], list[int]]]:
    """(schedule, tiles of each RUN, SETs in front of each RUN)."""
    found = []
    for _ in range(int(rng.integers(1, 4))):
        runs, longest = int(rng.integers(1, 9)), int(rng.choice([1, 3, 40]))
        tiles = [int(n) for n in rng.integers(1, longest + 1, runs)]
        many = int(rng.choice([0, 3, 90]))
        found.append(
            (random_schedule(rng), tiles, [int(n) for n in rng.integers(0, many + 1, runs)])
        )
    return found


def built(machine: ArrayMachine, segments, sets: int) -> Program:
    b = Builder("array", machine.bus_elements)
    for _ in range(sets):
        b.SET(reg="keys", value=1)
    for schedule, tiles, before in segments:
        schedule.emit(b)
        for count, number in zip(tiles, before, strict=True):
            for _ in range(number):
                b.SET(reg="keys", value=1)
            b.RUN(tiles=count, first=1)
    return b.build()


def closed(machine: ArrayMachine, segments, sets: int) -> int:
    return program_cycles(machine, [Segment(Kernel.of(s), t, b) for s, t, b in segments], sets)


def drawn(seed: int):
    rng = np.random.default_rng(seed)
    return random_machine(rng), random_segments(rng), int(rng.integers(0, 5))


def differs(seeds: range) -> list[int]:
    found = []
    for seed in seeds:
        machine, segments, sets = drawn(seed)
        cycles = ArrayTiming(machine).run(built(machine, segments, sets)).cycles
        if cycles != closed(machine, segments, sets):
            found.append(seed)
    return found


def test_programs_with_their_data_in_the_banks_are_exact():
    assert differs(range(400)) == []


@pytest.mark.slow
def test_many_programs_are_exact():
    assert differs(range(1000, 9000)) == []


def test_arrays_of_tiles_give_what_numbers_give():
    for seed in range(60):
        machine, segments, sets = drawn(seed)
        grown = [(s, [n + np.arange(5) for n in t], b) for s, t, b in segments]
        found = closed(machine, grown, sets)
        for i in range(5):
            one = [(s, [n + i for n in t], b) for s, t, b in segments]
            assert found[i] == closed(machine, one, sets)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("period", lambda kernel: kernel.ii),
        ("joins", lambda kernel: kernel.deep),
        ("span", lambda kernel: (kernel.deep + 1) * kernel.ii),
    ],
)
def test_a_wrong_form_would_be_noticed(name, wrong, monkeypatch):
    monkeypatch.setattr(Kernel, name, property(wrong))
    assert differs(range(100)) != []


def test_a_kernel_needs_its_marks():
    schedule = Schedule(10, (Block("qk", 0, 4), Block("lm", 5, 1)))
    with pytest.raises(ProgramError, match="0 blocks are marked done; mark the one that ends last"):
        Kernel.of(schedule)
    kernel = Kernel.of(schedule.marked())
    assert (kernel.span, kernel.period, kernel.free, kernel.commands) == (6, 7, 4, 3)
    assert kernel.cycles(50) == 49 * 7 + 6


def test_sums_of_floors():
    rng = np.random.default_rng(5)
    for _ in range(300):
        n, d, a, b = (int(rng.integers(low, 40)) for low in (0, 1, 0, 0))
        assert floor_sum(n, d, a, b) == sum((a * i + b) // d for i in range(n))
    n, d = rng.integers(0, 60, 200), rng.integers(1, 9, 200)
    expected = [floor_sum(int(x), int(y), 5, 3) for x, y in zip(n, d, strict=True)]
    assert floor_sum(n, d, 5, 3).tolist() == expected
