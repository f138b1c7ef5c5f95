"""The bench of the memory controllers, on short streams."""

import json

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


def test_first_run_starts_from_nothing():
    """In a process of its own that must succeed; it imports and compiles, so it takes a while."""
    assert memory._first_run() > 0.1
