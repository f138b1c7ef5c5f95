"""Addresses of buffers in the shared buffer: two that are alive at once must not overlap.

Small problems are solved by CP-SAT to the least height; a greedy packing comes first and is final
where it meets the lower bound (the most words alive at once). Ref: docs/npu_compiler.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ortools.sat.python import cp_model

from bankside.mapping.lower_npu.storage import Buffer

#: Buffers up to which the exact solver is asked.
SOLVED = 64
#: CP-SAT's own measure of work; with one worker it makes results independent of the wall clock.
_EFFORT = 2.0


@dataclass(frozen=True)
class Span:
    """A buffer and the first and last event that use it."""

    buffer: Buffer
    first: int
    last: int

    def meets(self, other: Span) -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Allocation:
    """height: words used. bound: no allocation needs fewer. proven: height is the least."""

    height: int
    bound: int
    proven: bool

    @property
    def gap(self) -> float:
        """Part of the height that may be too much."""
        return 0.0 if self.proven or not self.height else 1 - self.bound / self.height


def allocate(spans: Sequence[Span], base: int, room: int) -> Allocation | None:
    """Give every buffer an address in [base, base + room); None where that did not succeed."""
    if not spans:
        return Allocation(0, 0, True)
    bound = _bound(spans)
    places = _greedy(spans, base)
    height = _height(spans, places, base)
    if height > bound and len(spans) <= SOLVED:
        solved = _solve(spans, base, min(room, height))
        if solved is not None:
            places, bound = solved
            height = _height(spans, places, base)
    if height > room:
        return None
    for span, place in zip(spans, places, strict=True):
        span.buffer.address = place
    return Allocation(height, bound, height == bound)


def most_alive(spans: Sequence[Span]) -> tuple[int, int]:
    """(words alive at once at most, the event when)."""
    return max((sum(s.buffer.words for s in spans if s.first <= t <= s.last), -t)
               for t in {s.first for s in spans})  # fmt: skip


def _bound(spans: Sequence[Span]) -> int:
    return most_alive(spans)[0]


def _height(spans: Sequence[Span], places: Sequence[int], base: int) -> int:
    ends = (place + s.buffer.words for s, place in zip(spans, places, strict=True))
    return max(ends) - base


def _greedy(spans: Sequence[Span], base: int) -> list[int]:
    """The largest first, each as low as it fits."""
    order = sorted(range(len(spans)), key=lambda i: (-spans[i].buffer.words, spans[i].first))
    places = [0] * len(spans)
    done: list[int] = []
    for index in order:
        span = spans[index]
        taken = sorted(
            (places[i], places[i] + spans[i].buffer.words) for i in done if spans[i].meets(span)
        )
        place = _up(base, span.buffer.align)
        for start, stop in taken:
            if place + span.buffer.words <= start:
                break
            place = max(place, _up(stop, span.buffer.align))
        places[index] = place
        done.append(index)
    return places


def _up(value: int, align: int) -> int:
    return -(-value // align) * align


def _solve(spans: Sequence[Span], base: int, room: int) -> tuple[list[int], int] | None:
    """(addresses, proven lower bound) of the least height; None where nothing was found."""
    model = cp_model.CpModel()
    height = model.new_int_var(0, room, "height")
    places, across, along = [], [], []
    for index, span in enumerate(spans):
        words, align = span.buffer.words, span.buffer.align
        unit = model.new_int_var(-(-base // align), (base + room) // align, f"unit{index}")
        place = model.new_int_var(base, base + room, f"place{index}")
        model.add(place == unit * align)
        model.add(place + words <= base + height)
        places.append(place)
        across.append(model.new_fixed_size_interval_var(place, words, f"words{index}"))
        along.append(
            model.new_fixed_size_interval_var(span.first, span.last - span.first + 1, f"t{index}")
        )
    model.add_no_overlap_2d(along, across)
    model.minimize(height)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.max_deterministic_time = _EFFORT
    if solver.solve(model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    return [int(solver.value(p)) for p in places], int(round(solver.best_objective_bound))
