"""`bankside inject` as users call it, on the tiny machine."""

import json
from pathlib import Path

import pytest

HERE = Path(__file__).parent
YAML = """
target: tiny:{function}
models: {{seu: {{}}, sram_bit: {{}}, dram_cell: {{}}}}
sampling: {{faults: 200, pilot: 20, exhaustive: 30}}
{more}
"""
SAFETY = """
safety:
  asil: D
  rates:
    transient:
      flop: {fit_per_mbit: 500, low: 300, high: 900, source: a test}
      memory: {fit_per_mbit: 500, low: 300, high: 900, source: a test}
      dram: {fit_per_mbit: 0.1, low: 0.01, high: 1, source: a test}
"""
NO_RATE = """
machine: array_4x4
workload: {product: {m: 4, k: 4, n: 4}}
safety: {rates: {transient: {flop: {low: 1, high: 2, source: x}}}}
"""


@pytest.fixture
def described(tmp_path: Path):
    (tmp_path / "tiny.py").write_bytes((HERE / "tiny.py").read_bytes())

    def write(function: str = "tiny", more: str = "") -> Path:
        path = tmp_path / "some.yaml"
        path.write_text(YAML.format(function=function, more=more))
        return path

    return write


def test_json_and_files(run_cli, described, tmp_path: Path) -> None:
    store, out = tmp_path / "s.sqlite", tmp_path / "out"
    path = described(more=SAFETY)
    first = run_cli("inject", path, "--json", "--store", store, "--out", out)
    assert first.returncode == 1, first.stderr  # SPFM fails
    data = json.loads(first.stdout)
    assert {"injections", "referee_mismatches", "verdicts", "blocks"} <= set(data)
    assert data["injections"] == 600 and data["referee_mismatches"] == 0
    assert [row["metric"] for row in data["verdicts"]] == ["SPFM", "LFM", "PMHF", "ASIL D"]
    assert {"report.html", "hierarchy.png", "fmeda.csv", "fmeda.html", "blocks.csv"} == set(
        data["files"]
    )
    assert all((out / name).stat().st_size > 500 for name in data["files"])
    page = (out / "report.html").read_text()
    for name in ("SDC", "hang", "latent", "timing-only", "detected-corrected"):
        assert f"<td>{name}</td>" in page  # definitions
    assert ">0 %<" not in page and "core.datapath" in page and "INCONCLUSIVE" not in page[:900]
    again = run_cli("inject", path, "--json", "--store", store, "--out", tmp_path / "again")
    assert again.stdout == first.stdout
    for name in data["files"]:
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()


def test_text_without_metrics(run_cli, described, tmp_path: Path) -> None:
    done = run_cli("inject", described(), "--store", tmp_path / "s.sqlite")
    assert done.returncode == 0, done.stderr
    assert "200 repeated on the referee, all equal" in done.stdout
    assert "core.control" in done.stdout and "< " in done.stdout


def test_mismatch_is_exit_code_1_and_no_report(run_cli, described, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run_cli("inject", described("lying"), "--store", tmp_path / "s.sqlite", "--out", out)
    assert done.returncode == 1
    assert "faults end differently on the referee; no report:" in done.stdout
    assert "core.datapath.held" in done.stdout and "AVF" not in done.stdout
    assert not (out / "report.html").exists()


def test_replay(run_cli, described, tmp_path: Path) -> None:
    store, path = tmp_path / "s.sqlite", described()
    assert run_cli("inject", path, "--store", store).returncode == 0
    done = run_cli("inject", path, "--store", store, "--replay", "17", "--json")
    data = json.loads(done.stdout)
    assert done.returncode == 0 and data["agree"] and data["id"] == 17
    assert data["referee"] == data["lanes"] and data["fault"]["model"] == "seu"
    text = run_cli("inject", path, "--store", store, "--replay", "17").stdout
    assert data["class"] in text and data["fault"]["site"] in text
    liar = run_cli("inject", described("lying"), "--fault",
                   '{"site": "core.datapath.held", "model": "seu", "cycle": 3}')  # fmt: skip
    assert liar.returncode == 1 and "LANES DO NOT AGREE: output" in liar.stdout


def test_a_language_model_in_a_hurry(run_cli, tmp_path: Path) -> None:
    """Four prompts, and fewer faults than the file says."""
    path, out = tmp_path / "x.yaml", tmp_path / "out"
    path.write_text(
        "kind: llm_kv_cache\nwindows: 6\nprompt_tokens: 12\nnew_tokens: 4\n"
        "schemes: [{name: banks, attention: banks}]\n"
        "faults: {cell: 3, burst: 0, row: 0, column: 0, pin: 0, chip: 0}\n"
    )
    done = run_cli("inject", path, "--quick", "--json", "--out", out)
    assert done.returncode == 0, done.stderr
    quick = json.loads(done.stdout)
    assert quick["windows"] == 4 and quick["faults"] < 96 and (out / "runs.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quick"], "--quick is for language models; a campaign has sampling.faults"),
        (["--replay", "5"], "no such store; run the campaign before"),
        (["--waves"], "belongs to --replay, --fault, or a report in --out DIR"),
        (["--fault", '{"site": "core.datapath.hold", "model": "seu"}'],
         "no site 'core.datapath.hold' (did you mean 'core.datapath.held'?)"),
        (["--fault", '{"site": "core.datapath.held", "model": "seu", "cycle": 12}'],
         "cycle 12; the run has 12 cycles: expected 0 to 11"),
        (["--fault", '{"site": "core.datapath.held", "model": "sue"}'],
         "unknown fault model 'sue' (did you mean 'seu'?)"),
    ],
)  # fmt: skip
def test_bad_requests(run_cli, described, tmp_path: Path, arguments, message: str) -> None:
    done = run_cli("inject", described(), "--store", tmp_path / "none.sqlite", *arguments)
    assert done.returncode == 2 and message in done.stderr and not done.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: campain\n", "kind: is 'campain' (did you mean 'campaign'?)"),
        ("models: {seu: {}}\n", "machine: give either machine and workload, or target"),
        ("machine: array_4x4\n", "workload: belongs to machine: give both or none"),
        ("machine: array_4x4\nworkload: {decode: {}}\n",
         "decode is work for pim, not for array; choose from: attention, product, program"),
        ("machine: array_4x4\nworkload: {product: {m: 4, k: 4}}\n", "n: is missing"),
        ("machine: array_4x4\nworkload: {}\n", "expected exactly one of attention"),
        ("machine: npu_u55_32\nworkload: {gpt_layer: {}}\n", "profile u55 has no product"),
        ("kind: llm_kv_cache\nmodell: x\n", "modell: unknown key (did you mean 'model'?)"),
        (NO_RATE, "exactly one of fit_per_mbit and fit_per_bit"),
    ],
)  # fmt: skip
def test_bad_files(run_cli, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    done = run_cli("inject", path)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert str(path) in done.stderr
