"""Random programs: legal, repeatable, and of every kind."""

import itertools
from collections import Counter

import numpy as np
import pytest

from bankside.config import HardwareConfig
from bankside.isa.machine import Machine
from bankside.isa.spec import load_spec
from bankside.isa.verify import verify
from bankside.sim.random_programs import (
    attention_programs,
    free_program,
    random_fp16,
    random_programs,
)

MACHINES = {name: Machine.of(HardwareConfig.load(name)) for name in
            ("pim_tiny_ddr4", "pim_tiny_ddr5", "pim_ddr4_gqa8")}  # fmt: skip


def some(name: str, seed: int, count: int):
    programs = random_programs(np.random.default_rng(seed), MACHINES[name])
    return list(itertools.islice(programs, count))


@pytest.mark.parametrize("name", MACHINES)
def test_programs_are_legal(name):
    for program in some(name, 11, 30):
        verify(program, MACHINES[name])


def test_a_seed_gives_the_same_programs():
    first, again, other = (some("pim_tiny_ddr4", seed, 8) for seed in (3, 3, 4))
    assert [p.hash for p in first] == [p.hash for p in again]
    assert [p.hash for p in first] != [p.hash for p in other]


def test_every_command_appears_often():
    counted = Counter(
        ins.name for name in MACHINES for p in some(name, 1, 120) for ins in p.instructions()
    )
    assert set(counted) == set(load_spec("pim").commands)
    rare = {name: n for name, n in counted.items() if n < 10}
    assert not rare, f"hardly ever drawn: {rare}"


def test_every_value_of_every_enumeration_and_flag_appears():
    spec, seen = load_spec("pim"), set()
    for name in MACHINES:
        for program in some(name, 2, 150):
            for ins in program.instructions():
                for operand in spec.commands[ins.name].fields:
                    value = ins.fields[operand.name]
                    if operand.values or operand.width == 1:
                        seen.add((ins.name, operand.name, value))
    wanted = {
        (command.name, operand.name, value)
        for command in spec.commands.values()
        for operand in command.fields
        if operand.values or operand.width == 1
        for value in ([v for _, v in operand.values] or [0, 1])
    }
    assert wanted - seen == set()


def test_geometries_cover_heads_and_lanes():
    machine, seen = MACHINES["pim_ddr4_gqa8"], set()
    for program in some("pim_ddr4_gqa8", 5, 150):
        for ins in program.instructions():
            if ins.name == "GEOM":
                seen.add((1 << ins.nhc_log2, ins.lanes))
    assert {nhc for nhc, _ in seen} == {1, 2, 4, 8}
    assert {1, 4, 8} <= {lanes for _, lanes in seen}
    assert machine.lanes == 8


def test_both_kinds_are_drawn():
    rng, machine = np.random.default_rng(1), MACHINES["pim_tiny_ddr4"]
    free = free_program(rng, machine)
    assert 20 <= len(free.words) < 120
    kernels = attention_programs(rng, machine)
    assert "NORM" in {ins.name for ins in kernels[-1].instructions()}


def test_operands_meet_special_numbers():
    rng = np.random.default_rng(1)
    drawn = np.concatenate([random_fp16(rng, (64,)) for _ in range(60)])
    exponent = drawn >> 10 & 31
    assert (exponent == 0).any() and (exponent == 31).any() and drawn.dtype == np.uint16
    assert any(len(set(random_fp16(rng, (64,)).tolist())) == 1 for _ in range(40))
