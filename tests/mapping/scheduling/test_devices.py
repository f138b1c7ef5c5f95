"""HEFT and exact timetables: equal to exhaustive search, HEFT's own example, rules with twins."""

from dataclasses import replace
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bankside.errors import ConfigError
from bankside.mapping.scheduling.exact import exact
from bankside.mapping.scheduling.graph import Graph, Task
from bankside.mapping.scheduling.heft import heft, lower_bound, upward_ranks
from bankside.mapping.scheduling.machine import Link, Machine
from bankside.mapping.scheduling.solve import Effort
from bankside.mapping.scheduling.timetable import (
    TIME_RULES,
    Run,
    Timetable,
    Transfer,
    check_times,
    time_violations,
)


def pair(bandwidth: float = 1, latency: int = 0, channel: str = "", **home: str) -> Machine:
    """Two devices with equal links both ways."""
    link = Link(bandwidth, latency, channel)
    return Machine(("a", "b"), {("a", "b"): link, ("b", "a"): link}, home)


@st.composite
def problems(draw: st.DrawFn, most: int = 4) -> tuple[Graph, Machine]:
    """A few tasks on two devices, some on one only; transfers with or without contention."""
    ticks = st.integers(1, 9)
    sizes = {"x": draw(st.integers(1, 6))}
    tasks: list[Task] = []
    for n in range(draw(st.integers(2, most))):
        inputs = draw(st.lists(st.sampled_from(list(sizes)), min_size=1, max_size=2, unique=True))
        on = draw(st.sampled_from((("a", "b"), ("a", "b"), ("a",), ("b",))))
        sizes[f"y{n}"] = draw(st.integers(1, 6))
        tasks.append(Task(f"t{n}", tuple(inputs), f"y{n}", ticks={d: draw(ticks) for d in on}))
    home = draw(st.sampled_from(({}, {"x": "a"})))
    machine = pair(2, draw(st.integers(0, 2)), draw(st.sampled_from(("", "bus"))), **home)
    return Graph("drawn", sizes, tuple(tasks), (tasks[-1].output,)), machine


def shortest(graph: Graph, machine: Machine) -> int:
    """Least makespan over all assignments and all orders of tasks and transfers."""
    choices = [list(task.ticks) for task in graph.tasks]
    return min(_shortest(graph, machine, on) for on in product(*choices))


def _shortest(graph: Graph, machine: Machine, on: tuple[str, ...]) -> int:
    moves = set()
    for task, device in zip(graph.tasks, on, strict=True):
        for tensor in task.inputs:
            place = graph.writer.get(tensor)
            source = machine.home.get(tensor, device) if place is None else on[place]
            if source != device:
                moves.add((tensor, source, device))
    jobs = [*range(len(graph.tasks)), *sorted(moves)]
    best = 10**9
    for order in permutations(jobs):
        best = min(best, _timed(graph, machine, on, order) or best)
    return best


def _timed(graph: Graph, machine: Machine, on: tuple[str, ...], order: tuple) -> int | None:
    """Makespan when jobs begin as early as they can in this order; None: not an order."""
    free: dict[str, int] = {}
    there: dict[tuple[str, str], int] = {}
    for tensor in graph.loaded:
        for device in machine.devices:
            if machine.home.get(tensor, device) == device:
                there[tensor, device] = 0
    last = 0
    for job in order:
        if isinstance(job, int):
            task, device = graph.tasks[job], on[job]
            if any((t, device) not in there for t in task.inputs):
                return None
            begin = max([free.get(device, 0), *(there[t, device] for t in task.inputs)])
            end = free[device] = there[task.output, device] = begin + task.ticks[device]
            last = max(last, end)
        else:
            tensor, source, target = job
            if (tensor, source) not in there:
                return None
            link = machine.links[source, target]
            begin = there[tensor, source]
            if link.channel:
                begin = max(begin, free.get(link.channel, 0))
            end = there[tensor, target] = begin + link.ticks(graph.sizes[tensor])
            if link.channel:
                free[link.channel] = end
    return last


@settings(max_examples=60)
@given(problems())
def test_equals_exhaustive_search(problem):
    graph, machine = problem
    table = exact(graph, machine)
    assert (table.makespan, table.optimal) == (shortest(graph, machine), True)
    assert time_violations(table) == []


@settings(max_examples=60)
@given(problems(most=8))
def test_bound_exact_heft(problem):
    graph, machine = problem
    table, first = exact(graph, machine), heft(graph, machine)
    assert lower_bound(graph, machine) <= table.makespan <= first.makespan
    assert table.optimal and time_violations(first) == time_violations(table) == []


@settings(max_examples=30)
@given(problems(most=7), st.integers(1, 3))
def test_more_bandwidth_is_never_slower(problem, factor):
    graph, machine = problem
    links = {
        pair: replace(link, bytes_per_tick=factor * link.bytes_per_tick)
        for pair, link in machine.links.items()
    }
    faster = replace(machine, links=links)
    assert exact(graph, faster).makespan <= exact(graph, machine).makespan


