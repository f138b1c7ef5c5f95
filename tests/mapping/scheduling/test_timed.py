"""Plans in time: COSMA's traffic, prefetching, tiles, rules with their known-bad twins."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bankside.errors import ConfigError
from bankside.mapping.scheduling.cosma import cosma
from bankside.mapping.scheduling.graph import Graph, Task
from bankside.mapping.scheduling.solve import Effort
from bankside.mapping.scheduling.tiles import tiled
from bankside.mapping.scheduling.timed import serial, timed
from bankside.mapping.scheduling.timed_rules import TIMED_RULES, check_timed, timed_violations
from bankside.mapping.scheduling.timed_types import TimedPlan, TimedStay, Unit

sys.path.insert(0, str(Path(__file__).parent))

import brute  # noqa: E402


@st.composite
def problems(draw: st.DrawFn) -> tuple[Graph, Unit]:
    """A few tasks with durations, and a unit that can run them."""
    graph = draw(brute.graphs(most_tasks=4))
    tasks = tuple(replace(t, ticks={"u": draw(st.integers(1, 6))}) for t in graph.tasks)
    graph = Graph(graph.name, graph.sizes, tasks, graph.outputs)
    capacity = graph.largest_working_set + draw(st.integers(0, 5))
    return graph, Unit("u", capacity, draw(st.sampled_from((1, 2, 8))), draw(st.integers(0, 1)))


@settings(max_examples=30)
@given(problems())
def test_least_traffic_is_cosmas(problem):
    graph, unit = problem
    plan = timed(graph, unit, "traffic")
    assert plan.extra_bytes == cosma(graph, unit.capacity).extra_bytes
    assert plan.bound == plan.traffic


@settings(max_examples=30)
@given(problems(), st.integers(2, 3))
def test_bounds_and_more_of_everything(problem, factor):
    graph, unit = problem
    plan = timed(graph, unit)
    first = serial(cosma(graph, unit.capacity), unit)
    compute = sum(task.ticks["u"] for task in graph.tasks)
    assert max(compute, graph.compulsory_bytes / unit.bytes_per_tick) <= plan.makespan
    assert plan.bound == plan.makespan <= first.makespan
    assert plan.traffic >= graph.compulsory_bytes
    for more in ("capacity", "bytes_per_tick"):
        larger = replace(unit, **{more: factor * getattr(unit, more)})
        assert timed(graph, larger).makespan <= plan.makespan


def chain(weights: int, ticks: int, count: int = 4) -> Graph:
    """Tasks one after another, each with weights of its own."""
    sizes, tasks, last = {"x": 2}, [], "x"
    for n in range(count):
        sizes |= {f"w{n}": weights, f"y{n}": 2}
        whole = (f"w{n}",)
        tasks.append(Task(f"t{n}", (last, f"w{n}"), f"y{n}", whole, {"u": ticks}))
        last = f"y{n}"
    return Graph("chain", sizes, tuple(tasks), (last,))


def test_prefetch_hides_transfers():
    """With room for the next weights, only the first fetches and the last store show."""
    graph = chain(weights=8, ticks=8)
    narrow, wide = (timed(graph, Unit("u", room, 1)) for room in (12, 22))
    assert serial(cosma(graph, 12), Unit("u", 12, 1)).makespan == narrow.makespan == 68
    assert wide.makespan == 2 + 8 + 4 * 8 + 2 == wide.bound
    assert wide.extra_bytes == narrow.extra_bytes == 0


def test_tiles_overlap_where_whole_tensors_cannot():
    """Half the scratchpad, and as little time as the transfers alone take."""
    task = Task("t", ("x",), "y", ticks={"u": 12})
    graph = Graph("one", {"x": 12, "y": 12}, (task,), ("y",))
    whole = timed(graph, Unit("u", 24, 1))
    cut = timed(tiled(graph, 3), Unit("u", 12, 1))
    assert whole.makespan == whole.bound == 36
    assert cut.makespan == cut.bound == 24
    assert cut.traffic == whole.traffic == 24


def test_effort_ends_with_a_legal_plan():
    graph = chain(8, 8, 8)
    plan = timed(graph, Unit("u", 22, 1), effort=Effort(1e-4))
    assert timed_violations(plan) == [] and plan.bound < plan.makespan


def test_what_the_unit_cannot_run():
    graph = chain(8, 8)
    with pytest.raises(ConfigError, match="task 't0': has no ticks on 'v'; it has: u"):
        timed(graph, Unit("v", 22, 1))
    with pytest.raises(ConfigError, match="11 B is 1 B too small for 't0'"):
        timed(graph, Unit("u", 11, 1))
    with pytest.raises(ConfigError, match="expected more than 0"):
        Unit("u", 11, 0)


# --- rules ----------------------------------------------------------------------------------------
GRAPH = Graph(
    "twin",
    {"x": 4, "y": 4, "z": 2},
    (Task("t0", ("x",), "y", ticks={"u": 3}), Task("t1", ("y",), "z", ticks={"u": 3})),
    ("z",),
)
GOOD = TimedPlan(
    GRAPH,
    Unit("u", 10, 1),
    (4, 7),
    (
        TimedStay("x", 0, 7, 0, 0, None),
        TimedStay("y", 4, 10, 4, None, None),
        TimedStay("z", 7, 12, 8, None, 10),
    ),
    source="hand",
)


def stays(**changed: dict) -> TimedPlan:
    """The good plan with fields of stays changed."""
    return replace(GOOD, stays=tuple(s._replace(**changed.get(s.tensor, {})) for s in GOOD.stays))


TWINS = {
    "one_task_at_a_time": (replace(GOOD, starts=(4, 6)), "'t0' and 't1' at once at 6"),
    "one_transfer_at_a_time": (
        replace(GOOD, stays=(*GOOD.stays, TimedStay("x", 9, 13, 0, 9, None))),
        "'x' and 'z' at once at 10",
    ),
    "stays_cover_transfers": (stays(z={"end": 11}), "'z' is stored at 10 in 7..11"),
    "present": (stays(x={"end": 6}), "'x' is not there when 't0' runs from 4 on"),
    "created_by_its_task": (stays(y={"first": 5}), "'y' is created at [5]; expected [4]"),
    "memory_in_order": (
        replace(GOOD, stays=(*GOOD.stays, TimedStay("y", 12, 16, 0, 12, None))),
        "'y' is fetched at 12; memory has it from None on",
    ),
    "outputs_stored": (stays(z={"stored": None}), "'z' never reaches memory"),
    "addresses": (stays(z={"address": 7}), "'y' and 'z' share byte 7 at 7"),
}


def test_the_good_plan_is_legal():
    assert timed_violations(GOOD) == [] and check_timed(GOOD) is GOOD
    assert (GOOD.makespan, GOOD.extra_bytes) == (12, 0)


def test_every_rule_has_a_twin():
    assert set(TWINS) == set(TIMED_RULES)


@pytest.mark.parametrize("name", TWINS)
def test_twin_is_refused(name):
    plan, finding = TWINS[name]
    found = list(TIMED_RULES.get(name).check(plan))
    assert any(finding in text for text in found), found
    with pytest.raises(ConfigError, match=r"plan of 'twin' in time \(hand\) is not legal"):
        check_timed(plan)
