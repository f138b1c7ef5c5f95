"""Baselines of allocation: a fixed order, a replacement policy and an allocator, simulated.

They are what compilers do and what COSMA is compared with; each is a special case of its search
space. Ref: docs/scheduling.md, section Baselines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product

from bankside.errors import ConfigError
from bankside.mapping.scheduling.explain import require_capacity
from bankside.mapping.scheduling.graph import Graph
from bankside.mapping.scheduling.plan import Plan, Stay
from bankside.mapping.scheduling.rules import check
from bankside.registry import nearest


# --- orders ---------------------------------------------------------------------------------------
def given_order(graph: Graph) -> list[int]:
    """As the tasks are listed."""
    return list(range(len(graph.tasks)))


def breadth_first(graph: Graph) -> list[int]:
    """Kahn's: the task that has been ready for longest."""
    return _order(graph, lambda ready, _: ready[0])


def depth_first(graph: Graph) -> list[int]:
    """The task that became ready last: follows a branch to its end."""
    return _order(graph, lambda ready, _: ready[-1])


def least_memory(graph: Graph) -> list[int]:
    """Greedy: the ready task after which the fewest bytes stay alive."""

    def choose(ready: list[int], done: set[int]) -> int:
        return min(ready, key=lambda i: (_growth(graph, i, done), i))

    return _order(graph, choose)


def _growth(graph: Graph, i: int, done: set[int]) -> int:
    """Bytes that a task makes alive, less those it reads last."""
    task = graph.tasks[i]
    after = done | {i}
    last = [t for t in task.inputs if t in graph.writer and after.issuperset(graph.readers[t])]
    alive = graph.sizes[task.output] if graph.readers[task.output] else 0
    return alive - sum(graph.sizes[t] for t in last)


def _order(graph: Graph, choose: Callable[[list[int], set[int]], int]) -> list[int]:
    done: set[int] = set()
    ready = [i for i, earlier in enumerate(graph.before) if not earlier]
    order: list[int] = []
    while ready:
        i = choose(ready, done)
        ready.remove(i)
        order.append(i)
        done.add(i)
        ready += [
            j for j in sorted(graph.after[i])
            if i in graph.direct[j] and done.issuperset(graph.direct[j])
        ]  # fmt: skip
    return order


ORDERS: dict[str, Callable[[Graph], list[int]]] = {
    "given": given_order,
    "breadth_first": breadth_first,
    "depth_first": depth_first,
    "least_memory": least_memory,
}


# --- replacement: which of the tensors that may go goes first -------------------------------------
@dataclass
class _State:
    graph: Graph
    capacity: int
    steps: list[int]
    step: int = 0
    where: dict[str, int] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    fetched: dict[str, bool] = field(default_factory=dict)
    in_memory: set[str] = field(default_factory=set)
    stays: list[Stay] = field(default_factory=list)

    def next_use(self, tensor: str) -> int:
        """Step of the next read after the present step; beyond all steps: none."""
        later = [self.steps[i] for i in self.graph.readers[tensor] if self.steps[i] > self.step]
        return min(later, default=len(self.steps))

    def gaps(self) -> list[tuple[int, int]]:
        """(address, bytes) of what is free."""
        taken = sorted((at, at + self.graph.sizes[t]) for t, at in self.where.items())
        edges = [0, *(end for _, end in taken)]
        starts = [*(at for at, _ in taken), self.capacity]
        return [(a, b - a) for a, b in zip(edges, starts, strict=True) if b > a]


def _belady(state: _State, tensor: str) -> tuple:
    """Furthest next use first (Belady), the larger of two first."""
    return (-state.next_use(tensor), -state.graph.sizes[tensor])


def _lru(state: _State, tensor: str) -> tuple:
    """Least recently used first."""
    return (state.used[tensor], state.since[tensor])


def _fifo(state: _State, tensor: str) -> tuple:
    """Longest in the scratchpad first."""
    return (state.since[tensor], state.used[tensor])


def _largest(state: _State, tensor: str) -> tuple:
    """Largest first, so that few go."""
    return (-state.graph.sizes[tensor], -state.next_use(tensor))


REPLACEMENTS: dict[str, Callable[[_State, str], tuple]] = {
    "belady": _belady,
    "lru": _lru,
    "fifo": _fifo,
    "largest": _largest,
}

