"""The exported Verilog of the DRAM checker, under cocotb on both simulators."""

import re
from pathlib import Path

import pytest

from bankside.hw.dram.checker import TimingChecker
from bankside.isa.dram.table import load_standard
from bankside.sim.rtl.cocotb_runner import (
    SIMULATORS,
    BenchResult,
    missing_simulator,
    run_bench,
)

BENCH = Path(__file__).parent / "benches" / "dram_checker.py"
SEED = 71


def bench(name: str, simulator: str, **params: int) -> BenchResult:
    """Runs the bench of `name` on a checker whose table has `params` replaced."""
    if reason := missing_simulator(simulator):
        pytest.skip(reason)
    return run_bench(
        TimingChecker(load_standard(name, params=params)),
        "bankside_dram_checker",
        BENCH,
        simulator=simulator,
        seed=SEED,
        extra_env={"DRAM_STANDARD": name},
        internals=False,
        check=False,
    )


@pytest.mark.parametrize("name, simulator", [("ddr4_3200", s) for s in SIMULATORS])
def test_checker(name, simulator):
    result = bench(name, simulator)
    assert result.tests == 2 and not result.failures, result.summary()


@pytest.mark.parametrize(
    "params, messages",
    [
        ({"nRCD": 21}, {"equals_rules": "expected", "edges_are_exact": "accepted early"}),
        ({"nWRR": 5}, {"edges_are_exact": "nWRR = 4: .* refused"}),
    ],
)
def test_known_bad_twin_is_caught(params, messages):
    """A checker built from a table with one latency one cycle off."""
    result = bench("ddr4_3200", "icarus", **params)
    found = dict(zip(result.failed, result.messages, strict=True))
    for test, message in messages.items():
        assert test in found and re.search(message, found[test]), result.summary()
