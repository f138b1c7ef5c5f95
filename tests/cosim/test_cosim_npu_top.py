# amaranth: UnusedElaboratable=no
"""The whole `npu` machine as exported Verilog, with cocotbext-axi as host and memories; the bench
notices bad twins.
"""

import sys
from pathlib import Path

import pytest

from bankside.hw.npu.top import NpuTop
from bankside.sim.rtl.cocotb_runner import BenchResult, missing_simulator, run_bench

BENCHES = Path(__file__).parent / "benches"
sys.path.insert(0, str(BENCHES))

from npu_top import FAULTS as WRONG  # noqa: E402
from npu_top import MACHINE  # noqa: E402
from twins import Faulty, sometimes  # noqa: E402

SEED = 11
ALL = 3 + 2 * len(WRONG) + 2


def faulty(wrong: str, share: float) -> str:
    """Name of a test: cocotb numbers the values of a parameter."""
    return f"faults/wrong={[fault.__name__ for fault in WRONG].index(wrong)}/share={share}"


#: name: ((port, change), test that must notice)
TWINS = {
    "one_bit": (
        ("m0_axi_wdata", lambda m, v, unit: v ^ (unit.m0_axi_wlast & (v[2:4] == 3))),
        "programs/share=0.3",
    ),
    "another_beat": (
        ("m0_axi_araddr", lambda m, v, unit: v ^ (unit.m0_axi_arlen[0] << 3)),
        "programs/share=0.3",
    ),
    "another_command": (
        ("m1_axi_araddr", lambda m, v, unit: v ^ (v[8] << 7)),
        "programs/share=0.3",
    ),
    "short_burst": (("m0_axi_wlast", lambda m, v, unit: 1), "programs/share=0.3"),
    "withdrawn": (("m0_axi_arvalid", sometimes), "programs/share=0.7"),
    "writes_on": (("m0_axi_wstrb", lambda m, v, unit: -1), faulty("failing_write", 0.4)),
    "another_position": (
        ("s_axil_rdata", lambda m, v, unit: v + ((v & 4) << 30)),
        faulty("unknown_opcode", 0.0),
    ),
    "another_code": (
        ("s_axil_rdata", lambda m, v, unit: v ^ ((v & 4) << 7)),
        faulty("misaligned", 0.0),
    ),
    "no_interrupt": (("irq", lambda m, v, unit: 0), faulty("overlap", 0.0)),
    "no_error": (("s_axil_bresp", lambda m, v, unit: 0), "a_running_stream"),
    "deaf": (("m0_axi_bready", lambda m, v, unit: 0), faulty("failing_write", 0.0)),
}


def bench(
    top, name: str, fault: int = 0, test: str | None = None, simulator: str = "verilator"
) -> BenchResult:
    if reason := missing_simulator(simulator):
        pytest.skip(reason)
    env = {"BANKSIDE_FAULT": str(fault)}
    return run_bench(top, name, BENCHES / "npu_top.py", simulator=simulator, seed=SEED,
                     internals=False, extra_env=env, test_filter=test, check=False)  # fmt: skip


def twin() -> Faulty:
    return Faulty(NpuTop(MACHINE), {name: fault for name, (fault, _) in TWINS.items()})


def test_machine():
    """Not among the slow ones: faults are provoked over AXI wherever the tests run."""
    check_all("verilator")


@pytest.mark.slow
def test_machine_on_icarus():
    check_all("icarus")


def check_all(simulator: str) -> None:
    result = bench(NpuTop(MACHINE), "bankside_npu_top", simulator=simulator)
    assert result.tests == ALL and not result.failures, result.summary()


@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
def test_bench_notices(name):
    number = 1 + list(TWINS).index(name)
    result = bench(twin(), "bankside_bad_npu_top", number, TWINS[name][1])
    assert result.tests == 1 and result.failures, result.summary()


@pytest.mark.slow
def test_a_twin_without_fault_passes():
    """What fails above is the fault, not the twin."""
    result = bench(twin(), "bankside_bad_npu_top", test=f"share=0.3|{faulty('failing_write', 0.4)}")
    assert result.tests == 2 and not result.failures, result.summary()
