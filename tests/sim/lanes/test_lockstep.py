"""Both lane engines and Verilator in step: random designs, kept modules, tops of the machines."""

import sys
from pathlib import Path

import pytest

from bankside.isa.machines import load_machine
from bankside.sim.lanes import build, guards, numpy_cells
from bankside.sim.lanes.lanes import Lanes
from bankside.sim.lanes.numpy_lanes import NumpyLanes
from bankside.sim.rtl.tops import top_of

sys.path.insert(0, str(Path(__file__).parent))

from lockstep import lockstep  # noqa: E402
from random_branches import RandomBranches  # noqa: E402
from random_design import RandomDesign  # noqa: E402
from random_units import RandomUnits  # noqa: E402

ENGINES = pytest.mark.parametrize("engine", [Lanes, NumpyLanes])


def random_in_step(seed: int, folder: Path, engine: type, cycles: int = 300) -> int:
    design, top = RandomDesign(seed), "bankside_random"
    return lockstep(design, top, folder, cycles=cycles, seed=seed, engine=engine)


def units_in_step(seed: int, folder: Path, engine: type, cycles: int = 300) -> int:
    design, top = RandomUnits(seed), "bankside_units"
    return lockstep(design, top, folder, cycles=cycles, seed=seed, engine=engine)


def branches_in_step(seed: int, folder: Path, cycles: int = 300) -> int:
    design, top = RandomBranches(seed), "bankside_branches"
    return lockstep(design, top, folder, cycles=cycles, seed=seed, engine=Lanes)


@ENGINES
def test_random_design(engine, tmp_path) -> None:
    assert random_in_step(0, tmp_path, engine) > 1000


@ENGINES
def test_kept_modules_and_clocks_that_stop(engine, tmp_path) -> None:
    assert units_in_step(0, tmp_path, engine) > 1000


def test_what_several_conditions_share(tmp_path, monkeypatch) -> None:
    """Values of branches that were not taken are not used; the comparison would notice."""
    assert branches_in_step(3, tmp_path) > 1000
    monkeypatch.setattr(guards, "_condition", lambda block: guards.NEVER)
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-DWRONG"))  # apart from the right one
    with pytest.raises(AssertionError, match="Verilator"):
        branches_in_step(3, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 32))
def test_many_shared_conditions(seed, tmp_path) -> None:
    assert branches_in_step(seed, tmp_path, 1000) > 3000


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 12))
@ENGINES
def test_many_random_designs(seed, engine, tmp_path) -> None:
    assert random_in_step(seed, tmp_path, engine, 1000) > 3000


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 8))
@ENGINES
def test_many_kept_modules(seed, engine, tmp_path) -> None:
    assert units_in_step(seed, tmp_path, engine, 1000) > 3000


def test_a_wrong_cell_is_noticed(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(numpy_cells._CODE, "$add", numpy_cells._arithmetic("|", "|"))
    with pytest.raises(AssertionError, match="Verilator"):
        random_in_step(0, tmp_path, NumpyLanes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["array_4x4", "npu_u55_32", "pim_tiny_ddr4"])
@ENGINES
def test_tops(name, engine, tmp_path) -> None:
    """Random inputs: no programs, but everything that reacts to ports."""
    component, top = top_of(load_machine(name))
    cycles = 2000 if engine is Lanes else 100
    assert lockstep(component, top, tmp_path, cycles=cycles, seed=1, models=2, engine=engine) > 100
