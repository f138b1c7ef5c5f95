"""The paper's cycles against the array engine: exact sums, single terms by hand, refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from bankside.cli import main
from bankside.errors import ConfigError, ToolError
from bankside.isa.machines import load_machine
from bankside.mapping.lower_array import ArrayKernels, AttentionShape
from bankside.sim.executions import make_engine
from bankside.sim.reproduce import GapOptions
from bankside.sim.reproduce_gap import TERMS, gap, gap_text, measure, pass_terms, programs

BINDINGS = ("unfused", "flat", "cascade", "architecture", "interleaved")


def shape(queries: int, keys: int) -> AttentionShape:
    return AttentionShape(queries, keys, 1, 1, 64, 64)


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize(
    ("machine", "queries", "keys"),
    [("array_4x4", 4, 64), ("array_4x4", 12, 20), ("array_8x8_deep", 24, 256),
     ("array_16x16", 48, 512), ("array_16x16", 16, 16), ("array_32x32", 64, 320)],
)  # fmt: skip
def test_terms_add_up_to_the_measured_cycles(
    binding: str, machine: str, queries: int, keys: int
) -> None:
    built, work = load_machine(machine), shape(queries, keys)
    row = measure(built, work, binding)
    engine = make_engine("timing", built)
    runs = [engine.run(program) for program in programs(ArrayKernels(built, work, binding))]
    assert row["cycles"] == sum(run.cycles or 0 for run in runs)
    assert sum(row["terms"].values()) == pytest.approx(row["cycles"], abs=1e-6)
    assert list(row["terms"]) == list(TERMS)
    assert all(value >= 0 for term, value in row["terms"].items() if term != "occupation")
    # What the counters call useful is what the two terms of the blocks say.
    useful = sum(run.counters["mac"] + run.counters["move"] for run in runs)
    words = row["terms"]["paper"] + row["terms"]["occupation"] + row["terms"]["hand_over"]
    assert words == pytest.approx(useful, abs=1e-6)


def test_interleaved_by_hand() -> None:
    row = measure(load_machine("array_16x16"), shape(16, 4096), "interleaved")
    # QK 64 + LM 1 against RD 1 + RNV 64 + AV 64/256; RM 1; SLN 7 + SLD 1; SLNV 64. Ours: none of
    # its own for RM, and numerators join in the lane while they arrive.
    assert [(stage["paper"], stage["slots"]) for stage in row["stages"]] == [
        (65.25, 65), (1, 0), (8, 8), (64, 64), (0, 0)
    ]  # fmt: skip
    assert row["terms"]["paper"] == 256 * 138.25
    assert row["terms"]["occupation"] == pytest.approx(256 * (137 - 138.25))
    assert row["schedules"][0]["ii"] == row["schedules"][0]["bound"] == 137
    # A full pass has no slot without a word: nothing waits for the maximum.
    assert row["terms"]["maximum"] == row["terms"]["schedule"] == row["terms"]["late"] == 0


def test_tiles_in_flight_hide_the_latencies() -> None:
    """Over several row blocks the machine, latencies and all, needs less than the paper's model."""
    row = measure(load_machine("array_16x16"), shape(128, 4096), "interleaved")
    assert row["ratio"] < 1 and row["mac_share"] > 0.995


def test_one_tile_at_a_time_waits_for_the_maximum() -> None:
    machine = load_machine("array_16x16")
    row = measure(machine, shape(16, 4096), "architecture")
    (schedule,) = ArrayKernels(machine, shape(16, 4096), "architecture").schedules
    lm, exp = schedule.block("lm"), schedule.block("exp")
    assert lm is not None and exp is not None
    waited = exp.start - lm.stop
    assert waited == machine.maximum_latency - 1 == 34
    # One pass per tile, and one more for the division.
    assert row["terms"]["maximum"] == 257 * waited
    assert [stage["paper"] for stage in row["stages"]] == [65, 16, 1, 8, 128, 0]


def test_slow_memory_makes_tiles_late() -> None:
    row = measure(load_machine("array_8x8_deep"), shape(8, 512), "interleaved")
    assert row["terms"]["late"] > row["terms"]["fill"] > 0
    fast = measure(load_machine("array_4x4"), shape(4, 256), "interleaved")
    assert fast["terms"]["late"] == 0


def test_scores_through_the_lanes_are_handed_over() -> None:
    row = measure(load_machine("array_16x16"), shape(16, 256), "cascade")
    (stage, hand_over) = row["stages"]
    assert stage["blocks"] == ["qk", "drain", "passx", "slnv"] and stage["slots"] == 160
    assert stage["paper"] == 4 * 16 + 5 + 128 + 64 / 16
    assert hand_over["blocks"] == ["fill"] and row["terms"]["hand_over"] == 16 * 16


@pytest.mark.slow
def test_rtl_takes_the_same_cycles() -> None:
    machine = load_machine("array_4x4")
    for binding in ("interleaved", "cascade"):
        assert measure(machine, shape(8, 32), binding, rtl=True) == measure(
            machine, shape(8, 32), binding
        )


# --- known-bad inputs ----------------------------------------------------------------------------


def traced() -> tuple:
    machine = load_machine("array_4x4")
    kernels = ArrayKernels(machine, shape(4, 64), "interleaved")
    (program,) = programs(kernels)
    return make_engine("timing", machine).run(program, trace=True), program, kernels.schedules


def test_missing_pass_is_noticed() -> None:
    result, program, schedules = traced()
    assert pass_terms(result, program, schedules)["words"] == 16 * 137
    broken = replace(result, commands=result.commands[1:])
    with pytest.raises(ToolError, match="slots in the passes of the trace"):
        pass_terms(broken, program, schedules)


def test_wrong_start_of_a_tile_is_noticed() -> None:
    result, program, schedules = traced()
    commands = np.array(result.commands)
    commands["code"][3] = 0
    with pytest.raises(ToolError, match="words of the 2D array in the trace"):
        pass_terms(replace(result, commands=commands), program, schedules)


# --- options, text, refusals ---------------------------------------------------------------------


def test_command_line() -> None:
    options = ["--rtl-gap", "--machine", "array_4x4", "--keys", "64"]
    done = CliRunner().invoke(main, ["reproduce", "fusemax", *options, "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert [row["binding"] for row in result["bindings"]] == list(BINDINGS)
    assert (result["queries"], result["keys"], result["execution"]) == (4, 64, "timing")
    lines = gap_text(result).splitlines()
    assert [line.split()[0] for line in lines[2 : 2 + len(TERMS)]] == list(TERMS)
    cycles = next(line for line in lines if line.startswith("cycles "))
    assert cycles.split()[1:] == [f"{row['cycles']:,}" for row in result["bindings"]]


@pytest.mark.parametrize(
    ("machine", "keys", "binding", "message"),
    [
        ("array_6x10", 60, None, "array_6x10: the paper's tiles are square"),
        ("dimm_pim_ddr4", 64, None, "dimm_pim_ddr4: the paper's tiles are square"),
        ("array_4x4", 63, None, "keys is 63; the idealised model cuts the scores into tiles of 4"),
        ("array_4x4", 64, "flat_2pass", "unknown binding 'flat_2pass'"),
    ],
)
def test_refused(machine: str, keys: int, binding: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gap(GapOptions(machine, keys, None, binding, rtl=False))
