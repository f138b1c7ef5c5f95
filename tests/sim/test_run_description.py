"""Run descriptions: what is refused, with which message; paths beside the description."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from bankside.cli import main
from bankside.errors import ConfigError
from bankside.sim import run

GOOD = """
model: gpt_mha
machine: dimm_pim_ddr4
prompt: "In the "
new_tokens: 3
executions: [golden, timing]
"""


@pytest.mark.bad_inputs("run")
def test_bad_descriptions_are_refused(bad_case) -> None:
    with pytest.raises(ConfigError) as error:
        run.load_job(bad_case.path)
    bad_case.check(error.value)


def write(folder: Path, text: str, name: str = "job.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_good_description(tmp_path: Path) -> None:
    job = run.load_job(write(tmp_path, GOOD))
    assert (job.name, job.prompt, job.machine.chips) == ("job", b"In the ", 8)
    assert job.description.report.html and job.description.full_machine is None


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (("gpt_mha", "gpt_mhaa"), (":2: model: ", "gpt_gqa, gpt_mha")),
        (("dimm_pim_ddr4", "dimm_pim_ddr3"), (":3: machine: ", "did you mean", "pim_tiny_ddr4")),
    ],
)
def test_unknown_names_are_listed(tmp_path: Path, change: tuple, parts: tuple) -> None:
    with pytest.raises(ConfigError) as error:
        run.load_job(write(tmp_path, GOOD.replace(*change)))
    assert all(part in str(error.value) for part in parts), error.value


def test_paths_are_relative_to_the_description(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    text = "name: mine\nengine: pim\ndram: {standard: ddr4_3200, rows: 16}\npim: {query_lanes: 1}\n"
    write(tmp_path / "parts", text, "mine.yaml")
    job = run.load_job(write(tmp_path, GOOD.replace("dimm_pim_ddr4", "parts/mine.yaml")))
    assert job.machine.config.name == "mine" and job.machine.rows == 16


def test_context_beyond_capacity_says_what_fits(tmp_path: Path) -> None:
    # Two heads of 64 side by side take 4 of the 8 columns per token: a row of all 16 banks holds 32
    # tokens, and 8 rows hold keys and values of 4 layers once.
    dram = "dram: {standard: ddr4_3200, rows: 8, columns: 8}"
    write(tmp_path, f"name: small\nengine: pim\n{dram}\npim: {{query_lanes: 1}}\n", "small.yaml")
    long = GOOD.replace("dimm_pim_ddr4", "./small.yaml").replace("In the ", "a" * 40)
    out = tmp_path / "out"
    done = CliRunner().invoke(main, ["run", str(write(tmp_path, long)), "--out", str(out)])
    assert done.exit_code == 2, done.output
    assert "a context of 42 tokens" in done.stderr and "32 tokens fit" in done.stderr
    assert done.stdout == "" and not out.exists()


def test_context_of_the_model_is_respected(tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = GOOD.replace("new_tokens: 3", "new_tokens: 300")
    done = CliRunner().invoke(main, ["run", str(write(tmp_path, text)), "--out", str(out)])
    assert done.exit_code == 2 and "context of the model, which is 256 tokens" in done.stderr
    assert not out.exists()


def test_missing_file() -> None:
    done = CliRunner().invoke(main, ["run", "no/such.yaml"])
    assert done.exit_code == 2 and "no/such.yaml: cannot be read" in done.stderr


def test_published_shows_all_files_or_none(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    with pytest.raises(KeyError), run.published(out) as work:
        (work / "half.txt").write_text("half")
        raise KeyError("a bug")
    assert not out.exists()
    with run.published(out) as work:
        (work / "whole.txt").write_text("whole")
        assert not (out / "whole.txt").exists()
    assert [path.name for path in out.iterdir()] == ["whole.txt"]


def test_published_leaves_other_files_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(KeyError), run.published(tmp_path) as work:
        (work / "mine.txt").write_text("overwritten")
        raise KeyError
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (GOOD + "prefill: {machine: pim_tiny_ddr4}\n", (
            ":7: prefill.machine: ", "of the engine 'pim'; expected one of the engine 'array'",
            "array_16x16",
        )),
        (GOOD.replace("dimm_pim_ddr4", "array_4x4"), (
            ":3: machine: ", "of the engine 'array'; expected one of the engine 'pim'",
            "dimm_pim_ddr4",
        )),
    ],
)  # fmt: skip
def test_machines_of_the_wrong_engine_are_refused(tmp_path: Path, text: str, parts: tuple) -> None:
    with pytest.raises(ConfigError) as error:
        run.load_job(write(tmp_path, text))
    assert all(part in str(error.value) for part in parts), error.value
