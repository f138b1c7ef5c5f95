"""The event-driven timing model against the machine written down cycle by cycle."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from bankside.errors import ProgramError
from bankside.isa.program import Builder
from bankside.sim.timing.core import STALLS
from bankside.sim.timing.pim import PimTiming


def _sibling(name: str):
    """A module of this folder (tests are not a package)."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


programs = _sibling("timing_programs")
reference = _sibling("reference_pim_timing")


def compare(machine, program, note: str = "") -> int:
    """Commands, macro-commands, counters and cycles of model and reference; returns the cycles."""
    expected = reference.Reference(machine, program).run()
    result = PimTiming(machine).run(program, trace=True)
    assert [tuple(c) for c in result.commands.tolist()] == expected.commands, note
    assert [tuple(m) for m in result.macros.tolist()] == expected.macros, note
    assert result.cycles == expected.cycles, note
    assert result.counters == expected.counters, note
    assert sum(result.counters.values()) == result.cycles, note
    return result.cycles


@pytest.mark.parametrize("seed", range(60))
def test_random_programs_agree_with_the_cycle_by_cycle_machine(seed):
    rng = random.Random(seed)
    machine = programs.random_machine(rng)
    program = programs.RandomProgram(machine, rng, 30).build()
    compare(machine, program, f"seed {seed}, {machine.std.name}")
