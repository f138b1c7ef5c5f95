"""Best-first search over what is done and what is in the scratchpad: residence without addresses.

Exact like `residence.py` and stronger where few tasks are ready at a time: a state is the set of
tasks that are done and, of the tensors still needed, those in the scratchpad and those with a copy
in memory. A tensor is sent away only when a task does not fit, and pays its fetch (and its store,
if memory has no copy) at once, so that states with equal sets compare by cost alone.
Ref: docs/scheduling.md, section COSMA.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from bankside.mapping.scheduling.graph import Graph
from bankside.mapping.scheduling.plan import spans
from bankside.mapping.scheduling.residence import Residence

State = tuple[int, int, int]
"""Bit sets: tasks done; tensors there; of these, those with a copy in memory."""


@dataclass(frozen=True)
class _Move:
    """How a state was reached: from where, by which task, what was sent away for it."""

    before: State
    task: int
    dropped: int


def search(graph: Graph, capacity: int, less_than: int, states: int = 100_000) -> Residence | None:
    """Least non-compulsory traffic of any order and residence that respects the capacity.

    Args:
        less_than: bytes; only less traffic than that is of interest.
        states: how many to expand at most.

    Returns:
        None where it is proven that nothing has less traffic than `less_than`. Otherwise the best
        residence, or, where the limit of states is met, no steps and a proven bound.
    """
    return _Search(graph, capacity, less_than).run(states)


class _Search:
    def __init__(self, graph: Graph, capacity: int, less_than: int) -> None:
        self.graph, self.capacity, self.less_than = graph, capacity, less_than
        # Tensors that can be worth keeping: used at least twice, their creation included.
        self.names = [
            t for t in graph.sizes
            if len(graph.readers[t]) + (t in graph.writer) > 1 and graph.readers[t]
        ]  # fmt: skip
        bit = {t: 1 << n for n, t in enumerate(self.names)}
        self.size = [graph.sizes[t] for t in self.names]
        outputs = set(graph.outputs)
        # Fetch, and store where memory has no copy: at the first and at every later departure.
        self.stored_free = sum(bit[t] for t in self.names if t in outputs)
        self.from_memory = sum(bit[t] for t in self.names if t not in graph.writer)
        self.readers = [sum(1 << i for i in graph.readers[t]) for t in self.names]
        self.needs = [sum(bit.get(t, 0) for t in task.inputs) for task in graph.tasks]
        self.makes = [bit.get(task.output, 0) for task in graph.tasks]
        self.alone = [
            sum(graph.sizes[t] for t in task.tensors if t not in bit) for task in graph.tasks
        ]
        self.before = [sum(1 << j for j in graph.direct[i]) for i in range(len(graph.tasks))]
        self.weight: dict[int, int] = {0: 0}

    # --- sets -------------------------------------------------------------------------------------
    def bytes(self, tensors: int) -> int:
        """Of a set of tensors."""
        known = self.weight.get(tensors)
        if known is None:
            low = tensors & -tensors
            known = self.size[low.bit_length() - 1] + self.bytes(tensors ^ low)
            self.weight[tensors] = known
        return known

    def _dead(self, tensors: int, done: int) -> int:
        """Those that no task reads any more."""
        dead = 0
        for n in _bits(tensors):
            if not self.readers[n] & ~done:
                dead |= 1 << n
        return dead

    def _price(self, dropped: int, stored: int) -> int:
        """Traffic of sending tensors away that are needed again."""
        free = stored | self.stored_free | self.from_memory
        return self.bytes(dropped) + self.bytes(dropped & ~free)

    # --- moves ------------------------------------------------------------------------------------
    def _ready(self, done: int) -> Iterator[int]:
        for i, before in enumerate(self.before):
            if not done >> i & 1 and not before & ~done:
                yield i

    def _eager(self, state: State) -> int | None:
        """A task that can only help now: it fits without a departure, and its result is no larger
        (and no dearer to send away) than any tensor that dies with it.
        """
        done, there, stored = state
        for i in self._ready(done):
            needs, makes = self.needs[i], self.makes[i]
            if needs & ~there or self._load(i, there) > self.capacity:
                continue
            dying = self._dead(needs, done | 1 << i)
            price = self._price(makes, 0)
            if dying and all(
                self.bytes(makes) <= self.size[n] and price <= self._price(1 << n, stored)
                for n in _bits(dying)
            ):
                return i
        return None

    def _load(self, i: int, there: int) -> int:
        return self.bytes(there | self.needs[i] | self.makes[i]) + self.alone[i]

    def _departures(self, i: int, there: int) -> Iterator[int]:
        """Smallest sets that have to go so that a task fits."""
        excess = self._load(i, there) - self.capacity
        if excess <= 0:
            yield 0
            return
        free = sorted(_bits(there & ~self.needs[i]), key=lambda n: -self.size[n])
        yield from self._subsets(free, 0, excess, 0)

    def _subsets(self, free: list[int], start: int, excess: int, chosen: int) -> Iterator[int]:
        # Largest first: a set is smallest when its last member is what made it large enough.
        for at in range(start, len(free)):
            left = excess - self.size[free[at]]
            if left <= 0:
                yield chosen | 1 << free[at]
            else:
                yield from self._subsets(free, at + 1, left, chosen | 1 << free[at])

    def _after(self, state: State, i: int, dropped: int) -> State:
        done, there, stored = state
        done |= 1 << i
        fetched = self.needs[i] & ~there & ~self.from_memory
        there = (there & ~dropped) | self.needs[i] | self.makes[i]
        there &= ~self._dead(there, done)
        # What was fetched has a copy in memory.
        return done, there, (stored | fetched) & there

    # --- search -----------------------------------------------------------------------------------
    def run(self, states: int) -> Residence | None:
        start, goal = (0, 0, 0), (1 << len(self.before)) - 1
        best: dict[State, int] = {start: 0}
        moves: dict[State, _Move] = {}
        expanded: dict[int, list[tuple[int, int, int]]] = {}
        # Among equal costs the one with the most tasks done comes first.
        queue: list[tuple[int, int, State]] = [(0, 0, start)]
        while queue:
            cost, _, state = heapq.heappop(queue)
            if cost > best[state]:
                continue
            if state[0] == goal:
                return self._residence(moves, state, cost)
            if self._dominated(state, cost, expanded.setdefault(state[0], [])):
                continue
            if not states:
                return Residence((), (), cost, False)
            states -= 1
            expanded[state[0]].append((cost, state[1], state[2]))
            self._expand(state, cost, best, moves, queue)
        return None

    def _dominated(self, state: State, cost: int, others: list[tuple[int, int, int]]) -> bool:
        """Whether a state with the same tasks done, at least the same tensors there, and enough
        less cost to store what only this one has stored, was expanded before.
        """
        _, there, stored = state
        return any(
            not there & ~other_there
            and other_cost + self.bytes(stored & ~other_stored & ~self.stored_free) <= cost
            for other_cost, other_there, other_stored in others
        )

    def _expand(self, state: State, cost: int, best: dict, moves: dict, queue: list) -> None:
        eager = self._eager(state)
        for i in self._ready(state[0]) if eager is None else (eager,):
            for dropped in self._departures(i, state[1]):
                total = cost + self._price(dropped, state[2])
                after = self._after(state, i, dropped)
                if total < self.less_than and total < best.get(after, total + 1):
                    best[after] = total
                    moves[after] = _Move(state, i, dropped)
                    heapq.heappush(queue, (total, -after[0].bit_count(), after))

    def _residence(self, moves: dict[State, _Move], state: State, cost: int) -> Residence:
        path: list[_Move] = []
        while state in moves:
            path.append(moves[state])
            state = moves[state].before
        path.reverse()
        steps = [0] * len(path)
        for step, move in enumerate(path):
            steps[move.task] = step
        gone = {
            (self.names[n], step) for step, move in enumerate(path) for n in _bits(move.dropped)
        }

        def kept(tensor: str, use: int, following: int) -> bool:
            return not any((tensor, step) in gone for step in range(use + 1, following))

        stays = spans(self.graph, steps, kept)
        return Residence(tuple(steps), tuple(stays), cost, True)


def _bits(tensors: int) -> Iterator[int]:
    while tensors:
        low = tensors & -tensors
        yield low.bit_length() - 1
        tensors ^= low
