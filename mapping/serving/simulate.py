"""Passes one after the other: what each one holds, how long it takes, who gets a token when.

A policy prices many passes in one call for little more than one. So passes are composed ahead on a
copy of the state, with guessed durations (which only decide who has arrived), priced together, and
composed again with their true times; the first one that turns out different is priced anew. The
result does not depend on the guesses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError
from bankside.mapping.serving.record import Record
from bankside.mapping.serving.state import Pass, State
from bankside.mapping.workload.batch import Batch

if TYPE_CHECKING:
    from bankside.mapping.policy.base import Policy

_FIELDS = ("prefill_tokens", "prefill_requests", "prefill_pairs", "prefill_context",
           "decode_requests", "decode_context", "decode_longest")  # fmt: skip
#: Passes composed ahead, at least and at most.
_FEW, _MANY = 4, 96

Progress = Callable[[int], None]
Moves = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Prices:
    """Seconds and joules (None: not known) of passes.

    Attributes:
        policy: what computes a pass.
        moves: seconds in which keys and values of so many tokens leave for host memory and so many
            come back; None: nothing moves.
    """

    policy: Policy
    moves: Moves | None = None

    def of(self, plans: Sequence[Pass]) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """[n] each."""
        seconds, energy = self._step(plans, slice(None))
        share = np.array([plan.fraction for plan in plans])
        if (share < 1).any():
            # A part of the layers sees the prompt: that part of the difference it makes.
            alone, alone_energy = self._step(plans, slice(4, None))
            seconds = alone + (seconds - alone) * share
            if energy is not None and alone_energy is not None:
                energy = alone_energy + (energy - alone_energy) * share
        if self.moves is not None:
            moved = np.array([(plan.out_tokens, plan.back_tokens) for plan in plans], float)
            seconds = seconds + self.moves(moved[:, 0], moved[:, 1])
        return seconds, energy

    def _step(
        self, plans: Sequence[Pass], fields: slice
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        values = {name: np.array([getattr(p, name) for p in plans]) for name in _FIELDS[fields]}
        cost = self.policy.step(Batch(**values))
        seconds = np.broadcast_to(np.asarray(cost.seconds, float), len(plans))
        if not np.all(np.isfinite(seconds)) or (seconds < 0).any():
            raise ConfigError(f"policy {type(self.policy).__name__} gives a pass of {seconds} s")
        if cost.energy_j is None:
            return seconds, None
        return seconds, np.broadcast_to(np.asarray(cost.energy_j, float), len(plans))


class _Guess:
    """Durations of passes like those seen before."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], float] = {}
        self._last = 0.01

    @staticmethod
    def _kind(plan: Pass) -> tuple[int, int]:
        return plan.prefill_tokens // 64, plan.decode_requests // 8

    def of(self, plan: Pass) -> float:
        return self._seen.get(self._kind(plan), self._last)

    def learn(self, plan: Pass, seconds: float) -> None:
        self._seen[self._kind(plan)] = self._last = seconds


def simulate(
    state: State,
    prices: Prices,
    *,
    on_done: Progress | None = None,
    first_s: NDArray[np.float64] | None = None,
) -> Record:
    """Serve every request of the state's trace.

    on_done: hears how many requests are complete. first_s: when first tokens came elsewhere.
    """
    trace, record, guess = state.trace, Record(state.trace), _Guess()
    if first_s is not None:
        record.hand_over(first_s)
    now, ahead, first = 0.0, _FEW, None
    while True:
        plans = _ahead(state, guess, now, ahead, first)
        if not plans:
            if state.pulled >= len(trace):
                break
            now = max(now, float(trace.arrival_s[state.pulled]))
            # Also where nothing follows: who has arrived may be turned away.
            first = state.next(now)
            continue
        seconds, energy = prices.of(plans)
        kept, first = 0, first or state.next(now)
        while first is not None and kept < len(plans) and first.work == plans[kept].work:
            guess.learn(first, float(seconds[kept]))
            end = now + float(seconds[kept])
            record.add(first, now, end, None if energy is None else float(energy[kept]))
            now, kept = end, kept + 1
            first = state.next(now) if kept < len(plans) else None
        ahead = min(max(_FEW, 2 * kept), _MANY)
        if on_done is not None:
            on_done(record.complete)
    record.finish(now, state.rejected)
    return record


def _ahead(state: State, guess: _Guess, now: float, count: int, first: Pass | None) -> list[Pass]:
    """The next passes; `first` is one that the state has already composed."""
    other, plans = state.copy(), []
    if first is not None:
        plans.append(first)
        now += guess.of(first)
    while len(plans) < count and (plan := other.next(now)) is not None:
        plans.append(plan)
        now += guess.of(plan)
    return plans
