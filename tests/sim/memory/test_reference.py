"""The compiled controllers against plain ones that visit every clock, command by command."""

import importlib.util
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bankside.isa.dram.table import load_standard
from bankside.sim.dram_replay import replay
from bankside.sim.memory.kernel import COMMANDS, other_rank
from bankside.sim.memory.model import Memory
from bankside.sim.memory.requests import Requests
from bankside.sim.memory.summary import commands


def _sibling(name):
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = _sibling("reference_memory")
STANDARDS = ("ddr4_2400", "ddr4_3200", "ddr5_4800")
SHARED = [
    {"policy": "fr_fcfs"}, {"policy": "fifo"}, {"policy": "ramulator2"},
    {"policy": "ramulator2_row_hit"}, {"close_row": "row_cap", "row_cap": 2},
    {"read_queue": 3, "write_queue": 5, "write_high": 0.6, "write_low": 0.0},
    {"write_high": 1.0, "write_queue": 2}, {"rank_switch": "dramsim3", "switch_cycles": 1},
]  # fmt: skip
PER_BANK = [
    {"policy": "dramsim3"}, {"policy": "dramsim3", "rest": "drained", "row_cap": 1},
    {"policy": "dramsim3", "close_row": "ready", "merge_reads": "false", "bank_queue": 2},
    {"policy": "dramsim3", "rank_switch": "bus", "switch_cycles": 3, "write_queue": 4},
]  # fmt: skip


def random_requests(memory, seed, count=260, **fixed):
    """A mix of hot rows, streams, repeated bursts, bursts of arrivals and pauses.

    `fixed` values for rows, columns, banks, writes, pause replace the random choice.
    """
    rng = random.Random(seed)
    g = memory.standard.geometry
    chosen = {
        "rows": rng.choice((2, 3, 40)), "columns": rng.choice((2, 8, g.columns)),
        "banks": rng.choice((1, 3, memory.standard.banks)),
        "writes": rng.choice((0.0, 0.3, 0.5, 1.0)), "pause": rng.choice((0.0, 0.02, 0.2)),
    } | fixed  # fmt: skip
    columns, banks, writes, pause = (chosen[k] for k in ("columns", "banks", "writes", "pause"))
    rows = [rng.randrange(g.rows) for _ in range(chosen["rows"])]
    fields = {name: [] for name in ("channel", "rank", "bankgroup", "bank", "row", "column")}
    arrival, arrivals, kinds = 0, [], []
    for _ in range(count):
        bank = rng.randrange(banks)
        values = (0, rng.randrange(memory.ranks), bank % g.bank_groups, bank // g.bank_groups,
                  rng.choice(rows), rng.randrange(columns))  # fmt: skip
        for name, value in zip(fields, values, strict=True):
            fields[name].append(value)
        arrival += rng.randrange(2000) if rng.random() < pause else 0
        arrivals.append(arrival)
        kinds.append(rng.random() < writes)
    arrays = {name: np.array(value) for name, value in fields.items()}
    return Requests.from_fields(arrays, g.banks_per_group, write=kinds, arrival=arrivals)


def differences(memory, requests, twin=None, **options):
    """First differences between the compiled controller and the plain one (of memory `twin`)."""
    result = memory.run(requests, trace=True, **options)
    twin = twin or memory
    table = other_rank(twin.standard, twin.policy)
    expected = reference.plain(twin, requests, other_rank=table, **options)
    found = [
        (clock, COMMANDS[command], rank, bank, row, column)
        for clock, row, column, command, rank, bank, _ in result.trace[0].tolist()
    ]
    count = len(requests)
    answers = {
        "commands": (found, expected.trace),
        "accepted": (
            result.accepted.tolist(),
            [expected.accepted.get(i, -1) for i in range(count)],
        ),
        "finished": (
            result.finished.tolist(),
            [expected.finished.get(i, -1) for i in range(count)],
        ),
    }
    return {
        name: next(((i, a, b) for i, (a, b) in enumerate(zip(x, y, strict=False)) if a != b), None)
        or (len(x), len(y))
        for name, (x, y) in answers.items()
        if x != y
    }


def random_case(seed):
    """Memory, requests and limit of outstanding requests."""
    rng = random.Random(1000 + seed)
    choice = rng.choice(PER_BANK if seed % 3 == 0 else SHARED)
    refresh = {} if rng.random() < 0.8 else {"refresh": "none"}
    memory = Memory.of(rng.choice(STANDARDS), ranks=rng.choice((1, 2, 4)), **{**choice, **refresh})
    return memory, random_requests(memory, seed), rng.choice((None, None, 1, 4))


CASES = range(36)


@pytest.mark.parametrize("seed", CASES)
def test_compiled_equals_plain(seed):
    memory, requests, outstanding = random_case(seed)
    assert differences(memory, requests, max_outstanding=outstanding) == {}, memory


def test_the_cases_meet_everything():
    """Every command and every special end of a request, with each kind of queue."""
    seen = {"shared": Counter(), "per_bank": Counter()}
    for seed in CASES:
        memory, requests, outstanding = random_case(seed)
        result = memory.run(requests, max_outstanding=outstanding)
        seen[memory.policy.queues].update(result.counts)
    never = {"shared": {"merged"}, "per_bank": {"PREA"}}
    for queues, counts in seen.items():
        assert {name for name, count in counts.items() if not count} == never[queues], counts


