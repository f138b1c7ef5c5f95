"""Patterns of a campaign on the smallest machines, from YAML to a file that a replay reads."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.fault_injection.campaign import Found, inject, prepare, store_path
from bankside.fault_injection.classes import CLASSES
from bankside.fault_injection.description import Campaign, load_campaign, load_campaigns
from bankside.fault_injection.execution import RefereeExecutor
from bankside.fault_injection.llm import replay
from bankside.fault_injection.llm.patterns import PARTS, ErrorPattern, read_recorded
from bankside.fault_injection.recording import record
from bankside.fault_injection.session import run_one
from bankside.fault_injection.store import CampaignStore
from bankside.mapping.explore import workers as places

YAML = """
kind: campaign
machine: array_4x4
workload: {attention: {queries: 4, keys: 8}}
models: {seu: {}}
sampling: {faults: 900, pilot: 20, exhaustive: 0, phases: 1}
referee: {sample: 10}
patterns: {out: found/p.jsonl}
"""
REPLAY = """
kind: llm_replay
patterns: found/p.jsonl
windows: 2
prompt_tokens: 20
new_tokens: 4
placements: 1
draws: 100
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("recording")


@pytest.fixture(scope="module")
def campaign(folder: Path) -> Campaign:
    (folder / "some.yaml").write_text(YAML)
    return load_campaign(folder / "some.yaml")


def run(campaign: Campaign, store: Path) -> dict:
    with places.local(1) as workers:
        return run_one(campaign, store, workers, None)


@pytest.fixture(scope="module")
def result(campaign: Campaign, folder: Path) -> dict:
    return run(campaign, folder / "s.sqlite")


@pytest.fixture(scope="module")
def found(result: dict, campaign: Campaign, folder: Path) -> Found:
    with kept(campaign, folder) as store, places.local(1) as workers:
        return inject(prepare(campaign), store, workers)[0]


def kept(campaign: Campaign, folder: Path) -> CampaignStore:
    return CampaignStore(folder / "s.sqlite", campaign.key, {})


def lines(folder: Path) -> tuple[list[ErrorPattern], dict]:
    patterns, recording = read_recorded(folder / "found" / "p.jsonl")
    assert recording is not None
    return patterns, recording.model_dump()


# --- from the campaign to the file ----------------------------------------------------------------


def test_every_silent_corruption_has_a_pattern(result: dict, found: Found, folder: Path) -> None:
    patterns, recording = lines(folder)
    assert not result["referee_mismatches"] and result["patterns"]["file"] == "found/p.jsonl"
    sdc = np.flatnonzero(found.classes == CLASSES.index("SDC")).tolist()
    unread = recording["counts"]["unread"]
    assert len(patterns) == len(sdc) - unread and {p.number for p in patterns} <= set(sdc)
    for p in patterns:
        fault = found.faults[p.number]
        assert p.fault.startswith(fault.site) and p.fault.endswith(f"@{fault.cycle}")
        assert p.role == found.prepared.sites[fault.site].role
        assert (p.engine, p.op, p.bits, p.tile.rows, p.tile.columns) == (
            "array", "attention", 16, 4, 8)  # fmt: skip
        stratum = found.prepared.strata[found.stratum[p.number]]
        assert p.weight == pytest.approx(stratum.population / found.sizes[stratum.number])
        if not p.control:
            assert p.role == "data" and p.elements and not p.outside
    assert sum(not p.control for p in patterns) > 20


def test_what_they_stand_for(result: dict, found: Found, folder: Path) -> None:
    """Computed again, fault by fault."""
    patterns, recording = lines(folder)
    held = {p.number for p in patterns if not p.control}
    total = {"effect": 0.0, "held": 0.0, "all": 0.0}
    for number, kind in enumerate(CLASSES[c] for c in found.classes):
        stratum = found.prepared.strata[found.stratum[number]]
        weight = stratum.population / found.sizes[stratum.number]
        total["all"] += weight
        total["effect"] += weight * (kind in ("SDC", "hang", "detected-uncorrected"))
        total["held"] += weight * (number in held)
    share = recording["represented"]
    assert share["share"] == pytest.approx(total["held"] / total["effect"])
    assert recording["effective_share"] == pytest.approx(total["effect"] / total["all"])
    assert 0 < share["low"] < share["share"] < share["high"] < 1
    assert set(recording["parts"]) == set(PARTS)
    assert sum(recording["parts"].values()) == pytest.approx(1)
    assert min(recording["counts"][p] for p in ("tile", "control", "hang")) > 0


def test_a_second_call_writes_the_same(result: dict, campaign: Campaign, folder: Path) -> None:
    before = (folder / "found" / "p.jsonl").read_bytes()
    (folder / "found" / "p.jsonl").unlink()
    assert run(campaign, folder / "s.sqlite")["patterns"] == result["patterns"]
    assert (folder / "found" / "p.jsonl").read_bytes() == before


def test_interrupted_it_goes_on(
    found: Found, campaign: Campaign, folder: Path, tmp_path, monkeypatch
):
    """Nothing that was kept is run again, and the lines are those of an undisturbed recording."""
    with kept(campaign, folder) as store:
        wanted = record(found, store)
    repeated: list[int] = []
    delivered = RefereeExecutor.delivered

    def counting(self, faults):
        repeated.append(len(faults))
        if len(repeated) == 2:
            raise KeyboardInterrupt
        return delivered(self, faults)

    monkeypatch.setattr(RefereeExecutor, "delivered", counting)
    with CampaignStore(tmp_path / "s.sqlite", campaign.key, {}) as store:
        with pytest.raises(KeyboardInterrupt):
            record(found, store)
        first = repeated.pop(0)
        repeated.append(0)  # the interruption comes once
        done = record(found, store)
    assert done == wanted
    counts = wanted.recording.counts
    assert first + sum(repeated[1:]) == counts["tile"] + counts["outside"] + counts["unread"]


