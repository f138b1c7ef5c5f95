"""Adaptive chunks: every pass has a token for all who decode, and as many prompt tokens as the time
has room for that the pass takes anyway.

L3 chunks a prompt where the GPUs would take longer than the ranks' attention beside them. The same
for every policy: the policy's own cost says how many prompt tokens make a pass hardly longer than
it is without them. Where it is short without them, it may take up to `tbt_s`.

Ref: arXiv 2504.17584; CHIME (ISCA 2026), section VI-C.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING

import numpy as np

from bankside.errors import ConfigError
from bankside.mapping.serving.chunked import Chunked
from bankside.mapping.serving.state import Batching, Pass
from bankside.mapping.serving.trace import Trace
from bankside.mapping.workload.batch import Batch

if TYPE_CHECKING:
    from bankside.mapping.policy.base import Policy

#: How much longer than without prompts a pass may be that takes more than `tbt_s`.
SLACK = 0.05
#: Sizes from a number to its double that work is rounded to before its chunk is looked for:
#: requests, their contexts, the longest of these, prompt tokens done before.
_STEPS = (8, 8, 2, 2)
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
        least: tokens, so that prompts go on whatever decodes.
    """

    def __init__(self, policy: Policy, tbt_s: float, least: int) -> None:
        self._policy, self._tbt_s, self._least = policy, tbt_s, least
        self._sizes = [_sizes(steps, 2**40) for steps in _STEPS]
        self._known: dict[tuple[int, ...], int] = {}

    def tokens(self, requests: int, context: int, longest: int, past: int) -> int:
        """Prompt tokens beside `requests` that decode `context` tokens in all, the longest of
        `longest`, where the first prompt has `past` tokens behind it.
        """
        work = requests, context, longest, past
        key = tuple(bisect_left(of, number) for of, number in zip(self._sizes, work, strict=True))
        if (known := self._known.get(key)) is None:
            known = self._known[key] = self._find(key)
        return known

    def _find(self, key: tuple[int, ...]) -> int:
        """Within the bound with all numbers rounded up, or else hardly longer than without prompts
        with those rounded down that the GPUs do not wait for.
        """
        *more, past = (of[place] for of, place in zip(self._sizes, key, strict=True))
        less = [of[max(place - 1, 0)] for of, place in zip(self._sizes, key[:3], strict=False)]
        octaves = 2 ** np.arange(MOST.bit_length())
        chunks = np.concatenate([[0], octaves[octaves > self._least]])
        limit, seconds = self._tbt_s, self._seconds(more, chunks, past)
        if seconds[0] > limit:
            more, seconds = less, self._seconds(less, chunks, past)
            limit = (1 + SLACK) * seconds[0]
        fits = np.flatnonzero(seconds <= limit)
        low = int(max(chunks[fits[-1]], self._least))
        step = max(low // _FINE, 1)
        finer = np.arange(low + step, min(2 * low, MOST), step)
        if not len(finer):
            return low
        fits = finer[self._seconds(more, finer, past) <= limit]
        return int(fits[-1]) if len(fits) else low

    def _seconds(self, work: list[int], chunk: np.ndarray, past: int) -> np.ndarray:
        requests, context, longest = (np.full(len(chunk), float(number)) for number in work)
        cost = self._policy.step(
            Batch.prefill(1, chunk, past)
            + Batch(decode_requests=requests, decode_context=context, decode_longest=longest)
        )
        return np.broadcast_to(np.asarray(cost.seconds, float), chunk.shape)


class Adaptive(Chunked):
    """Chunked, with another budget for every pass."""

    def __init__(
        self, trace: Trace, batching: Batching, kv_tokens: int, policy: Policy | None = None
    ) -> None:
        super().__init__(trace, batching, kv_tokens)
        if policy is None:
            raise ConfigError(
                "batching.strategy adaptive asks a policy how long passes take, and got none; "
                "expected one, or choose chunked"
            )
        self.chunks = Chunks(policy, batching.tbt_s, batching.block_tokens)

    def _budget(self, plan: Pass) -> int:
        if not self.prompts and not self.waiting:
            return 0
        past = self.prompts[0].done if self.prompts else 0
        return self.chunks.tokens(
            plan.decode_requests, plan.decode_context, plan.decode_longest, past
        )


STATE = Adaptive
