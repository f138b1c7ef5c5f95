"""Bank and chip of the `pim` engine as exported Verilog, under cocotb on both simulators."""

import sys
from pathlib import Path

import pytest

from bankside.config import HardwareConfig
from bankside.hw.pim.bank import Bank
from bankside.hw.pim.chip import Chip
from bankside.isa.machine import Machine
from bankside.sim.rtl.cocotb_runner import SIMULATORS, BenchResult, missing_simulator, run_bench

BENCHES = Path(__file__).parent / "benches"
sys.path.insert(0, str(BENCHES))

from pim_bank_twins import BANK_FAULTS, BankTwin  # noqa: E402
from pim_chip_twins import FAULTS, Twin  # noqa: E402

SEED = 20260
PRESETS = ("pim_tiny_ddr4", "pim_tiny_ddr5")


def run(component, name: str, file: str, simulator: str, preset: str, **env: int) -> BenchResult:
    if reason := missing_simulator(simulator):
        pytest.skip(reason)
    variables = {f"BANKSIDE_{k.upper()}": str(v) for k, v in env.items()}
    return run_bench(
        component,
        name,
        BENCHES / file,
        simulator=simulator,
        seed=SEED,
        internals=False,
        check=False,
        extra_env={"BANKSIDE_PRESET": preset, **variables},
    )


def preset(name: str) -> Machine:
    return Machine.of(HardwareConfig.load(name))


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("name", PRESETS)
def test_chip_plays_random_commands(name, simulator):
    steps = 800 if simulator == "verilator" else 150
    result = run(Chip(preset(name)), "bankside_chip", "pim_chip.py", simulator, name, steps=steps)
    assert not result.failures, result.summary()


@pytest.mark.parametrize("fault", ["none", *FAULTS])
def test_chip_bench_notices_a_bad_twin(fault):
    number = ["none", *FAULTS].index(fault)
    result = run(
        Twin(preset("pim_tiny_ddr4")), "bankside_bad_chip", "pim_chip.py", "verilator",
        "pim_tiny_ddr4", steps=800, fault=number,
    )  # fmt: skip
    assert result.tests == 1
    assert result.failures == (fault != "none"), result.summary()


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("name", PRESETS)
def test_bank_equals_the_reference(name, simulator):
    result = run(Bank(preset(name)), "bankside_bank", "pim_bank.py", simulator, name, fault=0)
    assert result.tests == 3
    assert not result.failures, result.summary()


@pytest.mark.parametrize("fault", ["none", *BANK_FAULTS])
def test_bank_bench_notices_a_bad_twin(fault):
    number = ["none", *BANK_FAULTS].index(fault)
    result = run(
        BankTwin(preset("pim_tiny_ddr4")), "bankside_bad_bank", "pim_bank.py", "verilator",
        "pim_tiny_ddr4", fault=number,
    )  # fmt: skip
    assert result.tests == 3
    assert bool(result.failures) == (fault != "none"), result.summary()
