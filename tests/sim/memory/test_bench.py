"""The bench of the memory controllers, on short streams."""

import json
import subprocess

import pytest
from click.testing import CliRunner

from bankside.cli import main
from bankside.sim.bench import memory


def test_bench(monkeypatch):
    monkeypatch.setattr(memory, "STREAMS", {"random": 300, "stream": 500})
    done = CliRunner().invoke(
        main, ["bench", "--preset", "memory", "--repeats", "1", "--no-build", "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)["presets"]["memory"]
    assert set(found["policies"]) == set(memory.POLICIES) and "first_run_s" not in found
    row = found["policies"]["dramsim3"]["stream"]
    assert (row["requests"], row["simulator_requests_per_s"]) == (500, 329e3)
    assert row["cycles"] >= 500 * 4
    assert row["ratio"] * 329e3 == pytest.approx(row["requests_per_s"])
    assert "ratio" not in found["policies"]["fifo"]["random"]
    assert "requests/s" in memory.text(found)


def test_first_run_starts_from_nothing(monkeypatch):
    """The child process raises when it fails, here for lack of a compiler."""
    assert isinstance(memory._first_run(), float)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "")
    with pytest.raises(subprocess.CalledProcessError):
        memory._first_run()
