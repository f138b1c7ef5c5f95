"""Random programs of the array engine: legal, repeatable, of every kind, with data that matter."""

import itertools
from collections import Counter

import numpy as np
import pytest

from bankside.isa.array_schedule import OPS, Schedule, check
from bankside.isa.machines import verify_program
from bankside.isa.program import Builder, Program
from bankside.isa.spec import load_spec
from bankside.sim.agree_array import UNIT
from bankside.sim.golden.array import ArrayGolden
from bankside.sim.random_array_free import WORKS, free_program, random_elements
from bankside.sim.random_array_schedules import Work, random_schedule
from bankside.sim.random_programs_array import (
    BINDINGS,
    FREE,
    PRODUCT,
    attention_programs,
    product_programs,
    random_programs,
)
from bankside.sim.timing.array import ArrayTiming

SPEC = load_spec("array")
NAMES = ("array_4x4", "array_5x7_narrow", "array_8x8_deep", "array_12x9_wide")
MACHINES = {name: next(UNIT.machines(name)) for name in NAMES}


def some(name: str, seed: int, count: int) -> list[tuple[str, Program]]:
    programs = random_programs(np.random.default_rng(seed), MACHINES[name])
    return list(itertools.islice(programs, count))


@pytest.mark.parametrize("name", MACHINES)
def test_programs_are_legal(name):
    for _, program in some(name, 11, 30):
        verify_program(program, MACHINES[name])


def test_a_seed_gives_the_same_programs():
    first, again, other = (some("array_4x4", seed, 8) for seed in (3, 3, 4))
    assert [p.hash for _, p in first] == [p.hash for _, p in again]
    assert [p.hash for _, p in first] != [p.hash for _, p in other]


def test_every_kind_command_and_operation_appears_often():
    kinds, commands, ops = Counter(), Counter(), Counter()
    for kind, program in some("array_4x4", 1, 160):
        kinds[kind] += 1
        for ins in program.instructions():
            commands[ins.name] += 1
            if ins.name == "BLOCK":
                ops[ins.op] += 1
    assert set(kinds) == {FREE, PRODUCT, *BINDINGS} and min(kinds.values()) >= 5
    assert kinds[FREE] >= 60
    assert set(commands) == set(SPEC.commands) and min(commands.values()) >= 10
    assert set(ops) == set(SPEC.enums["block_op"].values()) and min(ops.values()) >= 10


def test_every_value_of_every_enumeration_and_flag_appears():
    seen, tokens = set(), set()
    for name in MACHINES:
        for _, program in some(name, 2, 60):
            for ins in program.instructions():
                for operand in SPEC.commands[ins.name].fields:
                    value = ins.fields[operand.name]
                    if operand.values or operand.width == 1:
                        seen.add((ins.name, operand.name, value))
                    if operand.flags:
                        tokens |= {(ins.name, operand.name, f) for i, f in
                                   enumerate(operand.flags) if value >> i & 1}  # fmt: skip
    wanted = {
        (command.name, operand.name, value)
        for command in SPEC.commands.values()
        for operand in command.fields
        if operand.values or operand.width == 1
        for value in ([v for _, v in operand.values] or [0, 1])
    }
    assert wanted - seen == set()
    commands = {"LOAD": "load", "STORE": "store", "RUN": "compute"}
    for name, engine in commands.items():
        for operand in ("wait", "signal"):
            assert {f for n, o, f in tokens if (n, o) == (name, operand)} == (
                set(SPEC.engines) - {engine}
            )


def test_free_programs_wait_for_everything_there_is():
    totals = dict.fromkeys(SPEC.stalls, 0)
    for name, machine in MACHINES.items():
        for seed in range(40):
            program = free_program(np.random.default_rng(seed), machine)
            for reason, cycles in ArrayTiming(machine).run(program).counters.items():
                totals[reason] += cycles
        assert name
    assert [reason for reason, cycles in totals.items() if not cycles] == []


def test_bits_of_free_programs_come_from_their_inputs():
    """Other inputs, other results, in nearly all programs."""
    machine, same = MACHINES["array_4x4"], 0
    for seed in range(30):
        program = free_program(np.random.default_rng(seed), machine)
        first, count = program.outputs["stored"]
        image = program.host_in.copy()
        image[:first] = np.random.default_rng(99).permuted(image[:first])
        other = Program("array", program.words, image, program.outputs)
        results = [ArrayGolden(machine).run(p).outputs[first:] for p in (program, other)]
        same += np.array_equal(*results)
        assert count == len(results[0])
    assert same <= 2


@pytest.mark.parametrize("name", MACHINES)
def test_schedules_keep_the_rules_and_use_their_freedom(name):
    machine, stages, lengths = MACHINES[name], set(), set()
    works = [Work(w.ops, 5, 9, w.chunked, w.correct) for works in WORKS for w in works]
    for seed, work in enumerate(works * 6):
        schedule = random_schedule(np.random.default_rng(seed), machine, work, "bf16")
        check(schedule, machine)
        assert {block.op for block in schedule.blocks} == set(work.ops)
        decoded = Schedule.decode(_emitted(schedule))
        assert (decoded.format, decoded.ii) == ("bf16", schedule.ii)
        assert set(decoded.blocks) == set(schedule.blocks)
        stages.add(schedule.stages)
        lengths.add(schedule.ii)
    assert len(stages) >= 2 and len(lengths) > 20
    assert {op for work in works for op in work.ops} == set(OPS)


def _emitted(schedule: Schedule):
    b = Builder("array", 4)
    schedule.emit(b)
    return b.build().instructions()


@pytest.mark.parametrize("binding", BINDINGS)
def test_attention_has_every_feature(binding):
    """Named results in each program, and shapes with several programs or blocks."""
    machine, rng, results = MACHINES["array_4x4"], np.random.default_rng(7), []
    for _ in range(12):
        programs = attention_programs(rng, machine, binding)
        assert all(p.outputs for p in programs)
        results.append(sum(len(p.outputs) for p in programs))
    assert max(results) > 2


def test_products_have_several_tiles():
    machine, rng = MACHINES["array_4x4"], np.random.default_rng(7)
    tiles = [
        max(ins.fields.get("tiles", 0) for p in product_programs(rng, machine)
            for ins in p.instructions())
        for _ in range(12)
    ]  # fmt: skip
    assert max(tiles) > 4


def test_elements_meet_special_numbers():
    rng = np.random.default_rng(1)
    drawn = np.concatenate([random_elements(rng, 64) for _ in range(80)])
    half, brain = drawn >> 10 & 31, drawn >> 7 & 255
    assert drawn.dtype == np.uint16
    assert all((e == 0).any() and (e == top).any() for e, top in ((half, 31), (brain, 255)))
    assert any(len(set(random_elements(rng, 64).tolist())) == 1 for _ in range(60))
