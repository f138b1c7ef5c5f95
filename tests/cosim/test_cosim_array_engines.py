# amaranth: UnusedElaboratable=no
"""Load and store engine as exported Verilog against cocotbext-axi; each bench notices its bad
twins.
"""

import sys
from pathlib import Path

import pytest
from amaranth.hdl import Mux

from bankside.hw.array.load import LoadEngine
from bankside.hw.array.store import StoreEngine
from bankside.sim.rtl.cocotb_runner import SIMULATORS, BenchResult, missing_simulator, run_bench

BENCHES = Path(__file__).parent / "benches"
sys.path.insert(0, str(BENCHES))

from array_engines import MACHINE  # noqa: E402
from twins import Faulty, late, sometimes  # noqa: E402

SEED = 7
TWIN_SIMULATOR = "verilator" if missing_simulator("icarus") else "icarus"
ENGINES = {"array_load": LoadEngine, "array_store": StoreEngine}

FAULTS = {
    "array_load": {
        "withdrawn_address": ("axi__arvalid", sometimes),
        "burst_too_long": ("axi__arlen", lambda m, value, unit: Mux(value == 2, 3, value)),
        "wrong_address": ("axi__araddr", lambda m, value, unit: value ^ ((value[12:14] == 1) << 4)),
        "wrong_word": ("address", lambda m, value, unit: Mux(value == 9, 8, value)),
        "wrong_bank": ("bank", lambda m, value, unit: value & 3),
        "wrong_side": ("row_en", lambda m, value, unit: value & (unit.bank != 2)),
        "beat_taken_twice": ("axi__rready", sometimes),
        "token_at_every_address": (
            "tokens__take",
            lambda m, value, unit: Mux(unit.axi.arvalid & unit.axi.arready, 2, 0),
        ),
        "token_given_late": ("tokens__give", late),
        "never_complete": ("complete", lambda m, value, unit: 0),
    },
    "array_store": {
        "withdrawn_address": ("axi__awvalid", sometimes),
        "withdrawn_data": ("axi__wvalid", sometimes),
        "late_data": ("axi__wdata", late),
        "some_bytes": ("axi__wstrb", lambda m, value, unit: Mux(unit.axi.wlast, 0xFF, value)),
        "early_last": ("axi__wlast", lambda m, value, unit: 1),
        "wrong_word": ("address", lambda m, value, unit: value ^ (value[:3] == 5)),
        "wrong_bank": ("bank", lambda m, value, unit: value & 3),
        "token_given_at_every_response": (
            "tokens__give",
            lambda m, value, unit: Mux(unit.axi.bvalid & unit.axi.bready, 2, 0),
        ),
        "token_never_taken": ("tokens__take", lambda m, value, unit: 0),
        "not_busy": ("busy", lambda m, value, unit: 0),
    },
}


def bench(
    component, unit: str, name: str, simulator: str, fault: int = 0, test: str | None = None
) -> BenchResult:
    if reason := missing_simulator(simulator):
        pytest.skip(reason)
    env = {"BANKSIDE_FAULT": str(fault)}
    return run_bench(component, name, BENCHES / f"{unit}.py", simulator=simulator, seed=SEED,
                     internals=False, extra_env=env, test_filter=test, check=False)  # fmt: skip


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("unit", ENGINES)
def test_engine(unit, simulator):
    result = bench(ENGINES[unit](MACHINE), unit, f"bankside_{unit}", simulator)
    assert result.tests == 3 and not result.failures, result.summary()


@pytest.mark.parametrize("unit,name", [(unit, name) for unit in FAULTS for name in FAULTS[unit]])
def test_bench_notices(unit, name):
    twin = Faulty(ENGINES[unit](MACHINE), FAULTS[unit])
    number = 1 + list(FAULTS[unit]).index(name)
    name = f"bankside_bad_{unit}"
    assert bench(twin, unit, name, TWIN_SIMULATOR, number, test="share=0.4").failures


@pytest.mark.parametrize("unit", ENGINES)
def test_a_twin_without_fault_passes(unit):
    """What fails above is the fault, not the twin."""
    twin = Faulty(ENGINES[unit](MACHINE), FAULTS[unit])
    result = bench(twin, unit, f"bankside_bad_{unit}", TWIN_SIMULATOR)
    assert result.tests == 3 and not result.failures, result.summary()
