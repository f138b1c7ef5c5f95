# amaranth: UnusedElaboratable=no
"""Programs with faults in lanes: the outcomes of the referee, from power-on and from checkpoints."""  # noqa: E501

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.fault_injection.protect import protected
from bankside.fault_injection.workloads_gpt import (
    GptAttention,
    GptProduct,
    attention,
    product,
)
from bankside.isa.machines import AnyMachine, load_machine
from bankside.isa.program import Program
from bankside.sim.elaborate import to_json
from bankside.sim.faults import END_DONE, END_ERROR, END_LIMIT, OUTCOME, Action
from bankside.sim.golden.array import ArrayGolden
from bankside.sim.golden.npu import NpuGolden
from bankside.sim.golden.pim import PimGolden
from bankside.sim.lanes.engine import LaneFaults
from bankside.sim.rtl.referee import Referee
from bankside.sim.rtl.tops import top_of

sys.path.insert(0, str(Path(__file__).parent))

from fault_cases import MACHINES, RandomFaults, program_of  # noqa: E402

GOLDEN = {"array": ArrayGolden, "npu": NpuGolden, "pim": PimGolden}
ENGINES = pytest.mark.parametrize("engine", MACHINES)
Faults = Sequence[Sequence[Action]]


@dataclass
class Pair:
    """Lanes and referee of a machine with the same program."""

    lanes: LaneFaults
    referee: Referee
    program: Program
    cycles: int

    @classmethod
    def of(
        cls, machine: AnyMachine, seed: int = 1, *, nets: Iterable[str] | None = None,
        design: tuple[Path, Path] | None = None, program: Program | None = None,
    ) -> "Pair":  # fmt: skip
        """nets: sites that the referee is compiled for."""
        program, netlist = program or program_of(machine, seed), design[0] if design else None
        lanes = LaneFaults(machine, program, netlist=netlist, lanes=32, nets=nets is not None)
        referee = Referee(machine, nets=nets or (), design=design)
        return cls(lanes, referee, program, lanes.golden.cycles)

    def faults(self, seed: int, count: int, kinds=("flop", "memory", "store", "port")) -> Faults:
        used = self.program.host_in.nbytes
        return RandomFaults(self.referee.sites, self.cycles, used, seed, kinds).take(count)


@pytest.fixture(scope="module")
def pairs() -> dict[str, Pair]:
    return {}


@pytest.fixture
def pair(engine, pairs) -> Pair:
    if engine not in pairs:
        pairs[engine] = Pair.of(load_machine(MACHINES[engine]))
    return pairs[engine]


def differences(faults: Faults, found: np.ndarray, expected: np.ndarray) -> list[str]:
    return [
        f"{list(actions)}: {dict(zip(OUTCOME.names, row, strict=True))}; expected: {other}"
        for actions, row, other in zip(faults, found, expected, strict=True)
        if row != other
    ]


# --- without faults -----------------------------------------------------------------------------


@ENGINES
def test_the_run_without_faults(pair):
    assert pair.lanes.golden.outcome == pair.referee.golden(pair.program)
    assert pair.lanes.run([()])[0] == pair.lanes.golden.outcome


@ENGINES
def test_what_a_program_delivers(pair, engine):
    """The machine in lanes computes what it should, not only what it always does."""
    result = GOLDEN[engine](pair.lanes.machine).run(pair.program)
    expected = np.ascontiguousarray(result.outputs).view(np.uint8).reshape(-1)
    image = pair.lanes.golden.image
    assert len(np.unique(expected)) > 8
    assert np.array_equal(image[: len(expected)], expected) and not image[len(expected) :].any()


@ENGINES
def test_the_same_sites(pair):
    shapes = [
        {(s.kind, s.path, s.width, s.depth) for s in sites.values() if s.kind != "net"}
        for sites in (pair.lanes.sites, pair.referee.sites)
    ]
    assert shapes[0] == shapes[1] and len(shapes[0]) > 300


# --- random faults ------------------------------------------------------------------------------


