"""Order between the engines of a `pim` program: tokens and hazards.

Order comes from tokens. Command A of engine e is known to be finished by engine f from the n-th
token of e to f on, if A was dispatched no later than the n-th command of e that signals f.
Completions of one engine may overtake each other (a CLOSE completes before an earlier MAC), so a
token vouches only for accesses that end within the shortest completion latency of the n-th and all
later signallers. Ref: docs/pim.md sections 4 and 6.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bankside.errors import ProgramError
from bankside.isa.program import Step
from bankside.isa.spec import Spec

_ENGINES = 4


@dataclass(slots=True)
class Touch:
    """An access of one executed command: words [first, stop) of a space.

    `end`: in which cycle after the command's last action it ends. `index` is the command's place
    among those of its engine, `order` among all, both in one segment.
    """

    engine: int
    pc: int
    name: str
    space: str
    first: int
    stop: int
    write: bool
    end: int
    index: int = 0
    order: int = 0

    def conflicts(self, other: Touch) -> bool:
        """Whether the two need an order that their engines do not give by themselves."""
        return (
            self.engine != other.engine
            and (self.write or other.write)
            and self.first < other.stop
            and other.first < self.stop
        )

    def covers(self, other: Touch) -> bool:
        """Whether who is ordered after this access is ordered after `other`, too."""
        return other.write <= self.write and other.end <= self.end and _inside(other, self)


Dispatched = tuple[Step, list[Touch]]


@dataclass
class _Knowledge:
    """What one engine knows of another: latency threshold -> number of its commands past it."""

    past: dict[int, int] = field(default_factory=dict)

    def learn(self, threshold: int, count: int) -> None:
        if self.past.get(threshold, -1) < count:
            self.past[threshold] = count

    def merge(self, other: _Knowledge) -> None:
        for threshold, count in other.past.items():
            self.learn(threshold, count)

    def covers(self, touch: Touch) -> bool:
        return any(t >= touch.end and count > touch.index for t, count in self.past.items())

    def started(self) -> int:
        """Commands of the other engine that have surely been loaded."""
        return max(self.past.values(), default=0)


def check_order(spec: Spec, delay: Mapping[str, int], segments: Iterable[list[Dispatched]]) -> None:
    """Refuse tokens that never come or overflow, and conflicting accesses without an order.

    segments: commands between two barriers, in program order, each with its accesses; everything
    before a segment is finished. delay: command -> cycles to its completion.
    """
    tokens = [[0] * _ENGINES for _ in range(_ENGINES)]
    for commands in segments:
        segment = _Segment(spec, delay, commands, tokens)
        while any([segment.advance(own) for own in range(_ENGINES)]):
            pass
        segment.require_empty()


class _Segment:
    """Executes the engines' queues in an order that the tokens allow.

    `leftover` tokens were given before the segment, by commands that are finished; the n-th token
    after them comes from the n-th signaller of the segment.
    """

    def __init__(
        self,
        spec: Spec,
        delay: Mapping[str, int],
        commands: list[Dispatched],
        tokens: list[list[int]],
    ) -> None:
        self.spec, self.tokens = spec, tokens
        self.leftover = [row.copy() for row in tokens]
        self.queues: list[deque[Dispatched]] = [deque() for _ in range(_ENGINES)]
        signallers: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for order, (step, touches) in enumerate(commands):
            name = step.instruction.name
            engine = spec.engines.index(spec.commands[name].engine)
            number = len(self.queues[engine])
            for touch in touches:
                touch.index, touch.order = number, order
            self.queues[engine].append((step, touches))
            for other in _engines(step.instruction.signal):
                signallers.setdefault((engine, other), []).append((number, delay[name]))
        self.thresholds = {pair: _suffix_minimum(given) for pair, given in signallers.items()}
        self.knowledge = [[_Knowledge() for _ in range(_ENGINES)] for _ in range(_ENGINES)]
        self.given: dict[tuple[int, int], list[list[_Knowledge]]] = {}
        self.popped = [[0] * _ENGINES for _ in range(_ENGINES)]
        self.pops_by: list[list[tuple[int, ...]]] = [[] for _ in range(_ENGINES)]
        self.recent: dict[str, list[Touch]] = {}

    def advance(self, own: int) -> bool:
        """Execute commands of one engine as far as tokens allow; True when there were any."""
        progress, queue = False, self.queues[own]
        while queue and self._ready(own, queue[0][0]):
            step, touches = queue.popleft()
            progress = True
            for other in _engines(step.instruction.wait):
                self._take(own, other)
            self.pops_by[own].append(tuple(self.popped[own]))
            for touch in touches:
                self._require_order(touch)
            for other in _engines(step.instruction.signal):
                self._give(step, own, other)
        return progress

    def _ready(self, own: int, step: Step) -> bool:
        return all(self.tokens[other][own] for other in _engines(step.instruction.wait))

    def _take(self, own: int, other: int) -> None:
        self.tokens[other][own] -= 1
        self.popped[own][other] += 1
        nth = self.popped[own][other] - self.leftover[other][own]
        if nth < 1:
            return
        count, threshold = self.thresholds[other, own][nth - 1]
        self.knowledge[own][other].learn(threshold, count + 1)
        for third in range(_ENGINES):
            self.knowledge[own][third].merge(self.given[other, own][nth - 1][third])

    def _give(self, step: Step, own: int, other: int) -> None:
        self.tokens[own][other] += 1
        given = self.given.setdefault((own, other), [])
        given.append([_Knowledge(dict(known.past)) for known in self.knowledge[own]])
        surely = self.knowledge[own][other].started()
        taken = self.pops_by[other][surely - 1][own] if surely else 0
        if self.leftover[own][other] + len(given) - taken > self.spec.token_max:
            giver, taker = self.spec.engines[own], self.spec.engines[other]
            raise ProgramError(
                f"command {step.pc} ({step.instruction.name}): more than {self.spec.token_max} "
                f"tokens from {giver} to {taker} may be outstanding; let {giver} wait for {taker} "
                f"in between"
            )

    def _require_order(self, touch: Touch) -> None:
        """Refuse a conflict with an access that its engine does not know to be over."""
        kept = []
        for other in self.recent.get(touch.space, []):
            conflict = touch.conflicts(other)
            if conflict and not self.knowledge[touch.engine][other.engine].covers(other):
                raise self._hazard(*sorted((touch, other), key=lambda t: t.order))
            # Whoever comes after this access comes after the one that it covers, too.
            settled = conflict and touch.write and _inside(other, touch)
            replaced = other.engine == touch.engine and touch.covers(other)
            if not settled and not replaced:
                kept.append(other)
        self.recent[touch.space] = [*kept, touch]

    def _hazard(self, first: Touch, second: Touch) -> ProgramError:
        giver, taker = self.spec.engines[first.engine], self.spec.engines[second.engine]
        return ProgramError(
            f"command {second.pc} ({second.name}) and command {first.pc} ({first.name}) use "
            f"{first.space} {max(first.first, second.first)}.. without an order; let {giver} "
            f"signal {taker} after command {first.pc} and command {second.pc} wait for it"
        )

    def require_empty(self) -> None:
        stuck = [queue[0][0] for queue in self.queues if queue]
        if not stuck:
            return
        first = min(stuck, key=lambda s: s.pc)
        missing = [
            self.spec.engines[other]
            for other in _engines(first.instruction.wait)
            if not self.tokens[other][self._engine_of(first)]
        ]
        raise ProgramError(
            f"command {first.pc} ({first.instruction.name}): waits for a token from "
            f"{' and '.join(missing)} that never comes; add the missing signal before the next "
            f"barrier"
        )

    def _engine_of(self, step: Step) -> int:
        return self.spec.engines.index(self.spec.commands[step.instruction.name].engine)


def _engines(mask: int) -> list[int]:
    return [engine for engine in range(_ENGINES) if mask >> engine & 1]


def _inside(inner: Touch, outer: Touch) -> bool:
    return outer.first <= inner.first and inner.stop <= outer.stop


def _suffix_minimum(given: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(number, latency) of signallers -> (number, shortest latency of this and later ones)."""
    result, shortest = [], None
    for number, latency in reversed(given):
        shortest = latency if shortest is None else min(shortest, latency)
        result.append((number, shortest))
    return result[::-1]
