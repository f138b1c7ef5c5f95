"""The bench of mapper and serving: what it measures."""

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
    found = mapping.sweep("l3", mapping.MODEL, 1)
    assert found["points_per_s"] * found["seconds_per_point"] == 1
    assert 0 < found["seconds_per_point"] < found["single_s"]
