# amaranth: UnusedElaboratable=no
"""AXI4-Lite slave as exported Verilog against cocotbext-axi; the bench notices its bad twins."""

import sys
from pathlib import Path

import pytest
from amaranth.hdl import Mux

from bankside.hw.axi.lite import AxiLiteSlave
from bankside.sim.rtl.cocotb_runner import SIMULATORS, BenchResult, missing_simulator, run_bench

BENCHES = Path(__file__).parent / "benches"
sys.path.insert(0, str(BENCHES))

import axi_lite  # noqa: E402
from twins import Faulty, late, sometimes  # noqa: E402

SEED = 5
TWIN_SIMULATOR = "verilator" if missing_simulator("icarus") else "icarus"


def bench(component, name: str, simulator: str, fault: int = 0) -> BenchResult:
    if reason := missing_simulator(simulator):
        pytest.skip(reason)
    env = {"BANKSIDE_FAULT": str(fault)}
    return run_bench(component, name, BENCHES / "axi_lite.py", simulator=simulator, seed=SEED,
                     internals=False, extra_env=env, check=False)  # fmt: skip


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_axi_lite(simulator):
    dut = AxiLiteSlave(address_bits=axi_lite.ADDRESS_BITS)
    result = bench(dut, "bankside_axi_lite", simulator)
    assert result.tests == 4 and not result.failures, result.summary()


FAULTS = {
    "withdrawn_answer": ("axi__bvalid", sometimes),
    "withdrawn_data": ("axi__rvalid", sometimes),
    "always_okay": ("axi__bresp", lambda m, value, unit: 0),
    "never_okay": ("axi__rresp", lambda m, value, unit: 2),
    "late_data": ("axi__rdata", late),
    "lost_write": ("write_en", sometimes),
    "wrong_register": (
        "write_address",
        lambda m, value, unit: Mux(value == 5, 6, value),
    ),
    "eager_address": ("axi__awready", lambda m, value, unit: 1),
}


@pytest.mark.parametrize("name", FAULTS)
def test_axi_lite_bench_notices(name):
    twin = Faulty(AxiLiteSlave(address_bits=axi_lite.ADDRESS_BITS), FAULTS)
    assert bench(
        twin, "bankside_bad_axi_lite", TWIN_SIMULATOR, fault=1 + list(FAULTS).index(name)
    ).failures


def test_a_twin_without_fault_passes():
    """What fails above is the fault, not the twin."""
    twin = Faulty(AxiLiteSlave(address_bits=axi_lite.ADDRESS_BITS), FAULTS)
    result = bench(twin, "bankside_bad_axi_lite", TWIN_SIMULATOR)
    assert result.tests == 4 and not result.failures, result.summary()