def test_ranks_of_the_papers_example():
    """The longest way of the HEFT paper's example graph: tasks 1, 2, 9, 10 on three devices, and
    their upward ranks as published (table 2).
    """
    ticks = {1: (14, 16, 9), 2: (13, 19, 18), 9: (18, 12, 20), 10: (21, 7, 16)}
    sizes = {"x": 1, "y1": 18, "y2": 16, "y9": 13, "y10": 1}
    tasks = tuple(
        Task(f"t{n}", (source,), f"y{n}", ticks=dict(zip("pqr", ticks[n], strict=True)))
        for source, n in (("x", 1), ("y1", 2), ("y2", 9), ("y9", 10))
    )
    links = {(a, b): Link(1) for a in "pqr" for b in "pqr" if a != b}
    ranks = upward_ranks(Graph("way", sizes, tasks, ("y10",)), Machine(tuple("pqr"), links))
    assert ranks == pytest.approx([108.000, 77.000, 44.333, 14.667], abs=1e-3)


def test_insertion_uses_a_gap():
    """A short task goes before one that waits for a transfer."""
    tasks = (
        Task("long", ("x",), "l", ticks={"a": 10}),
        Task("join", ("l",), "j", ticks={"b": 10}),
        Task("short", ("x",), "s", ticks={"b": 3}),
    )
    graph = Graph("gap", {"x": 1, "l": 4, "j": 1, "s": 1}, tasks, ("j", "s"))
    table = heft(graph, pair(1))
    assert [(r.start, r.end) for r in table.runs] == [(0, 10), (14, 24), (0, 3)]
    assert table.optimal is False and exact(graph, pair(1)).optimal


def test_exact_beats_heft():
    """HEFT takes the device on which a task ends first, though its reader is far from there."""
    tasks = (
        Task("t0", ("x",), "y0", ticks={"a": 10, "b": 11}),
        Task("t1", ("y0",), "y1", ticks={"b": 5}),
    )
    graph = Graph("greedy", {"x": 1, "y0": 8, "y1": 1}, tasks, ("y1",))
    assert heft(graph, pair(1)).makespan == 23
    table = exact(graph, pair(1))
    assert (table.makespan, table.optimal, table.transferred_bytes) == (16, True, 0)
    assert "gap 0.0%" in str(table) and "b            t1" in str(table)


def test_effort_ends_and_the_gap_is_said():
    tasks = tuple(
        Task(f"t{n}", ("x",), f"y{n}", ticks={"a": 7 + n % 5, "b": 8 + n % 3}) for n in range(24)
    )
    sizes = {"x": 1} | {f"y{n}": 1 for n in range(24)}
    graph = Graph("many", sizes, tasks, ("y0",))
    table = exact(graph, pair(1), Effort(1e-6))
    assert table.source == "heft" and 0 < table.gap < 1 and not table.optimal


# --- rules ----------------------------------------------------------------------------------------
GRAPH = Graph(
    "twin",
    {"x": 4, "y": 4, "z": 1},
    (Task("t0", ("x",), "y", ticks={"a": 5}), Task("t1", ("y",), "z", ticks={"b": 5, "a": 9})),
    ("z",),
)
GOOD = Timetable(
    GRAPH,
    pair(1, 0, "bus", x="a"),
    (Run("t0", "a", 0, 5), Run("t1", "b", 9, 14)),
    (Transfer("y", "a", "b", 5, 9),),
    source="hand",
)
TWINS = {
    "runs_once": (replace(GOOD, runs=(GOOD.runs[0], Run("t1", "b", 9, 13))), "expected 5"),
    "one_at_a_time": (replace(GOOD, runs=(GOOD.runs[0], Run("t1", "a", 4, 13))), "at once on 'a'"),
    "over_links": (replace(GOOD, transfers=(Transfer("y", "a", "b", 5, 8),)), "takes 3 ticks"),
    "one_per_channel": (
        replace(GOOD, transfers=(*GOOD.transfers, Transfer("x", "a", "b", 8, 12))),
        "'y' and 'x' at once on 'bus' at 8",
    ),
    "sent_after_writing": (
        replace(GOOD, transfers=(Transfer("y", "a", "b", 4, 8),)), "it is on 'a' from 5 on",
    ),
    "inputs_there": (replace(GOOD, transfers=()), "'y' is on 'b' from None on"),
}  # fmt: skip


def test_the_good_timetable_is_legal():
    assert time_violations(GOOD) == [] and check_times(GOOD) is GOOD


def test_every_rule_has_a_twin():
    assert set(TWINS) == set(TIME_RULES)


@pytest.mark.parametrize("name", TWINS)
def test_twin_is_refused(name):
    table, finding = TWINS[name]
    found = list(TIME_RULES.get(name).check(table))
    assert any(finding in text for text in found), found
    with pytest.raises(ConfigError, match=r"timetable of 'twin' \(hand\) is not legal"):
        check_times(table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"devices": ("a",), "links": {}}, "no device of a can run it"),
        ({"links": {}}, "its inputs reach no device that can run it; add a link"),
    ],
)
def test_what_cannot_run_is_refused(change, message):
    tasks = (
        Task("t0", ("x",), "y", ticks={"a": 5}),
        Task("t1", ("y",), "z", ticks={"b": 5}),
    )
    graph = Graph("g", {"x": 1, "y": 1, "z": 1}, tasks, ("z",))
    with pytest.raises(ConfigError, match=message):
        exact(graph, replace(pair(), **change))


def test_unknown_device():
    with pytest.raises(ConfigError, match="no device 'c'.*choose from: a, b"):
        Machine(("a", "b"), {("a", "c"): Link(1)})
