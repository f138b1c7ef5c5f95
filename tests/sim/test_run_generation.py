"""Runs: text, counts, stalls; twins of the RTL that differ must be counted, with exit code 1.

The twin stands in for the RTL: golden bits with the timing model's cycles; no compiler is needed.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bankside.cli import main
from bankside.config import HardwareConfig
from bankside.errors import ConfigError, ProgramError
from bankside.isa.machine import Machine
from bankside.isa.program import Program
from bankside.mapping.llm.attention import NumpyAttention, attend
from bankside.mapping.llm.loader import find_model, load_model
from bankside.mapping.llm.transformer import generate
from bankside.sim.attention import PimAttention
from bankside.sim.engine import Result
from bankside.sim.executions import PIM_EXECUTIONS
from bankside.sim.golden.pim import PimGolden
from bankside.sim.timing.pim import PimTiming
from bankside.sim.waves import gtkw_name, vcd_signals

DESCRIPTION = """
model: gpt_mha
machine: dimm_pim_ddr4
prompt: "In the beginning "
new_tokens: 4
executions: [golden, timing, rtl]
report: {html: false}
"""
CALLS = 3 * 4  # the prompt gives the first new token; four layers

Fault = Callable[[int, Result], Result]


class Twin:
    """Golden and timing model as one execution; `fault` changes the result of the n-th program."""

    fault: Fault = staticmethod(lambda number, result: result)

    def __init__(self, machine: Machine) -> None:
        self.golden, self.timing, self.number = PimGolden(machine), PimTiming(machine), 0

    def run(self, program: Program, *, trace: bool = False) -> Result:
        time = self.timing.run(program, trace=trace)
        result = replace(time, outputs=self.golden.run(program).outputs)
        self.number += 1
        return self.fault(self.number, result)

    def reset(self) -> None:
        self.golden.reset()


def flipped_bit(number: int, result: Result) -> Result:
    outputs = result.outputs.copy()
    if number == 8:
        outputs[0, 0] ^= 1
    return replace(result, outputs=outputs)


def late_command(number: int, result: Result) -> Result:
    commands = result.commands.copy()
    if number == 8:
        commands["cycle"][20] += 1
    return replace(result, commands=commands)


def longer(number: int, result: Result) -> Result:
    if number != 8:
        return result
    counters = result.counters | {"control": result.counters["control"] + 1}
    return replace(result, cycles=result.cycles + 1, counters=counters)


def lost_cycle(number: int, result: Result) -> Result:
    if number != 8:
        return result
    return replace(result, counters=result.counters | {"control": result.counters["control"] - 1})


def refused(number: int, result: Result) -> Result:
    if number == 8:
        raise ProgramError("command 3: refused")
    return result


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> type[Twin]:
    """Put a fresh twin in the place of the RTL."""
    fresh = type("FreshTwin", (Twin,), {})
    monkeypatch.setitem(PIM_EXECUTIONS._entries, "rtl", fresh)
    return fresh


def run_json(folder: Path, text: str = DESCRIPTION) -> tuple[int, dict]:
    (folder / "job.yaml").write_text(text)
    arguments = ["run", str(folder / "job.yaml"), "--json", "--out", str(folder / "out")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code in (0, 1), (done.stderr, done.exception)
    return done.exit_code, json.loads(done.stdout)


def test_agreeing_executions(tmp_path: Path, twin: type[Twin]) -> None:
    code, result = run_json(tmp_path)
    assert code == 0
    assert result["attention_calls"] == CALLS and result["bits_compared"] == CALLS
    assert result["cycles_compared"] == CALLS + 4  # with the four programs that fill the cache
    assert (result["bit_mismatches"], result["cycle_mismatches"]) == (0, 0)
    assert sum(result["stalls"].values()) == result["rtl_cycles"] > 0
    assert result["clock_domain"] == "mem" and result["clock_mhz"] == 1600
    assert 0 < result["utilisation"] < 1
    assert result["bandwidth"]["banks_useful"] <= result["bandwidth"]["banks_moved"]
    moved = result["bandwidth"]["banks_moved"] / result["bandwidth"]["banks_peak"]
    assert moved == pytest.approx(result["utilisation"])
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == sorted(result["files"].values())
    assert json.loads((tmp_path / "out" / "result.json").read_text()).items() <= result.items()


@pytest.mark.parametrize(
    ("fault", "counts", "word"),
    [
        (flipped_bit, (1, 0, 0), "bits: 1 elements differ"),
        (late_command, (0, 1, 0), "commands[20]"),
        (longer, (0, 1, 0), "stall counter control"),
        (lost_cycle, (0, 1, 1), "reasons sum to"),
        (refused, (1, 1, 0), "rtl refuses the program: command 3: refused"),
    ],
)
def test_a_faulty_execution_is_noticed(
    tmp_path: Path, twin: type[Twin], fault: Fault, counts: tuple, word: str
) -> None:
    twin.fault = staticmethod(fault)
    code, result = run_json(tmp_path)
    names = ("bit_mismatches", "cycle_mismatches", "stall_sum_mismatches")
    assert code == 1
    assert tuple(result[name] for name in names) == counts
    assert any(word in text for text in result["differences"]), result["differences"]
    shown = CliRunner().invoke(main, ["run", str(tmp_path / "job.yaml"), "--out", str(tmp_path)])
    assert shown.exit_code == 1 and word in shown.stdout


def test_nothing_compared_is_not_called_equal(tmp_path: Path) -> None:
    text = DESCRIPTION.replace("golden, timing, rtl", "golden, timing")
    code, result = run_json(tmp_path, text)
    assert code == 0
    assert (result["bit_mismatches"], result["cycle_mismatches"]) == (None, None)
    assert result["rtl_cycles"] is None and sum(result["stalls"].values()) == result["cycles"]


def test_same_run_same_bytes(tmp_path: Path) -> None:
    text = DESCRIPTION.replace("golden, timing, rtl", "golden, timing")
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run_json(tmp_path / name, text)
        out = tmp_path / name / "out"
        found.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert found[0] == found[1] and len(found[0]) == 3


def test_text_is_that_of_the_model(tmp_path: Path) -> None:
    """The engine's FP16 attention leads to the words that float64 attention leads to."""
    _, result = run_json(tmp_path, DESCRIPTION.replace("golden, timing, rtl", "golden, timing"))
    model = load_model(find_model("gpt_mha"))
    expected = generate(model, NumpyAttention(), b"In the beginning ", 4)
    assert result["text"] == expected.text.decode()


