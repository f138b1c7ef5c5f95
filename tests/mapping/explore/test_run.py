"""Whole explorations: results, interruption by SIGKILL, workers."""

import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bankside.cache import file_hash
from bankside.errors import BanksideError, ConfigError, ToolError
from bankside.mapping.explore import workers
from bankside.mapping.explore.cli import text
from bankside.mapping.explore.evaluate import Task
from bankside.mapping.explore.run import explore, table_csv
from bankside.mapping.explore.space import load_space
from bankside.mapping.explore.store import Store

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
SPACE = HERE / "space.yaml"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict:
    with Store(tmp_path_factory.mktemp("explore") / "s.sqlite") as store:
        return explore(load_space(SPACE), store, workers.Here())


def test_result(undisturbed: dict) -> None:
    assert undisturbed["status"]["ok"] and undisturbed["status"]["failed"]
    reasons = {row["status"]: row["reason"] for row in reversed(undisturbed["reasons"])}
    assert reasons["failed"].startswith("ZeroDivisionError: broke (quadratic.py:")
    assert any("do not go together" in r["reason"] for r in undisturbed["reasons"])
    over = [r["metrics"]["sum"] for r in undisturbed["points"] if "sum is" in r["reason"]]
    told = f"constraint on sum missed, least with sum {min(over):g}"
    assert {"status": "infeasible", "reason": told, "points": len(over)} in undisturbed["reasons"]
    ok = [r for r in undisturbed["points"] if r["status"] == "ok"]
    for best in undisturbed["pareto"]:
        near, far = best["metrics"]["near"], best["metrics"]["far"]
        assert best["metrics"]["sum"] <= 60
        assert not any(
            r["metrics"]["near"] <= near and r["metrics"]["far"] <= far
            and (r["metrics"]["near"], r["metrics"]["far"]) != (near, far) for r in ok
        )  # fmt: skip
    for row in undisturbed["searches"]:
        assert row["curve"] == sorted(row["curve"]) and row["samples"] == 60
        assert 0 < row["hypervolume"] <= undisturbed["hypervolume"] + 1e-12
        reached = row["samples_to_target"]
        enough = 0.95 * undisturbed["hypervolume"]
        if reached is not None:
            assert row["curve"][reached - 1] >= enough * (1 - 1e-12)
            assert reached == 1 or row["curve"][reached - 2] < enough
    lines = table_csv(undisturbed).splitlines()
    assert len(lines) == undisturbed["evaluated"] + 1
    assert lines[0] == "hash,status,pareto,x,y,far,near,sum,reason"


def test_guided_searches_beat_random(tmp_path: Path) -> None:
    """On ZDT1 (Zitzler et al. 2000), whose good points are rare."""
    (tmp_path / "zdt.py").write_text((HERE / "quadratic.py").read_text())
    lines = [f"  x{i}: {{low: 0.0, high: 1.0}}" for i in range(8)]
    (tmp_path / "zdt.yaml").write_text(
        "\n".join(["evaluator: zdt:zdt1", "parameters:", *lines])
        + "\nobjectives: {first: minimise, second: minimise}\nbudget: 160\npopulation: 20\n"
    )
    with Store(tmp_path / "s.sqlite") as store:
        result = explore(load_space(tmp_path / "zdt.yaml"), store, workers.Here())
    found = {row["sampler"]: row["hypervolume_median"] for row in result["samplers"]}
    assert found["nsga2"] > found["random"] and found["tpe"] > found["random"], found


def test_nothing_is_evaluated_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPLORE_TEST_LOG", str(tmp_path / "log"))
    space = load_space(SPACE)
    for _ in range(2):
        with Store(tmp_path / "s.sqlite") as store:
            result = explore(space, store, workers.Here())
            assert len(store) == result["evaluated"]
    calls = (tmp_path / "log").read_text().splitlines()
    assert len(calls) == len(set(calls)) == result["evaluated"]


