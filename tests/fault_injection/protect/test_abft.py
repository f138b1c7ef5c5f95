# amaranth: UnusedElaboratable=no
"""The checksum lane beside the MAC lanes of an NPU: what it sees, what it cannot see."""

import sys
from pathlib import Path

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.fault_injection.protect import protected
from bankside.hw.lib.queue import Queue
from bankside.isa.machines import load_machine
from bankside.sim.elaborate import to_json
from bankside.sim.rtl.tops import top_of

sys.path.insert(0, str(Path(__file__).parent))

from protect_blocks import Lanes  # noqa: E402
from protect_harness import TOP, Bench, Harness  # noqa: E402
from protect_promises import detection_problems, singles, trial  # noqa: E402

MACHINE = load_machine("npu_u55_32")
KIND = "bankside_lanes"
CYCLES, SEED = 40, 3


@pytest.fixture(scope="module")
def bench() -> Bench:
    blocks = {name: (Lanes(MACHINE), KIND) for name in ("plain", "abft")}
    return Bench(Harness(blocks), {"abft": "abft"})


def stimuli(bench: Bench, seed: int, cycles: int, maximum: float = 0.0):
    """Random weights and activations; accumulators 0 to 3, set first and mostly added to then."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (cycles, bench.widths[0])).astype(bool)
    ports = bench.harness.inputs[KIND]
    for port in ("address", "read_address"):
        bits[:, ports[port].start + 2 : ports[port].stop] = False
    shares = {"first": 0.2, "maximum": maximum, "read": 0.8, "accumulate": 0.8, "load": 0.8}
    for port, share in shares.items():
        bits[:, ports[port]] = (rng.random(cycles) < share)[:, None]
    bits[:4, ports["first"]] = bits[:4, ports["accumulate"]] = True
    bits[:4, ports["maximum"]] = False
    bits[:4, ports["address"].start : ports["address"].start + 2] = [
        [i & 1, i >> 1] for i in range(4)
    ]
    return bits


def value(bench: Bench, bits, port: str):
    found = bits[:, bench.harness.inputs[KIND][port]]
    return found @ (1 << np.arange(found.shape[1]))


@pytest.mark.parametrize("maximum", [0.0, 0.3])
def test_without_faults_no_alarm(bench, maximum):
    """3,000 cycles; with MAX too, which makes an accumulator not comparable until it is set."""
    runs = bench.run(stimuli(bench, SEED, 3000, maximum), [[]])
    assert not runs.detected.any() and not runs.corrected.any()
    plain, abft = (runs.responses[0][:, bench.harness.outputs[b]] for b in ("plain", "abft"))
    assert np.array_equal(plain, abft) and plain.std(axis=0).all()


def test_every_bit_of_operands_products_and_tiles(bench):
    """No wrong accumulator leaves before the alarm: every bit of these, in every third cycle."""
    bits = stimuli(bench, SEED + 1, CYCLES)
    sites = [s for s in bench.below("abft.lanes0") if s.kind != "read"]
    sites = [s for s in sites if "accumulators" not in s.path]
    assert sum(s.width * s.depth for s in sites) == 8 * 8 + 20 + 8 * 64
    faults = [f for site in sites for f in singles(site, range(4, CYCLES, 3))]
    found = trial(bench, bits, "abft", "plain", faults)
    assert found.wrong.any(axis=1).sum() > 1000
    assert detection_problems(found, at_once=False) == []


def test_accumulators_are_checked_when_they_are_added_to(bench):
    """Detected exactly if the next write of the accumulator adds to what was hit."""
    bits = stimuli(bench, SEED + 2, CYCLES)
    site = next(s for s in bench.below("abft.lanes1") if s.path.endswith("accumulators"))
    faults = [f for f in singles(site, range(4, CYCLES)) if f[0][2] < 4]
    found = trial(bench, bits, "abft", "plain", faults)
    writes, first = value(bench, bits, "accumulate"), value(bench, bits, "first")
    at, expected = value(bench, bits, "address"), []
    for [(cycle, _, word, _)] in faults:
        later = np.flatnonzero((writes == 1) & (at == word))
        later = later[later >= cycle]
        expected.append(len(later) > 0 and first[later[0]] == 0)
    assert 0 < sum(expected) < len(expected)
    assert np.array_equal(found.runs.detected.any(axis=1), expected)


def test_the_checksum_lane_is_hardware_that_can_be_hit_too(bench):
    """An upset in it changes nothing but the alarm."""
    bits = stimuli(bench, SEED + 3, CYCLES)
    sites = [s for s in bench.below("abft.lanes__abft") if s.kind == "register"]
    assert {s.path.rpartition(".")[2] for s in sites} == {"sum", *(f"w{j}" for j in range(8))}
    faults = [f for site in sites for f in singles(site, range(4, CYCLES, 5))]
    found = trial(bench, bits, "abft", "plain", faults)
    assert not found.wrong.any()
    assert found.runs.detected.any(axis=1).sum() > len(faults) // 4


def test_cut_alarm_is_noticed(bench):
    """The checks of this file can fail: the lanes of the unprotected block raise no alarm."""
    bits = stimuli(bench, SEED + 1, CYCLES)
    site = next(s for s in bench.below("plain.lanes0") if s.path.endswith("sum0"))
    found = trial(bench, bits, "plain", "plain", singles(site, range(4, CYCLES)))
    assert detection_problems(found, at_once=False) != []


@pytest.mark.slow  # elaborates the whole machine
def test_in_the_npu():
    """Four lanes of the 32-MAC machine share one checksum lane."""
    top, name = top_of(MACHINE)
    netlist = protected(to_json(top, name), name, {"core.mac": "abft"})
    assert netlist.covered == {"core.mac": "abft"}
    assert netlist.added == ("core.mac.lanes__abft",)


def test_refused_where_it_cannot_be_exact():
    scaled = Lanes(load_machine("npu_llm_32"))
    with pytest.raises(ConfigError, match="llm profile scale each tile"):
        protected(Harness({"mac": (scaled, KIND)}), TOP, {"mac": "abft"})
    with pytest.raises(ConfigError, match="no MAC lanes beside each other"):
        protected(Harness({"queue": (Queue(4, 4), "bankside_queue")}), TOP, {"queue": "abft"})
