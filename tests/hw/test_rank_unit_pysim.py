# amaranth: UnusedElaboratable=no
"""The whole rank unit in Amaranth's simulator: exact bits, exact cycles."""

import contextlib
import random
import sys
from pathlib import Path

import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator

sys.path.insert(0, str(Path(__file__).parents[1] / "cosim" / "benches"))

from rank_reference import Geometry, make_machine
from rank_scenarios import CHUNKS, RankDriver, attention_scenario, relayout_scenario
from rank_twins import TWINS, Twin

from bankside.errors import ConfigError
from bankside.hw.lib.unit import flat_ports
from bankside.hw.pim.rank_unit.permute import chip_bits
from bankside.hw.pim.rank_unit.unit import RankUnit


class PysimPorts:
    """Scenario adapter for a testbench of Amaranth's simulator."""

    def __init__(self, ctx, component) -> None:
        self.ctx = ctx
        self.ports = {name: Value.cast(v) for name, (v, _) in flat_ports(component).items()}

    def set(self, port: str, value: int) -> None:
        self.ctx.set(self.ports[port], value)

    async def get(self, port: str) -> int:
        return self.ctx.get(self.ports[port])

    async def tick(self) -> None:
        await self.ctx.tick()


def simulate(unit, machine, geometry, scenario, seed) -> None:
    """Run `scenario(driver)` on `unit`."""
    print(f"seed {seed}")
    simulator = Simulator(unit)
    simulator.add_clock(1e-9)

    async def bench(ctx):
        driver = RankDriver(PysimPorts(ctx, unit), machine, geometry, random.Random(seed))
        await scenario(driver)

    simulator.add_testbench(bench)
    simulator.run()


DDR4 = {"standard": "ddr4_3200", "chips": 2, "groups": 2, "per_group": 2}
DDR5 = {"standard": "ddr5_4800", "chips": 2, "groups": 4, "per_group": 2}


@pytest.mark.parametrize("shape", [DDR4, {**DDR4, "chips": 8}, DDR5], ids=["c2", "c8", "ddr5"])
@pytest.mark.parametrize("nhc_log2", [0, 1, 2, 3])
def test_relayout(shape, nhc_log2):
    machine = make_machine(**shape)
    if 1 << nhc_log2 > machine.chips:
        return
    geometry = Geometry(nhc_log2, 2 * (machine.chips >> nhc_log2), 1)
    simulate(RankUnit(machine), machine, geometry, relayout_scenario, nhc_log2)


@pytest.mark.parametrize("shape", [DDR4, DDR5], ids=["ddr4", "ddr5"])
@pytest.mark.parametrize(("nhc_log2", "lanes"), [(0, 2), (1, 1)])
def test_attention(shape, nhc_log2, lanes):
    machine = make_machine(**shape, lanes=lanes)
    steps = set()

    async def scenario(driver):
        await attention_scenario(driver)
        steps.update(driver.reference.steps)

    simulate(RankUnit(machine), machine, Geometry(nhc_log2, 2, lanes), scenario, 7 + nhc_log2)
    # A chunk that raises the maximum a little, one by too much for 8 bits, one not at all.
    assert any(1 <= k < 30 for k in steps) and {0, 255} <= steps, steps


@pytest.mark.parametrize("nhc_log2", [0, 1, 2, 3])
def test_attention_full_width(nhc_log2):
    machine = make_machine(chips=8, groups=4, per_group=4, lanes=1)

    async def scenario(driver):
        await attention_scenario(driver, CHUNKS[:2])

    simulate(RankUnit(machine), machine, Geometry(nhc_log2, 8, 1), scenario, nhc_log2)


SCENARIOS = {"attention": attention_scenario, "relayout": relayout_scenario}


@pytest.mark.parametrize("name", [None, *TWINS])
def test_twin_is_noticed(name):
    machine = make_machine(**DDR4, lanes=2)
    scenarios = [TWINS[name][2]] if name else SCENARIOS
    for scenario in scenarios:
        # A faithful copy passes, so the wrapping itself is not what a scenario notices.
        with pytest.raises(AssertionError) if name else contextlib.nullcontext():
            geometry = Geometry(int(scenario == "relayout"), 2, 2)
            simulate(Twin(machine, name), machine, geometry, SCENARIOS[scenario], 3)


def test_refuses_one_chip():
    with pytest.raises(ConfigError, match="has 1 chips; expected a power of two of at least 2"):
        chip_bits(make_machine(chips=1))
