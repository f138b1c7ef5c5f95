"""The whole rank as exported Verilog under cocotb: a small attention against the golden model."""

import sys
from pathlib import Path

import pytest

from bankside.hw.pim import top as top_module
from bankside.hw.pim.controller.controller import Controller
from bankside.hw.pim.top import PimTop
from bankside.sim.rtl.cocotb_runner import BenchResult, missing_simulator, run_bench

BENCHES = Path(__file__).parent / "benches"
sys.path.insert(0, str(BENCHES))

import pim_controller  # noqa: E402
import pim_full  # noqa: E402

SEED = 3
FAST, SLOW = "attention_with_a_fast_host", "attention_with_a_slow_host"


def bench(top, name: str, simulator: str, *, preset: str = "pim_tiny_ddr4", tokens: int = 5,
          flip: int = 0, test: str | None = None) -> BenchResult:  # fmt: skip
    if reason := missing_simulator(simulator):
        pytest.skip(reason)
    env = {"BANKSIDE_PRESET": preset, "BANKSIDE_TOKENS": str(tokens), "BANKSIDE_FLIP": str(flip)}
    return run_bench(top, name, BENCHES / "pim_full.py", simulator=simulator, seed=SEED,
                     internals=False, extra_env=env, test_filter=test, check=False)  # fmt: skip


@pytest.mark.parametrize(
    ("simulator", "preset", "tokens"),
    [("verilator", "pim_tiny_ddr4", 40), ("icarus", "pim_tiny_ddr4", 5)],
)
def test_attention(simulator, preset, tokens):
    top = PimTop(pim_full.make_machine(preset))
    result = bench(top, "bankside_pim_top", simulator, preset=preset, tokens=tokens)
    assert result.tests == 2 and not result.failures, result.summary()


@pytest.mark.slow
def test_attention_ddr5():
    top = PimTop(pim_full.make_machine("pim_tiny_ddr5"))
    result = bench(top, "bankside_pim_top", "verilator", preset="pim_tiny_ddr5", tokens=70)
    assert result.tests == 2 and not result.failures, result.summary()


def test_one_flipped_bit_is_noticed():
    top = PimTop(pim_full.make_machine("pim_tiny_ddr4"))
    result = bench(top, "bankside_pim_top", "verilator", flip=1, test=f"{SLOW}$")
    assert result.failed == (SLOW,) and "bits differ from the golden model" in result.log


def test_a_shorter_latency_is_noticed(monkeypatch):
    """The controller opens rows one cycle too fast for the device and the checker."""
    machine = pim_full.make_machine("pim_tiny_ddr4")
    shorter = {"nRCD": machine.std.params["nRCD"] - 1}
    fast = pim_controller.make_machine("pim_tiny_ddr4", shorter)
    monkeypatch.setattr(top_module, "Controller", lambda _: Controller(fast))
    top = PimTop(machine)
    result = bench(top, "bankside_bad_pim_top", "icarus", tokens=2, test=f"{SLOW}$")
    assert result.failed == (SLOW,) and "violation" in result.log
