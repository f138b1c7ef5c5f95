"""The agreement of executions: found differences, exit codes, and the RTL on a tiny machine."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

from bankside.config import HardwareConfig
from bankside.errors import ProgramError
from bankside.isa.machine import Machine
from bankside.isa.program_file import load_program
from bankside.sim import agree as agree_module
from bankside.sim.agree import agree, command, compare_bits, compare_cycles, machines
from bankside.sim.engine import COMMAND_DTYPE, MACRO_DTYPE, Result
from bankside.sim.golden.pim import PimGolden
from bankside.sim.timing.pim import PimTiming

TINY = Machine.of(HardwareConfig.load("pim_tiny_ddr4"))


def result(**changes) -> Result:
    commands = np.array([(3, 1, 0, 2, 0), (9, 5, 0, 0, 4)], COMMAND_DTYPE)
    macros = np.array([(0, 0x10, 2, 3, 3)], MACRO_DTYPE)
    base = Result(np.zeros((2, 4), np.uint16), 12, {"mac": 5, "control": 7}, commands, macros)
    return dataclasses.replace(base, **changes)


def test_equal_results_agree():
    assert compare_bits(result(), result()) is None
    assert compare_cycles(result(), result()) is None


def test_every_bit_is_compared():
    for place in np.ndindex(2, 4):
        for bit in (0, 15):
            other = result().outputs.copy()
            other[place] ^= np.uint16(1 << bit)
            assert compare_bits(result(), result(outputs=other)) == (
                f"1 elements differ, first: burst {place[0]} element {place[1]}: golden 0x0000, "
                f"rtl {1 << bit:#06x}"
            )
    short = result(outputs=np.zeros((1, 4), np.uint16))
    assert compare_bits(result(), short) == "golden sent (2, 4) bursts, rtl (1, 4)"


@pytest.mark.parametrize("array", ["commands", "macros"])
def test_every_event_is_compared(array):
    good = getattr(result(), array)
    for index in range(len(good)):
        for name in good.dtype.names:
            other = good.copy()
            other[name][index] += 1
            found = compare_cycles(result(), result(**{array: other}))
            assert found and found.startswith(f"{array}[{index}]: timing ")
    assert compare_cycles(result(), result(**{array: good[:-1]})).endswith("rtl None")
    assert "timing None" in compare_cycles(result(**{array: good[:-1]}), result())


def test_counters_and_cycles_are_compared():
    counters = {"mac": 6, "control": 6}
    assert compare_cycles(result(), result(counters=counters)) == (
        "stall counter mac: timing 5, rtl 6"
    )
    assert compare_cycles(result(), result(cycles=13)) == "total: timing 12 cycles, rtl 13"


class FakeRtl:
    """Bits of the golden and cycles of the timing model.

    `spoil(result, number)` changes them; it counts programs that send something to the host.
    """

    def __init__(self, machine: Machine, spoil) -> None:
        self.golden, self.timing = PimGolden(machine), PimTiming(machine)
        self.spoil, self.number = spoil, -1

    def run(self, program, *, trace):
        self.number += bool(program.outputs)
        bits, cycles = self.golden.run(program), self.timing.run(program, trace=trace)
        number = self.number if program.outputs else None
        return self.spoil(dataclasses.replace(cycles, outputs=bits.outputs), number)

    def reset(self) -> None:
        self.golden.reset()


def fake(spoil):
    """A trio without RTL."""

    class Fake(agree_module.Trio):
        def __init__(self, machine: Machine) -> None:
            self.machine, self.rtl = machine, FakeRtl(machine, spoil)
            self.golden, self.timing = PimGolden(machine), PimTiming(machine)

    return Fake


def test_agreement_counts_programs_and_machines():
    found = agree(9, 1, ("pim_tiny_ddr4", "pim_tiny_ddr5"), make=fake(lambda r, n: r))
    assert found.agreed and found.programs == 9 and found.differences == []
    assert found.machines == {
        "pim_tiny_ddr4": 3, "pim_tiny_ddr4 (no refresh)": 2, "pim_tiny_ddr5": 2,
        "pim_tiny_ddr5 (no refresh)": 2,
    }  # fmt: skip
    assert found.rtl_cycles > 1000


def flip(result: Result, number: int) -> Result:
    """One bit of the first output."""
    if number != 0:
        return result
    outputs = result.outputs.copy()
    outputs[0, 0] ^= np.uint16(1)
    return dataclasses.replace(result, outputs=outputs)


def late(result: Result, number: int) -> Result:
    """The last command of a program one cycle late."""
    if number != 0:
        return result
    commands = result.commands.copy()
    commands["cycle"][-1] += 1
    return dataclasses.replace(result, commands=commands)


def stopped(result: Result, number: int) -> Result:
    if number == 0:
        raise ProgramError("not finished")
    return result


@pytest.mark.parametrize(
    ("spoil", "bits", "cycles", "kinds"),
    [(flip, 1, 0, ["bits"]), (late, 0, 1, ["cycles"]), (stopped, 1, 1, ["bits", "cycles"])],
)
def test_differences_are_found_and_kept(tmp_path, spoil, bits, cycles, kinds):
    found = agree(12, 6, ("pim_tiny_ddr4",), make=fake(spoil), out=tmp_path)
    assert (found.bit_mismatches, found.cycle_mismatches) == (2 * bits, 2 * cycles)
    assert not found.agreed
    assert [d.kind for d in found.differences] == kinds * 2
    expected = {
        f"pim_tiny_ddr4-{'refresh' if d.refresh else 'plain'}-{d.program}.npz"
        for d in found.differences
    }
    assert {path.name for path in tmp_path.iterdir()} == expected and len(expected) == 2
    assert all(load_program(path).outputs for path in tmp_path.iterdir())


@pytest.mark.parametrize("spoil", [None, flip])
def test_command_line(monkeypatch, spoil):
    monkeypatch.setattr(agree_module, "Trio", fake(spoil or (lambda r, n: r)))
    monkeypatch.setattr(agree_module.agree, "__kwdefaults__",
                        {**agree.__kwdefaults__, "make": agree_module.Trio})  # fmt: skip
    done = CliRunner().invoke(
        command, ["--programs", "12", "--seed", "6", "--machines", "pim_tiny_ddr4", "--json"]
    )
    found = json.loads(done.stdout)
    assert found["programs"] == 12 and found["cycle_mismatches"] == 0
    assert found["clock_domain"] == "mem"
    assert (found["bit_mismatches"], done.exit_code) == ((2, 1) if spoil else (0, 0))
    text = CliRunner().invoke(command, ["--programs", "12", "--seed", "6", "--machines",
                                        "pim_tiny_ddr4"]).stdout  # fmt: skip
    assert f"bit mismatches: {2 if spoil else 0}   cycle mismatches: 0" in text


def test_named_machine_sets_exist_and_cover_the_standards():
    sets = agree_module.UNITS.get("pim").sets
    for names in sets.values():
        assert {m.refresh for m in machines(names)} == {True, False}
        standards = {m.config.dram.standard for m in machines(names)}
        assert standards == {"ddr4_3200", "ddr5_4800"}
    assert {m.lanes for m in machines(sets["full"])} >= {1, 8}


def test_rtl_agrees():
    """Golden, timing and the compiled RTL of the tiny machine on random programs."""
    found = agree(16, 23, ("pim_tiny_ddr4",))
    assert found.differences == [] and found.programs == 16
