# amaranth: UnusedElaboratable=no
"""A whole machine with its protection: the same results in the same cycles, and upsets in it."""

import re
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from bankside.fault_injection.protect import protected
from bankside.isa.asm import disassemble
from bankside.isa.machines import load_machine
from bankside.sim.elaborate import to_json
from bankside.sim.faults import Action, default_limit
from bankside.sim.golden.array import ArrayGolden
from bankside.sim.random_programs_npu import random_programs
from bankside.sim.rtl import array
from bankside.sim.rtl.referee import Referee
from bankside.sim.rtl.state import StateMap
from bankside.sim.rtl.tops import top_of
from bankside.sim.timing.array import ArrayTiming

sys.path.insert(0, str(Path(__file__).parents[2] / "cosim" / "benches"))

from array_top_program import attention_program, random_operands  # noqa: E402

pytestmark = pytest.mark.slow
MACHINE = load_machine("array_4x4")
PLAN = {"": "secded", "core.control": ["tmr", "secded"]}
SEED, SAMPLE = 13, 150
LANE_REGISTER = re.compile(r"core\.mac\.lanes\d+\.(w\d+_\d+|sum\d+)")


@pytest.fixture(scope="module")
def netlist():
    top, name = top_of(MACHINE)
    return protected(to_json(top, name), name, PLAN)


def program(seed: int, keys: int):
    operands = random_operands(np.random.default_rng(seed), MACHINE.columns, keys)
    return attention_program(MACHINE, *operands)


def test_same_results_in_the_same_cycles(netlist, monkeypatch):
    monkeypatch.setattr(array, "to_verilog", lambda *_, **__: netlist.verilog)
    machine = array.ArrayRtl(MACHINE)
    for keys in (4, 13, 30):
        work = program(keys, keys)
        found, timing = machine.run(work), ArrayTiming(MACHINE).run(work)
        assert np.array_equal(found.outputs, ArrayGolden(MACHINE).run(work).outputs)
        assert (found.cycles, found.counters) == (timing.cycles, timing.counters)


def test_upsets_in_a_running_machine(netlist):
    """A random sample of bits under TMR and under SEC-DED, check bits and copies included."""
    referee = Referee(MACHINE, design=(netlist.json, netlist.verilog))
    work = program(SEED, 13)
    golden = referee.golden(work)
    assert int(golden["cycles"]) == ArrayTiming(MACHINE).run(work).cycles
    assert golden["corrected"] == golden["detected"] == 0
    rng = np.random.default_rng(SEED)
    tripled = _sites(referee, netlist, "tmr")
    assert len(tripled) > 200
    faults = [_flip(rng, tripled, golden) for _ in range(SAMPLE)]
    outcomes = referee.run(work, faults, limit=default_limit(int(golden["cycles"])))
    for name in ("output", "state", "counters", "corrected"):
        assert outcomes[name].all(), (name, [faults[i] for i in np.flatnonzero(~outcomes[name])])
    assert (outcomes["cycles"] == golden["cycles"]).all() and not outcomes["detected"].any()
    coded = _sites(referee, netlist, "secded")
    faults = [_flip(rng, coded, golden) for _ in range(SAMPLE)]
    outcomes = referee.run(work, faults)
    assert outcomes["output"].all() and (outcomes["cycles"] == golden["cycles"]).all()
    assert not outcomes["detected"].any() and outcomes["corrected"].any()


@pytest.mark.parametrize("plan", [{"": ["tmr", "secded"]}, {"": "parity"}], ids=["tmr", "parity"])
@pytest.mark.parametrize("name", ["array_4x4", "npu_u55_32", "pim_tiny_ddr4"])
def test_all_state_of_every_engine(name, plan):
    """Netlist and Verilog agree on every register and memory; what is new is listed as new."""
    component, top = top_of(load_machine(name))
    source = to_json(component, top)
    bare, netlist = protected(source, top, {}), protected(source, top, plan)
    before, after = (
        {v.path: (v.kind, v.width, v.depth) for v in StateMap(n.json, n.verilog).variables()}
        for n in (bare, netlist)
    )
    assert len(before) > 300
    assert all(after[netlist.site(path)] == found for path, found in before.items())
    assert set(after) - {netlist.site(path) for path in before} == set(netlist.added)


def test_checksum_lane_of_an_npu():
    """Random programs of all layers: no alarm without a fault; with one in the operands or sums of
    the lanes no wrong result without the alarm, unless a pool takes maxima.
    """
    machine = load_machine("npu_u55_32")
    component, top = top_of(machine)
    netlist = protected(to_json(component, top), top, {"core.mac": "abft"})
    referee = Referee(machine, design=(netlist.json, netlist.verilog))
    lanes = [s for s in referee.sites.values() if LANE_REGISTER.fullmatch(s.path)]
    assert sum(s.width for s in lanes) == 4 * (8 * 8 + 20)
    rng, wrong, linear = np.random.default_rng(3), 0, 0
    for number, (_, work) in enumerate(islice(random_programs(rng, machine), 12)):
        golden = referee.golden(work)
        assert golden["corrected"] == golden["detected"] == 0
        text = disassemble(work)
        if "mode=max" in text or not ("CONV" in text or "POOL" in text):
            continue
        chosen = np.random.default_rng(number)
        faults = [_flip(chosen, lanes, golden) for _ in range(60)]
        outcomes = referee.run(work, faults, checkpoints=8)
        assert not (~outcomes["output"].astype(bool) & ~outcomes["detected"].astype(bool)).any()
        wrong, linear = wrong + int((outcomes["output"] == 0).sum()), linear + 1
    assert linear >= 6 and wrong >= 5


def _sites(referee: Referee, netlist, mechanism: str) -> list:
    """What a mechanism covers and what it has added, as sites of the referee."""
    kept = {netlist.site(path) for path, use in netlist.covered.items() if use == mechanism}
    suffix = {"tmr": "__tmr", "secded": "__check"}[mechanism]
    added = {path for path in netlist.added if suffix in path and "_read" not in path}
    assert kept and added
    return [site for path, site in referee.sites.items() if path in kept | added]


def _flip(rng: np.random.Generator, sites: list, golden) -> list[Action]:
    site = sites[rng.integers(len(sites))]
    word, bit = int(rng.integers(site.depth)), int(rng.integers(site.width))
    cycle = int(rng.integers(int(golden["cycles"])))
    return [Action("flip", site.path, word=word, mask=1 << bit, first=cycle)]
