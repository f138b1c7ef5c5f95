"""Who got a token when: latencies, gaps between tokens, what every pass held."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ToolError
from bankside.mapping.serving.state import Pass
from bankside.mapping.serving.trace import Trace


@dataclass
class Record:
    """Of one machine that serves a trace.

    Attributes
    ----------
    first_s, done_s: [n] seconds of the first and the last token, nan: not yet.
    gaps, counts: seconds between two tokens of a request, how many there were.
    passes: rows (start, seconds, prompt tokens, decoding requests, waiting requests, blocks).
    energy_j: of all passes, None: not known.
    complete, preemptions, moved_tokens: how many. end_s: when the machine came to rest.
    """

    trace: Trace
    first_s: NDArray[np.float64] = field(init=False)
    done_s: NDArray[np.float64] = field(init=False)
    gaps: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    passes: list[tuple[float, ...]] = field(default_factory=list)
    energy_j: float | None = 0.0
    complete: int = 0
    preemptions: int = 0
    moved_tokens: int = 0
    end_s: float = 0.0
    rejected: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.first_s = np.full(len(self.trace), np.nan)
        self.done_s = np.full(len(self.trace), np.nan)
        # When the last token came: of requests that decode on, where it was not the last decode
        # step; of those that gave way.
        self._joined: dict[int, float] = {}
        self._away: dict[int, float] = {}
        self._decoded_at = 0.0

    def hand_over(self, first_s: NDArray[np.float64]) -> None:
        """First tokens come from another machine, at these times."""
        self.first_s = first_s.copy()
        self._away = dict(enumerate(first_s.tolist()))

    def add(self, plan: Pass, start: float, end: float, energy_j: float | None) -> None:
        """A pass from `start` to `end`."""
        self.passes.append(
            (start, end - start, plan.prefill_tokens, plan.decode_requests, plan.waiting, plan.used)
        )
        self.energy_j = (
            None if energy_j is None or self.energy_j is None else self.energy_j + energy_j
        )
        self.preemptions += len(plan.gave_way)
        self.moved_tokens += plan.moved_tokens
        for request in plan.gave_way:
            self._away[request] = self._joined.pop(request, self._decoded_at)
        for request in plan.back:
            self._joined[request] = self._away.pop(request)
        if plan.decode_requests:
            self._decode(plan, end)
        for request in plan.back_later:
            self._joined[request] = self._away.pop(request)
        for request in plan.first:
            self._prompt(request, end)
        for request in plan.done:
            self.done_s[request] = end
            self._joined.pop(request, None)
        self.complete += len(plan.done)

    def _decode(self, plan: Pass, end: float) -> None:
        for since in self._joined.values():
            self._gap(end - since, 1)
        self._gap(end - self._decoded_at, plan.decode_requests - len(self._joined))
        self._joined.clear()
        self._decoded_at = end

    def _prompt(self, request: int, end: float) -> None:
        if request in self._away:
            self._gap(end - self._away.pop(request), 1)
        else:
            self.first_s[request] = end
        self._joined[request] = end

    def _gap(self, seconds: float, count: int) -> None:
        if count:
            self.gaps.append(seconds)
            self.counts.append(count)

    def finish(self, end: float, rejected: list[int]) -> None:
        """Nothing is left. Raises ToolError when a request got lost."""
        self.end_s, self.rejected = end, tuple(rejected)
        if self.complete + len(rejected) != len(self.trace):
            raise ToolError(
                f"{len(self.trace)} requests arrived, {self.complete} are complete and "
                f"{len(rejected)} turned away; report this"
            )

    @property
    def tokens(self) -> int:
        """Tokens of all answers that are complete."""
        return int(self.trace.outputs[~np.isnan(self.done_s)].sum())


def quantiles(values: NDArray, counts: NDArray | None = None) -> dict[str, float | None]:
    """Mean, P50, P90, P99 and maximum of values that occur `counts` times; None without values.

    The q-quantile is the smallest value that at least a share q does not exceed.
    """
    names = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    if not len(values):
        return {"mean": None, **dict.fromkeys(names)}
    weights = np.ones(len(values)) if counts is None else np.asarray(counts, float)
    order = np.argsort(values, kind="stable")
    ranked, below = np.asarray(values)[order], np.cumsum(weights[order])
    # Whole numbers as floats: one part in 1e12 of slack keeps 0.9 * 10 from becoming more than 9.
    at = {n: np.searchsorted(below, q * below[-1] * (1 - 1e-12)) for n, q in names.items()}
    mean = float(np.average(values, weights=weights))
    return {"mean": mean, **{name: float(ranked[index]) for name, index in at.items()}}
