"""`bankside bench --preset lanes`: figures of one small design."""

import shutil
from types import SimpleNamespace

import pytest

from bankside.sim.bench import lanes
from bankside.sim.faults import Site

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def test_measures_a_design_against_verilator(monkeypatch) -> None:
    monkeypatch.setattr(lanes, "DESIGNS", {"array_4x4": (40, 3)})
    found = lanes.measure("lanes", 1)
    (row,) = found["designs"].values()
    assert row["mismatches"] == 0 and row["faults"] == 40
    assert all(row[name] > 0 for name in row if name.endswith("_per_s"))
    assert "x" in lanes.text(found)


def test_upsets_reach_every_bit_of_every_register() -> None:
    widths = {"a": 3, "b": 1, "c": 70}
    sites = {path: Site("flop", path, width) for path, width in widths.items()}
    machines = SimpleNamespace(sites=sites, golden=SimpleNamespace(cycles=5))
    hit = {(a.site, a.mask.bit_length()) for (a,) in lanes._upsets(machines, 4000)}
    assert hit == {(path, bit) for path, width in widths.items() for bit in range(1, width + 1)}
