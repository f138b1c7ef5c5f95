"""Legality rules of plans in time, as `rules.py` has them for plans of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bankside.errors import ConfigError
from bankside.mapping.scheduling.timed_types import TimedPlan, TimedStay
from bankside.registry import Registry


@dataclass(frozen=True)
class TimedRule:
    """What a plan in time has to keep; as `rules.Rule`."""

    name: str
    says: str
    check: Callable[[TimedPlan], Iterator[str]]


TIMED_RULES: Registry[TimedRule] = Registry("legality rule")


def _rule(says: str) -> Callable:
    def add(check: Callable[[TimedPlan], Iterator[str]]) -> Callable:
        name = check.__name__.strip("_")
        TIMED_RULES.add(name, TimedRule(name, says, check))
        return check

    return add


def timed_violations(plan: TimedPlan) -> list[str]:
    """What is wrong with a plan, as "rule: finding"; empty for a legal one."""
    return [
        f"{name}: {finding}"
        for name in TIMED_RULES
        for finding in TIMED_RULES.get(name).check(plan)
    ]


def check_timed(plan: TimedPlan) -> TimedPlan:
    """The same plan.

    Raises:
        ConfigError: it breaks a rule; all findings.
    """
    if found := timed_violations(plan):
        raise ConfigError(
            f"plan of {plan.graph.name!r} in time ({plan.source}) is not legal:\n"
            + "\n".join(found)
        )
    return plan


def _apart(spans: list[tuple[int, int, str]]) -> Iterator[tuple[str, str, int]]:
    spans = sorted(spans)
    for one, other in zip(spans, spans[1:], strict=False):
        if other[0] < one[1]:
            yield one[2], other[2], other[0]


def _of(plan: TimedPlan, tensor: str) -> list[TimedStay]:
    return sorted((s for s in plan.stays if s.tensor == tensor), key=lambda s: s.first)


def _ticks(plan: TimedPlan, stay: TimedStay) -> int:
    return plan.unit.transfer_ticks(plan.graph.sizes[stay.tensor])


@_rule("the unit runs one task at a time")
def _one_task_at_a_time(plan: TimedPlan) -> Iterator[str]:
    spans = [(plan.starts[i], plan.end(i), task.name) for i, task in enumerate(plan.graph.tasks)]
    for one, other, at in _apart(spans):
        yield f"{one!r} and {other!r} at once at {at}"


@_rule("the channel carries one transfer at a time")
def _one_transfer_at_a_time(plan: TimedPlan) -> Iterator[str]:
    for one, other, at in _apart(plan.transfers()):
        yield f"{one!r} and {other!r} at once at {at}"


@_rule("a stay covers its fetch, from its first tick on, and its store")
def _stays_cover_transfers(plan: TimedPlan) -> Iterator[str]:
    for stay in plan.stays:
        if stay.fetched is not None and (
            stay.fetched != stay.first or stay.end < stay.first + _ticks(plan, stay)
        ):
            yield f"{stay.tensor!r} is fetched at {stay.fetched} in {stay.first}..{stay.end}"
        if stay.stored is not None and not (
            stay.first <= stay.stored <= stay.end - _ticks(plan, stay)
        ):
            yield f"{stay.tensor!r} is stored at {stay.stored} in {stay.first}..{stay.end}"


@_rule("while a task runs, its inputs are there, fetched or written, and its result has its place")
def _present(plan: TimedPlan) -> Iterator[str]:
    for i, task in enumerate(plan.graph.tasks):
        for tensor in task.tensors:
            stays = [
                s
                for s in _of(plan, tensor)
                if s.end >= plan.end(i) and _ready(plan, s, tensor == task.output) <= plan.starts[i]
            ]
            if not stays:
                yield f"{tensor!r} is not there when {task.name!r} runs from {plan.starts[i]} on"


def _ready(plan: TimedPlan, stay: TimedStay, writing: bool) -> int:
    """Tick from which a stay's contents can be used."""
    if stay.fetched is not None:
        return stay.fetched + _ticks(plan, stay)
    place = plan.graph.writer.get(stay.tensor)
    return stay.first if writing or place is None else plan.end(place)


@_rule("a tensor is created exactly once, when the task that writes it starts")
def _created_by_its_task(plan: TimedPlan) -> Iterator[str]:
    for tensor in plan.graph.sizes:
        place = plan.graph.writer.get(tensor)
        expected = [] if place is None else [plan.starts[place]]
        created = [s.first for s in _of(plan, tensor) if s.fetched is None]
        if created != expected:
            yield f"{tensor!r} is created at {created}; expected {expected}"


@_rule("what is stored was written before, what is fetched lies in memory before")
def _memory_in_order(plan: TimedPlan) -> Iterator[str]:
    for tensor in plan.graph.sizes:
        place = plan.graph.writer.get(tensor)
        there = 0 if place is None else None
        for stay in _of(plan, tensor):
            if stay.fetched is not None and (there is None or stay.fetched < there):
                yield f"{tensor!r} is fetched at {stay.fetched}; memory has it from {there} on"
            if stay.stored is not None:
                if place is not None and stay.stored < plan.end(place):
                    yield f"{tensor!r} is stored at {stay.stored} before it is written"
                done = stay.stored + _ticks(plan, stay)
                there = done if there is None else there


@_rule("every output of the graph is stored")
def _outputs_stored(plan: TimedPlan) -> Iterator[str]:
    for tensor in plan.graph.outputs:
        if all(s.stored is None for s in _of(plan, tensor)):
            yield f"{tensor!r} never reaches memory"


@_rule("every tensor lies inside the scratchpad, no two share a byte at the same time")
def _addresses(plan: TimedPlan) -> Iterator[str]:
    boxes = [
        (s.first, s.end, s.address, s.address + plan.graph.sizes[s.tensor], s.tensor)
        for s in plan.stays
    ]
    for n, a in enumerate(boxes):
        if a[2] < 0 or a[3] > plan.unit.capacity:
            yield f"{a[4]!r} at bytes {a[2]}..{a[3] - 1} of {plan.unit.capacity}"
        for b in boxes[n + 1 :]:
            if max(a[0], b[0]) < min(a[1], b[1]) and max(a[2], b[2]) < min(a[3], b[3]):
                yield f"{a[4]!r} and {b[4]!r} share byte {max(a[2], b[2])} at {max(a[0], b[0])}"
