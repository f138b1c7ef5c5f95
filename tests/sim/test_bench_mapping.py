"""The bench of mapper and serving: what it measures."""

import numpy as np
import pytest
from click.testing import CliRunner

from bankside.cli import main
from bankside.sim.bench import mapping


def test_bench_from_the_command_line(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(mapping, "_POINTS", 200)
    monkeypatch.setattr(mapping, "_REQUESTS", 40)
    args = ["bench", "--preset", "mapping", "--repeats", "1", "--out", str(tmp_path)]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.output
    for part in ("us per point", "GenZ", "passes/s", "host_offload"):
        assert part in done.output


def test_a_sweep_prices_every_point(monkeypatch) -> None:
    monkeypatch.setattr(mapping, "_POINTS", 300)
    sizes, times = [], iter([3.0, 0.5])

    def timed(work, repeats: int) -> float:
        sizes.append(np.size(work().seconds))
        return next(times)

    monkeypatch.setattr(mapping, "median_seconds", timed)
    found = mapping.sweep("l3", mapping.MODEL, 1)
    assert sizes == [300, 1]
    assert found["seconds_per_point"] == 0.01 and found["single_s"] == 0.5
    assert found["points_per_s"] == pytest.approx(100)
