# amaranth: UnusedElaboratable=no
"""Faults on numpy: the outcomes of the engine in C, which shares nothing but the order of cells."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bankside.errors import ConfigError, ProgramError, ToolError
from bankside.fault_injection.protect import protected
from bankside.isa.machines import load_machine
from bankside.isa.program import Program
from bankside.sim.elaborate import to_json
from bankside.sim.faults import END_LIMIT, Action
from bankside.sim.lanes import numpy_faults, numpy_lanes
from bankside.sim.lanes.engine import LaneFaults
from bankside.sim.lanes.numpy_axi import _PATIENCE, RegisterReads, register_writes
from bankside.sim.lanes.numpy_faults import NumpyFaults, changed, make_faults
from bankside.sim.rtl.tops import top_of

sys.path.insert(0, str(Path(__file__).parent))

from fault_cases import MACHINES, RandomFaults, program_of  # noqa: E402

#: Cycles after the fault-free run in which a machine counts as hanging.
LATE = 40


def short(program: Program) -> Program:
    """The first transfer of a program of the array: some 50 cycles."""
    first = next(i for i, one in enumerate(program.instructions()) if one.name == "LOAD")
    return replace(program, words=(*program.words[: first + 1], program.words[-1]))


class Both:
    """Engines in C and on numpy with the same program."""

    def __init__(self, name: str, program=lambda p: p, lanes: int = 128, **options) -> None:
        self.machine = load_machine(name)
        self.program = program(program_of(self.machine))
        self.compiled = LaneFaults(self.machine, self.program, **options)
        self.plain = NumpyFaults(self.machine, self.program, lanes=lanes, **options)
        self.cycles = self.compiled.golden.cycles

    def faults(self, seed: int, count: int, kinds=("flop", "memory", "store", "port")):
        used = self.program.host_in.nbytes
        return RandomFaults(self.compiled.sites, self.cycles, used, seed, kinds).take(count)

    def differences(self, faults, others=None) -> list[str]:
        """Faults whose outcomes differ; `others`: what numpy gets instead."""
        limit = self.cycles + LATE
        rows = self.compiled.run(faults, limit=limit), self.plain.run(others or faults, limit=limit)
        self.rows = rows[0]
        return [
            f"{actions}: compiled {row}, numpy {other}"
            for actions, row, other in zip(faults, *rows, strict=True) if row != other
        ]  # fmt: skip


@pytest.fixture(scope="module")
def both() -> Both:
    return Both(MACHINES["array"], short)


# --- the same as in C -----------------------------------------------------------------------------
def test_the_run_without_faults(both) -> None:
    assert both.plain.golden.outcome == both.compiled.golden.outcome
    assert np.array_equal(both.plain.golden.image, both.compiled.golden.image)
    assert both.plain.sites == both.compiled.sites
    assert both.plain.run([(), [Action("flip", "store", first=10_000)]]).tolist() == 2 * [
        both.compiled.golden.outcome.item()
    ]


def test_random_faults(both) -> None:
    """In two parts: there are more faults than lanes."""
    faults = both.faults(3, 140)
    assert len(faults) > both.plain._lanes.lanes
    assert not both.differences(faults)
    for column in ("output", "state", "counters"):
        assert 3 <= (both.rows[column] == 0).sum() < 140, column
    assert (both.rows["first"] >= 0).sum() > 5 and (both.rows["end"] == END_LIMIT).sum() > 2


def test_wrong_faults_are_noticed(both, monkeypatch) -> None:
    faults = both.faults(4, 60)
    wrong = [
        [replace(a, first=a.first + 1, last=a.last if a.last is None else a.last + 1) for a in f]
        for f in faults
    ]
    assert len(both.differences(faults, wrong)) > 3
    monkeypatch.setattr(numpy_faults, "changed", lambda action, value: value)
    assert len(both.differences(faults)) > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", MACHINES.values())
def test_whole_programs(name) -> None:
    both = Both(name, lanes=160)
    assert both.plain.golden.outcome == both.compiled.golden.outcome
    assert np.array_equal(both.plain.golden.image, both.compiled.golden.image)
    assert not both.differences(both.faults(31, 159))
    assert (both.rows["output"] == 0).sum() > 5 and (both.rows["first"] >= 0).sum() > 5


@pytest.mark.slow
def test_nets() -> None:
    both = Both(MACHINES["array"], short, lanes=256, nets=True)
    assert not both.differences(both.faults(6, 255, ("net", "net", "flop", "port")))
    assert (both.rows["state"] == 0).sum() > 20


@pytest.mark.slow
def test_alarms_of_a_protected_design() -> None:
    top, name = top_of(load_machine(MACHINES["array"]))
    plan = {"core.control": "parity", "core.control.front": ["tmr", "secded"]}
    made = protected(to_json(top, name), name, plan)
    both = Both(MACHINES["array"], short, netlist=made.json)
    assert not both.differences(both.faults(7, 120, ("flop", "flop", "memory")))
    assert both.rows["corrected"].sum() > 2 and both.rows["detected"].sum() > 2


# --- parts ----------------------------------------------------------------------------------------
def test_several_forces_of_a_net() -> None:
    """One after the other, each on what the ones before have made."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        actions = [
            Action("force", "n", mask=int(rng.integers(1, 256)),
                   value=None if rng.random() < 0.5 else int(rng.integers(256)))
            for _ in range(rng.integers(1, 4))
        ]  # fmt: skip
        rule, value = None, int(rng.integers(256))
        expected = value
        for action in actions:
            rule, expected = numpy_faults._then(rule, action, 255), changed(action, expected)
        flip, keep, bits = rule
        assert ((value ^ flip) & keep) | bits == expected, actions