@ENGINES
def test_random_faults(pair):
    faults = pair.faults(11, 120)
    expected = pair.referee.run(pair.program, faults, checkpoints=5)
    assert not differences(faults, pair.lanes.run(faults), expected)
    for column, rare in (("output", 0), ("state", 0), ("counters", 0), ("end", END_LIMIT)):
        assert 3 <= (expected[column] == rare).sum() < 120, column
    assert (expected["first"] >= 0).sum() > 10


@ENGINES
def test_order_and_lanes_do_not_matter(pair):
    """Every fault of a batch has the outcome that it has alone, on as many groups as there are."""
    faults = pair.faults(12, 60)
    together = pair.lanes.run(faults)
    assert np.array_equal(pair.lanes.run(faults[::-1])[::-1], together)
    assert np.array_equal(np.concatenate([pair.lanes.run([f]) for f in faults]), together)


@ENGINES
def test_a_run_that_is_too_long_to_be_recorded(pair):
    """Sweeps compute it then: at once, or from the cycle on in which there was no more room."""
    assert pair.lanes.recorded
    faults = pair.faults(14, 300)
    expected = pair.lanes.run(faults)
    for room in (0, 100_000):
        lanes = LaneFaults(pair.lanes.machine, pair.program, lanes=32, recording_bytes=room)
        assert not lanes.recorded
        assert lanes.golden.outcome == pair.lanes.golden.outcome
        assert not differences(faults, lanes.run(faults), expected)
        lanes.close()
    assert LaneFaults(pair.lanes.machine, pair.program).recorded, "the limit of another one stays"
    with pytest.raises(ConfigError, match=r"recording_bytes is -1; expected 0 to 2\^64 - 1 bytes"):
        LaneFaults(pair.lanes.machine, pair.program, recording_bytes=-1)
    with pytest.raises(ConfigError, match="0 lanes; expected 1 or more"):
        LaneFaults(pair.lanes.machine, pair.program, lanes=0)


def other_bit(action: Action, width: int) -> Action:
    mask = action.mask << 1
    return replace(action, mask=mask & (1 << width) - 1 or 1)


def later(action: Action, _: int) -> Action:
    last = None if action.last is None else action.last + 1
    return replace(action, first=action.first + 1, last=last)


def other_value(action: Action, _: int) -> Action:
    return replace(action, value=None if action.value is None else action.value ^ action.mask)


@pytest.mark.parametrize("wrong", [other_bit, later, other_value], ids=lambda f: f.__name__)
@ENGINES
def test_wrong_faults_are_noticed(pair, wrong: Callable[[Action, int], Action]):
    """Lanes that hit something else than the referee: the comparison can fail."""
    faults = pair.faults(11, 120)
    sites = pair.lanes.sites
    twins = [[wrong(a, sites[a.site].width) for a in actions] for actions in faults]
    expected = pair.referee.run(pair.program, faults, checkpoints=5)
    assert len(differences(faults, pair.lanes.run(twins), expected)) > 3


def test_a_wrong_place_is_noticed(pairs, monkeypatch):
    """Lanes that write the limb next to that of the site."""
    pair = pairs.setdefault("array", Pair.of(load_machine(MACHINES["array"])))
    faults = pair.faults(13, 120, ["flop"])
    expected = pair.referee.run(pair.program, faults, checkpoints=5)
    right = pair.lanes._deeds

    def wrong(action: Action) -> list[tuple]:
        return [(*deed[:2], deed[2] + (2 if deed[5] else 64), *deed[3:]) for deed in right(action)]

    monkeypatch.setattr(pair.lanes, "_deeds", wrong)
    assert len(differences(faults, pair.lanes.run(faults), expected)) > 20


# --- protected designs --------------------------------------------------------------------------
PROTECTION = {"core.control": "parity", "core.control.front": ["tmr", "secded"]}


def test_alarms_of_a_protected_design():
    machine = load_machine(MACHINES["array"])
    top, name = top_of(machine)
    made = protected(to_json(top, name), name, PROTECTION)
    pair = Pair.of(machine, design=(made.json, made.verilog))
    assert pair.lanes.golden.outcome == pair.referee.golden(pair.program)
    faults = pair.faults(5, 200, ("flop", "flop", "memory", "port"))
    expected = pair.referee.run(pair.program, faults, checkpoints=3)
    assert not differences(faults, pair.lanes.run(faults), expected)
    alarms = expected["corrected"] + 2 * expected["detected"]
    assert np.bincount(alarms, minlength=4)[:3].min() > 8, alarms


