"""The agreement of executions of the array engine: differences are found, and the RTL agrees."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

from bankside.errors import ConfigError, ProgramError
from bankside.isa.program_file import load_program
from bankside.sim import agree as agree_module
from bankside.sim.agree import UNITS, agree, command, machines
from bankside.sim.agree_array import EXTREMES
from bankside.sim.golden.array import ArrayGolden
from bankside.sim.timing.array import ArrayTiming

UNIT = UNITS.get("array")


class FakeRtl:
    """Bits of the golden and cycles of the timing model; `spoil(result, number)` changes them."""

    def __init__(self, machine, spoil) -> None:
        self.golden, self.timing = ArrayGolden(machine), ArrayTiming(machine)
        self.spoil, self.number = spoil, -1

    def run(self, program, *, trace):
        self.number += 1
        bits, cycles = self.golden.run(program), self.timing.run(program, trace=trace)
        return self.spoil(dataclasses.replace(cycles, outputs=bits.outputs), self.number)

    def reset(self) -> None:
        self.golden.reset()


def fake(spoil):
    """A trio without RTL."""

    class Fake(agree_module.Trio):
        def __init__(self, machine) -> None:
            self.machine, self.rtl = machine, FakeRtl(machine, spoil)
            self.golden, self.timing = ArrayGolden(machine), ArrayTiming(machine)

    return Fake


def test_agreement_counts_programs_machines_and_kinds():
    found = agree(9, 1, ("array_4x4", "array_5x7_narrow"), unit=UNIT, make=fake(lambda r, n: r))
    assert found.agreed and found.programs == 9 and found.differences == []
    assert found.machines == {"array_4x4": 5, "array_5x7_narrow": 4}
    assert sum(found.kinds.values()) == 9 and found.kinds["free"] >= 3
    assert found.clock_domain == "array" and found.counts == {} and found.rtl_cycles > 1000


def flip(result, number):
    """One bit of the last word of memory."""
    outputs = result.outputs.copy()
    outputs[-1, -1] ^= np.uint16(number == 3)
    return dataclasses.replace(result, outputs=outputs)


def late(result, number):
    """The last pass one cycle late."""
    commands = result.commands.copy()
    commands["cycle"][-1] += number == 3
    return dataclasses.replace(result, commands=commands)


def miscounted(result, number):
    """A cycle of another reason."""
    change = int(number == 3)
    counters = result.counters | {
        "slot": result.counters["slot"] + change, "bubble": result.counters["bubble"] - change,
    }  # fmt: skip
    return dataclasses.replace(result, counters=counters)


def refused(result, number):
    if number == 3:
        raise ProgramError("the memory answered with an error")
    return result


@pytest.mark.parametrize(
    ("spoil", "kinds"),
    [(flip, ["bits"]), (late, ["cycles"]), (miscounted, ["cycles"]), (refused, ["bits", "cycles"])],
)
def test_differences_are_found_and_kept(tmp_path, spoil, kinds):
    found = agree(6, 6, ("array_4x4",), unit=UNIT, make=fake(spoil), out=tmp_path)
    assert (found.bit_mismatches, found.cycle_mismatches) == ("bits" in kinds, "cycles" in kinds)
    assert [(d.machine, d.refresh, d.program, d.kind) for d in found.differences] == [
        ("array_4x4", None, 3, kind) for kind in kinds
    ]
    assert all(d.program_kind for d in found.differences)
    assert [path.name for path in tmp_path.iterdir()] == ["array_4x4-3.npz"]
    assert load_program(tmp_path / "array_4x4-3.npz").engine == "array"


@pytest.mark.parametrize("spoil", [None, flip])
def test_command_line(monkeypatch, spoil):
    defaults = {**agree.__kwdefaults__, "make": fake(spoil or (lambda r, n: r))}
    monkeypatch.setattr(agree_module.agree, "__kwdefaults__", defaults)
    arguments = ["--unit", "array", "--programs", "6", "--machines", "array_4x4"]
    done = CliRunner().invoke(command, [*arguments, "--json"])
    found = json.loads(done.stdout)
    assert (found["unit"], found["programs"], found["cycle_mismatches"]) == ("array", 6, 0)
    assert found["clock_domain"] == "array" and "refreshes" not in found
    assert (found["bit_mismatches"], done.exit_code) == ((1, 1) if spoil else (0, 0))
    text = CliRunner().invoke(command, arguments).stdout
    assert "kinds of programs: " in text
    assert f"bit mismatches: {1 if spoil else 0}   cycle mismatches: 0" in text
    if spoil:
        assert f"array_4x4 program 3 ({found['differences'][0]['program_kind']}): " in text


def test_machines_of_another_engine_are_refused():
    with pytest.raises(ConfigError, match="engine 'pim'; expected one of 'array', or use --unit"):
        list(machines(("pim_tiny_ddr4",), UNIT))
    with pytest.raises(ConfigError, match="engine 'array'; expected one of 'pim', or use --unit"):
        list(machines(("array_4x4",)))


def test_named_machine_sets_cover_the_sizes():
    sizes = {(m.rows, m.columns) for m in machines(UNIT.sets["full"], UNIT)}
    assert {(4, 4), (6, 10), (8, 8), (16, 16), (5, 7)} < sizes
    assert {m.tags for m in machines(tuple(EXTREMES), UNIT)} == {1, 8}
    assert set(UNIT.sets["quick"]) < set(UNIT.sets["full"])


def test_rtl_agrees():
    """Golden, timing and the compiled RTL of the smallest machine on random programs."""
    found = agree(60, 23, ("array_4x4",), unit=UNIT)
    assert found.differences == [] and found.programs == 60


@pytest.mark.slow
def test_rtl_agrees_on_every_machine():
    found = agree(240, 5, UNIT.sets["full"], unit=UNIT)
    assert found.differences == [] and len(found.machines) == 6
