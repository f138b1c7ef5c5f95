"""Per-edge choice: equal to trying everything, never worse than sequential, traffic and bounds."""

from dataclasses import replace
from itertools import chain, combinations
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bankside.errors import ConfigError
from bankside.mapping.scheduling.edges import Fabric, choose, split, streams
from bankside.mapping.scheduling.graph import Graph, Task
from bankside.mapping.scheduling.patterns import dataflow, sequential


@st.composite
def problems(draw: st.DrawFn, most: int = 4) -> tuple[Graph, Fabric]:
    """A few tasks, some of which need inputs whole or end late, on a small fabric."""
    sizes = {"x": draw(st.integers(1, 40)), "w": draw(st.integers(1, 40))}
    tasks: list[Task] = []
    for n in range(draw(st.integers(1, most))):
        inputs = draw(st.lists(st.sampled_from(list(sizes)), min_size=1, max_size=2, unique=True))
        whole = draw(st.lists(st.sampled_from(inputs), max_size=1))
        sizes[f"y{n}"] = draw(st.integers(1, 40))
        macs = draw(st.sampled_from((0, 7, 60, 200)))
        tasks.append(Task(f"t{n}", tuple(inputs), f"y{n}", tuple(whole), macs=macs))
    late = frozenset(t.name for t in tasks if draw(st.booleans()) and draw(st.booleans()))
    fabric = Fabric(
        draw(st.integers(1, 5)), 2, draw(st.integers(20, 160)), draw(st.sampled_from((1, 3, 16))),
        draw(st.integers(1, 4)), draw(st.integers(0, 2)), late, draw(st.sampled_from((1, 4))),
    )  # fmt: skip
    return Graph("drawn", sizes, tuple(tasks), (tasks[-1].output,)), fabric


def subsets(items):
    items = list(items)
    return chain.from_iterable(combinations(items, n) for n in range(len(items) + 1))


def least(graph: Graph, fabric: Fabric) -> tuple[int, int] | None:
    """(cycles, traffic) of the best of all ordered groups, sharings, residences."""
    n, best = len(graph.tasks), None

    def walk(done: set[int], kept: set[str], cycles: int, traffic: int) -> None:
        nonlocal best
        if len(done) == n:
            best = min(best or (cycles, traffic), (cycles, traffic))
            return
        for group in subsets(set(range(n)) - done):
            if group and all(graph.before[i] <= done | set(group) for i in group):
                for t, b, k in ways(graph, fabric, group, done, kept):
                    walk(done | set(group), k, cycles + t, traffic + b)

    walk(set(), set(), 0, 0)
    return best


def ways(graph, fabric, group, done, kept):
    """(cycles, bytes, kept afterwards) of a group, every way of it that fits."""
    tile = {t: ceil(size / fabric.tiles) for t, size in graph.sizes.items()}
    tasks = [graph.tasks[i] for i in group]
    edges = [
        (a, b, graph.tasks[a].output)
        for a in group
        for b in group
        if graph.tasks[a].output in graph.tasks[b].inputs
    ]
    if any(t in graph.tasks[b].whole or graph.tasks[a].name in fabric.late for a, b, t in edges):
        return
    outs = [t.output for t in tasks]
    later = [t for t in outs if any(j not in group for j in graph.readers[t])]
    memory = {t for task in tasks for t in task.inputs} - kept - set(outs)
    whole = {t for t in memory if any(t in task.whole for task in tasks)}
    for fused in subsets(edges):
        label = {i: i for i in group}
        for _ in group:
            for a, b, _t in fused:
                label[a] = label[b] = min(label[a], label[b])
        if any((label[a] == label[b]) != ((a, b, t) in fused) for a, b, t in edges):
            continue
        time = work_time(graph, fabric, group, label, edges)
        if time is None:
            continue
        # A tensor with several readers in the group counts as its last reader's edge.
        kinds = {t: 1 if (a, b, t) in fused else 2 for a, b, t in sorted(edges, key=by_reader)}
        for stay in subsets(later):
            for held in subsets(sorted(whole)):
                used = sum(graph.sizes[t] for t in {*kept, *stay, *held})
                used += sum(count * tile[t] for t, count in kinds.items())
                used += sum(2 * tile[t] for t in memory - set(held))
                moved = sum(
                    graph.sizes[t] * (fabric.tiles if t in whole - set(held) else 1) for t in memory
                )
                for task in tasks:
                    out = task.output
                    stored = out in graph.outputs or (out in later and out not in stay)
                    moved += graph.sizes[out] * stored
                    if task.name in fabric.late and out not in stay:
                        used += graph.sizes[out]
                    elif stored:
                        used += 2 * tile[out]
                if used <= fabric.buffer_bytes:
                    now = done | set(group)
                    alive = {t for t in {*kept, *stay} if set(graph.readers[t]) - now}
                    yield max(time, ceil(moved / fabric.bytes_per_cycle)), moved, alive


def by_reader(edge):
    return edge[1]


def work_time(graph, fabric, group, label, edges):
    clusters = {c: [i for i in group if label[i] == c] for c in set(label.values())}
    work = [w for c in clusters.values() if (w := sum(graph.tasks[i].macs for i in c))]
    if len(work) > fabric.units:
        return None
    idle = [graph.sizes[graph.tasks[i].output] for i in group if not graph.tasks[i].macs]
    slowest = max((ceil(size / fabric.function_bytes_per_cycle) for size in idle), default=0)
    stage = max(best_split(work, fabric), slowest)
    depth = {c: 1 for c in clusters}
    for _ in clusters:
        for a, b, _t in edges:
            if label[a] != label[b]:
                deeper = max(depth[label[b]], depth[label[a]] + 1)
                depth[label[b]] = min(deeper, len(clusters))
    turns = 0
    for c in clusters.values():
        busy = [i for i in c if graph.tasks[i].macs]
        turns += len(busy) if len(busy) > 1 else 0
    fill = (max(depth.values()) - 1) * ceil(stage / fabric.tiles)
    return stage + fill + fabric.switch_cycles * (1 + fabric.tiles * turns)


