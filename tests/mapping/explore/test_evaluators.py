"""Evaluators give what the models below them give; what is not possible is told, not raised."""

import numpy as np
import pytest

from bankside.config_array import ArrayHardware
from bankside.isa.array_machine import ArrayMachine
from bankside.mapping.explore.evaluate import EVALUATORS, FAILED, INFEASIBLE, OK, Task
from bankside.mapping.lower_array import ArrayKernels, AttentionShape
from bankside.mapping.map_cli import mapped
from bankside.mapping.workload.batch import Batch
from bankside.sim.timing.array import ArrayTiming


def task(evaluator: str, base: str, **workload: object) -> Task:
    return Task(evaluator, EVALUATORS.get(evaluator).load(base), workload, ".")


def test_array_cycles_are_those_of_the_timing_model() -> None:
    point = {"array.rows": 6, "array.columns": 4, "workload.keys": 40}
    found = task("attention_timing", "array_4x4", queries=9, keys=1, e=16).evaluate(point)
    config = ArrayHardware.parse(
        "{name: x, engine: array, array: {rows: 6, columns: 4, bus_bytes: 8}}"
    )
    machine = ArrayMachine.of(config)
    shape = AttentionShape(queries=9, keys=40, heads=1, kv_heads=1, e=16, f=16)
    rng = np.random.default_rng(0)
    q, k, v = (rng.integers(0, 0x3C00, (1, n, 1, 16)).astype(np.uint16) for n in (9, 40, 40))
    programs = ArrayKernels(machine, shape).programs(q, k, v)
    cycles = sum(ArrayTiming(machine).run(program).cycles for program in programs)
    assert found.status == OK, found.reason
    assert found.metrics["cycles"] == cycles
    assert found.metrics["multipliers"] == 24
    a = config.array
    assert found.metrics["buffer_bytes"] == (
        6 * 8 * a.row_words + 4 * 8 * a.column_words + 4 * 2 * 4 * a.lane_words
    )


def test_pim_takes_longer_with_more_keys() -> None:
    pim = task("attention_timing", "pim_tiny_ddr4", keys=16, heads=1, e=16)
    short, long = (pim.evaluate({"workload.keys": n}) for n in (16, 64))
    assert short.status == OK and long.status == OK, (short.reason, long.reason)
    assert long.metrics["cycles"] > short.metrics["cycles"]
    assert pim.evaluate({"workload.queries": 2}).status == INFEASIBLE


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        ({"array.bus_bytes": 24}, "not a power of two"),
        ({"array.rows": 1}, "array.rows"),
        # Neither keys nor scores are at fault: the columns hold no two queries and two results.
        ({"array.bus_bytes": 16, "array.column_words": 16, "workload.e": 64}, "use shorter heads"),
    ],
)
def test_impossible_machines_are_infeasible(point: dict, reason: str) -> None:
    found = task("attention_timing", "array_16x16", queries=4, keys=32).evaluate(point)
    assert found.status == INFEASIBLE and reason in found.reason, found.reason


def test_map_gives_what_bankside_map_gives() -> None:
    work = {"model": "llama-3-70b", "context": 8192, "batch": 4}
    found = task("map", "l3", **work).evaluate({"workload.batch": 16})
    asked = mapped("llama-3-70b", "l3", None, Batch.decode(16, 8192), context=8192)
    assert found.metrics["seconds"] == asked["seconds"]
    assert found.metrics["tokens_per_s"] == asked["tokens_per_s"]
    assert found.metrics["requests"] == asked["capacity"]["requests"]


def test_map_point_changes_the_system_and_may_not_fit() -> None:
    system = task("map", "l3", model="llama-3-70b", context=32768, batch=128)
    few, many = (system.evaluate({"dimm_pim.channels": n}).metrics for n in (8, 16))
    assert few["seconds"] > many["seconds"]
    too_many = system.evaluate({"workload.batch": 10_000})
    assert too_many.status == INFEASIBLE and "do not fit" in too_many.reason


def test_breakage_becomes_a_failure_with_its_place(tmp_path) -> None:
    (tmp_path / "own.py").write_text("def f(point, workload):\n    return point['x'] / 0\n")
    found = Task("own:f", None, {}, str(tmp_path)).evaluate({"x": 1})
    assert found.status == FAILED and found.reason.endswith("(own.py:2)")
    (tmp_path / "other.py").write_text("def f(point, workload):\n    return 3\n")
    found = Task("other:f", None, {}, str(tmp_path)).evaluate({"x": 1})
    assert found.status == FAILED and "name -> number" in found.reason
