# amaranth: UnusedElaboratable=no
"""Every bit of the protected state of small designs, hit in every one of some cycles."""

import sys
from pathlib import Path

import numpy as np
import pytest

from bankside.fault_injection.protect import MECHANISMS
from bankside.fault_injection.protect.mechanism import Mechanism, Target
from bankside.hw.lib.queue import Queue

sys.path.insert(0, str(Path(__file__).parent))

from protect_blocks import Mixed  # noqa: E402
from protect_harness import Bench, Harness, Site  # noqa: E402
from protect_promises import (  # noqa: E402
    correction_problems,
    detection_problems,
    singles,
    trial,
)

CYCLES, SEED = 24, 20
UPSETS = range(2, 20)
PLAN = {
    "parity": "parity", "narrow": {"mechanism": "parity", "bits": 3}, "tmr": ["tmr", "secded"],
    "dwc": "dwc", "bad": "pretend", "queue_parity": "parity", "queue_tmr": ["tmr", "secded"],
    "queue_dwc": "dwc",
}  # fmt: skip


def pretend(target: Target) -> None:
    """Three copies of a register of which one is read, a memory with a copy nobody reads."""
    module, cell = target.module, target.cell
    if cell["type"] == "$mem_v2":
        return
    width = len(cell["connections"]["Q"])
    for number in (1, 2):
        name = f"{target.name}__tmr{number}"
        module.copy_cell(cell, {"Q": module.wire(width, name, "0" * width)})
    bit = module.differ(cell["connections"]["Q"], cell["connections"]["Q"])
    target.alarm("corrected", bit)
    target.alarm("detected", bit)


@pytest.fixture(scope="module")
def bench() -> Bench:
    mixed = {name: (Mixed(), "bankside_mixed") for name in ("plain", *PLAN) if "queue" not in name}
    queues = {name: (Queue(5, 3), "bankside_queue") for name in ("queue", *PLAN) if "queue" in name}
    MECHANISMS.add("pretend", Mechanism(("registers", "memories"), pretend))
    try:
        return Bench(Harness(mixed | queues), PLAN)
    finally:
        del MECHANISMS._entries["pretend"]


@pytest.fixture(scope="module")
def stimuli(bench):
    rng = np.random.default_rng(SEED)
    return rng.integers(0, 2, (CYCLES, bench.widths[0])).astype(bool)


def plain_of(block: str) -> str:
    return "queue" if block.startswith("queue") else "plain"


def of_kind(bench: Bench, block: str, *kinds: str) -> list[Site]:
    return [s for s in bench.below(block) if s.kind in kinds]


def registers(bench: Bench, block: str) -> list[Site]:
    return of_kind(bench, block, "register")


def memories(bench: Bench, block: str) -> list[Site]:
    return of_kind(bench, block, "memory")


def exhaustive(bench: Bench, stimuli, block: str, sites: list[Site]):
    faults = [fault for site in sites for fault in singles(site, UPSETS)]
    assert len(faults) > 150
    return trial(bench, stimuli, block, plain_of(block), faults)


def test_without_faults_nothing_changes(bench):
    """Random stimuli, 3,000 cycles: the same outputs in every cycle, and no alarm."""
    rng = np.random.default_rng(SEED + 1)
    stimuli = rng.integers(0, 2, (3000, bench.widths[0])).astype(bool)
    runs = bench.run(stimuli, [[]])
    outputs = {b: runs.responses[0][:, columns] for b, columns in bench.harness.outputs.items()}
    for block, found in outputs.items():
        assert np.array_equal(found, outputs[plain_of(block)]), block
        assert found.std(axis=0).any(), "the stimuli do not move the block"
    assert not runs.corrected.any() and not runs.detected.any()


@pytest.mark.parametrize("block", ["tmr", "queue_tmr"])
def test_tmr_corrects_every_register_bit(bench, stimuli, block):
    found = exhaustive(bench, stimuli, block, registers(bench, block))
    assert found.unprotected.any()
    assert correction_problems(found, at_once=True) == []