def test_same_result_on_two_processes(undisturbed: dict, tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store, workers.local(2) as chosen:
        assert explore(load_space(SPACE), store, chosen) == undisturbed


def test_same_result_on_a_cluster(undisturbed: dict, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        with Store(tmp_path / "s.sqlite") as store, workers.dask(cluster.scheduler_address) as far:
            assert explore(load_space(SPACE), store, far) == undisturbed


@pytest.mark.slow
def test_a_point_that_ends_workers_is_told(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("import os\ndef f(p, w):\n    os.kill(os.getpid(), 9)\n")
    (tmp_path / "s.yaml").write_text(
        "evaluator: own:f\nparameters: {x: [1, 2]}\nobjectives: {a: minimise}\n"
    )
    space = load_space(tmp_path / "s.yaml")
    with Store(tmp_path / "s.sqlite") as store, workers.local(2) as chosen:
        with pytest.raises(ToolError, match="a worker process died"):
            explore(space, store, chosen)


@pytest.mark.slow
def test_a_cluster_that_fails_is_told(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    (tmp_path / "own.py").write_text("import os\ndef f(p, w):\n    os.kill(os.getpid(), 9)\n")
    (tmp_path / "s.yaml").write_text(
        "evaluator: own:f\nparameters: {x: [1, 2]}\nobjectives: {a: minimise}\n"
    )
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        with Store(tmp_path / "s.sqlite") as store, workers.dask(cluster.scheduler_address) as far:
            with pytest.raises(ToolError, match="cluster failed.*workers died"):
                explore(load_space(tmp_path / "s.yaml"), store, far)


def start(folder: Path, *options: str, hold: int | None = None) -> subprocess.Popen:
    command = [sys.executable, "-m", "bankside", "explore", str(SPACE), "--json",
               "--store", str(folder / "s.sqlite"), *options]  # fmt: skip
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    if hold is not None:
        env["EXPLORE_TEST_HOLD"] = str(hold)
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def finished(folder: Path) -> int:
    """Results in the store so far."""
    if not (folder / "s.sqlite").exists():
        return 0
    try:
        with Store(folder / "s.sqlite") as store:
            return len(store)
    except BanksideError:  # it is just being made
        return 0


def kill_at(folder: Path, results: int, *options: str) -> None:
    """Start, kill when that many results are there; a slow machine does not let it finish."""
    hold = max(0, results - finished(folder)) + 5
    process = start(folder, *options, hold=hold)
    while process.poll() is None and finished(folder) < results:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def here(result: dict) -> dict:
    """Without the state of the checkout, which somebody may commit to while this test runs."""
    kept = {k: v for k, v in result["provenance"].items() if k != "git_revision"}
    return result | {"provenance": kept}


def survives(undisturbed: dict, folder: Path, kills: int, *options: str) -> None:
    """With two workers, each of which may go on to its hold, kills come in the first half."""
    seed = random.SystemRandom().randrange(1 << 30)
    last = undisturbed["evaluated"] // (2 if options else 1) - 12
    print(f"seed {seed}")  # shown where the test fails
    for moment in sorted(random.Random(seed).sample(range(1, last), kills)):
        kill_at(folder, moment, *options)
    assert 0 < finished(folder) < undisturbed["evaluated"]
    output, _ = start(folder, *options).communicate()
    assert here(json.loads(output)) == here(json.loads(json.dumps(undisturbed)))


def test_survives_three_kills(undisturbed: dict, tmp_path: Path) -> None:
    survives(undisturbed, tmp_path, 3)


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one", "two"])
def test_survives_ten_kills(undisturbed: dict, tmp_path: Path, options: tuple) -> None:
    survives(undisturbed, tmp_path, 10, *options)


def test_scale_log(tmp_path: Path) -> None:
    """By hand: logarithms 0 and 1 (base e) of two points, and a zero that has none."""
    code = "import math\ndef f(p, w):\n    return {'a': math.exp(p['x']), 'b': %s}\n"
    text = "evaluator: own:f\nparameters: {x: [0, 1]}\nobjectives: {a: minimise, b: maximise}\n"
    (tmp_path / "own.py").write_text(code % "math.exp(2 * p['x'])")
    (tmp_path / "s.yaml").write_text(text + "scale: log\n")
    with Store(tmp_path / "s.sqlite") as store:
        result = explore(load_space(tmp_path / "s.yaml"), store, workers.Here())
    assert result["hypervolume"] == pytest.approx(1.1 * 0.1 + 0.1 * 1.0)
    (tmp_path / "other.py").write_text(code % "p['x']")
    (tmp_path / "s.yaml").write_text(text.replace("own", "other") + "scale: log\n")
    with Store(tmp_path / "s.sqlite") as store, pytest.raises(ConfigError, match="scale: is log"):
        explore(load_space(tmp_path / "s.yaml"), store, workers.Here())


SOFT = """
evaluator: own:f
parameters: {x: [0, 1, 2, 3, 4]}
constraints: {size: {at_most: 2, soft: true}, x: {at_most: 3}}
objectives: {cost: minimise}
"""


def test_soft_constraint(tmp_path: Path) -> None:
    """More x costs less but is too big: those that keep the bound, then by how much they miss."""
    code = (
        "def f(p, w):\n    return {'cost': [5.0, 4.0, 6.0, 1.0, 0.5][p['x']], 'size': p['x'] + 1}"
    )
    (tmp_path / "own.py").write_text(code)
    (tmp_path / "s.yaml").write_text(SOFT)
    for scale in ("linear", "log"):
        (tmp_path / "s.yaml").write_text(f"{SOFT}scale: {scale}\n")
        with Store(tmp_path / "s.sqlite") as store:
            result = explore(load_space(tmp_path / "s.yaml"), store, workers.Here())
        # 0 costs more than 1 and both keep the bound, 2 costs more and misses it, 4 is infeasible.
        assert [(r["point"]["x"], r["missed"]) for r in result["pareto"]] == [
            (1, {}), (3, {"size": 1.0})
        ]  # fmt: skip
        assert result["status"] == {"ok": 4, "infeasible": 1, "failed": 0}
        # From cost 1 to 6 (or their logarithms) and from 0 to 1 missed, the margin at 1.1.
        middle = 0.6 if scale == "linear" else math.log(4) / math.log(6)
        assert result["hypervolume"] == pytest.approx((1.1 - middle) * 1.1 + middle * 0.1)
    told = text(result)
    assert "misses size (4) by 100%" in told and "constraint on x missed, least with x 4" in told


SERVE = """
base: dgx-a100
evaluator: serve
workload: {model: llama-3-8b, generate: {preset: azure_code, requests: 12, seed: 2}}
parameters: {gpus: [1, 2, 4, 8], workload.batching.token_budget: {low: 128, high: 1024, log: true}}
objectives: {ttft_s.p99: minimise, gpus: minimise}
seeds: [0]
budget: 12
population: 6
"""


def test_serving_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SERVE)
    space = load_space(tmp_path / "s.yaml")
    with Store(tmp_path / "s.sqlite") as store:
        first = explore(space, store, workers.Here())
    with sqlite3.connect(tmp_path / "s.sqlite") as file:
        file.execute("DELETE FROM results WHERE key > '8'")
    file.close()
    evaluated = []
    with Store(tmp_path / "s.sqlite") as store:
        left = len(store)
        counting = Counting(evaluated)
        assert explore(space, store, counting) == first
    assert 0 < left < first["evaluated"] == left + len(evaluated)


class Counting(workers.Here):
    """Notes what it is asked for."""

    def __init__(self, seen: list) -> None:
        self._seen = seen

    def run(self, task: Task, points: Sequence[dict]) -> Iterator:
        self._seen += points
        return super().run(task, points)


def test_other_code_makes_no_results(tmp_path: Path) -> None:
    """A worker whose files changed says so; the point is neither infeasible nor failed."""
    (tmp_path / "own.py").write_text("def f(p, w):\n    return {'a': 1}\n")
    task = Task("own:f", None, {}, str(tmp_path), file_hash(tmp_path / "own.py"))
    assert task.evaluate({}).status == "ok"
    with pytest.raises(ToolError, match="files are not those"):
        replace(task, code="0" * 64).evaluate({})
    (tmp_path / "s.yaml").write_text(SERVE)
    with pytest.raises(ToolError, match="files are not those"):
        replace(load_space(tmp_path / "s.yaml").task, code="0" * 64).evaluate({})


def test_no_scheduler_file(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed")
    with pytest.raises(ToolError, match="no scheduler file"):
        with workers.dask(str(tmp_path / "none.json")):
            pass


def test_damaged_store_is_told(tmp_path: Path) -> None:
    (tmp_path / "s.sqlite").write_text("no database at all, but a text that is long enough\n" * 9)
    with pytest.raises(BanksideError, match="cannot be used as a store"):
        Store(tmp_path / "s.sqlite")


@pytest.mark.parametrize("limit", ["sum: {at_most: -1}"])
def test_no_feasible_point_is_a_finding(run_cli, tmp_path: Path, limit: str) -> None:
    (tmp_path / "quadratic.py").write_text((HERE / "quadratic.py").read_text())
    text = SPACE.read_text().replace("sum: {at_most: 60}", limit).replace("budget: 60", "budget: 5")
    (tmp_path / "space.yaml").write_text(text)
    done = run_cli("explore", tmp_path / "space.yaml", "--store", tmp_path / "s", "--out", tmp_path)
    assert done.returncode == 1, done.stderr
    assert (tmp_path / "explore.html").is_file() and (tmp_path / "pareto.png").is_file()
