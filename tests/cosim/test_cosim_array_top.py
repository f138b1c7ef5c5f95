# amaranth: UnusedElaboratable=no
"""The whole `array` machine as exported Verilog, with cocotbext-axi as host and main memory; the
bench notices bad twins.
"""

import sys
from pathlib import Path

import pytest
from amaranth.hdl import Mux

from bankside.hw.array.top import ArrayTop
from bankside.sim.rtl.cocotb_runner import SIMULATORS, BenchResult, missing_simulator, run_bench

BENCHES = Path(__file__).parent / "benches"
sys.path.insert(0, str(BENCHES))

from array_top import MACHINE  # noqa: E402
from twins import Faulty, sometimes  # noqa: E402

SEED = 11

#: name: ((port, change), test that must notice)
FAULTS = {
    "one_bit": (
        ("m_axi_wdata", lambda m, v, unit: v ^ (unit.m_axi_wlast & (v[2:5] == 3))),
        "share=0.3",
    ),
    "key_of_another_row": (
        ("m_axi_araddr", lambda m, v, unit: Mux(v[5:9] == 9, v ^ 32, v)),
        "share=0.3",
    ),
    "short_burst": (("m_axi_wlast", lambda m, v, unit: 1), "share=0.3"),
    "withdrawn": (("m_axi_arvalid", sometimes), "share=0.7"),
    "no_error": (("s_axil_bresp", lambda m, v, unit: 0), "refused_words"),
    "deaf": (("m_axi_bready", lambda m, v, unit: 0), "failing_memory/part=out"),
}


def bench(top, name: str, simulator: str, fault: int = 0, test: str | None = None) -> BenchResult:
    if reason := missing_simulator(simulator):
        pytest.skip(reason)
    env = {"BANKSIDE_FAULT": str(fault)}
    return run_bench(top, name, BENCHES / "array_top.py", simulator=simulator, seed=SEED,
                     internals=False, extra_env=env, test_filter=test, check=False)  # fmt: skip


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_machine(simulator):
    result = bench(ArrayTop(MACHINE), "bankside_array_top", simulator)
    assert result.tests == 7 and not result.failures, result.summary()


@pytest.mark.parametrize("name", FAULTS)
def test_bench_notices(name):
    twin = Faulty(ArrayTop(MACHINE), {key: fault for key, (fault, _) in FAULTS.items()})
    number = 1 + list(FAULTS).index(name)
    test = FAULTS[name][1]
    result = bench(twin, "bankside_bad_array_top", "verilator", number, test)
    assert result.tests == 1 and result.failures, result.summary()


def test_a_twin_without_fault_passes():
    """What fails above is the fault, not the twin."""
    twin = Faulty(ArrayTop(MACHINE), {key: fault for key, (fault, _) in FAULTS.items()})
    result = bench(twin, "bankside_bad_array_top", "verilator", test="share=0.3")
    assert result.tests == 1 and not result.failures, result.summary()
