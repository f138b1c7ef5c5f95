"""Runs whose attention over the prompt is computed by the array: on its RTL, with the same text and
bits as on its golden model; an array that errs must be noticed.

The `pim` side runs on golden and timing model standing in for its RTL; the array's RTL is real.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bankside.cli import main
from bankside.errors import ConfigError
from bankside.isa.machines import load_machine
from bankside.mapping.llm.attention import NumpyPrompt, scale_query
from bankside.sim.array_attention import ArrayPrompt
from bankside.sim.executions import ARRAY_EXECUTIONS, PIM_EXECUTIONS
from bankside.sim.golden.array import ArrayGolden
from bankside.sim.golden.pim import PimGolden
from bankside.sim.timing.array import ArrayTiming
from bankside.sim.timing.pim import PimTiming

DESCRIPTION = """
model: gpt_mha
machine: dimm_pim_ddr4
prompt: "In the beginning God created the heaven and the "
new_tokens: 6
executions: [golden, timing, rtl]
prefill: {machine: array_4x4, binding: interleaved}
"""
LAYERS = 4


def both(golden: type, timing: type, spoil=lambda result: result) -> type:
    """Golden and timing model of an engine as one execution; `spoil` changes every result."""

    class Twin:
        def __init__(self, machine) -> None:
            self.golden, self.timing = golden(machine), timing(machine)

        def run(self, program, *, trace=False):
            time = self.timing.run(program, trace=trace)
            return spoil(replace(time, outputs=self.golden.run(program).outputs))

        def reset(self) -> None:
            self.golden.reset()

    return Twin


@pytest.fixture(autouse=True)
def pim_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PIM_EXECUTIONS._entries, "rtl", both(PimGolden, PimTiming))


def run_json(folder: Path, text: str) -> tuple[int, dict]:
    folder.mkdir(exist_ok=True)
    (folder / "job.yaml").write_text(text)
    arguments = ["run", str(folder / "job.yaml"), "--json", "--out", str(folder / "out")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code in (0, 1), (done.stderr, done.exception)
    return done.exit_code, json.loads(done.stdout)


def test_the_rtl_writes_the_text_of_the_golden_model(tmp_path: Path) -> None:
    code, result = run_json(tmp_path / "rtl", DESCRIPTION)
    part = result["prefill"]
    assert code == 0
    assert part["attention_calls"] == part["bits_compared"] == part["cycles_compared"] == LAYERS
    assert (part["bit_mismatches"], part["cycle_mismatches"]) == (0, 0)
    assert sum(part["stalls"].values()) == part["rtl_cycles"] == part["cycles"] > 0
    assert (part["clock_domain"], part["clock_mhz"]) == ("array", 940)
    assert part["utilisation"] == part["stalls"]["mac"] / part["cycles"]
    golden_only = DESCRIPTION.replace("[golden, timing, rtl]", "[golden, timing]")
    _, golden = run_json(tmp_path / "golden", golden_only)
    assert golden["text"] == result["text"] and golden["tokens"] == result["tokens"]
    assert golden["prefill"]["cycles"] == part["cycles"]
    assert golden["prefill"]["rtl_cycles"] is golden["prefill"]["bit_mismatches"] is None
    page = (tmp_path / "rtl" / "out" / "report.html").read_text()
    assert "Attention over the prompt on the array" in page


def test_the_array_decides_what_the_model_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong bits from the array change the text, are counted and end with exit code 1."""

    def zeros(result):
        return replace(result, outputs=np.zeros_like(result.outputs))

    monkeypatch.setitem(ARRAY_EXECUTIONS._entries, "rtl", both(ArrayGolden, ArrayTiming, zeros))
    code, result = run_json(tmp_path / "bad", DESCRIPTION)
    assert code == 1 and result["prefill"]["bit_mismatches"] == LAYERS
    assert result["bit_mismatches"] == 0 and result["prefill"]["cycle_mismatches"] == 0
    assert "layer 0, prompt of 48 tokens: bits" in result["prefill"]["differences"][0]
    golden_only = DESCRIPTION.replace("[golden, timing, rtl]", "[golden, timing]")
    _, golden = run_json(tmp_path / "good", golden_only)
    assert golden["text"] != result["text"]


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2), (3, 1)])
def test_prompt_attention_is_close_to_float64(heads: int, kv_heads: int) -> None:
    rng = np.random.default_rng(heads)
    tokens, width = 37, 16
    q = scale_query(3 * rng.standard_normal((tokens, heads, width))).astype(np.float16)
    k, v = rng.standard_normal((2, tokens, kv_heads, width)).astype(np.float16)
    engine = ArrayPrompt(load_machine("array_4x4"), executions=("golden", "timing"))
    ours, exact = engine.attend(0, q, k, v), NumpyPrompt().attend(0, q, k, v)
    assert ours.dtype == np.float16 and ours.shape == exact.shape
    # A wrong mask or head moves results by their own size, 0.1 and more.
    assert np.abs(ours.astype(float) - exact.astype(float)).max() < 0.01
    assert engine.calls[0].tokens == tokens and not engine.found.sum_mismatches


def test_a_prompt_that_does_not_fit_is_refused() -> None:
    engine = ArrayPrompt(load_machine("array_4x4"), executions=("golden", "timing"))
    wide = np.zeros((2, 1, 512), np.float16)
    with pytest.raises(ConfigError, match=r"array_4x4: .*lane_words"):
        engine.attend(0, wide, wide, wide)
