"""The plan of a campaign: which mechanism fits where, and the whole way on a real machine."""

import itertools
import json
from pathlib import Path

import pytest

from bankside.fault_injection.campaign import prepare
from bankside.fault_injection.description import load_campaign
from bankside.fault_injection.planning import _kinds, with_protection
from bankside.isa.machines import load_machine
from bankside.sim.elaborate import to_json
from bankside.sim.rtl.tops import top_of

YAML = """
machine: array_4x4
workload: {product: {m: 4, k: 8, n: 4}}
models: {seu: {}, sram_bit: {}}
sampling: {faults: 600, pilot: 40, phases: 1, exhaustive: 0}
referee: {sample: 30}
safety:
  asil: B
  models: [seu]
  rates: {transient: {flop: {fit_per_mbit: 400, low: 200, high: 800, source: a test}}}
  reading: {latent: safe}
plan:
  candidates: {tmr: [tmr], dwc: dwc}
  faults: 3000
"""


def write(folder: Path) -> Path:
    path = folder / "plan.yaml"
    path.write_text(YAML)
    return path


def test_what_blocks_hold_themselves() -> None:
    top, name = top_of(load_machine("array_4x4"))
    blocks = ["core", "core.control", "core.datapath", "host", "host.slave", "top"]
    kinds = _kinds(to_json(top, name), name, blocks)
    assert kinds["core.control"] == kinds["core.datapath"] == {"registers", "memories"}
    assert kinds["top"] == {"registers"}  # the reset register; everything else is in a block
    assert "memories" not in kinds["host"]


def test_campaigns_of_candidates_inject_what_counts(tmp_path: Path) -> None:
    campaign = load_campaign(write(tmp_path))
    other = with_protection(campaign, {"core.datapath": ["tmr"]}, 1)
    assert [model.name for model, _ in other.models] == ["seu"]
    assert list(other.description.models) == ["seu"] and other.description.plan is None
    assert other.description.sampling.faults == 3000
    assert other.description.protection == {"core.datapath": ["tmr"]}
    assert other.key != campaign.key and other.target.digest != campaign.target.digest


def test_candidates_and_choice_are_sampled_on_their_own(tmp_path: Path) -> None:
    """A mechanism that adds no sites leaves a stratum as large as it was: without another seed its
    faults would be those that were drawn before.
    """
    campaign = load_campaign(write(tmp_path))
    stratum = max(prepare(campaign).strata, key=lambda s: s.population)
    drawn = [
        {f.to_json() for f in stratum.drawn(0, 50, c.description.sampling.seed)}
        for c in (campaign, *(with_protection(campaign, {}, draw) for draw in (1, 2, 3)))
    ]
    assert stratum.population > 50_000
    for first, second in itertools.combinations(drawn, 2):
        assert len(first & second) < 5


@pytest.mark.slow
def test_plan_of_a_small_array_is_built_and_measured(run_cli, tmp_path: Path) -> None:
    done = run_cli("inject", write(tmp_path), "--json", "--out", tmp_path / "out", timeout=1800)
    assert done.returncode == 0, done.stderr  # unprotected it is inconclusive
    data = json.loads(done.stdout)
    plan = data["plan"]
    assert plan["found"] and data["referee_mismatches"] == 0
    assert (plan["injections"], plan["referee_faults"]) == (3 * 3000, 3 * 30)
    assert 0 < plan["overhead"] < plan["duplicated_overhead"]
    verdicts = {v["metric"]: v["verdict"] for v in plan["measured"]["verdicts"]}
    assert verdicts["SPFM"] == "PASS" and verdicts["ASIL B"] == "PASS"
    # What was measured unprotected misses the same target.
    assert {v["metric"]: v["verdict"] for v in data["verdicts"]}["SPFM"] != "PASS"
    assert set(plan["chosen"].values()) <= {"none", "tmr", "dwc"}
    assert plan["measured"]["overhead"] == pytest.approx(plan["overhead"], abs=0.02)
    assert "Least area that meets the target" in (tmp_path / "out" / "report.html").read_text()
