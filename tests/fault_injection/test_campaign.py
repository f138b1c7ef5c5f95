"""Campaigns on a tiny machine in numpy: the whole way from YAML to tables."""

import importlib.util
import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bankside.errors import BanksideError, ConfigError
from bankside.fault_injection.campaign import inject, prepare
from bankside.fault_injection.classes import CLASSES
from bankside.fault_injection.description import load_campaign, load_campaigns
from bankside.fault_injection.result import result_of
from bankside.fault_injection.store import CampaignStore
from bankside.mapping.explore import workers as places

HERE = Path(__file__).parent
YAML = """
kind: campaign
target: tiny:{function}
models: {models}
sampling: {{faults: {faults}, pilot: {pilot}, exhaustive: {exhaustive}, phases: 2, batch: {batch}}}
referee: {{sample: {sample}}}
"""


@pytest.fixture
def described(tmp_path: Path):
    """A function that writes a description beside the tiny machine and returns its path."""
    (tmp_path / "tiny.py").write_bytes((HERE / "tiny.py").read_bytes())

    def write(more: str = "", **values) -> Path:
        given = {"function": "tiny", "models": "{seu: {}, sram_bit: {}}", "faults": 400,
                 "pilot": 20, "exhaustive": 0, "batch": 64, "sample": 50} | values  # fmt: skip
        path = tmp_path / "tiny.yaml"
        path.write_text(YAML.format(**given) + more)
        return path

    return write


def run(path: Path, store: Path, workers: int = 1):
    campaign = load_campaign(path)
    with CampaignStore(store, campaign.key, {}) as kept, places.local(workers) as chosen:
        return result_of(*inject(prepare(campaign), kept, chosen))


def block(result, model: str, name: str):
    return next(r for r in result["blocks"] if (r["model"], r["block"]) == (model, name))


def test_tables_agree_with_each_other(described, tmp_path: Path) -> None:
    result = run(described(faults=250), tmp_path / "s.sqlite")
    assert result["referee_mismatches"] == 0 and result["referee_faults"] == 50
    assert result["injections"] == sum(r["faults"] for r in result["blocks"])
    assert result["injections"] == sum(r["faults"] for r in result["strata"])
    assert result["injections"] == 2 * 250
    for row in (*result["blocks"], *result["strata"], *result["models"]):
        assert sum(row["classes"].values()) == row["faults"]
        assert row["avf"]["low"] <= row["avf"]["estimate"] <= row["avf"]["high"]
        assert not row["avf"]["text"].startswith("0 ")
    assert sum(row["faults"] for row in result["by_cycle"]) == 500
    # Nothing reads the ring: no failure, but an upper bound.
    assert block(result, "sram_bit", "core.datapath")["avf"]["text"].startswith("< ")


def test_exhaustive_strata_give_the_truth_and_samples_hold_it(described, tmp_path: Path) -> None:
    every = run(described(models="{seu: {}}", faults=10_000, exhaustive=10_000), tmp_path / "e")
    some = run(described(models="{seu: {}}", faults=150), tmp_path / "s")
    assert every["injections"] == 28 * 12 and some["injections"] == 150
    for exact, sampled in zip(every["models"], some["models"], strict=True):
        assert exact["exhaustive"] and not sampled["exhaustive"]
        truth = exact["avf"]["estimate"]
        failures = exact["classes"]["SDC"] + exact["classes"]["hang"]
        assert truth == pytest.approx(failures / (28 * 12))
        assert sampled["avf"]["low"] <= truth <= sampled["avf"]["high"]


def test_classes_of_known_faults(described, tmp_path: Path) -> None:
    models = "{seu: {sites: [core.datapath.spare]}, sram_bit: {}, set_net: {}}"
    result = run(described(models=models, exhaustive=10_000, faults=10_000), tmp_path / "s")
    spare = block(result, "seu", "core.datapath")["classes"]
    assert spare == dict.fromkeys(map(str, CLASSES), 0) | {"latent": 72}
    ring = block(result, "sram_bit", "core.datapath")["classes"]
    # Three laps of the ring: a word is latent after its last write only.
    assert ring["latent"] + ring["masked"] == 32 * 12 and ring["latent"] == 8 * (0 + 1 + 2 + 3)
    assert block(result, "set_net", "core.datapath")["avf"]["text"] == "all of 96"