@pytest.mark.parametrize(
    ("machine", "kv_heads", "query_heads"),
    [("pim_tiny_ddr4", 3, 9), ("pim_ddr4_gqa8", 2, 16), ("pim_tiny_ddr5", 1, 1)],
)
def test_decode_against_float64(machine: str, kv_heads: int, query_heads: int) -> None:
    """Head groups and lane groups that do not fill the machine; several tokens and layers."""
    engine = PimAttention(Machine.of(HardwareConfig.load(machine)), ("golden", "timing"))
    rng = np.random.default_rng(7)
    shape = (2, 21, kv_heads, 16)
    k, v = (rng.normal(size=shape).astype(np.float16) for _ in range(2))
    engine.start(
        layers=2, kv_heads=kv_heads, query_heads=query_heads, head_dim=16, max_tokens=21
    )
    for layer in range(2):
        engine.prefill(layer, k[layer, :19], v[layer, :19])
    for token in (19, 20):
        for layer in range(2):
            q = rng.normal(size=(query_heads, 16)).astype(np.float16)
            got = engine.decode(layer, q, k[layer, token], v[layer, token])
            want = attend(q, k[layer, : token + 1], v[layer, : token + 1])
            np.testing.assert_allclose(got.astype(float), want.astype(float), atol=4e-3)
    assert [call.tokens for call in engine.calls] == [20, 20, 21, 21]
    assert all(sum(call.stalls.values()) == call.cycles for call in engine.calls)
    assert engine.cycles == sum(engine.stalls.values())


def test_golden_that_refuses_ends_the_run() -> None:
    class Refusing(Twin):
        fault = staticmethod(refused)

    machine = Machine.of(HardwareConfig.load("dimm_pim_ddr4"))
    engine = PimAttention(
        machine, ("golden", "timing"), make=lambda name, mc: Refusing(mc)
    )
    with pytest.raises(ProgramError, match="refused"):
        generate(load_model(find_model("gpt_mha")), engine, b"In the ", 4)


@pytest.mark.parametrize("names", [(), ("golden",), ("timing",), ("rtl", "rtl"), ("spice",)])
def test_executions_that_do_not_do(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        PimAttention(Machine.of(HardwareConfig.load("pim_tiny_ddr4")), names)


@pytest.mark.slow
def test_on_the_rtl(tmp_path: Path) -> None:
    """The real thing, with its waveform: compiles a full rank and a small one."""
    waves = "report: {html: true, waves: {last_cycle: 300}}\nfull_machine: {contexts: [2048]}\n"
    code, result = run_json(tmp_path, DESCRIPTION.replace("report: {html: false}\n", waves))
    assert code == 0 and result["bits_compared"] == CALLS + 1
    assert (result["bit_mismatches"], result["cycle_mismatches"]) == (0, 0)
    anchor = result["full_machine"]["anchor"]
    assert anchor["rtl_cycles"] == anchor["timing_cycles"] > 20_000
    vcd, save = (tmp_path / "out" / name for name in ("attention.vcd", "attention.gtkw"))
    # Every signal that the save file shows is declared, and the window has the length asked for.
    shown = [line for line in save.read_text().splitlines() if line.startswith("TOP.")]
    declared = {gtkw_name(signal) for signal in vcd_signals(vcd)}
    assert len(shown) > 20 and set(shown) <= declared
    with open(vcd) as lines:
        instants = {line for line in lines if line.startswith("#")}
    assert 300 <= len(instants) <= 4 * 302  # a few instants per cycle
