"""Runs on the `npu` engine: their results and files, what is refused, differences that must be
noticed. A twin of golden and timing model stands in for the RTL, except in the slow tests.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bankside.cli import main
from bankside.errors import ConfigError, ProgramError
from bankside.isa.machines import load_machine
from bankside.isa.program import Program
from bankside.sim import run
from bankside.sim.executions import NPU_EXECUTIONS
from bankside.sim.golden.npu import NpuGolden
from bankside.sim.npu_run import NpuRunner
from bankside.sim.timing.npu import NpuTiming

EXAMPLES = Path(__file__).parents[2] / "examples"
GENERATE = """
model: gpt_mha
machine: npu_llm_256
prompt: "And God said, "
new_tokens: 4
executions: [golden, timing, rtl]
calibration: short.txt
held_out_bytes: 64
"""
CLASSIFY = """
machine: npu_llm_64
images: 3
executions: [golden, timing, rtl]
"""


def twin(spoil=lambda result, program: result) -> type:
    """Golden and timing model as one execution; `spoil` changes every result."""

    class Twin:
        def __init__(self, machine) -> None:
            self.golden, self.timing = NpuGolden(machine), NpuTiming(machine)

        def run(self, program, *, trace=False):
            time = self.timing.run(program, trace=trace)
            return spoil(replace(time, outputs=self.golden.run(program).outputs), program)

        def reset(self) -> None:
            self.golden.reset()
            self.timing.reset()

    return Twin


@pytest.fixture(autouse=True)
def rtl_twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real_rtl" not in request.fixturenames:
        monkeypatch.setitem(NPU_EXECUTIONS._entries, "rtl", twin())


@pytest.fixture
def real_rtl() -> None:
    """Asks for the RTL itself."""


def write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "short.txt").write_text("In the beginning God created the heaven and the earth. " * 4)
    (folder / "job.yaml").write_text(text)
    return folder / "job.yaml"


def run_json(folder: Path, text: str) -> tuple[int, dict]:
    job = write(folder, text)
    done = CliRunner().invoke(main, ["run", str(job), "--json", "--out", str(folder / "out")])
    assert done.exit_code in (0, 1), (done.stderr, done.exception)
    return done.exit_code, json.loads(done.stdout)


def test_text_is_generated_and_every_program_compared(tmp_path: Path) -> None:
    code, result = run_json(tmp_path, GENERATE)
    assert code == 0
    assert (result["kind"], result["engine"], result["task"]) == ("run", "npu", "generate")
    # Constants, the prompt, every new token but the first.
    assert result["programs"] == result["cycles_compared"] == 1 + 1 + 3
    assert result["bits_compared"] == 4
    assert (result["bit_mismatches"], result["cycle_mismatches"]) == (0, 0)
    assert (result["reference_compared"], result["reference_mismatches"]) == (4, 0)
    assert result["text"].encode() == bytes(result["tokens"]) and len(result["tokens"]) == 4
    assert sum(result["stalls"].values()) == result["cycles"] == result["rtl_cycles"]
    assert result["cycles_per_token"] == result["cycles"] / 3
    assert result["bounds"]["macs"] < result["cycles_per_token"]
    assert result["bounds"]["weights"] == 884736 / 128
    assert abs(result["bits_per_byte"]["quantised"] - result["bits_per_byte"]["float"]) < 0.2
    calls = json.loads((tmp_path / "out" / "calls.json").read_text())
    assert calls["what"] == ["setup", "prompt", "token", "token", "token"]
    assert sum(calls["cycles"][2:]) == result["cycles"]
    assert sum(calls["macs"][2:]) == result["macs"]


def test_the_page_shows_text_and_figures_and_can_be_made_again(tmp_path: Path) -> None:
    _, result = run_json(tmp_path, GENERATE)
    page = (tmp_path / "out" / "report.html").read_text()
    for part in ("And God said, ", f"{result['cycles_per_token']:,.0f}", "W8A8", "<rect"):
        assert part in page
    again = tmp_path / "again"
    again.mkdir()
    done = CliRunner().invoke(main, ["report", str(tmp_path / "out"), "--out", str(again)])
    assert done.exit_code == 0, done.output
    assert (again / "report.html").read_text() == page


def test_the_timeline_holds_every_transfer_and_operation(tmp_path: Path) -> None:
    run_json(tmp_path, CLASSIFY)
    document = json.loads((tmp_path / "out" / "timeline.json").read_text())
    events = [e for e in document["traceEvents"] if e["ph"] == "X"]
    names = [e["name"] for e in events if e["cat"] == "kernel"]
    assert names == ["CONV", "DEPTHWISE", "CONV", "POOL", "CONV", "POOL", "CONV"]
    assert {e["name"] for e in events if e["cat"] == "dma"} == {"DMA"}
    last = max(e["args"]["start_cycle"] + e["args"]["cycles"] for e in events)
    assert last <= document["otherData"]["cycles"]


def test_images_are_classified(tmp_path: Path) -> None:
    code, result = run_json(tmp_path, CLASSIFY)
    assert code == 0 and result["task"] == "classify"
    assert result["answers"] == result["labels"] and result["accuracy"] == 1.0
    assert len(result["pixels"]) == result["images"] == 3
    assert (result["bit_mismatches"], result["reference_mismatches"]) == (0, 0)
    assert result["utilisation"] == result["macs"] / (result["cycles"] * 64)
    assert "Images and answers" in (tmp_path / "out" / "report.html").read_text()


def test_the_same_description_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run_json(tmp_path / name, CLASSIFY)
    for file in ("result.json", "calls.json", "timeline.json", "report.html"):
        one, two = ((tmp_path / name / "out" / file).read_bytes() for name in ("one", "two"))
        assert one == two, file


def test_the_terminal_shows_text_and_verdicts(tmp_path: Path) -> None:
    job = write(tmp_path, GENERATE)
    done = CliRunner().invoke(main, ["run", str(job), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    for part in ("And God said, ", "rtl == golden   equal: 4 programs", "bits per byte", "  sum "):
        assert part in done.output


def wrong_bit(result, program):
    """One bit of the last output."""
    for first, count in program.outputs.values():
        outputs = result.outputs.copy()
        outputs[first + count - 1, 0] ^= 1
        return replace(result, outputs=outputs)
    return result


def wrong_cycle(result, program):
    return replace(result, cycles=result.cycles + 1)


@pytest.mark.parametrize(
    ("spoil", "keys"),
    [
        (wrong_bit, {"bit_mismatches": 3, "cycle_mismatches": 0, "reference_mismatches": 3}),
        (wrong_cycle, {"bit_mismatches": 0, "cycle_mismatches": 3, "stall_sum_mismatches": 3}),
    ],
)
def test_an_rtl_that_errs_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil, keys: dict
) -> None:
    monkeypatch.setitem(NPU_EXECUTIONS._entries, "rtl", twin(spoil))
    code, result = run_json(tmp_path, CLASSIFY)
    assert code == 1 and result["differences"]
    assert {key: result[key] for key in keys} == keys
    assert "differ" in (tmp_path / "out" / "report.html").read_text()


def test_an_illegal_program_stops_the_run() -> None:
    runner = NpuRunner(load_machine("npu_u55_32"), ("golden", "timing"), lambda n, m: twin()(m))
    image = np.zeros((4, 4), np.uint16)
    with pytest.raises(ProgramError):
        runner.run(Program("npu", (), image), "empty", 0)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (GENERATE.replace("gpt_mha", "gpt_mhaa"), (":2: model: ", "gpt_gqa, gpt_mha")),
        (GENERATE.replace("new_tokens: 4", "new_tokens: 300"), (":5", "context of gpt_mha is 256")),
        (GENERATE.replace("rtl]", "rlt]"), (":6", "executions", "did you mean")),
        (GENERATE.replace("short.txt", "absent/none.txt"), (":7", "calibration", "cannot be read")),
        (GENERATE + "format: w2a8\n", (":9", "format")),
        (GENERATE + "nhc: 2\n", (":9", "nhc")),
        (CLASSIFY.replace("images: 3", "images: 101"), (":3", "images")),
        (CLASSIFY + "model: resnet\n", (":5", "model")),
    ],
)
def test_bad_descriptions_are_refused(tmp_path: Path, text: str, parts: tuple) -> None:
    with pytest.raises(ConfigError) as error:
        run.load_job(write(tmp_path, text))
    assert all(part in str(error.value) for part in parts), error.value


def test_a_machine_without_products_of_activations_is_refused(tmp_path: Path) -> None:
    job = write(tmp_path, GENERATE.replace("npu_llm_256", "npu_u55_256"))
    done = CliRunner().invoke(main, ["run", str(job), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2 and "profile u55 has no product of two inputs" in done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["digits_on_npu", pytest.param("generate_on_npu", marks=pytest.mark.slow)]
)
def test_the_examples_run_on_the_rtl(tmp_path: Path, name: str, real_rtl: None) -> None:
    check_on_rtl(EXAMPLES / f"{name}.yaml", tmp_path)


@pytest.mark.slow
def test_weights_of_four_bits_run_on_the_rtl(tmp_path: Path, real_rtl: None) -> None:
    text = (EXAMPLES / "generate_on_npu.yaml").read_text()
    assert "format: w8a8" in text
    check_on_rtl(write(tmp_path, text.replace("format: w8a8", "format: w4a8")), tmp_path)


def check_on_rtl(file: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["run", str(file), "--json", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, (done.stderr, done.exception)
    result = json.loads(done.stdout)
    assert result["rtl_cycles"] == result["cycles"] > 0
    assert result["bits_compared"] >= 20 and result["bit_mismatches"] == 0
    assert result["cycles_compared"] >= 20 and result["cycle_mismatches"] == 0
    assert result["reference_mismatches"] == 0
