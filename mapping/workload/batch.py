"""What one forward pass works on, as sums over its requests. Ref: docs/system.md, Workload."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike

from bankside.errors import ConfigError

Numbers = np.ndarray | float
"""A number or an array; those of one call broadcast against each other."""


def _number(value: ArrayLike) -> Numbers:
    array = np.asarray(value, dtype=float)
    return float(array) if array.ndim == 0 else array


@dataclass(frozen=True, eq=False)
class Batch:
    """Tokens of one forward pass. Every field is a number, or an array of one shape of points.

    Attributes:
        prefill_tokens: new prompt tokens.
        prefill_requests: requests that they belong to.
        prefill_pairs: (query, key) pairs of their causal attention, without a window.
        prefill_context: keys and values that they see, the new ones included.
        decode_requests: requests that get one token.
        decode_context: sum of their context lengths, the new token included.
        decode_longest: the longest of these contexts.
    """

    prefill_tokens: Numbers = 0.0
    prefill_requests: Numbers = 0.0
    prefill_pairs: Numbers = 0.0
    prefill_context: Numbers = 0.0
    decode_requests: Numbers = 0.0
    decode_context: Numbers = 0.0
    decode_longest: Numbers = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _number(getattr(self, field.name)))

    @classmethod
    def prefill(cls, requests: ArrayLike, tokens: ArrayLike, past: ArrayLike = 0) -> Batch:
        """`requests` requests, each with `tokens` new prompt tokens after `past` done before.

        Raises:
            ConfigError: a negative number.
        """
        requests, tokens, past = map(_checked, (requests, tokens, past))
        return cls(
            prefill_tokens=requests * tokens,
            prefill_requests=requests * (np.asarray(tokens) > 0),
            prefill_pairs=requests * (tokens * past + tokens * (tokens + 1) / 2),
            prefill_context=requests * (past + tokens) * (np.asarray(tokens) > 0),
        )

    @classmethod
    def decode(cls, requests: ArrayLike, context: ArrayLike) -> Batch:
        """`requests` requests that get one token, each with `context` tokens, the new one included.

        Raises:
            ConfigError: a negative number.
        """
        requests, context = _checked(requests), _checked(context)
        return cls(
            decode_requests=requests,
            decode_context=requests * context,
            decode_longest=context * (np.asarray(requests) > 0),
        )

    @classmethod
    def of(cls, prefills: Iterable[tuple[int, int]] = (), decodes: Iterable[int] = ()) -> Batch:
        """One point from real requests.

        Args:
            prefills: (new tokens, tokens done before) of each request with prompt tokens.
            decodes: context of each request that gets a token, the new token included.
        """
        total = cls()
        for tokens, past in prefills:
            total = total + cls.prefill(1, tokens, past)
        contexts = list(decodes)
        if not contexts:
            return total
        return total + cls(
            decode_requests=len(contexts),
            decode_context=sum(contexts),
            decode_longest=max(contexts),
        )

    def __add__(self, other: Batch) -> Batch:
        """Both in one pass."""
        values = {
            field.name: getattr(self, field.name) + getattr(other, field.name)
            for field in fields(self)
        }
        values["decode_longest"] = np.maximum(self.decode_longest, other.decode_longest)
        return Batch(**values)

    @property
    def tokens(self) -> Numbers:
        """Tokens that pass through the layers."""
        return self.prefill_tokens + self.decode_requests

    @property
    def outputs(self) -> Numbers:
        """Tokens that the language-model head works on: one per request."""
        return self.prefill_requests + self.decode_requests

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the points; `()` for one point of numbers."""
        return np.broadcast_shapes(*(np.shape(getattr(self, f.name)) for f in fields(self)))

    def windowed(self, window: int | None) -> Batch:
        """What is left of pairs and contexts when a query sees at most `window` tokens.

        Exact where the requests of a phase are equal. Sums do not tell mixed requests apart: of
        contexts an upper bound is given then, of pairs those of equal requests with the same sums
        (within the bounds that hold for any).
        """
        if window is None:
            return self
        return Batch(
            self.prefill_tokens,
            self.prefill_requests,
            self._windowed_pairs(window),
            np.minimum(
                self.prefill_context, self.prefill_tokens + self.prefill_requests * (window - 1)
            ),
            self.decode_requests,
            np.minimum(self.decode_context, self.decode_requests * window),
            np.minimum(self.decode_longest, window),
        )

    def _windowed_pairs(self, window: int) -> Numbers:
        requests = np.maximum(self.prefill_requests, 1)
        last = self.prefill_context / requests
        past = last - self.prefill_tokens / requests
        mean = requests * (_seen(last, window) - _seen(past, window))
        bound = np.minimum(self.prefill_pairs, self.prefill_tokens * window)
        return np.clip(mean, np.minimum(self.prefill_tokens, bound), bound)


def _checked(value: ArrayLike) -> Numbers:
    number = _number(value)
    if np.any(np.asarray(number) < 0) or not np.all(np.isfinite(number)):
        raise ConfigError(
            f"a batch of {value!r} makes no sense; expected numbers of requests and tokens >= 0"
        )
    return number


def _seen(tokens: Numbers, window: int) -> Numbers:
    """Keys that queries 1 to `tokens` see in all: sum of min(i, window)."""
    inside = np.minimum(tokens, window)
    return inside * (inside + 1) / 2 + np.maximum(tokens - window, 0) * window