def test_allocation_goes_where_the_avf_is_uncertain(described, tmp_path: Path) -> None:
    result = run(described(models="{sram_bit: {}, seu: {}}", faults=200), tmp_path / "s")
    sizes = {(r["block"], r["role"], r["phase"]): r["faults"] for r in result["strata"]
             if r["model"] == "seu"}  # fmt: skip
    assert sum(sizes.values()) == 200
    assert sizes["core.datapath", "control", "0-5"] == 6  # all of them
    # Every upset of the control ends badly; half of those of the data do.
    assert sizes["core.control", "control", "0-5"] == 20
    assert sizes["core.datapath", "data", "0-5"] > 60


@pytest.mark.parametrize("workers", [2])
def test_workers_do_not_change_the_result(described, tmp_path: Path, workers: int) -> None:
    path = described()
    one = run(path, tmp_path / "one.sqlite")
    assert run(path, tmp_path / "many.sqlite", workers) == one


def test_batches_do_not_change_the_result(described, tmp_path: Path) -> None:
    one, other = (run(described(batch=batch), tmp_path / f"{batch}.sqlite") for batch in (7, 900))
    skip = ("description", "campaign", "provenance")
    assert {k: v for k, v in one.items() if k not in skip} == {
        k: v for k, v in other.items() if k not in skip
    }


class Killed(Exception):
    pass