def test_a_host_that_gets_no_answer_goes_on() -> None:
    names = [f"s_axil_{name}" for name in ("arready", "arvalid", "rready", "rvalid", "rdata")]
    ports = dict.fromkeys([*names, "s_axil_araddr"], 0)
    reads, cycles = RegisterReads([8, 16]), 1
    while not reads.drive(ports):
        cycles += 1
    assert reads.values == [0, 0] and cycles == 2 * (_PATIENCE + 1)
    ports = dict.fromkeys(
        [f"s_axil_{n}" for n in ("awready", "awvalid", "wready", "wvalid", "bvalid", "bready")], 0
    )
    drives = register_writes(ports, 0, [1, 2, 3])
    assert sum(drive(ports) is None for drive in drives) == _PATIENCE + 1


# --- errors, choice -------------------------------------------------------------------------------
def test_errors(both) -> None:
    with pytest.raises(ConfigError, match="limit of 3 cycles; the run without faults takes"):
        both.plain.run([()], limit=3)
    with pytest.raises(ConfigError, match="no site 'nowhere'"):
        both.plain.run([[Action("flip", "nowhere")]])


def test_a_program_that_does_not_end(both, monkeypatch) -> None:
    monkeypatch.setattr(numpy_faults, "_READING", 0)
    with pytest.raises(ProgramError, match="not finished after 5 cycles; raise the limit"):
        both.plain._golden(5)


def test_engine_is_chosen_by_what_there_is(both, monkeypatch, capfd) -> None:
    assert isinstance(make_faults(both.machine, both.program), LaneFaults)
    with pytest.raises(ConfigError, match="unknown engine 'fast'; expected auto, compiled or num"):
        make_faults(both.machine, both.program, engine="fast")

    def missing() -> str:
        raise ToolError("C++ compiler is missing")

    monkeypatch.setattr(numpy_lanes, "find_cxx", missing)
    monkeypatch.setattr(NumpyFaults, "__init__", lambda *_, **__: None)
    assert isinstance(make_faults(both.machine, both.program), NumpyFaults)
    assert "no C++ compiler: faults run on numpy" in capfd.readouterr().err
