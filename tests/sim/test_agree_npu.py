"""The agreement of executions of the npu engine: differences are found, and the RTL agrees."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

from bankside.errors import ConfigError, ProgramError
from bankside.isa.program_file import load_program
from bankside.sim import agree as agree_module
from bankside.sim.agree import UNITS, agree, command, machines
from bankside.sim.agree_npu import MEMORIES
from bankside.sim.golden.npu import NpuGolden
from bankside.sim.timing.npu import NpuTiming

UNIT = UNITS.get("npu")


class FakeRtl:
    """Bits of the golden and cycles of the timing model; `spoil(result, number)` changes them."""

    def __init__(self, machine, spoil) -> None:
        self.golden, self.timing = NpuGolden(machine), NpuTiming(machine)
        self.spoil, self.number = spoil, -1

    def run(self, program, *, trace):
        self.number += 1
        bits, cycles = self.golden.run(program), self.timing.run(program, trace=trace)
        return self.spoil(dataclasses.replace(cycles, outputs=bits.outputs), self.number)

    def reset(self) -> None:
        self.golden.reset()
        self.timing.reset()


def fake(spoil):
    """A trio without RTL."""

    class Fake(agree_module.Trio):
        def __init__(self, machine) -> None:
            self.machine, self.rtl = machine, FakeRtl(machine, spoil)
            self.golden, self.timing = NpuGolden(machine), NpuTiming(machine)

    return Fake


def test_agreement_counts_programs_machines_and_kinds():
    found = agree(9, 1, ("npu_u55_32", "npu_llm_64"), unit=UNIT, make=fake(lambda r, n: r))
    assert found.agreed and found.programs == 9 and found.differences == []
    assert list(found.machines.items())[:2] == [
        ("npu_u55_32", 2), ("npu_u55_32 (near memory)", 1),
    ]  # fmt: skip
    assert len(found.machines) == 8 and sum(found.kinds.values()) == 9
    assert found.clock_domain == "npu" and found.rtl_cycles > 10_000
    assert found.counts["transfers"] > 50 and found.counts["operations"] > 9


def flip(result, number):
    """One bit of the last row of memory."""
    outputs = result.outputs.copy()
    outputs[-1, -1] ^= np.uint16(number == 1)
    return dataclasses.replace(result, outputs=outputs)


def late(result, number):
    """The last operation or transfer complete one cycle late."""
    macros = result.macros.copy()
    macros["complete"][-1] += number == 1
    return dataclasses.replace(result, macros=macros)


def miscounted(result, number):
    """A cycle of another reason."""
    change = int(number == 1)
    counters = result.counters | {
        "dma": result.counters["dma"] + change, "fetch": result.counters["fetch"] - change,
    }  # fmt: skip
    return dataclasses.replace(result, counters=counters)


def refused(result, number):
    if number == 1:
        raise ProgramError("fault 6")
    return result


@pytest.mark.parametrize(
    ("spoil", "kinds"),
    [(flip, ["bits"]), (late, ["cycles"]), (miscounted, ["cycles"]), (refused, ["bits", "cycles"])],
)
def test_differences_are_found_and_kept(tmp_path, spoil, kinds):
    found = agree(8, 6, ("npu_llm_32",), unit=UNIT, make=fake(spoil), out=tmp_path)
    assert (found.bit_mismatches, found.cycle_mismatches) == (
        4 * ("bits" in kinds), 4 * ("cycles" in kinds),
    )  # fmt: skip
    assert [(d.machine, d.refresh, d.program, d.kind) for d in found.differences] == [
        ("npu_llm_32", None, 1, kind) for kind in kinds
    ] * 4
    names = ["-".join(filter(None, ("npu_llm_32", memory, "1"))) for memory in MEMORIES]
    assert {path.stem for path in tmp_path.iterdir()} == set(names)
    again = load_program(tmp_path / "npu_llm_32-slow-1.npz")
    assert again.engine == "npu" and again.regions


@pytest.mark.parametrize("spoil", [None, flip])
def test_command_line(monkeypatch, spoil):
    defaults = {**agree.__kwdefaults__, "make": fake(spoil or (lambda r, n: r))}
    monkeypatch.setattr(agree_module.agree, "__kwdefaults__", defaults)
    arguments = ["--unit", "npu", "--programs", "8", "--machines", "npu_u55_64"]
    done = CliRunner().invoke(command, [*arguments, "--json"])
    found = json.loads(done.stdout)
    assert (found["unit"], found["programs"], found["cycle_mismatches"]) == ("npu", 8, 0)
    assert found["clock_domain"] == "npu" and found["transfers"] > found["operations"] > 0
    assert (found["bit_mismatches"], done.exit_code) == ((4, 1) if spoil else (0, 0))
    text = CliRunner().invoke(command, arguments).stdout
    assert f"bit mismatches: {4 if spoil else 0}   cycle mismatches: 0" in text


def test_machines_of_another_engine_are_refused():
    with pytest.raises(ConfigError, match="engine 'array'; expected one of 'npu', or use --unit"):
        list(machines(("array_4x4",), UNIT))


def test_named_machine_sets_cover_sizes_profiles_and_memories():
    found = list(machines(UNIT.sets["full"], UNIT))
    assert {(m.macs, m.wide) for m in found} == {
        (macs, wide) for macs in (32, 64, 128, 256) for wide in (False, True)
    }
    labels = [UNIT.label(m) for m in found]
    assert len(set(labels)) == len(labels) == 8 * len(MEMORIES)
    assert "npu_u55_32 (jittery memory)" in labels and "npu_u55_32" in labels
    compiled = {m.config.model_copy(update={"memory": None}) for m in found}
    fixed = {(m.config.memory.bytes, m.config.memory.outstanding) for m in found}
    assert len(compiled) == 8 and len(fixed) == 1  # nothing of a memory is compiled
    assert set(UNIT.sets["quick"]) < set(UNIT.sets["full"])


@pytest.mark.slow
def test_rtl_agrees():
    """Golden, timing and the compiled RTL of the smallest machines on random programs."""
    found = agree(80, 23, UNIT.sets["quick"], unit=UNIT)
    assert found.differences == [] and found.programs == 80


@pytest.mark.slow
def test_rtl_agrees_on_every_machine():
    found = agree(320, 5, UNIT.sets["full"], unit=UNIT)
    assert found.differences == [] and len(found.machines) == 8 * len(MEMORIES)
