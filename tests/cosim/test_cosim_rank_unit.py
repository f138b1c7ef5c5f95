# amaranth: UnusedElaboratable=no
"""The exported Verilog of the rank unit, under cocotb on both simulators."""

import json
import sys
from pathlib import Path

import pytest

from bankside.hw.pim.rank_unit.unit import RankUnit
from bankside.sim.rtl.cocotb_runner import SIMULATORS, BenchResult, missing_simulator, run_bench

BENCHES = Path(__file__).parent / "benches"
sys.path.insert(0, str(BENCHES))

from rank_reference import make_machine  # noqa: E402
from rank_twins import TWINS, Twin  # noqa: E402

SEED = 61
DDR4 = {"standard": "ddr4_3200", "chips": 2, "groups": 2, "per_group": 2, "lanes": 2}
DDR5 = {"standard": "ddr5_4800", "chips": 4, "groups": 4, "per_group": 2, "lanes": 1}


def bench(component, name, simulator, machine, nhc_log2, test_filter=None) -> BenchResult:
    """Run the bench on `component`."""
    if reason := missing_simulator(simulator):
        pytest.skip(reason)
    geometry = {"nhc_log2": nhc_log2, "cpt": machine["chips"], "lanes": machine["lanes"]}
    return run_bench(
        component, name, BENCHES / "rank_unit.py", simulator=simulator, seed=SEED, internals=False,
        extra_env={"RANK_MACHINE": json.dumps(machine), "RANK_GEOMETRY": json.dumps(geometry)},
        test_filter=test_filter, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize(("machine", "nhc_log2"), [(DDR4, 0), (DDR4, 1), (DDR5, 1)],
                         ids=["ddr4-1", "ddr4-2", "ddr5-2"])  # fmt: skip
def test_rank_unit(simulator, machine, nhc_log2):
    unit = RankUnit(make_machine(**machine))
    result = bench(unit, "bankside_rank_unit", simulator, machine, nhc_log2)
    assert result.tests == 2 and not result.failures, result.summary()


@pytest.mark.parametrize("name", ["token_too_many", "staging_late"])
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_twin_fails_its_bench(simulator, name):
    """The other twins fail the same scenarios in tests/hw/test_rank_unit_pysim.py."""
    scenario = TWINS[name][2]
    twin = Twin(make_machine(**DDR4), name)
    result = bench(twin, f"bankside_bad_{name}", simulator, DDR4, 0, test_filter=f"{scenario}$")
    assert result.failed == (scenario,)
    assert "expected" in result.log or "!=" in result.log
