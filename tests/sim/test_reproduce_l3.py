"""`bankside reproduce l3`: cells, what is missing where they differ, what they rest on."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bankside.cli import main
from bankside.mapping.paper import l3
from bankside.mapping.paper.l3 import TABLE_I, contexts, log_normal, points, published, steady
from bankside.mapping.workload.batch import Batch
from bankside.sim.reproduce_l3 import LEFT_OUT, SETTINGS, reproduce
from bankside.sim.reproduce_table import CLOSE


@cache
def result() -> dict:
    return reproduce()


def found(name: str) -> dict:
    return next(c for c in result()["cells"] if c["name"].startswith(name))


def test_json(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["reproduce", "l3", "--json", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed["cells"] == result()["cells"] and len(printed["runs"]) == 12
    assert sorted(p.name for p in tmp_path.iterdir()) == ["l3.json", "l3.md"]
    names = [c["name"] for c in printed["cells"]]
    assert len(set(names)) == len(names) == 16
    shown = CliRunner().invoke(main, ["reproduce", "l3"]).output
    assert "not recomputed: re-layout" in shown and "156 TFLOP/s in total" in shown


def test_what_differs_names_what_is_missing_and_shows_how_it_depends_on_it() -> None:
    for row, other in zip(result()["cells"], result()["sensitivity"], strict=True):
        assert set(row) == {"name", "paper", "ours", "ratio", "assumption"}
        assert row["ratio"] == pytest.approx(row["ours"] / row["paper"])
        far = abs(row["ratio"] - 1) > CLOSE
        assert row["assumption"].startswith("missing: ") == far, row
        if far:
            moved = [abs(other[name] / row["ours"] - 1) > 0.05 for name in SETTINGS]
            assert any(moved), row["name"]
    assert LEFT_OUT and all(LEFT_OUT.values())


def test_no_cell_is_outside_what_the_papers_leave_open() -> None:
    """The GPUs' rate, copies of the weights and the run together: each paper's number lies between
    the least and the most of them, to `CLOSE`.
    """
    for row, other in zip(result()["cells"], result()["sensitivity"], strict=True):
        values = [row["ours"], *(other[name] for name in SETTINGS)]
        assert (1 - CLOSE) * min(values) <= row["paper"] <= (1 + CLOSE) * max(values), row["name"]
        for rate in ("", "156, "):
            assert other[f"{rate}least run"] <= other[f"{rate}most run"], row["name"]


def test_runs_are_those_of_all_models_and_data_sets() -> None:
    """One by one, without the cells' own words."""
    rows = {row["name"]: row for row in result()["sensitivity"]}
    both = [l3.scaling(model, dataset)["both"] for model, dataset in points()]
    for version in ("CHIME", "v1"):
        row = rows[f"8 times both ({version})"]
        assert (row["least run"], row["most run"]) == (min(both), max(both))
    slower = [
        l3.ours(m, "openr1_math", TABLE_I).seconds
        / l3.baseline(m, "openr1_math", "hbm_pim_ext", TABLE_I).seconds
        for m in published()["models"]
    ]
    row = rows["latency of a pass over HBM-PIM-EXT, OpenR1 (CHIME)"]
    assert (row["156, least run"], row["156, most run"]) == (min(slower), max(slower))


def test_cells_that_must_be_close() -> None:
    for name in ("speed-up over rank_pim", "batch over HBM", "latency saved", "bank units"):
        assert abs(found(name)["ratio"] - 1) <= CLOSE, name


def test_the_rate_of_table_i_explains_two_cells_and_half_of_a_third() -> None:
    """With 156 TFLOP/s in total, as CHIME prints, and nothing else changed."""
    rows = {row["name"]: row["156 TFLOP/s in total"] for row in result()["sensitivity"]}
    assert rows["speed-up over hbm_pim_ext (CHIME)"] == pytest.approx(3.45, rel=CLOSE)
    assert rows["8 times capacity (CHIME)"] == pytest.approx(2.28, rel=CLOSE)
    assert found("8 times capacity (CHIME)")["ours"] < 1.5
    slower = "latency of a pass over HBM-PIM-EXT, OpenR1 (CHIME)"
    assert 2.2 < rows[slower] < 0.6 * found(slower)["ours"]
    assert 8 * TABLE_I.gpu_tflops == 156


def test_lengths_have_the_published_moments() -> None:
    rng = np.random.default_rng(1)
    for shape in published()["datasets"].values():
        for mean, deviation in shape.values():
            drawn = log_normal(rng, mean, deviation, 400_000)
            assert drawn.mean() == pytest.approx(mean, rel=0.05)


def test_contexts_under_way() -> None:
    """E[o (i + o / 2)] / E[o]: longer answers are under way for longer."""
    drawn, prompt, answer = contexts("openr1_math")
    mean, deviation = published()["datasets"]["openr1_math"]["output"]
    assert answer == pytest.approx(mean, rel=0.03)
    wanted = prompt + (mean**2 + deviation**2) / (2 * mean)
    assert drawn.mean() == pytest.approx(wanted, rel=0.05)


def test_steady_states_fill_the_memory() -> None:
    """States one by one, as numbers: the batch that just fits, or the one request that does not."""
    for model, dataset in points():
        policy = l3.policy(model, "hbm-pim", "hbm_pim", published()["models"][model]["tp"])
        room = policy.capacity.kv_tokens
        rows, prompt, answer = contexts(dataset)
        batches, seconds = [], []
        for row in rows:
            count = 0
            while count < len(row) and row[: count + 1].sum() <= room:
                count += 1
            held = row[: max(count, 1)]
            batches.append(len(held))
            ended = len(held) / answer
            pairs = ended * prompt * (prompt + 1) / 2
            work = Batch(ended * prompt, ended, pairs, ended * prompt, len(held), held.sum(),
                         held.max())  # fmt: skip
            if model == "opt-66b":
                seconds.append(float(np.asarray(policy.step(work).seconds)))
        state = steady(policy, dataset)
        assert state.batch == pytest.approx(np.mean(batches)), (model, dataset)
        assert state.tokens_per_s == pytest.approx(state.batch / state.seconds)
        if seconds:
            assert state.seconds == pytest.approx(np.mean(seconds)), dataset


@pytest.mark.parametrize("seed", [1, 2])
def test_other_draws_say_the_same(seed: int, monkeypatch) -> None:
    """Where memory holds few requests one state alone says little; their mean does."""
    first = {c["name"]: c["ours"] for c in result()["cells"]}
    monkeypatch.setattr(l3, "SEED", seed)
    contexts.cache_clear()
    try:
        again = {c["name"]: c["ours"] for c in reproduce()["cells"]}
    finally:
        contexts.cache_clear()
    for name, value in first.items():
        assert again[name] == pytest.approx(value, rel=0.1), name
