"""COSMA: equal to exhaustive search, never worse than its baselines, certified on real graphs."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bankside.errors import ConfigError
from bankside.mapping.scheduling import generators
from bankside.mapping.scheduling.addresses import fixed_addresses, joint_plan
from bankside.mapping.scheduling.cosma import best_baseline, cosma, least_traffic
from bankside.mapping.scheduling.graph import Graph, Task
from bankside.mapping.scheduling.heuristics import BASELINES, ORDERS, Baseline, baseline
from bankside.mapping.scheduling.residence import residence
from bankside.mapping.scheduling.rules import check, violations
from bankside.mapping.scheduling.search import search
from bankside.mapping.scheduling.solve import Effort

sys.path.insert(0, str(Path(__file__).parent))

import brute  # noqa: E402


def capacities(graph: Graph) -> tuple[int, int]:
    """From too little by one to enough for everything at once."""
    return graph.largest_working_set - 1, sum(graph.sizes.values())


@settings(max_examples=60)
@given(st.data())
def test_equals_exhaustive_search(data):
    graph = data.draw(brute.graphs())
    capacity = data.draw(st.integers(*capacities(graph)))
    best = brute.least_traffic(graph, capacity)
    if best is None:
        with pytest.raises(ConfigError, match="too small"):
            cosma(graph, capacity)
        return
    plan = cosma(graph, capacity)
    assert (plan.extra_bytes, plan.optimal) == (best, True)
    assert violations(plan) == []


@settings(max_examples=40)
@given(st.data())
def test_search_and_cp_sat_and_the_joint_model_agree(data):
    """Three exact methods; the joint one may lose to the relaxations through addresses only."""
    graph = data.draw(brute.graphs(most_tasks=6))
    low, high = capacities(graph)
    capacity = data.draw(st.integers(low + 1, high))
    start = best_baseline(graph, capacity)
    exact = residence(graph, capacity, start, Effort())
    found = search(graph, capacity, start.extra_bytes)
    assert exact.proven
    assert exact.bound == (start.extra_bytes if found is None else found.bound)
    if found is not None:
        assert found.proven
        joint, bound = joint_plan(graph, capacity, start, exact.bound, Effort())
        assert bound >= exact.bound
        ours = cosma(graph, capacity).extra_bytes
        assert ours == (start if joint is None else check(joint)).extra_bytes


@settings(max_examples=40)
@given(st.data())
def test_order_of_costs(data):
    """Compulsory <= exact <= every baseline; more capacity never means more traffic."""
    graph = data.draw(brute.graphs(most_tasks=7))
    low, high = capacities(graph)
    sizes = sorted(data.draw(st.lists(st.integers(low + 1, high), min_size=2, max_size=3)))
    plans = [cosma(graph, capacity) for capacity in sizes]
    assert all(plan.optimal and plan.extra_bytes >= 0 for plan in plans)
    assert [p.extra_bytes for p in plans] == sorted((p.extra_bytes for p in plans), reverse=True)
    for plan, capacity in zip(plans, sizes, strict=True):
        assert plan.peak_bytes <= capacity
        for kind in BASELINES:
            assert plan.extra_bytes <= baseline(graph, capacity, kind).extra_bytes


def fragmented() -> Graph:
    """Tasks in a chain that read tensors twice; the tensors fit by bytes in every step, but no
    addresses exist (found by search; scaled by 3 beside two bytes of the chain).
    """
    boxes = [(1, 4, 3), (4, 7, 2), (3, 5, 1), (3, 6, 1), (5, 9, 2), (7, 9, 3), (0, 3, 2)]
    sizes = {"x": 1} | {f"w{n}": 3 * size for n, (_, _, size) in enumerate(boxes)}
    tasks, last = [], "x"
    for step in range(9):
        reads = [f"w{n}" for n, (first, end, _) in enumerate(boxes) if step in (first, end - 1)]
        sizes[f"y{step}"] = 1
        tasks.append(Task(f"t{step}", (last, *reads), f"y{step}"))
        last = f"y{step}"
    return Graph("fragmented", sizes, tuple(tasks), (last,))


def test_addresses_cost_traffic_where_they_must():
    graph = fragmented()
    capacity = 3 * 5 + 2
    assert least_traffic(graph, capacity, best_baseline(graph, capacity)).bound == 0
    plan = cosma(graph, capacity)
    # The smallest of the tensors goes and comes back.
    assert (plan.extra_bytes, plan.optimal, plan.source) == (3, True, "cosma, joint")
    assert violations(plan) == []
    assert cosma(graph, capacity + 3).extra_bytes == 0


def test_no_addresses_for_what_does_not_fit():
    graph = fragmented()
    plan = baseline(graph, 20)
    assert fixed_addresses(graph, plan.peak_bytes - 1, plan.steps, plan.stays, Effort()) is None


GRAPHS = (
    generators.resnet(6),
    generators.densenet(10),
    generators.inception(6),
    generators.mobilenet(12),
    generators.unet(4),
    generators.random_wired(20, 1),
    generators.nas_cells(4, 2),
    generators.transformer(),
    generators.transformer(128, 128, 4, 2, gated=True),
    generators.transformer(heads=2, layers=3),
)


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: f"{graph.name}-{len(graph.tasks)}")
def test_certified_on_networks(graph):
    capacity = graph.largest_working_set * 21 // 20
    plan = cosma(graph, capacity)
    assert plan.optimal and violations(plan) == []
    assert plan.extra_bytes <= best_baseline(graph, capacity).extra_bytes


def test_same_answer_again():
    graph = generators.nas_cells(2, 3)
    capacity = graph.largest_working_set * 11 // 10
    assert cosma(graph, capacity) == cosma(graph, capacity)


def test_a_limit_gives_a_gap_and_says_so():
    graph = generators.random_wired(30, 2)
    plan = cosma(graph, graph.largest_working_set, Effort(0.01))
    assert not plan.optimal and plan.gap == plan.extra_bytes - plan.bound > 0
    assert violations(plan) == []


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("graph", GRAPHS, ids=lambda g: g.name)
def test_orders_are_orders(graph, order):
    assert graph.is_order(ORDERS[order](graph))


def test_unknown_baseline():
    with pytest.raises(ConfigError, match="replacement 'beladi'.*did you mean 'belady'"):
        Baseline(replacement="beladi")


def test_a_worse_bound_is_no_certificate():
    plan = cosma(generators.unet(4), 101_648)
    assert plan.optimal and plan.bound > 0
    assert not replace(plan, bound=plan.bound - 1).optimal