# --- known-bad twins ------------------------------------------------------------------------------


def test_a_result_that_lies_elsewhere_is_no_tile(
    result: dict, found: Found, campaign: Campaign, tmp_path: Path
) -> None:
    """Told a wrong place, nothing is held: every change is outside of it."""
    operation = campaign.operation
    assert operation is not None
    moved = replace(operation, places=operation.places + (1 << 20), spans=())
    wrong = replace(found.prepared, campaign=replace(campaign, operation=moved))
    with CampaignStore(tmp_path / "s.sqlite", campaign.key, {}) as store:
        made = record(replace(found, prepared=wrong), store)
    assert made.recording.counts["tile"] == 0 and made.recording.represented is not None
    high, right = made.recording.represented.high, result["patterns"]["represented"]
    assert made.recording.represented.share == 0 and high is not None and high < right["low"]
    patterns = [ErrorPattern.model_validate_json(line) for line in made.lines]
    assert all(p.control and not p.elements for p in patterns)
    assert any(p.outside for p in patterns)


def test_a_fault_that_ends_otherwise_forbids_the_patterns(
    found: Found, campaign: Campaign, folder: Path, tmp_path: Path, monkeypatch
) -> None:
    other = replace(campaign, folder=tmp_path)
    monkeypatch.setattr(RefereeExecutor, "delivered", _slower)
    monkeypatch.setattr(CampaignStore, "texts", lambda self, kind: {})  # as if none were kept
    result = run(other, folder / "s.sqlite")
    assert result["referee_mismatches"] == 25 and "patterns" not in result
    assert result["mismatches"][0]["referee"]["cycles"] > result["mismatches"][0]["found"]["cycles"]
    assert not (tmp_path / "found").exists()


def _slower(self, faults):
    rows = self.run(faults)
    rows["cycles"] += 1
    return rows, []


# --- into the language model ----------------------------------------------------------------------


def test_the_replay_says_what_the_campaign_found(result: dict, folder: Path) -> None:
    (folder / "replay.yaml").write_text(REPLAY)
    made = replay.run(replay.load(folder / "replay.yaml"), base=folder)
    share = result["patterns"]["represented"]
    assert made["represented"] == share and share["source"].startswith("campaign some (")
    assert made["recording"]["counts"] == result["patterns"]["counts"]
    assert made["control_patterns"] == sum(p.control for p in lines(folder)[0])
    assert made["replays"] == result["patterns"]["counts"]["tile"] and not made["unplaced"]
    assert {e["product"] for e in made["runs"]} == {"context"}
    assert any(e["kl_bits"] for e in made["runs"])


def test_the_page_and_the_text_tell_it(result: dict) -> None:
    from bankside.fault_injection import cli, report

    told = cli.text(result)
    share = 100 * result["patterns"]["represented"]["share"]
    assert f"found/p.jsonl: {result['patterns']['patterns']} patterns of seu; {share:.4g} %" in told
    page = report.render(result, None)
    assert "Patterns for a language model" in page and "the run does not end" in page


# --- descriptions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("attention: {queries: 4, keys: 8}", "product: {m: 4, k: 4, n: 4}",
         "workload: product is not one operation of a language model"),
        ("out: found/p.jsonl", "out: p, model: sue", "patterns.model: 'sue' .*mean 'seu'"),
        ("{seu: {}}", "{seu: {}, sram_bit: {}}", "patterns.model: is missing; choose one of: seu"),
        ("out: found/p.jsonl", "out: p, change: delta", "delta is for integers, but array"),
        ("machine: array_4x4\nworkload: {attention: {queries: 4, keys: 8}}", "target: a:b",
         "patterns: are of an operation of a machine"),
        ("out: found/p.jsonl", "file: p", "file: unknown key"),
    ],
)  # fmt: skip
def test_descriptions_that_cannot_be(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    assert old in YAML
    path.write_text(YAML.replace(old, new))
    with pytest.raises(ConfigError, match=message) as error:
        load_campaign(path)
    assert str(path) in str(error.value)


def test_each_design_has_a_file_of_its_own(tmp_path: Path) -> None:
    path, work = tmp_path / "x.yaml", "{attention: {queries: 4, keys: 8}}"
    single = f"machine: array_4x4\nworkload: {work}"
    path.write_text(YAML.replace(single, f"designs: {{a: {{machine: array_4x4, workload: {work}}}, "
                                 f"b: {{machine: array_6x10, workload: {work}}}}}"))  # fmt: skip
    made = load_campaigns(path)
    assert [c.description.patterns.out for c in made] == ["found/p-a.jsonl", "found/p-b.jsonl"]
    assert all(c.operation is not None for c in made)


def test_recording_does_not_change_the_campaign(campaign: Campaign, tmp_path: Path) -> None:
    """Its outcomes are those of the same campaign without patterns, from the same store."""
    (tmp_path / "some.yaml").write_text(YAML.replace("patterns: {out: found/p.jsonl}\n", ""))
    plain = load_campaign(tmp_path / "some.yaml")
    assert store_path(plain) == store_path(campaign) and plain.operation is None
    assert json.loads(json.dumps(campaign.description.model_dump(mode="json")))["patterns"]