# --- allocators: which gap ------------------------------------------------------------------------
ALLOCATORS: dict[str, Callable[[list[tuple[int, int]]], tuple[int, int]]] = {
    "first_fit": lambda gaps: gaps[0],
    "best_fit": lambda gaps: min(gaps, key=lambda gap: (gap[1], gap[0])),
}


@dataclass(frozen=True)
class Baseline:
    """A combination: keys of ORDERS, REPLACEMENTS and ALLOCATORS."""

    order: str = "given"
    replacement: str = "belady"
    allocator: str = "first_fit"

    def __post_init__(self) -> None:
        for name, table in (
            ("order", ORDERS), ("replacement", REPLACEMENTS), ("allocator", ALLOCATORS)
        ):  # fmt: skip
            value = getattr(self, name)
            if value not in table:
                raise ConfigError(
                    f"baseline: {name} {value!r} is not known{nearest(value, table)}; choose from: "
                    f"{', '.join(table)}"
                )

    @property
    def name(self) -> str:
        """The three names joined."""
        return f"{self.order}/{self.replacement}/{self.allocator}"


BASELINES = tuple(Baseline(*names) for names in product(ORDERS, REPLACEMENTS, ALLOCATORS))


def baseline(graph: Graph, capacity: int, kind: Baseline = Baseline()) -> Plan:
    """Plan of a baseline.

    Raises:
        ConfigError: a task does not fit (`explain.require_capacity`).
    """
    require_capacity(graph, capacity)
    order = ORDERS[kind.order](graph)
    return check(simulate(graph, capacity, order, kind))


def simulate(graph: Graph, capacity: int, order: Sequence[int], kind: Baseline) -> Plan:
    """What a replacement policy and an allocator make of a given order of the tasks."""
    steps = [0] * len(order)
    for step, i in enumerate(order):
        steps[i] = step
    state = _State(graph, capacity, steps)
    for step, i in enumerate(order):
        state.step = step
        _run(state, i, kind)
    for tensor in list(state.where):
        _leave(state, tensor, len(order))
    return Plan(graph, capacity, tuple(steps), tuple(state.stays), 0, kind.name)


def _run(state: _State, i: int, kind: Baseline) -> None:
    graph, task = state.graph, state.graph.tasks[i]
    _drop_dead(state)
    wanted = sorted(task.tensors, key=lambda t: -graph.sizes[t])
    if not all(_place(state, t, set(wanted), kind) for t in wanted if t not in state.where):
        # The tensors of this task lie so that no gap is left: begin again from an empty scratchpad.
        for tensor in list(state.where):
            _leave(state, tensor, state.step)
        for tensor in wanted:
            _place(state, tensor, set(wanted), kind)
    for tensor in wanted:
        state.used[tensor] = state.step


def _drop_dead(state: _State) -> None:
    """Tensors that nothing reads from this step on."""
    for tensor in list(state.where):
        reads = [state.steps[i] for i in state.graph.readers[tensor]]
        if max(reads, default=-1) < state.step:
            _leave(state, tensor, state.step)


def _place(state: _State, tensor: str, locked: set[str], kind: Baseline) -> bool:
    """Find room, sending others away in the order of the policy; False: there is none."""
    size = state.graph.sizes[tensor]
    policy, choose = REPLACEMENTS[kind.replacement], ALLOCATORS[kind.allocator]
    while not (fits := [gap for gap in state.gaps() if gap[1] >= size]):
        victims = [t for t in state.where if t not in locked]
        if not victims:
            return False
        _leave(state, min(victims, key=lambda t: policy(state, t)), state.step)
    state.where[tensor] = choose(fits)[0]
    state.since[tensor] = state.step
    state.used[tensor] = state.step
    state.fetched[tensor] = state.graph.writer.get(tensor) is None or (
        state.steps[state.graph.writer[tensor]] < state.step
    )
    return True


def _leave(state: _State, tensor: str, end: int) -> None:
    """End a stay; what is needed again, or is an output, is stored if memory does not have it."""
    graph = state.graph
    first, address = state.since.pop(tensor), state.where.pop(tensor)
    if end == first:  # it was placed and sent away within this step: no stay
        return
    again = any(state.steps[i] >= end for i in graph.readers[tensor])
    dirty = tensor in graph.writer and tensor not in state.in_memory
    stored = dirty and (again or tensor in graph.outputs)
    if stored:
        state.in_memory.add(tensor)
    state.stays.append(Stay(tensor, first, end, address, state.fetched[tensor], stored))
