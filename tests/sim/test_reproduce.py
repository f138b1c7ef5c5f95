"""`bankside reproduce fusemax`: cells, means, files, what happens without the artifact's tables."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bankside.cli import main
from bankside.mapping.paper.fusemax_data import fusemax, reference, reference_folder
from bankside.sim.reproduce import cell, worst
from bankside.sim.reproduce_fusemax import groups, reproduce

needs_tables = pytest.mark.skipif(
    reference("attn-binding.csv") is None,
    reason=f"the artifact's tables are not at {reference_folder()}; set BANKSIDE_REF",
)
PUBLISHED = {"speedup_over_flat": 6.72, "speedup_over_unfused": 10.05, "energy_over_flat": 0.7875}
PUBLISHED |= {"end_to_end_speedup_over_flat": 5.30, "end_to_end_energy_over_flat": 0.8335}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_means(name: str) -> None:
    digits = len(str(PUBLISHED[name]).partition(".")[2])
    assert round(reproduce()["means"][name], digits) == PUBLISHED[name]


@needs_tables
def test_json(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["reproduce", "fusemax", "--json", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["artifact_rows"] == 48 and result["artifact_max_rel_error"] <= 1e-9
    assert round(result["speedup_over_flat_mean"], 2) == 6.72
    for entry in result["cells"]:
        assert set(entry) == {"name", "paper", "ours", "ratio", "assumption"}
        assert entry["ratio"] == pytest.approx(entry["ours"] / entry["paper"])
        assert abs(entry["ratio"] - 1) < 3e-3, entry
        assert entry["assumption"]
        if abs(entry["ratio"] - 1) > 1e-8:
            assert any(word in entry["assumption"] for word in ("missing", "few digits")), entry
    names = [entry["name"] for entry in result["cells"]]
    assert len(set(names)) == len(names)
    assert sum(name.startswith("latency interleaved") for name in names) == 24
    assert sum(group["cells"] for group in result["groups"]) == len(names)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "fusemax.html", "fusemax.json", "fusemax.png"
    ]  # fmt: skip
    assert (tmp_path / "fusemax.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "fusemax.html").read_text()
    assert 'src="fusemax.png"' in page and "latency interleaved BERT 1K" in page


def test_without_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANKSIDE_REF", str(tmp_path))
    result = reproduce()
    assert result["artifact_rows"] == 0 and result["artifact_max_rel_error"] is None
    assert "set BANKSIDE_REF" in result["notes"][-1]
    data = fusemax()
    expected = len(data.published) + sum(map(len, data.published_bert_s.values()))
    assert len(result["cells"]) == expected == 38
    assert worst(result["cells"]) < 6e-4


def test_text_has_a_line_per_point_and_the_means() -> None:
    done = CliRunner().invoke(main, ["reproduce", "fusemax"])
    assert done.exit_code == 0, done.output
    points = [line.split() for line in done.stdout.splitlines()[2:26]]
    assert [line[:2] for line in points[:2]] == [["BERT", "1K"], ["BERT", "4K"]]
    assert points[0][6:9] == ["0.002013", "6.65", "10.84"]
    assert len(points) == 24 and points[-1][:2] == ["XLM", "1M"]
    assert "speedup over flat                      6.72   6.7226" in done.stdout


def test_groups_name_the_worst_cell() -> None:
    cells = [
        cell("latency flat BERT 1K", 2.0, 2.0, "fine"),
        cell("latency flat BERT 4K", 2.0, 2.2, "tile unknown"),
        cell("mean speedup", 5.0, 5.0, "fine"),
    ]
    first, second = groups(cells)
    assert first["name"] == "latency flat" and second["name"] == "means"
    assert (first["cells"], first["equal"]) == (2, 1)
    assert first["max_rel_error"] == pytest.approx(0.1)
    assert first["worst_cell"] == "latency flat BERT 4K" and first["assumption"] == "tile unknown"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fusemx"], "unknown paper 'fusemx' (did you mean 'fusemax'?); choose from: fusemax"),
        (["fusemax", "--rtl"], "--binding and --rtl belong to --rtl-gap; add it or drop them"),
    ],
)
def test_refused(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(main, ["reproduce", *arguments])
    assert done.exit_code == 2
    assert message in done.output