@pytest.mark.parametrize("block", ["tmr", "queue_tmr"])
def test_secded_corrects_every_memory_bit(bench, stimuli, block):
    """Those of the check memory and of the registers of clocked read ports too."""
    found = exhaustive(bench, stimuli, block, of_kind(bench, block, "memory", "read"))
    assert found.unprotected.any() and found.runs.corrected.any()
    assert correction_problems(found, at_once=False) == []


@pytest.mark.parametrize("block", ["tmr", "queue_tmr"])
def test_secded_detects_double_upsets(bench, stimuli, block):
    """All pairs of bits of a granule: data and check bits, read before they are written again."""
    data, check = memories(bench, block)
    assert check.path == f"{data.path}__check"
    granules = 2 if block == "tmr" else 1  # lanes of 4 bits with a write enable each
    size, checks = data.width // granules, check.width // granules
    faults = []
    for granule in range(granules):
        bits = [(data, granule * size + i) for i in range(size)]
        bits += [(check, granule * checks + i) for i in range(checks)]
        pairs = [(a, b) for i, a in enumerate(bits) for b in bits[i + 1 :]]
        faults += [
            [(cycle, site, word, bit) for site, bit in pair]
            for cycle in UPSETS
            for word in range(data.depth)
            for pair in pairs
        ]
    found = trial(bench, stimuli, block, plain_of(block), faults)
    assert found.unprotected.any() and found.runs.detected.any()
    assert detection_problems(found, at_once=False) == []
    silent = found.unprotected & ~found.runs.detected.any(axis=1)
    assert not silent.any()


@pytest.mark.parametrize("block", ["parity", "narrow", "queue_parity"])
def test_parity_detects_every_register_bit_at_once(bench, stimuli, block):
    found = exhaustive(bench, stimuli, block, registers(bench, block))
    assert found.wrong.any()
    assert detection_problems(found, at_once=True) == []


@pytest.mark.parametrize("block", ["parity", "narrow", "queue_parity"])
def test_parity_detects_every_memory_bit_that_is_read(bench, stimuli, block):
    found = exhaustive(bench, stimuli, block, of_kind(bench, block, "memory", "read"))
    assert found.wrong.any() and not found.runs.detected.all()
    assert detection_problems(found, at_once=False) == []


def test_read_registers_are_among_what_is_hit(bench):
    """One clocked port in each copy, with its check bits where there are some."""
    found = {s.path: s.width for s in bench.sites.values() if s.kind == "read"}
    assert found["tmr.cells__raw1"] == 8 and found["tmr.cells__check_read1"] == 8
    assert found["parity.clocked"] == 8 and found["parity.cells__parity_read1"] == 2


def test_parity_of_groups(bench):
    """3 bits at most share a parity bit, in registers and in lanes of 4 bits."""
    widths = {site.path: site.width for site in bench.below("narrow")}
    assert widths["narrow.held"] == 8 and widths["narrow.held__parity"] == 3
    assert widths["narrow.cells"] == 8 and widths["narrow.cells__parity"] == 4


@pytest.mark.parametrize("block", ["dwc", "queue_dwc"])
def test_duplication_detects_every_bit_that_comes_out(bench, stimuli, block):
    found = exhaustive(bench, stimuli, block, bench.below(block))
    assert found.wrong.any()
    assert detection_problems(found, at_once=False) == []
    twin = exhaustive(bench, stimuli, block, bench.below(f"{block}__dwc"))
    assert not twin.wrong.any(), "the second copy drives an output"
    assert np.array_equal(twin.runs.detected.any(axis=1), found.wrong.any(axis=1))


def test_pretended_protection_is_noticed(bench, stimuli):
    """The checks above can fail: copies that nobody compares."""
    found = exhaustive(bench, stimuli, "bad", registers(bench, "bad"))
    assert any("wrong output" in p for p in correction_problems(found, at_once=True))
    assert any("alarm" in p for p in correction_problems(found, at_once=True))
    assert any("before any alarm" in p for p in detection_problems(found, at_once=True))
    stored = exhaustive(bench, stimuli, "bad", memories(bench, "bad"))
    assert any("wrong output" in p for p in correction_problems(stored, at_once=False))
    assert detection_problems(stored, at_once=False) != []
    assert not found.runs.corrected.any() and not found.runs.detected.any()
