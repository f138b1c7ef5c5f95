# amaranth: UnusedElaboratable=no
"""Vector unit of the npu as exported Verilog; its bench notices each bad twin."""

import sys
from pathlib import Path

import pytest
from amaranth.hdl import Mux

from bankside.hw.npu.vector.engine import VectorEngine
from bankside.sim.rtl.cocotb_runner import SIMULATORS, BenchResult, missing_simulator, run_bench

BENCHES = Path(__file__).parent / "benches"
sys.path.insert(0, str(BENCHES))

from npu_vector_reference import KINDS, make_machine  # noqa: E402
from twins import Faulty, late, sometimes  # noqa: E402

SEED = 11
TWIN_SIMULATOR = "verilator" if missing_simulator("icarus") else "icarus"

# Fault: (kind of operation that shows it, output port, its new value).
FAULTS = {
    "one_byte_too_many": ("lut", "write0__mask", lambda m, v, unit: v | v << 1),
    "neighbour_overwritten": ("add", "write0__mask", lambda m, v, unit: Mux(v == 1, 3, v)),
    "lost_write": ("mul", "write0__en", sometimes),
    "late_write": ("copy", "write0__en", late),
    "off_by_one": ("lut", "write0__data", lambda m, v, unit: v ^ (v[:4] == 3)),
    "wrong_word": ("copy_wide", "write0__address", lambda m, v, unit: v ^ (v[:3] == 5)),
    "wrong_row": ("softmax", "read0__address", lambda m, v, unit: v - (v[:4] == 9)),
    "stale_gain": ("rms", "read2__en", lambda m, v, unit: 0),
    "stale_operand": ("add", "read1__en", sometimes),
    "complete_late": ("layer", "complete", late),
    "work_ends_early": ("lut", "steps_done", lambda m, v, unit: 0),
    "never_idle": ("copy", "idle", lambda m, v, unit: 0),
    "taken_twice": ("rms", "operation__ready", lambda m, v, unit: 1),
    "wrong_kind": ("softmax", "kind", lambda m, v, unit: Mux(v == 2, 4, v)),
}


def bench(component, name: str, simulator: str, fault: int = 0, kind: str = "") -> BenchResult:
    if reason := missing_simulator(simulator):
        pytest.skip(reason)
    return run_bench(component, name, BENCHES / "npu_vector.py", simulator=simulator, seed=SEED,
                     internals=False, extra_env={"BANKSIDE_FAULT": str(fault)},
                     test_filter=f"kind={kind}\\b" if kind else None, check=False)  # fmt: skip


def twin() -> Faulty:
    faults = {name: fault[1:] for name, fault in FAULTS.items()}
    return Faulty(VectorEngine(make_machine(128)), faults)


@pytest.mark.slow
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_vector_unit(simulator):
    result = bench(VectorEngine(make_machine(128)), "bankside_npu_vector", simulator)
    assert result.tests == len(KINDS) and not result.failures, result.summary()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_bench_notices(name):
    number = 1 + list(FAULTS).index(name)
    kind = FAULTS[name][0]
    result = bench(twin(), "bankside_bad_npu_vector", TWIN_SIMULATOR, number, kind)
    assert result.failures, f"{kind} passes with {name}"


@pytest.mark.slow
def test_a_twin_without_fault_passes():
    """What fails above is the fault, not the twin."""
    result = bench(twin(), "bankside_bad_npu_vector", TWIN_SIMULATOR)
    assert result.tests == len(KINDS) and not result.failures, result.summary()