@pytest.mark.parametrize("choice", [*SHARED[:4], PER_BANK[0]], ids=str)
def test_across_refreshes(choice):
    """Requests that arrive around every refresh of two ranks."""
    memory = Memory.of("ddr4_3200", ranks=2, **choice)
    requests = random_requests(memory, 7, count=300)
    requests.records["arrival"] = np.sort(
        np.random.default_rng(3).integers(0, 4, 300) * 12480 - 30
    ).clip(0)
    assert differences(memory, requests) == {}
    assert memory.run(requests).counts["REF"] >= 4


@pytest.mark.parametrize(
    "choice, changed",
    [
        ({"policy": "dramsim3"}, {"policy": "dramsim3", "row_cap": 5}),
        ({"policy": "dramsim3"}, {"policy": "dramsim3", "rd_to_wr": 2}),
        ({"policy": "ramulator2"}, {"policy": "ramulator2_row_hit"}),
        ({}, {"write_low": 0.3}),
        ({}, {"switch_cycles": 1}),
        ({}, {"read_queue": 31}),
    ],
    ids=str,
)
def test_the_comparison_notices_another_policy(choice, changed):
    memory, twin = (Memory.of("ddr4_3200", ranks=2, **c) for c in (choice, changed))
    busy = {"rows": 2, "columns": 128, "banks": 16, "pause": 0.0}
    kinds = [busy | {"writes": writes} for writes in (0.0, 0.4)]
    streams = [random_requests(memory, seed, 300, **kind) for seed in (1, 2) for kind in kinds]
    assert any(differences(memory, requests, twin=twin) for requests in streams)


def mixed_run(standard, policy, **changes):
    """Dense reads and writes over two refresh intervals."""
    memory = Memory.of(standard, policy=policy, address_map="hashed", **changes)
    rng = np.random.default_rng(5)
    count = 2400
    bursts = rng.integers(0, 1 << 14, count) + (np.arange(count) // 800 << 20)
    writes = np.arange(count) // 40 % 3 == 0
    requests = memory.requests(bursts * memory.burst_bytes, write=writes)
    requests.records["arrival"][count // 2 :] = memory.standard.params["nREFI"] - 200
    return memory, memory.run(requests, trace=True)


@pytest.mark.parametrize("policy", ["fr_fcfs", "fifo", "ramulator2", "dramsim3"])
@pytest.mark.parametrize("standard", STANDARDS)
def test_every_command_is_legal_and_dense(standard, policy):
    memory, result = mixed_run(standard, policy)
    report = replay(commands(result), memory.standard, execution="rules")
    assert report.refused == 0 and report.commands > 4000
    assert report.timing_bound > 1000


def test_every_command_is_legal_in_rtl():
    memory, result = mixed_run("ddr4_3200", "fr_fcfs")
    assert memory.standard == load_standard("ddr4_3200")
    report = replay(list(commands(result))[:3000], memory.standard, execution="both")
    assert report.clean and report.accepted == 3000, report


@pytest.mark.parametrize(
    "name", ["nRCD", "nRP", "nRAS", "nCCD_S", "nCCD_L", "nCCD_L_WR", "nRRD_S", "nRRD_L", "nFAW",
             "nRTP", "nRTW", "nWTR_S", "nWTR_L", "nWR", "nRFC"]
)  # fmt: skip
def test_the_replay_notices_a_raised_timing(name):
    """So each of these rows is met tightly by the controller somewhere."""
    memory, result = mixed_run("ddr4_3200", "fr_fcfs")
    raised = {name: memory.standard.params[name] + 1}
    mutant = load_standard("ddr4_3200", params=raised)
    assert replay(commands(result), mutant, execution="rules").refused > 0


@pytest.mark.parametrize("standard", ["ddr4_3200", "ddr5_4800"])
def test_ranks_share_the_bus(standard):
    """Bursts of two ranks keep the stated gap on the data bus, and some keep no more."""
    memory, std = Memory.of(standard, ranks=2), load_standard(standard)
    result = memory.run(random_requests(memory, 1, 900), trace=True)
    bursts, slots = [], []
    for c in commands(result):
        slots.append((c.clock, c.clock + std.command(c.command).cycles))
        if c.command in ("RD", "WR"):
            start = c.clock + std.params["nCL" if c.command == "RD" else "nCWL"]
            bursts.append((start, start + std.params["nBL"], c.rank))
    assert all(a[1] <= b[0] for a, b in zip(slots, slots[1:], strict=False))
    bursts.sort()
    gaps = [b[0] - a[1] for a, b in zip(bursts, bursts[1:], strict=False) if a[2] != b[2]]
    assert min(gaps) == memory.policy.switch_cycles
    assert all(b[0] >= a[1] for a, b in zip(bursts, bursts[1:], strict=False))


def test_rank_switch_of_the_simulators():
    """Ref: facts of both simulators: DRAMsim3 tRTRS 1, Ramulator 2 nCS 2 (DDR4-3200)."""
    ours = Memory.of(policy="ramulator2", ranks=2)
    theirs = {("RD", "RD"): 6, ("RD", "WR"): 6, ("WR", "WR"): 4}  # WR to RD: 0
    assert other_rank(ours.standard, ours.policy) == theirs
    ours = Memory.of(policy="dramsim3", ranks=2)
    theirs = {("RD", "RD"): 5, ("RD", "WR"): 11, ("WR", "WR"): 4}  # WR to RD: -1
    assert other_rank(ours.standard, ours.policy) == theirs
