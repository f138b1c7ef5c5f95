"""The bench of the array engine: what it compares, on a small machine."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from bankside.cli import main
from bankside.errors import ToolError
from bankside.isa.machines import load_machine
from bankside.mapping.paper.fusemax import estimate
from bankside.mapping.paper.fusemax_counts import Attention
from bankside.sim.bench import array, common
from bankside.sim.rtl.array import ArrayRtl
from bankside.sim.rtl.cocotb_runner import missing_simulator

TINY = load_machine("array_4x4")
needs_verilator = pytest.mark.skipif(
    bool(missing_simulator("verilator")), reason=missing_simulator("verilator") or "-"
)


@pytest.mark.parametrize("binding", array.BINDINGS)
def test_idealised_share_is_that_of_the_published_model(binding: str):
    tile = array.idealised(binding, Attention(1, 1, 4096, 4096, 64, 64))
    whole = estimate(binding, Attention(64, 12, 4096, 4096, 64, 64))
    assert tile == pytest.approx(float(whole.util_2d), rel=1e-12)


def test_products_take_what_the_closed_forms_say():
    rows = array.gemm_speed(1)
    assert set(rows) == {"ws_256", "os_256", "ws_512", "os_512"}
    for row in rows.values():
        assert row["compute_cycles"] == row["closed_form"] < row["cycles"] and row["ms"] > 0
    # SCALE-Sim 3.0.0 on 32 x 32.
    assert rows["ws_256"]["closed_form"] == 22399 and rows["os_512"]["closed_form"] == 146943


def test_closed_form_meets_the_exact_model():
    found = array.closed_speed(TINY, 1)
    assert found["cycles_over_exact"] == 1
    assert all(rate > 0 for name, rate in found.items() if name.endswith("per_s"))


def test_medians_count_processor_time(monkeypatch):
    times = iter([0, 5, 10, 11, 20, 27])
    monkeypatch.setattr(common.time, "process_time", lambda: next(times))
    assert common.median_seconds(lambda: None, 3) == 5


@needs_verilator
@pytest.mark.slow
def test_bench_from_the_command_line(tmp_path):
    args = ["bench", "--preset", "array_4x4", "--no-build", "--no-cocotb", "--repeats", "1"]
    found = CliRunner().invoke(main, [*args, "--out", str(tmp_path)])
    assert found.exit_code == 0, found.output
    assert "2D array busy, interleaved" in found.output and "product 512^3 os" in found.output
    (written,) = tmp_path.glob("*.json")
    result = json.loads(written.read_text())["presets"]["array_4x4"]
    busy = result["utilisation"]["interleaved"]
    assert busy["rtl_over_idealised"] >= 0.95
    assert busy["cycles"] == result["rtl"]["cycles"] == result["timing"]["cycles"]


@needs_verilator
@pytest.mark.slow
def test_cocotb_runs_the_same_program_and_a_wrong_memory_is_noticed(monkeypatch):
    program = array.attention_program(TINY, "interleaved")
    found = array.cocotb_speed(TINY, program, internals=False)
    assert found["cycles"] == ArrayRtl(TINY).run(program).cycles and found["cycles_per_s"] > 0
    run = ArrayRtl.run

    def other(self, *args, **kwargs):
        result = run(self, *args, **kwargs)
        changed = np.array(result.outputs)
        changed.flat[0] ^= 1
        return replace(result, outputs=changed)

    monkeypatch.setattr(ArrayRtl, "run", other)
    with pytest.raises(ToolError, match="cocotb and the rtl execution disagree"):
        array.cocotb_speed(TINY, program, internals=False)
