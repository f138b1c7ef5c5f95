"""Adaptive chunks: every pass has a token for all who decode, and as many prompt tokens as there is
time for.

L3 chunks prompts so that the GPUs take as long as the ranks' attention beside them. Where that is
short, or a policy has nothing beside the GPUs, a pass may take up to `tbt_s`. Both follow from the
policy's own cost. `token_budget` tokens pass in any case, or prompts would stand still where a pass
takes longer than that without them.

Ref: arXiv 2504.17584; CHIME (ISCA 2026), section VI-C.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from bankside.errors import ConfigError
from bankside.mapping.serving.chunked import Chunked
from bankside.mapping.serving.state import Batching, Pass
from bankside.mapping.serving.trace import Trace
from bankside.mapping.workload.batch import Batch

if TYPE_CHECKING:
    from bankside.mapping.policy.common import AnyPolicy

#: Sizes from a number to its double that work is rounded to before its chunk is looked for:
#: requests, their contexts, the longest of these, prompt tokens done before.
_STEPS = (4, 8, 2, 2)
#: Prompt tokens of a pass at most, and between two sizes of a chunk at least a share of it.
MOST, _FINE = 2**15, 32


def _sizes(steps: int, most: int) -> list[int]:
    """Whole numbers from 0 on, `steps` from one to its double."""
    count = steps * (most - 1).bit_length() + 1
    return [0, *sorted({math.ceil(2 ** (k / steps)) for k in range(count)})]


class Chunks:
    """How many prompt tokens go with the requests that decode, remembered for rounded work.

    Args:
        policy: what computes a pass.
        tbt_s: seconds that a pass with prompts may take in any case.
    """

    def __init__(self, policy: AnyPolicy, tbt_s: float) -> None:
        self._policy, self._tbt_s = policy, tbt_s
        self._sizes = [_sizes(steps, 2**40) for steps in _STEPS]
        self._known: dict[tuple[int, ...], int] = {}

    def tokens(self, requests: int, context: int, longest: int, past: int) -> int:
        """Prompt tokens beside `requests` that decode `context` tokens in all, the longest of
        `longest`, where the first prompt has `past` tokens behind it; 0: none fits.
        """
        work = requests, context, longest, past
        key = tuple(bisect_left(of, number) for of, number in zip(self._sizes, work, strict=True))
        if (known := self._known.get(key)) is None:
            known = self._known[key] = self._find(key)
        return known

    def _find(self, key: tuple[int, ...]) -> int:
        """Numbers are rounded up; what is beside the GPUs is the least there can be."""
        *more, past = (of[place] for of, place in zip(self._sizes, key, strict=True))
        less = [of[max(place - 1, 0)] for of, place in zip(self._sizes, key[:3], strict=False)]

        def in_time(chunk: np.ndarray) -> np.ndarray:
            return np.asarray(self._policy.step(_batch(more, chunk, past)).seconds) <= self._tbt_s

        found = _largest(in_time)
        sides = self._policy.sides(_batch(less, np.zeros(1), past))
        if sides is None:
            return found
        beside = float(np.max(sides[1]))
        # Where a pass fits into the bound, so does what is hidden by something shorter.
        if found and beside <= self._tbt_s:
            return found

        def hidden(chunk: np.ndarray) -> np.ndarray:
            sides = self._policy.sides(_batch(more, chunk, past))
            assert sides is not None
            return np.asarray(sides[0]) <= beside

        return max(found, _largest(hidden))


def _batch(work: list[int], chunk: np.ndarray, past: int) -> Batch:
    """Points of one prompt with those that decode."""
    requests, context, longest = (np.full(len(chunk), float(number)) for number in work)
    return Batch.prefill(1, chunk, past) + Batch(
        decode_requests=requests, decode_context=context, decode_longest=longest
    )


def _largest(fits: Callable[[np.ndarray], np.ndarray]) -> int:
    """The largest chunk that fits, to a share of `_FINE`; 0: none."""
    octaves = 2 ** np.arange(MOST.bit_length())
    if not (good := octaves[fits(octaves)]).size:
        return 0
    low = int(good[-1])
    step = max(low // _FINE, 1)
    finer = np.arange(low + step, min(2 * low, MOST), step)
    good = finer[fits(finer)] if finer.size else finer
    return int(good[-1]) if good.size else low


class Adaptive(Chunked):
    """Chunked, with another budget for every pass."""

    def __init__(
        self, trace: Trace, batching: Batching, kv_tokens: int, policy: AnyPolicy | None = None
    ) -> None:
        super().__init__(trace, batching, kv_tokens)
        if policy is None:
            raise ConfigError(
                "batching.strategy adaptive asks a policy how long passes take, and got none; "
                "expected one, or choose chunked"
            )
        self.chunks = Chunks(policy, batching.tbt_s)

    def _budget(self, plan: Pass) -> int:
        if not self.prompts and not self.waiting:
            return 0
        past = self.prompts[0].done if self.prompts else 0
        fits = self.chunks.tokens(
            plan.decode_requests, plan.decode_context, plan.decode_longest, past
        )
        return max(fits, super()._budget(plan), self.batching.block_tokens)


STATE = Adaptive
