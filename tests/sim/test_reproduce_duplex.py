"""`bankside reproduce duplex`: cells, what is missing where they differ, what they rest on."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bankside.cli import main
from bankside.mapping.paper.duplex import (
    CALIBRATED,
    Setting,
    Stages,
    architecture,
    machine,
    policy,
    published,
    stages,
)
from bankside.mapping.workload.batch import Batch
from bankside.sim.reproduce_duplex import LEFT_OUT, SETTINGS, reproduce
from bankside.sim.reproduce_table import CLOSE


@cache
def result() -> dict:
    return reproduce()


def test_json(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["reproduce", "duplex", "--json", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed["cells"] == result()["cells"] and len(printed["runs"]) == 18
    assert sorted(p.name for p in tmp_path.iterdir()) == ["duplex.json", "duplex.md"]
    names = [c["name"] for c in printed["cells"]]
    assert len(set(names)) == len(names) == 22
    shown = CliRunner().invoke(main, ["reproduce", "duplex"]).output
    assert "not recomputed: Grok1" in shown and "GPUs at their peaks" in shown
    assert "holds: OPT (MHA): Bank-PIM" in shown


def test_what_differs_names_what_is_missing_and_shows_how_it_depends_on_it() -> None:
    far = 0
    for row, other in zip(result()["cells"], result()["sensitivity"], strict=True):
        assert row["ratio"] == pytest.approx(row["ours"] / row["paper"])
        differs = abs(row["ratio"] - 1) > CLOSE
        assert row["assumption"].startswith("missing: ") == differs, row
        far += differs
        if differs:
            moved = [abs(other[name] / row["ours"] - 1) > 0.05 for name in SETTINGS]
            assert any(moved), row["name"]
    assert LEFT_OUT and all(LEFT_OUT.values())
    assert result()["within_15_percent"] == len(result()["cells"]) - far


def test_cells_that_must_be_close() -> None:
    rows = {row["name"]: row["ratio"] for row in result()["cells"]}
    for name in (
        "throughput: Duplex+PE+ET over Duplex, up to",
        "whole request: saved over GPU, mean",
        "Bank-PIM over GPU, batch 32, 4096",
        "Bank-PIM over GPU, batch 64, 256",
        "Duplex over GPU, batch 64, 256",
        "Duplex over Bank-PIM, mean",
        "requests/s that GPU keeps up with",
        "requests/s that Duplex keeps up with",
    ):
        assert rows[name] == pytest.approx(1, abs=CLOSE), name


def test_units_that_read_as_the_gpus_explain_the_largest_speedups() -> None:
    rows = {row["name"]: row["units read as GPUs"] for row in result()["sensitivity"]}
    assert rows["throughput: Duplex over GPU, up to"] == pytest.approx(2.51, rel=0.08)
    assert rows["throughput: Duplex+PE+ET over GPU, up to"] == pytest.approx(2.67, rel=0.08)
    assert rows["whole request: saved over GPU, mean"] == pytest.approx(0.602, rel=0.08)


def test_what_the_paper_says_in_words_holds() -> None:
    assert len(result()["orders"]) == 5
    assert all(row["holds"] for row in result()["orders"]), result()["orders"]


# --- the model behind it --------------------------------------------------------------------------


def test_the_machine_has_the_printed_rate() -> None:
    """32 modules of 512 multiply-accumulates at 650 MHz in each of five stacks (section VII-E)."""
    pim = machine(4, published().logic).logic_pim
    assert pim is not None
    assert pim.flops == pytest.approx(4 * 5 * 32 * 512 * 650e6 * 2, rel=0.01)


def test_glam_has_the_printed_parameters() -> None:
    arch = architecture("glam")
    assert arch.weight_bytes(16) / 2 == pytest.approx(143e9, rel=0.01)
    assert [layer.count for layer in arch.layers] == [16, 16]


@pytest.mark.parametrize("kind", ["gpu", "both"])
def test_steady_stages_are_those_of_a_run(kind: str) -> None:
    """A full batch, request by request: answers of other lengths with the same mean."""
    rng, inputs, outputs, batch = np.random.default_rng(5), 300, 40, 24
    length = rng.integers(20, 61, batch)
    got = rng.integers(0, length)
    rows = []
    for _ in range(6000):
        old = got > 0
        rows.append((batch - old.sum(), old.sum(), (inputs + got[old] + 1).sum()))
        got += 1
        done = got >= length
        length[done], got[done] = rng.integers(20, 61, done.sum()), 0
    new, decoding, context = np.array(rows[500:], float).T
    work = Batch(decode_requests=decoding, decode_context=context, decode_longest=context)
    cost = policy("mixtral", kind).step(work + Batch.prefill(new, inputs))
    run = stages("mixtral", kind, batch, inputs, outputs)
    assert run.mean_s == pytest.approx(np.mean(cost.seconds), rel=0.01)
    assert run.joules_per_token == pytest.approx(np.mean(cost.energy_j) / batch, rel=0.01)
    assert run.share[0] == pytest.approx(np.mean(new == 0), abs=0.03)


def test_quantiles_weigh_by_requests() -> None:
    """Half of the stages have no new request, the others two of four."""
    run = Stages(np.array([0.5, 0.5]), np.array([0.0, 2.0]), np.array([1.0, 3.0]), np.ones(2), 4, 8)
    assert run.mean_s == 2 and run.tokens_per_s == 2 and run.requests_per_s == 0.25
    assert run.between_tokens(0.5) == 1 and run.between_tokens(0.67) == 3
    assert run.first_token(0.01) == 3 and run.joules_per_token == 0.25


def test_settings_change_what_they_say() -> None:
    usual = stages("mixtral", "both", 64, 1024, 1024)
    peaks = stages("mixtral", "gpu", 64, 1024, 1024, Setting(rooflines=True))
    assert peaks.mean_s < stages("mixtral", "gpu", 64, 1024, 1024).mean_s
    assert stages("mixtral", "both", 64, 1024, 1024, Setting(dense=True)).mean_s < usual.mean_s
    slower = stages("mixtral", "both", 64, 1024, 1024, Setting(efficient=False))
    assert slower.mean_s > usual.mean_s
    cheaper = stages("mixtral", "both", 64, 1024, 1024, Setting(half_energy=True))
    assert cheaper.mean_s == usual.mean_s and cheaper.joules_per_token < usual.joules_per_token
    assert CALIBRATED == Setting()
