"""Evaluators give what the models below them give; what is not possible is told, not raised."""

from pathlib import Path

import numpy as np
import pytest

from bankside.config_array import ArrayHardware
from bankside.errors import ConfigError
from bankside.isa.array_machine import ArrayMachine
from bankside.mapping.explore.evaluate import EVALUATORS, FAILED, INFEASIBLE, OK, Task
from bankside.mapping.explore.run import judge
from bankside.mapping.explore.space import load_space
from bankside.mapping.lower_array import ArrayKernels, AttentionShape
from bankside.mapping.map_cli import mapped
from bankside.mapping.serving.experiment import load_experiment, run
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


# --- hardware inside a base -------------------------------------------------------------------


def test_geometry_follows_the_dram_standard() -> None:
    """A DDR5 rank has 8 bank groups of 2 and slices of 8 elements, not DDR4's."""
    changed = task("attention_timing", "dimm_pim_ddr4", keys=4096, e=64)
    other = task("attention_timing", "dimm_pim_ddr5", keys=4096, e=64)
    found = changed.evaluate({"dram.standard": "ddr5_4800"})
    assert found.status == OK, found.reason
    assert found.metrics == other.evaluate({}).metrics
    # Geometry that was chosen is kept: 128 columns are not those of DDR5.
    base = EVALUATORS.get("attention_timing").load("dimm_pim_ddr4")
    base["dram"]["columns"] = 64
    assert "dram.columns" not in Task("attention_timing", base, {}, ".").followers["dram.standard"]


def test_options_that_the_base_does_not_name() -> None:
    pim = task("attention_timing", "dimm_pim_ddr4", keys=4096, e=64)
    pim.check_path("dram.options.trfc_ns", "350")
    with pytest.raises(ConfigError, match="no such key"):
        pim.check_path("dram.options.trfc", "350")
    short, long = (pim.evaluate({"dram.options.trfc_ns": ns}) for ns in ("350", "360"))
    assert short.status == OK and short.metrics["cycles"] < long.metrics["cycles"]


def test_hardware_inside_a_system() -> None:
    """Its ranks' DRAM, its buffers and its array change what a pass takes."""
    ranks = task("map", "l3", model="llama-3-70b", context=32768, batch=128)
    ddr4, ddr5 = (ranks.evaluate({"dimm_pim.hardware.dram.standard": name})
                  for name in ("ddr4_3200", "ddr5_4800"))  # fmt: skip
    assert ddr4.metrics == ranks.evaluate({}).metrics
    assert ddr5.metrics["seconds"] < ddr4.metrics["seconds"]
    named = ranks.evaluate({"dimm_pim.hardware": "dimm_pim_ddr5"})
    assert named.metrics == ddr5.metrics
    small = ranks.evaluate({"dimm_pim.hardware.pim.score_words": 3})
    assert small.status == INFEASIBLE
    array = task("map", "fusemax", model="gpt2", context=1024, prefill=1024)
    few, many = (array.evaluate({"array.hardware.array.rows": n}) for n in (16, 128))
    assert few.metrics["seconds"] > many.metrics["seconds"]


def test_another_gpu_has_its_own_links() -> None:
    system = task("map", "dgx-a100", model="llama-3-8b")
    changed, _ = system._changed({"gpu": "h100-sxm"})
    assert "host_link" not in changed and "gpu_link" not in changed
    found, known = (system.evaluate({"gpu": "h100-sxm"}), task(
        "map", "dgx-h100", model="llama-3-8b").evaluate({}))  # fmt: skip
    assert found.status == OK, found.reason
    assert found.metrics["seconds"] == known.metrics["seconds"]
    kept, _ = system._changed({"gpu": "h100-sxm", "host_link": "pcie4_x16"})
    assert kept["host_link"] == "pcie4_x16"


# --- serving ----------------------------------------------------------------------------------

SERVED = {
    "model": "llama-3-70b",
    "generate": {"preset": "azure_conv", "requests": 40, "seed": 3},
    "batching": {"max_requests": 64},
}