def test_interrupted_campaigns_go_on(described, tmp_path: Path) -> None:
    path = described(batch=32)
    whole = run(path, tmp_path / "whole.sqlite")
    campaign, store = load_campaign(path), tmp_path / "parts.sqlite"
    random_, found, stops = random.Random(3), None, 0
    while found is None:
        # Two stages and the referee's batches are told even where nothing is left to do.
        left = random_.randint(6, 9)

        def step(count: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed

        try:
            with CampaignStore(store, campaign.key, {}) as kept, places.local(1) as here:
                found = inject(prepare(campaign), kept, here, step)
        except Killed:
            stops += 1
            assert stops < 100, "no progress between interruptions"
    assert result_of(*found) == whole and stops > 2


def test_a_referee_that_does_not_agree_forbids_the_report(described, tmp_path: Path) -> None:
    result = run(described(function="lying", sample=400), tmp_path / "s.sqlite")
    assert result["referee_mismatches"] == len(result["mismatches"]) > 0
    assert result["blocks"] == [] and "models" not in result and result["verdicts"] == []
    assert all("core.datapath.held" in m["fault"] for m in result["mismatches"])
    assert all(m["found"]["output"] != m["referee"]["output"] for m in result["mismatches"])


def test_without_a_referee_only_what_says_so(described, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the target has no referee"):
        run(described(function="alone"), tmp_path / "s.sqlite")
    assert run(described(function="alone", sample=0), tmp_path / "t.sqlite")["referee_faults"] == 0


def test_budgets_that_do_not_do_are_told_before_anything_runs(described) -> None:
    with pytest.raises(ConfigError, match="model seu: 30 faults .* raise the total, lower"):
        prepare(load_campaign(described(faults=30, models="{seu: {}}")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": "{seuu: {}}"}, r"models.seuu: unknown fault model 'seuu' \(did you mean 'seu'"),
        ({"models": "{seu: {site: x}}"}, r"site: unknown key \(did you mean 'sites'\?\)"),
        ({"function": "tyni"}, "module tiny has no function 'tyni'"),
        ({"faults": 0}, "sampling.faults: is 0; expected an integer from 1"),
    ],
)
def test_bad_descriptions(described, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_campaign(described(**change))


def test_sites_that_do_not_exist(described) -> None:
    campaign = load_campaign(described(models="{seu: {sites: [core.datapath.acd]}}"))
    with pytest.raises(ConfigError, match="no site 'core.datapath.acd' .*did you mean '.*acc'"):
        prepare(campaign)


DESIGNS = """
designs:
  small: {machine: array_4x4, workload: {product: {m: 4, k: 4, n: 4}}}
  other: {machine: array_4x4, workload: {product: {m: 4, k: 8, n: 4}}}
"""


def test_several_designs_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(DESIGNS)
    small, other = load_campaigns(path)
    assert (small.name, other.name) == ("small", "other") and small.key != other.key
    assert load_campaign(path, "other").key == other.key
    with pytest.raises(ConfigError, match=r"no design 'smal' \(did you mean 'small'\?\)"):
        load_campaign(path, "smal")
    path.write_text(DESIGNS.replace("m: 4, k: 8", "m: 4, k: x"))
    with pytest.raises(ConfigError, match="two.yaml:4: k: is 'x' .text.; expected an integer"):
        load_campaigns(path)


RATES = """
safety:
  asil: D
  rates: {{transient: {{{kinds}}}}}
"""
RATE = "{kind}: {{fit_per_mbit: 500, low: 300, high: 900, source: a test}}"


def test_metrics_need_raw_rates_of_the_user(described, tmp_path: Path) -> None:
    from bankside.fault_injection.metrics import check_rates

    path = described(RATES.format(kinds=RATE.format(kind="memory")))
    with pytest.raises(ConfigError, match="no transient rate for sites of kind 'flop'"):
        check_rates(prepare(load_campaign(path)))
    assert run(described(), tmp_path / "s.sqlite")["verdicts"] == []


def test_metrics(described, tmp_path: Path) -> None:
    kinds = f"{RATE.format(kind='flop')}, {RATE.format(kind='memory')}"
    result = run(described(RATES.format(kinds=kinds)), tmp_path / "s.sqlite")
    verdicts = {row["metric"]: row for row in result["verdicts"]}
    assert list(verdicts) == ["SPFM", "LFM", "PMHF", "ASIL D"]
    # About half of the upsets of registers get through: no ASIL D, whatever the rates are.
    assert verdicts["SPFM"]["verdict"] == verdicts["ASIL D"]["verdict"] == "FAIL"
    assert verdicts["PMHF"]["verdict"] == "PASS"  # 60 bits


def test_damaged_store(described, tmp_path: Path) -> None:
    path, store = described(), tmp_path / "s.sqlite"
    run(path, store)
    data = store.read_bytes()
    store.write_bytes(data[: len(data) // 2])
    with pytest.raises(BanksideError, match="damaged|cannot be used"):
        run(path, store)
    assert store.read_bytes() == data[: len(data) // 2]


@pytest.mark.slow
def test_a_hundred_thousand_faults_killed_ten_times(described, tmp_path: Path) -> None:
    """SIGKILL at random moments; the seed is printed."""
    models = "{seu: {}, sram_bit: {}, dram_cell: {}}"
    path = described(function="long", models=models, faults=100_000, exhaustive=10_000, batch=400)
    command = [sys.executable, "-m", "bankside", "inject", str(path), "--json", "--store"]
    whole = _table([*command, str(tmp_path / "a")])
    assert whole["injections"] >= 100_000
    seed = int(time.time())
    print("seed", seed)
    random_, batches = random.Random(seed), _batches(tmp_path / "a")
    # Where it is killed is counted in batches, and some way into the next ones.
    for mark in sorted(random_.sample(range(1, batches * 4 // 5), 10)):
        process = subprocess.Popen([*command, str(tmp_path / "b")], stdout=subprocess.DEVNULL)
        while _batches(tmp_path / "b") < mark and process.poll() is None:
            time.sleep(0.005)
        time.sleep(random_.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert _batches(tmp_path / "b") < batches
    assert _table([*command, str(tmp_path / "b")]) == whole


def _batches(store: Path) -> int:
    """Batches that a store holds; 0 where it does not exist yet."""
    try:
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=60)) as db:
            return int(db.execute("SELECT COUNT(*) FROM batches").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def _table(command: list[str]) -> dict[str, Any]:
    """The result but for its provenance, which tells of files that others may change meanwhile."""
    done = subprocess.run(command, capture_output=True, check=True)
    return {k: v for k, v in json.loads(done.stdout).items() if k != "provenance"}


def test_tiny_machine_runs_as_it_says() -> None:
    spec = importlib.util.spec_from_file_location("tiny_machine", HERE / "tiny.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_machine"] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    machine = module.Tiny()
    assert machine.golden.cycles == len(module.NUMBERS)
    assert machine.right == sum(module.NUMBERS[:-1]) % 256
    assert np.all(machine.run([()])["output"] == 1)
