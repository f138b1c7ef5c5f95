# amaranth: UnusedElaboratable=no
"""Plans: blocks, precedence, names of what stays and what is new, refusals by name."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.fault_injection.protect import MECHANISMS, protected, read_plan
from bankside.fault_injection.protect.netlist import Module as NetlistModule
from bankside.fault_injection.protect.secded import check_bits, columns
from bankside.hw.lib.queue import Queue
from bankside.isa.machines import load_machine
from bankside.sim.rtl.tops import top_of

sys.path.insert(0, str(Path(__file__).parent))

from protect_blocks import Mixed  # noqa: E402
from protect_harness import TOP, Bench, Harness, read_registers, state  # noqa: E402
from protect_promises import detection_problems, singles, trial  # noqa: E402


def harness(*names: str) -> Harness:
    return Harness({name: (Mixed(), "bankside_mixed") for name in names})


def modules(netlist) -> dict:
    return json.loads(netlist.json.read_text())["modules"]


def test_longest_path_wins():
    """A block inside another, one register of it, and one that is taken out."""
    plan = {
        "": "parity", "a": ["tmr", "secded"], "a.counter": "none", "b.state": "tmr",
        "b.cells": "secded",
    }  # fmt: skip
    covered = protected(harness("a", "b", "c"), TOP, plan).covered
    assert covered["a.held"] == "tmr" and covered["a.cells"] == "secded"
    assert not any(path.startswith("a.counter") for path in covered)
    assert covered["b.state"] == "tmr" and covered["b.cells"] == "secded"
    assert covered["b.held"] == covered["b.counter.value"] == covered["c.cells"] == "parity"


def test_names_stay():
    """Every register and memory of the design is there, under its name or the one it is given."""
    bare = protected(harness("a", "b"), TOP, {})
    netlist = protected(harness("a", "b"), TOP, {"a": ["tmr", "secded"], "b": "parity"})
    before, after = (
        {path: rest for path, *rest in (*state(n), *read_registers(n))} for n in (bare, netlist)
    )
    assert len(before) == 12
    for path, found in before.items():
        assert after[netlist.site(path)][2:] == found[2:]  # width, depth, kind
    # An output port belongs to the voter.
    assert netlist.site("a.counter.value") == "a.counter.value__tmr0"
    assert netlist.site("a.state") == "a.state" and netlist.site("b.held") == "b.held"
    assert set(after) - {netlist.site(path) for path in before} == set(netlist.added)


def test_bodies_are_shared_by_instances_of_the_same_treatment():
    plain = modules(protected(harness("a", "b", "c"), TOP, {}))
    alike = modules(protected(harness("a", "b", "c"), TOP, {"": "parity"}))
    assert set(plain) == set(alike)
    found = modules(protected(harness("a", "b", "c"), TOP, {"a": "parity", "b": "parity"}))
    assert set(found) - set(plain) == {"bankside_mixed__p1", "bankside_mixed__counter__p1"}
    cells = found[TOP]["cells"]
    assert [cells[name]["type"] for name in "abc"] == [
        *["bankside_mixed__p1"] * 2,
        "bankside_mixed",
    ]


def test_top_has_both_alarms_whatever_the_plan():
    for plan in ({}, {"a": "tmr"}, {"a": "parity"}):
        ports = modules(protected(harness("a"), TOP, plan))[TOP]["ports"]
        assert all(ports[alarm]["direction"] == "output" for alarm in ("corrected", "detected"))


def test_lockstep_of_the_whole_design():
    """Every bit of both copies; the alarm comes in the cycle of the first wrong output."""
    bench = Bench(harness("a"), {"": "dcls"})
    rng = np.random.default_rng(4)
    stimuli = rng.integers(0, 2, (24, bench.widths[0])).astype(bool)
    faults = [f for site in bench.below("a") for f in singles(site, range(2, 20))]
    found = trial(bench, stimuli, "a", "a", faults)
    assert found.wrong.any() and np.array_equal(found.wrong, found.runs.detected)
    assert detection_problems(found, at_once=False) == []
    faults = [f for site in bench.below("a__dcls") for f in singles(site, range(2, 20))]
    twin = trial(bench, stimuli, "a", "a", faults)
    assert not twin.wrong.any() and np.array_equal(twin.runs.detected, found.wrong)


def test_hardened_cells_change_nothing():
    """The factors are in the plan, the netlist is that of no plan."""
    options = {"mechanism": "hardened", "rate_factor": 0.1, "area_factor": 1.7, "source": "data"}
    hard = protected(harness("a"), TOP, {"a": options})
    assert modules(hard) == modules(protected(harness("a"), TOP, {}))
    assert hard.plan["a"][0].options.rate_factor == 0.1


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 11, 16, 26, 32, 57, 64, 128])
def test_code_corrects_one_and_detects_two(bits):
    """All columns differ and are odd: two of them never add up to one, nor to nothing."""
    codes = [*columns(bits), *(1 << row for row in range(check_bits(bits)))]
    assert len(set(codes)) == bits + check_bits(bits)
    assert all(code.bit_count() % 2 == 1 and code < 1 << check_bits(bits) for code in codes)


def test_check_bits_are_the_known_ones():
    """(13,8), (22,16), (39,32), (72,64): Hsiao 1970, table 1."""
    assert [check_bits(bits) for bits in (8, 16, 32, 64)] == [5, 6, 7, 8]
    weights = sorted(code.bit_count() for code in columns(64))
    assert weights == [3] * 56 + [5] * 8


REFUSED = {
    "unknown mechanism": ({"a": "tmrr"}, "'a': unknown protection mechanism 'tmrr'.*'tmr'"),
    "no mechanism": ({"a": 3}, "'a': 3 is no mechanism; expected one of parity, secded"),
    "unknown option": ({"a": {"mechanism": "parity", "bit": 3}}, "bit: Extra.*options: bits"),
    "no factor": ({"a": "hardened"}, "rate_factor: Field required"),
    "both": ({"a": ["tmr", "tmr"]}, "tmr and tmr are both for registers"),
    "unknown block": ({"b": "tmr"}, "'b': the top holds no 'b'.*instance, register or memory"),
    "near": ({"a.count": "tmr"}, "'a.count': a holds no 'count'.*did you mean 'counter'"),
    "nothing there": ({"a.counter": "secded"}, "'a.counter': there is nothing that secded could"),
    "lockstep below": ({"a": "dcls"}, "dcls is for the whole design; use dwc"),
    "whole by instance": ({"": "dwc"}, "dwc needs an instance; use dcls"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    plan, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message):
        protected(harness("a"), TOP, plan)


def test_every_mechanism_loads_and_says_what_it_raises():
    for name in MECHANISMS:
        mechanism = MECHANISMS.get(name)
        assert set(mechanism.alarms) <= {"corrected", "detected"} and mechanism.kinds
        assert mechanism.alarms or name == "hardened"


def test_plan_from_yaml_like_data():
    plan = read_plan({"a": ["secded", {"mechanism": "parity", "bits": 8}], "b": "none"})
    assert [use.name for use in plan["a"]] == ["secded", "parity"] and plan["b"] == ()
    assert plan["a"][1].options.bits == 8


def test_gates_of_clocks_stay_as_they_are():
    """A voter between a register and the clock that it stops would be logic in a clock."""
    component, top = top_of(load_machine("pim_tiny_ddr4"))
    netlist = protected(component, top, {"core": "tmr"})
    gates = [f"core.rank.chip{n}.running" for n in (0, 1)]
    cells = [
        (kind, cell)
        for kind, data in modules(netlist).items()
        for cell in data["cells"].values()
        if NetlistModule(kind, data).holds_clock(cell)
    ]
    assert cells and all(cell["type"] == "$dff" for _, cell in cells)
    assert not set(gates) & set(netlist.covered)
    assert not [path for path in netlist.added if path.startswith(tuple(gates))]
    # Registers beside them are tripled.
    beside = {path.rpartition(".")[0] for path in netlist.covered}
    assert {gate.rpartition(".")[0] for gate in gates} <= beside


def test_port_named_like_an_alarm():
    design = Queue(2, 2)
    path = protected(design, "bankside_queue", {}).json
    with pytest.raises(ConfigError, match="has a signal 'corrected' of its own"):
        protected(path, "bankside_queue", {})