@pytest.mark.slow  # a machine of its own
def test_many_upsets_of_one_bank():
    """Each has the outcome that it has alone, also where the bank's clock stands still: what its
    registers hand on to a later phase of the bank changes without any of them changing.
    """
    machine = load_machine("pim_tiny_ddr4")
    top, name = top_of(machine)
    made = protected(to_json(top, name), name, {"core": ["tmr", "secded"]})
    lanes = LaneFaults(machine, program_of(machine), netlist=made.json, lanes=32)
    bank = "core.rank.chip0.bank3.compute."
    flops = [s for p, s in lanes.sites.items() if p.startswith(bank) and s.kind == "flop"]
    rng = np.random.default_rng(1)
    faults = [
        [Action("flip", s.path, mask=1 << int(rng.integers(s.width)),
                first=int(rng.integers(lanes.golden.cycles)))]
        for s in flops for _ in range(3)
    ]  # fmt: skip
    alone = np.concatenate([lanes.run([fault]) for fault in faults])
    assert not differences(faults, lanes.run(faults), alone)
    assert len(faults) > 100 and alone["corrected"].sum() > 50


# --- language models ------------------------------------------------------------------------------
@pytest.mark.slow  # a machine of its own
@pytest.mark.parametrize("piece", ["product", "attention"])
def test_the_profile_for_language_models(piece):
    """A product with weights of 4 bits and attention of the shipped GPT, a row each."""
    machine = load_machine("npu_llm_32")
    if piece == "product":
        program = product(machine, GptProduct(product="value", form="w4a8", text="God"), Path())[0]
    else:
        program = attention(machine, GptAttention(text="God"), Path())[0]
    pair = Pair.of(machine, program=program)
    assert pair.lanes.golden.outcome == pair.referee.golden(program)
    result = NpuGolden(machine).run(program)
    expected = np.ascontiguousarray(result.outputs).view(np.uint8).reshape(-1)
    assert np.array_equal(pair.lanes.golden.image[: len(expected)], expected)
    faults = pair.faults(21, 96)
    expected = pair.referee.run(program, faults, checkpoints=5)
    assert not differences(faults, pair.lanes.run(faults), expected)
    assert (expected["output"] == 0).sum() > 5 and (expected["state"] == 1).sum() > 5
    twins = [[other_bit(a, pair.lanes.sites[a.site].width) for a in actions] for actions in faults]
    assert len(differences(faults, pair.lanes.run(twins), expected)) > 3


# --- many -------------------------------------------------------------------------------------------  # noqa: E501


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@ENGINES
def test_three_ways(engine, seed):
    """Lanes, referee from power-on, referee from a checkpoint: 2,100 faults each."""
    pair = Pair.of(load_machine(MACHINES[engine]), seed)
    faults = pair.faults(100 + seed, 2100)
    found = pair.lanes.run(faults)
    assert not differences(faults, found, pair.referee.run(pair.program, faults))
    assert not differences(faults, found, pair.referee.run(pair.program, faults, checkpoints=7))
    assert set(found["end"]) == {END_DONE, END_ERROR, END_LIMIT}


@pytest.mark.slow  # a model of its own, of the netlist cell by cell
@ENGINES
def test_nets(engine):
    machine = load_machine(MACHINES[engine])
    top, name = top_of(machine)
    lanes = LaneFaults(machine, program_of(machine), netlist=to_json(top, name), nets=True)
    nets = sorted(s.path for s in lanes.sites.values() if s.kind == "net")
    chosen = np.random.default_rng(4).choice(nets, 60, replace=False)
    pair = Pair.of(machine, nets=map(str, chosen))
    faults = pair.faults(5, 1500, ("net", "net", "flop", "port"))
    expected = pair.referee.run(pair.program, faults, checkpoints=7)
    assert not differences(faults, pair.lanes.run(faults), expected)
    forced = [
        row for actions, row in zip(faults, expected, strict=True)
        if {pair.lanes.sites[a.site].kind for a in actions} == {"net"}
    ]  # fmt: skip
    assert sum(row["first"] >= 0 for row in forced) > 10
