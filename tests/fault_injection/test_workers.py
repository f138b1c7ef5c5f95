"""Where batches of faults are run: threads that share an executor, a Dask cluster."""

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bankside.errors import ToolError
from bankside.fault_injection.campaign import inject, prepare
from bankside.fault_injection.description import load_campaign
from bankside.fault_injection.execution import FunctionTarget, Task
from bankside.fault_injection.result import result_of
from bankside.fault_injection.store import CampaignStore
from bankside.mapping.explore import workers as places

HERE = Path(__file__).parent
YAML = """
target: tiny:tiny
models: {seu: {}, sram_bit: {}}
sampling: {faults: 400, pilot: 20, exhaustive: 0, batch: 16}
"""
#: An executor that notes whether two threads are in it: each waits a while for the other.
MEETING = """
import threading
from tiny import Tiny
together = threading.Event()
both = threading.Barrier(2)
class Meeting(Tiny):
    def run(self, faults):
        try:
            both.wait(0.2)
            together.set()
        except threading.BrokenBarrierError:
            both.reset()
        return super().run(faults)
def make():
    made = Meeting()
    made.together = together
    return made, None
"""
FAULT = '{"site": "core.datapath.held", "model": "seu", "cycle": 3}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.py").write_bytes((HERE / "tiny.py").read_bytes())
    (tmp_path / "meeting.py").write_text(MEETING)
    (tmp_path / "some.yaml").write_text(YAML)
    return tmp_path


def run(folder: Path, store: str, workers: places.Workers) -> dict:
    campaign = load_campaign(folder / "some.yaml")
    with CampaignStore(folder / store, campaign.key, {}) as kept:
        return result_of(*inject(prepare(campaign), kept, workers))


def test_an_executor_is_for_one_thread_at_a_time(folder: Path, monkeypatch) -> None:
    """Workers of a cluster may be threads of one process, which share what was made."""
    monkeypatch.syspath_prepend(str(folder))
    target = FunctionTarget("meeting:make", str(folder))
    task = Task(target, target.digest)
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(task.evaluate, [[FAULT]] * 2))
    assert (rows[0] == rows[1]).all()
    from bankside.fault_injection.execution import executor_of

    assert not executor_of(target).together.is_set()


def test_two_threads_without_a_lock_meet(folder: Path, monkeypatch) -> None:
    """The known-bad twin: the executor above would have noticed."""
    monkeypatch.syspath_prepend(str(folder))
    executor = FunctionTarget("meeting:make", str(folder)).executor()
    threads = [threading.Thread(target=executor.run, args=([()],)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert executor.together.is_set()


def test_files_that_changed_are_refused(folder: Path) -> None:
    target = FunctionTarget("tiny:tiny", str(folder))
    with pytest.raises(ToolError, match="this worker's files are not those"):
        Task(target, "0" * 64).evaluate([FAULT])


def test_same_result_on_a_cluster(folder: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    alone = run(folder, "alone.sqlite", places.Here())
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
        ) as cluster,
        places.dask(cluster.scheduler_address) as far,
    ):
        assert run(folder, "far.sqlite", far) == alone


@pytest.mark.slow
def test_same_table_from_the_command_line(run_cli, folder: Path) -> None:
    """Workers in processes of their own, found by their address."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    path, env = folder / "some.yaml", {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    alone = run_cli("inject", path, "--json", "--store", folder / "alone.sqlite")
    assert alone.returncode == 0, alone.stderr
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        far = run_cli("inject", path, "--json", "--store", folder / "far.sqlite",
                      "--dask", cluster.scheduler_address, env=env)  # fmt: skip
    assert far.returncode == 0, far.stderr
    assert json.loads(far.stdout) == json.loads(alone.stdout)
