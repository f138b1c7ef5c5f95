"""Legality rules of plans: one function each, in a table.

To add a rule: a function that yields what breaks it, with `@_rule`; `tests/mapping/scheduling/`
has a known-bad twin for each and fails where one is missing. Ref: docs/scheduling.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bankside.errors import ConfigError
from bankside.mapping.scheduling.plan import Plan, Stay
from bankside.registry import Registry


@dataclass(frozen=True)
class Rule:
    """What a plan has to keep.

    Attributes:
        name: as in `RULES`. says: the rule in words. check: yields what breaks it.
    """

    name: str
    says: str
    check: Callable[[Plan], Iterator[str]]


RULES: Registry[Rule] = Registry("legality rule")


def _rule(says: str) -> Callable:
    def add(check: Callable[[Plan], Iterator[str]]) -> Callable[[Plan], Iterator[str]]:
        name = check.__name__.strip("_")
        RULES.add(name, Rule(name, says, check))
        return check

    return add


def violations(plan: Plan) -> list[str]:
    """What is wrong with a plan, as "rule: finding"; empty for a legal one."""
    return [f"{name}: {finding}" for name in RULES for finding in RULES.get(name).check(plan)]


def check(plan: Plan) -> Plan:
    """The same plan.

    Raises:
        ConfigError: it breaks a rule; all findings.
    """
    if found := violations(plan):
        raise ConfigError(
            f"plan of {plan.graph.name!r} ({plan.source or 'no source'}) is not legal:\n"
            + "\n".join(found)
        )
    return plan


# --- tasks ----------------------------------------------------------------------------------------
@_rule("every task has one step, no two the same, without holes")
def _one_task_per_step(plan: Plan) -> Iterator[str]:
    if sorted(plan.steps) != list(range(len(plan.graph.tasks))):
        yield f"steps {list(plan.steps)}; expected each of 0..{len(plan.graph.tasks) - 1} once"


@_rule("a tensor is read only after the step in which it is written")
def _write_before_read(plan: Plan) -> Iterator[str]:
    for i, earlier in enumerate(plan.graph.direct[: len(plan.steps)]):
        for j in earlier:
            if plan.steps[j] >= plan.steps[i]:
                yield (
                    f"{plan.graph.tasks[i].name!r} in step {plan.steps[i]} reads what "
                    f"{plan.graph.tasks[j].name!r} writes in step {plan.steps[j]}"
                )


# --- tensors --------------------------------------------------------------------------------------
@_rule("every stay is of a tensor of the graph and covers at least one step of the plan")
def _stays_exist(plan: Plan) -> Iterator[str]:
    for stay in plan.stays:
        if stay.tensor not in plan.graph.sizes:
            yield f"{stay.tensor!r} is no tensor of the graph"
        elif not 0 <= stay.first < stay.end <= len(plan.graph.tasks):
            yield f"{stay.tensor!r} stays from step {stay.first} to before {stay.end}"


@_rule("while a task runs, all its tensors are in the scratchpad")
def _present(plan: Plan) -> Iterator[str]:
    for task, step in zip(plan.graph.tasks, plan.steps, strict=False):
        for tensor in task.tensors:
            if not any(s.tensor == tensor and s.first <= step < s.end for s in plan.stays):
                yield f"{tensor!r} is not there when {task.name!r} runs in step {step}"


def _of(plan: Plan, tensor: str) -> list[Stay]:
    return sorted((s for s in plan.stays if s.tensor == tensor), key=lambda s: s.first)


@_rule("a tensor is created exactly once, in the step of the task that writes it")
def _created_by_its_task(plan: Plan) -> Iterator[str]:
    for tensor in plan.graph.sizes:
        place = plan.graph.writer.get(tensor)
        expected = [] if place is None else [plan.steps[place]]
        created = [s.first for s in _of(plan, tensor) if not s.fetched]
        if created != expected:
            yield f"{tensor!r} is created in steps {created}; expected {expected}"


@_rule("what is fetched lies in memory: an input, or stored by an earlier stay")
def _fetched_from_memory(plan: Plan) -> Iterator[str]:
    for tensor in plan.graph.sizes:
        there = tensor not in plan.graph.writer
        for stay in _of(plan, tensor):
            if stay.fetched and not there:
                yield f"{tensor!r} is fetched in step {stay.first} but was never stored"
            there = there or stay.stored


@_rule("every output of the graph is stored")
def _outputs_stored(plan: Plan) -> Iterator[str]:
    for tensor in plan.graph.outputs:
        if not any(s.stored for s in _of(plan, tensor)):
            yield f"{tensor!r} never reaches memory"


@_rule("a tensor is not in the scratchpad twice at once")
def _one_copy(plan: Plan) -> Iterator[str]:
    for tensor in plan.graph.sizes:
        stays = _of(plan, tensor)
        for one, other in zip(stays, stays[1:], strict=False):
            if other.first < one.end:
                yield f"{tensor!r} stays until step {one.end} and again from {other.first}"


# --- addresses ------------------------------------------------------------------------------------
@_rule("every tensor lies inside the scratchpad")
def _inside(plan: Plan) -> Iterator[str]:
    for stay in plan.stays:
        end = stay.address + plan.graph.sizes.get(stay.tensor, 0)
        if stay.address < 0 or end > plan.capacity:
            yield f"{stay.tensor!r} at bytes {stay.address}..{end - 1} of {plan.capacity}"


@_rule("no two tensors share a byte in the same step")
def _no_overlap(plan: Plan) -> Iterator[str]:
    sizes = plan.graph.sizes
    stays = [s for s in plan.stays if s.tensor in sizes]
    for number, a in enumerate(stays):
        for b in stays[number + 1 :]:
            together = max(a.first, b.first) < min(a.end, b.end)
            ends = a.address + sizes[a.tensor], b.address + sizes[b.tensor]
            if together and max(a.address, b.address) < min(ends):
                yield (
                    f"{a.tensor!r} and {b.tensor!r} share byte {max(a.address, b.address)} in "
                    f"step {max(a.first, b.first)}"
                )
