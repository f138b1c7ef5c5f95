"""COSMA: the order of the tasks, the addresses of their tensors and what leaves the scratchpad,
together, so that the non-compulsory traffic is least.

Three steps, each exact: (1) order and residence under the capacity alone, a lower bound: best-first
search over states, and CP-SAT where there are too many of them; (2) addresses for them, rectangles
in address x step (NoOverlap2D); (3) only where these do not exist, residence and addresses, then
also the order, in one model, with the bound of (1).
Ref: arXiv 2311.18246; docs/scheduling.md, section COSMA.
"""

from __future__ import annotations

from dataclasses import replace

from bankside.mapping.scheduling.addresses import fixed_addresses, joint_plan
from bankside.mapping.scheduling.explain import require_capacity
from bankside.mapping.scheduling.graph import Graph
from bankside.mapping.scheduling.heuristics import BASELINES, baseline
from bankside.mapping.scheduling.plan import Plan
from bankside.mapping.scheduling.residence import Residence, residence
from bankside.mapping.scheduling.rules import check
from bankside.mapping.scheduling.search import search
from bankside.mapping.scheduling.solve import EFFORT, Effort

#: States of the best-first search for each second of effort; about its speed.
_STATES_PER_SECOND = 5_000


def cosma(graph: Graph, capacity: int, effort: Effort = EFFORT) -> Plan:
    """The plan with the least non-compulsory traffic, or the best found with its gap.

    Args:
        capacity: bytes of the scratchpad.
        effort: limit of each of the steps.

    Returns:
        A checked plan; `optimal` says whether it is proven, `gap` how far from the bound it is.

    Raises:
        ConfigError: a task does not fit (`explain.require_capacity`).
    """
    require_capacity(graph, capacity)
    best = best_baseline(graph, capacity)
    if best.extra_bytes == 0:
        return best
    relaxed = least_traffic(graph, capacity, best, effort)
    best = replace(best, bound=relaxed.bound)
    if not best.optimal:
        best = _with_addresses(graph, capacity, relaxed, best, effort)
    return check(best)


def least_traffic(graph: Graph, capacity: int, best: Plan, effort: Effort = EFFORT) -> Residence:
    """Order and residence with the least traffic when addresses do not matter.

    Args:
        best: a legal plan to begin from; returned as a residence where nothing is better.
    """
    start = Residence(best.steps, best.stays, best.extra_bytes, True)
    found = search(graph, capacity, best.extra_bytes, int(effort.seconds * _STATES_PER_SECOND))
    if found is None:
        return start
    if found.proven:
        return found
    relaxed = residence(graph, capacity, best, effort)
    return replace(relaxed, bound=max(relaxed.bound, found.bound))


def _with_addresses(
    graph: Graph, capacity: int, relaxed: Residence, best: Plan, effort: Effort
) -> Plan:
    """The better of `best` and a plan that has as little traffic as the relaxation."""
    found = fixed_addresses(graph, capacity, relaxed.steps, relaxed.stays, effort)
    if found is not None and found.extra_bytes < best.extra_bytes:
        return replace(found, bound=relaxed.bound, source="cosma")
    for steps in (relaxed.steps, None):
        found, bound = joint_plan(graph, capacity, best, relaxed.bound, effort, steps)
        bound = relaxed.bound if steps else bound
        best = replace(found or best, bound=bound, source="cosma, joint" if found else best.source)
        if best.optimal:
            break
    return best


def best_baseline(graph: Graph, capacity: int) -> Plan:
    """The plan of the baseline with the least traffic, the first of several.

    Raises:
        ConfigError: a task does not fit.
    """
    plans = (baseline(graph, capacity, kind) for kind in BASELINES)
    return min(plans, key=lambda plan: plan.extra_bytes)