def best_split(work, fabric):
    """By trying every split."""

    def best(rest, units):
        if not rest:
            return 0
        return min(
            max(ceil(rest[0] / (n * fabric.unit_macs)), best(rest[1:], units - n))
            for n in range(1, units - len(rest) + 2)
        )

    return best(work, fabric.units)


@settings(max_examples=120)
@given(problems())
def test_equals_trying_everything(problem):
    graph, fabric = problem
    expected = least(graph, fabric)
    if expected is None:
        with pytest.raises(ConfigError, match="too small"):
            choose(graph, fabric)
        return
    choice = choose(graph, fabric)
    assert (choice.cycles, choice.traffic) == expected


def chosen(graph: Graph, fabric: Fabric, **options):
    """The choice; None where there is none."""
    try:
        return choose(graph, fabric, **options)
    except ConfigError:
        return None


@settings(max_examples=60)
@given(problems(most=5), st.integers(2, 4))
def test_bounds_and_more_of_everything(problem, factor):
    graph, fabric = problem
    choice = chosen(graph, fabric)
    if choice is None:
        return
    least_traffic = choose(graph, fabric, "traffic")
    assert graph.compulsory_bytes <= least_traffic.traffic <= choice.traffic
    assert choice.cycles <= least_traffic.cycles
    macs = sum(task.macs for task in graph.tasks)
    peak = fabric.units * fabric.unit_macs
    assert choice.cycles >= max(macs / peak, choice.traffic / fabric.bytes_per_cycle)
    for more in ("buffer_bytes", "bytes_per_cycle", "units"):
        larger = replace(fabric, **{more: factor * getattr(fabric, more)})
        assert choose(graph, larger).cycles <= choice.cycles
        assert choose(graph, larger, "traffic").traffic <= least_traffic.traffic


@settings(max_examples=60)
@given(problems(most=5))
def test_fused_traffic_is_at_most_unfused(problem):
    """Groups of one task are the unfused search; sequential through memory is one of them."""
    graph, fabric = problem
    unfused = chosen(graph, fabric, objective="traffic", most=1)
    if unfused is None:
        return
    assert choose(graph, fabric, "traffic").traffic <= unfused.traffic
    try:
        fixed = sequential(graph, fabric, overlap=True)
    except ConfigError:
        return
    assert unfused.traffic <= fixed.traffic
    assert choose(graph, fabric).cycles <= choose(graph, fabric, most=1).cycles <= fixed.cycles
    assert fixed.cycles <= sequential(graph, fabric).cycles


def two(size: int, whole: tuple[str, ...] = (), **fabric: int) -> tuple[Graph, Fabric]:
    """Two products with a tensor of `size` bytes between them."""
    tasks = (
        Task("up", ("x", "w"), "h", ("x",), macs=1000),
        Task("down", ("h", "v"), "y", whole, macs=1000),
    )
    graph = Graph("two", {"x": 8, "w": 64, "h": size, "v": 64, "y": 8}, tasks, ("y",))
    rest = {"buffer_bytes": 128, "bytes_per_cycle": 4, "tiles": 8, "switch_cycles": 4}
    return graph, Fabric(4, 4, **(rest | fabric))


@pytest.mark.parametrize(
    ("problem", "mode"),
    [
        (two(64), "buffer"),  # it fits: one after the other, all multipliers each
        (two(4096, buffer_bytes=1200, switch_cycles=40), "pipelined"),  # it does not: stream
        (two(800, buffer_bytes=160, switch_cycles=0), "fused"),  # turns are free: no filling
        (two(96, ("h",), buffer_bytes=60), "memory"),  # it neither streams nor fits
    ],
)
def test_the_choice_follows_the_volume(problem, mode):
    choice = choose(*problem)
    assert choice.modes == {("h", "down"): mode}


def test_streaming_needs_a_writer_in_time():
    graph, fabric = two(64)
    assert streams(graph, fabric, "h", 1) and not streams(graph, fabric, "x", 0)
    assert not streams(graph, replace(fabric, late=frozenset({"up"})), "h", 1)


def test_too_small_a_buffer_says_by_how_much():
    graph, fabric = two(64, buffer_bytes=20)
    with pytest.raises(ConfigError, match="task 'up': needs 34 bytes of buffer.* it is 14 too"):
        choose(graph, fabric)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=4), st.integers(1, 9))
def test_split_is_the_best(work, units):
    fabric = Fabric(units, 3, 1, 1)
    expected = best_split(work, fabric) if len(work) <= units else None
    assert split(work, units, 3) == expected


def test_dataflow_waits_for_what_does_not_stream():
    graph, fabric = two(64)
    streaming = dataflow(graph, fabric)
    waiting = dataflow(graph, replace(fabric, late=frozenset({"up"})))
    assert streaming.compute == 125 + 16 and waiting.compute == 2 * 125
    with pytest.raises(ConfigError, match="2 tasks on 1 units.*raise units"):
        dataflow(graph, replace(fabric, units=1))
