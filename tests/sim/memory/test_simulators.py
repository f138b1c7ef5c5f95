"""The reference runs of DRAMsim3 and Ramulator 2: every total, count, latency and golden trace."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from bankside.isa.dram.trace import write_trace
from bankside.sim.memory.model import Memory
from bankside.sim.memory.requests import Requests
from bankside.sim.memory.summary import commands

REF = Path(os.environ.get("BANKSIDE_REF", "../shared/ref")) / "dram"
needs_ref = pytest.mark.skipif(not REF.is_dir(), reason=f"no {REF}; set BANKSIDE_REF")
STEMS = {"a2": "a2_seq_read_mapB", "b": "b_rand_read_lcg12345", "c2": "c2_newrow_1bank",
         "c3": "c3_pingpong_1outstanding"}  # fmt: skip
SIMULATORS = {"dramsim3": "dramsim3_29817593", "ramulator2": "ramulator2_c5b1c3a4"}
MAP_A = "row16 bank2 bankgroup2 column7 offset6"
COUNT = 10_000


def memory_of(policy, refresh):
    """The memory of the reference runs; `refresh` is a key of expected.json."""
    changes = {} if refresh == "refresh" else {"refresh": "none"}
    return Memory.of("ddr4_3200", policy=policy, address_map=MAP_A, **changes)


def workload(name, memory):
    """The requests, made from their description (no file needed)."""
    i, zero = np.arange(COUNT), np.zeros(COUNT, np.int64)
    fields = dict.fromkeys(("channel", "rank", "bankgroup", "bank", "row", "column"), zero)
    if name == "a2":
        fields |= {"bankgroup": i & 3, "column": i >> 2 & 127, "bank": i >> 9 & 3, "row": i >> 11}
    elif name == "c2":
        fields |= {"row": i}
    elif name == "c3":
        fields |= {"row": i & 1, "column": i >> 1 & 127}
    else:
        x, bursts = 12345, []
        for _ in range(COUNT):
            x = (1664525 * x + 1013904223) % 2**32
            bursts.append(x >> 5)
        return memory.requests(np.array(bursts) * 64)
    return Requests.from_fields(fields, 4)


def run(name, policy, refresh, **options):
    memory = memory_of(policy, refresh)
    limit = 1 if name == "c3" else None
    return memory.run(workload(name, memory), max_outstanding=limit, **options)


@needs_ref
@pytest.mark.parametrize("name", STEMS)
def test_workloads_are_those_of_the_files(name):
    memory = memory_of("fr_fcfs", "refresh")
    made = workload(name, memory)
    for suffix in ("vec.csv", "trc"):
        read = memory.read(REF / "requests" / f"{STEMS[name]}.{suffix}")
        assert (read.records == made.records).all() and (read.channel == made.channel).all()


@needs_ref
@pytest.mark.parametrize("refresh", ["no_refresh", "refresh"])
@pytest.mark.parametrize("name", STEMS)
@pytest.mark.parametrize("policy", SIMULATORS)
def test_equal_to_the_simulator(policy, name, refresh):
    expected = json.loads((REF / "expected.json").read_text())[SIMULATORS[policy]][name][refresh]
    result = run(name, policy, refresh)
    assert result.cycles == expected["total_cycles"]
    counted = {key: result.counts[key] for key in ("row_hits", "ACT", "PRE", "PREA", "REF")}
    assert counted == {key: expected[key] for key in counted}
    assert result.latency().mean() == pytest.approx(expected["avg_read_latency"], abs=0.051)


@needs_ref
@pytest.mark.parametrize("refresh", ["no_refresh", "refresh"])
@pytest.mark.parametrize("name, tolerance", [("a2", 0.005), ("b", 0.02)])
def test_own_policy_is_near_both(name, tolerance, refresh):
    expected = json.loads((REF / "expected.json").read_text())
    cycles = run(name, "fr_fcfs", refresh).cycles
    for simulator in SIMULATORS.values():
        assert cycles == pytest.approx(
            expected[simulator][name][refresh]["total_cycles"], tolerance
        )


@needs_ref
@pytest.mark.parametrize("name", ["c2", "c3"])
@pytest.mark.parametrize("policy, end", [("dramsim3", "trace"), ("ramulator2", "csv")])
def test_golden_traces_byte_for_byte(policy, end, name, tmp_path):
    result = run(name, policy, "no_refresh", trace=True)
    write_trace(tmp_path / "t", commands(result), result.memory.standard, style=policy)
    golden = gzip.decompress((REF / "golden" / f"{STEMS[name]}.{policy}.{end}.gz").read_bytes())
    assert (tmp_path / "t").read_bytes() == golden


@pytest.mark.parametrize("policy", ["fr_fcfs", "fifo", "dramsim3", "ramulator2"])
@pytest.mark.parametrize("name", ["c2", "c3"])
def test_row_cycle_bound(name, policy):
    """2 + 9,999 x tRC + tRCD + CL + BL/2, whatever the policy."""
    assert run(name, policy, "no_refresh").cycles == 2 + 9_999 * 74 + 22 + 22 + 4 == 739_976


@pytest.mark.parametrize("policy", ["fr_fcfs", "fifo", "dramsim3", "ramulator2"])
def test_bounds(policy):
    assert run("a2", policy, "no_refresh").cycles >= COUNT * 4  # tCCD_S
    assert run("b", policy, "no_refresh").cycles >= COUNT * 34 / 4  # tFAW
    for name in STEMS:
        assert run(name, policy, "refresh").cycles > run(name, policy, "no_refresh").cycles
