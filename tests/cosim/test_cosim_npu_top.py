# amaranth: UnusedElaboratable=no
"""The whole `npu` machine as exported Verilog, with cocotbext-axi as host and memories; the bench
notices bad twins.
"""

import sys
from pathlib import Path

import pytest
from amaranth.hdl import Mux

from bankside.hw.npu.top import NpuTop
from bankside.sim.rtl.cocotb_runner import SIMULATORS, BenchResult, missing_simulator, run_bench

BENCHES = Path(__file__).parent / "benches"
sys.path.insert(0, str(BENCHES))

from npu_top_faults import FAULTS, no_tile  # noqa: E402
from npu_top_host import MACHINES  # noqa: E402
from twins import Faulty, sometimes  # noqa: E402

SEED = 11
#: Every fault once, with buses that pause; seconds.
QUICK = r"share=0\.[34]|failing_fetch|a_running_stream"

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
    "skipped_command": (
        ("m1_axi_araddr", lambda m, v, unit: v + ((v[7:9] == 1) << 3)),
        "programs/share=0.3",
    ),
    "short_burst": (("m0_axi_wlast", lambda m, v, unit: 1), "programs/share=0.3"),
    "withdrawn": (("m0_axi_arvalid", sometimes), "programs/share=0.7"),
    "writes_on": (("m0_axi_wstrb", lambda m, v, unit: -1), "faults/wrong=failing_write/share=0.4"),
    "ends_its_burst": (
        ("m0_axi_wstrb", lambda m, v, unit: -1),
        "faults/wrong=unknown_opcode/share=0.0",
    ),
    "writes_nothing": (
        ("m0_axi_wstrb", lambda m, v, unit: Mux(v[0], 0, v)),
        "faults/wrong=outside_buffer/share=0.4",
    ),
    "another_position": (
        ("s_axil_rdata", lambda m, v, unit: v + ((v & 4) << 30)),
        "faults/wrong=missing_stop/share=0.4",
    ),
    "another_code": (
        ("s_axil_rdata", lambda m, v, unit: v ^ ((v & 4) << 7)),
        "faults/wrong=misaligned/share=0.0",
    ),
    "no_interrupt": (("irq", lambda m, v, unit: 0), "a_running_stream"),
    "keeps_its_interrupt": (("irq", lambda m, v, unit: 1), "a_running_stream"),
    "no_error": (("s_axil_bresp", lambda m, v, unit: 0), "faults/wrong=overlap/share=0.4"),
    "deaf": (("m0_axi_bready", lambda m, v, unit: 0), "faults/wrong=failing_write/share=0.0"),
}


def bench(
    top,
    name: str,
    profile: str,
    *,
    simulator: str = "verilator",
    twin: int | None = None,
    test: str | None = None,
) -> BenchResult:
    if reason := missing_simulator(simulator):
        pytest.skip(reason)
    env = {"BANKSIDE_PROFILE": profile}
    if twin is not None:
        env["BANKSIDE_FAULT"] = str(twin)
    return run_bench(top, name, BENCHES / "npu_top.py", simulator=simulator, seed=SEED,
                     internals=False, extra_env=env, test_filter=test, check=False)  # fmt: skip


def check_machine(profile: str, simulator: str, tests: int, test: str | None = None) -> None:
    name = f"bankside_bench_npu_{profile}"
    result = bench(NpuTop(MACHINES[profile]), name, profile, simulator=simulator, test=test)
    assert not result.failures, result.summary()
    assert result.tests == tests, result.summary()


def test_every_fault():
    """Not among the slow ones: faults are provoked over AXI wherever the tests run."""
    check_machine("u55", "verilator", len(FAULTS) + 3, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("profile", MACHINES)
def test_machine(profile, simulator):
    # No packed weights in profile llm.
    faults = len(FAULTS) - (profile == "llm") * (no_tile in FAULTS)
    check_machine(profile, simulator, 2 * faults + 5)


def bad_bench(twin: int = 0, test: str = "") -> BenchResult:
    top = Faulty(NpuTop(MACHINES["u55"]), {name: change for name, (change, _) in TWINS.items()})
    return bench(top, "bankside_bad_npu_top", "u55", twin=twin, test=test)


@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
def test_bench_notices(name):
    result = bad_bench(1 + list(TWINS).index(name), TWINS[name][1])
    assert result.tests == 1 and result.failures, result.summary()


@pytest.mark.slow
def test_a_twin_without_fault_passes():
    """What fails above is the fault, not the twin."""
    tests = sorted({test for _, test in TWINS.values()})
    result = bad_bench(test="|".join(tests))
    assert result.tests == len(tests) and not result.failures, result.summary()
