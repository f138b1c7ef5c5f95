"""`bankside reproduce cosma` and `intar`: cells, their arithmetic, what they rest on."""

import json

import pytest
from click.testing import CliRunner

from bankside.cli import main
from bankside.mapping.paper import cosma as cosma_paper
from bankside.mapping.paper import intar as intar_paper
from bankside.mapping.scheduling.heuristics import BASELINES
from bankside.sim import reproduce_cosma, reproduce_intar


@pytest.fixture(scope="module")
def few():
    """The parameters with four networks, and their points."""
    data = cosma_paper.parameters()
    chosen = [g for g in data.graphs if g.maker in ("unet", "densenet")] + [data.graphs[4]]
    data = data.model_copy(update={"graphs": chosen, "margins": [0.0, 0.5]})
    return data, cosma_paper.points(data)


def test_at_least_ten_graphs_up_to_sixty_operators():
    sizes = [len(entry.graph().tasks) for entry in cosma_paper.parameters().graphs]
    assert len(sizes) >= 10 and 55 <= max(sizes) <= 60


def test_savings_are_those_of_the_points(few):
    data, points = few
    assert all(point.plan.optimal for point in points)
    names = [kind.name for kind in BASELINES]
    shares = [
        1 - point.plan.extra_bytes / point.baselines[name]
        for point in points
        for name in names
        if point.baselines[name]
    ]
    cells = {c["name"]: c for c in reproduce_cosma.cells(data, [*points, searched(points[0])])}
    saved, count = cosma_paper.mean_saved(points, names)
    assert saved == pytest.approx(sum(shares) / len(shares)) and count == len(shares)
    assert cells["saving against all 32 baselines"]["paper"] == 0.84
    assert cells["saving on networks from search"]["paper"] == 0.85
    assert all("missing: the paper's networks" in c["assumption"] for c in cells.values())


def searched(point):
    """The same point, as if from architecture search."""
    return cosma_paper.Point(**{**vars(point), "search": True})


def test_a_baseline_without_traffic_is_left_out(few):
    _, points = few
    point = points[0]
    empty = cosma_paper.Point(**{**vars(point), "baselines": dict.fromkeys(point.baselines, 0)})
    assert all(empty.saved(name) is None for name in empty.baselines)


def test_scratchpad_goes_from_working_set_to_peak():
    graph = cosma_paper.parameters().graphs[0].graph()
    low, high = (cosma_paper.scratchpad(graph, margin) for margin in (0.0, 1.0))
    assert low == graph.largest_working_set < high
    assert cosma_paper.baseline(graph, high).extra_bytes == 0


@pytest.mark.slow
def test_cosma_command(tmp_path):
    done = CliRunner().invoke(main, ["reproduce", "cosma", "--json", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    result = json.loads(done.output)
    assert result["graphs"] >= 10 and result["certified"] >= 0.9 * result["plans"]
    assert result["largest_certified"] == 60 and result["files"] == ["cosma.md"]
    assert {c["name"] for c in result["cells"]} >= {"saving against all 32 baselines"}
    assert all(0 < c["ours"] < 1 for c in result["cells"])


# --- InTAR ----------------------------------------------------------------------------------------
def test_intar_command(tmp_path):
    done = CliRunner().invoke(main, ["reproduce", "intar", "--json", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    result = json.loads(done.output)
    cells = {c["name"]: c for c in result["cells"]}
    assert cells["speed-up over dataflow"]["paper"] == 1.8
    assert cells["speed-up over sequential"]["paper"] == 7.1
    rows = result["kernels"]
    mean = sum(row["dataflow_cycles"] / row["cycles"] for row in rows) / len(rows)
    assert cells["speed-up over dataflow"]["ours"] == pytest.approx(mean)
    assert len(rows) == 5 and all("missing" in c["assumption"] for c in cells.values())
    text = CliRunner().invoke(main, ["reproduce", "intar"]).output
    assert "gated_mlp" in text and (tmp_path / "intar.md").read_text().count("\n") > 5


def test_intar_choice_is_faster_than_either_pattern():
    data = intar_paper.parameters()
    for name in intar_paper.Kernels.model_fields:
        found = intar_paper.kernel(name, data)
        assert found.over_sequential > 1 and found.over_dataflow > 1
        assert found.exposed > found.sequential.cycles


def test_intar_shapes_are_those_of_the_kernels():
    """Multiply-accumulates written out, layer by layer."""
    data = intar_paper.parameters()
    macs = {
        name: sum(t.macs for t in next(intar_paper.variants(name, data))[0].tasks)
        for name in intar_paper.Kernels.model_fields
    }
    assert macs == {
        "self_attention": 3 * 256 * 1024 * 1024 + 2 * 256 * 256 * 1024,
        "gated_mlp": 3 * 32 * 4096 * 11008,
        "mlp": 256 * 1024 + 1024 * 2048 + 2048 * 256,
        "vae": 4 * (21**2 * 64 + 18**2 * 16 + 18**2 * 64 + 25**2 * 16),
        "cnn": 9 * (224**2 + 448**2 + 896**2 + 448**2),
    }
    assert len(list(intar_paper.variants("mlp", data))) == 8


def test_reproduce_text_and_files(few, tmp_path, monkeypatch):
    data, points = few
    points = [*points, searched(points[0])]
    monkeypatch.setattr(reproduce_cosma, "parameters", lambda: data)
    monkeypatch.setattr(reproduce_cosma, "points", lambda _: points)
    result = reproduce_cosma.reproduce()
    assert result["certified"] == result["plans"] == len(points)
    assert "unet4" in reproduce_cosma.text(result)
    assert reproduce_cosma.write(result, tmp_path) == ["cosma.md"]
    assert (tmp_path / "cosma.md").read_text().count("\n") == len(points) + 2
    assert reproduce_intar.PAPER.gap is None