def test_serve_gives_what_bankside_serve_gives(tmp_path: Path) -> None:
    point = {"workload.batching.token_budget": 700, "workload.faster": 2.0}
    found = task("serve", "l3", **SERVED).evaluate(point)
    (tmp_path / "s.yaml").write_text(
        "{model: llama-3-70b, machine: l3, policy: l3, faster: 2.0, "
        "generate: {preset: azure_conv, requests: 40, seed: 3}, "
        "batching: {max_requests: 64, token_budget: 700}}"
    )
    asked = run(load_experiment(tmp_path / "s.yaml"))
    assert found.status == OK, found.reason
    assert set(found.metrics) <= set(EVALUATORS.get("serve").metrics)
    for name, value in found.metrics.items():
        inside = asked
        for key in name.split("."):
            inside = inside[key]
        assert value == inside, name
    assert found.metrics["served"] == 40


def test_serve_changes_machine_and_strategy() -> None:
    serve = task("serve", "l3", **SERVED)
    budgets = [serve.evaluate({"workload.batching.token_budget": n}) for n in (128, 4096)]
    assert budgets[0].metrics["tbt_s.p99"] < budgets[1].metrics["tbt_s.p99"]
    links = [serve.evaluate({"host_links": n}).metrics["output_tokens_per_s"] for n in (1, 4)]
    assert links[0] < links[1]
    assert serve.evaluate({"gpus": 1}).status == INFEASIBLE  # 70B weights do not fit
    with pytest.raises(ConfigError, match=r"token_budgets: unknown key"):
        serve.check_path("workload.batching.token_budgets", 3)


def test_serve_on_two_machines() -> None:
    """`prompts` counts for the strategy that needs it, and may stand beside the others."""
    prompts = {"machine": "dgx-h100", "policy": "gpu_only", "link_gbps": 50.0}
    serve = task("serve", "l3", **SERVED, prompts=prompts)
    alone = serve.evaluate({})
    apart = serve.evaluate({"workload.batching.strategy": "disaggregated"})
    assert alone.metrics == task("serve", "l3", **SERVED).evaluate({}).metrics
    assert apart.status == OK and apart.metrics["tbt_s.p99"] < alone.metrics["tbt_s.p99"]


def test_a_changed_trace_is_served_again(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("arrival_s,input_tokens,output_tokens\n0,100,5\n")
    work = {"model": "llama-3-8b", "trace": "t.csv"}
    base = EVALUATORS.get("serve").load("dgx-a100")
    first = Task("serve", base, work, str(tmp_path))
    key = first.key({"gpus": 8})
    assert (
        first.key({"gpus": 4}) != key == Task("serve", base, work, str(tmp_path)).key({"gpus": 8})
    )
    assert first.evaluate({"gpus": 8}).metrics["served"] == 1
    other = tmp_path / "other"
    other.mkdir()
    (other / "t.csv").write_text("arrival_s,input_tokens,output_tokens\n0,100,6\n")
    assert Task("serve", base, work, str(other)).key({"gpus": 8}) != key
    missing = Task("serve", base, work | {"trace": "none.csv"}, str(tmp_path))
    assert missing.evaluate({}).status == INFEASIBLE


def test_requests_turned_away_make_a_point_infeasible(tmp_path: Path) -> None:
    """One request that no memory holds: by default a missed constraint, unless it is allowed."""
    (tmp_path / "t.csv").write_text(
        "arrival_s,input_tokens,output_tokens\n0,100,5\n1,90000000,5\n2,100,5\n"
    )
    text = (
        "base: dgx-a100\nevaluator: serve\nworkload: {model: llama-3-8b, trace: t.csv}\n"
        "parameters: {gpus: [4, 8]}\nobjectives: {e2e_s.mean: minimise, gpus: minimise}\n"
    )
    for more, status in (("", INFEASIBLE), ("constraints: {rejected: {at_most: 1}}\n", OK)):
        (tmp_path / "space.yaml").write_text(text + more)
        space = load_space(tmp_path / "space.yaml")
        judged = judge(space, {"gpus": 4}, space.task.evaluate({"gpus": 4}))
        assert judged.status == status
        assert ("rejected is 1" in judged.reason) == (status == INFEASIBLE)
        if status == OK:
            assert judged.sample.vector == (judged.outcome.metrics["e2e_s.mean"], 4.0)
