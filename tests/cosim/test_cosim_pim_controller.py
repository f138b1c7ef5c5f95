"""The controller as exported Verilog under cocotb: legal commands, tokens, exact cycles."""

import json
import sys
from pathlib import Path

import pytest

from bankside.hw.pim.controller.controller import Controller
from bankside.sim.rtl.cocotb_runner import BenchResult, missing_simulator, run_bench

BENCHES = Path(__file__).parent / "benches"
sys.path.insert(0, str(BENCHES))

from pim_controller import make_machine  # noqa: E402

SEED = 7
TEST = "random_programs_are_legal_and_exact"
# A refresh every 1200 cycles, so that short programs meet some.
OFTEN = {"nREFI": 1200}


def bench(controller, name: str, simulator: str, preset: str, params: dict[str, int],
          programs: int) -> BenchResult:  # fmt: skip
    if reason := missing_simulator(simulator):
        pytest.skip(reason)
    env = {"BANKSIDE_PRESET": preset, "BANKSIDE_PARAMS": json.dumps(params),
           "BANKSIDE_PROGRAMS": str(programs)}  # fmt: skip
    return run_bench(controller, name, BENCHES / "pim_controller.py", simulator=simulator,
                     seed=SEED, internals=False, extra_env=env, check=False)  # fmt: skip


@pytest.mark.parametrize(
    ("simulator", "preset", "params"),
    [("verilator", "pim_tiny_ddr4", OFTEN), ("icarus", "pim_tiny_ddr5", {})],
)
def test_controller(simulator, preset, params):
    controller = Controller(make_machine(preset, params))
    result = bench(controller, "bankside_controller", simulator, preset, params, 8)
    assert result.tests == 1 and not result.failures, result.summary()


@pytest.mark.parametrize("parameter", ["nRCD", "nRP", "nRTP", "nCCD_S"])
def test_a_shorter_latency_is_noticed(parameter):
    """The controller's table has one latency less than the checkers' one."""
    right = make_machine("pim_tiny_ddr4", {}).std.params[parameter]
    controller = Controller(make_machine("pim_tiny_ddr4", {parameter: right - 1}))
    result = bench(controller, "bankside_bad_controller", "icarus", "pim_tiny_ddr4", {}, 6)
    assert result.failed == (TEST,) and " cycles" in result.log and "row " in result.log


def test_a_token_that_comes_early_is_noticed():
    machine = make_machine("pim_tiny_ddr4", {})
    early = {**machine.completions, "MAC": machine.completions["MAC"] - 1}
    machine.__dict__["completions"] = early
    controller = Controller(machine)
    result = bench(controller, "bankside_early_controller", "icarus", "pim_tiny_ddr4", {}, 6)
    assert result.failed == (TEST,) and "without the token of array" in result.log
