"""Attention of prompt and of new tokens behind interfaces, and its float64 reference."""

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError

Array16 = NDArray[np.float16]


class AttentionEngine(Protocol):
    """Owner of the K/V cache that computes attention for one new token at a time."""

    def start(
        self, *, layers: int, kv_heads: int, query_heads: int, head_dim: int, max_tokens: int
    ) -> None:
        """Begin a sequence of at most `max_tokens` cached tokens; drops any earlier cache."""

    def prefill(self, layer: int, k: Array16, v: Array16) -> None:
        """Append k, v [tokens, kv_heads, head_dim] to the cache of `layer`."""

    def decode(self, layer: int, q: Array16, k: Array16, v: Array16) -> Array16:
        """Append k, v [kv_heads, head_dim], then attend with q [query_heads, head_dim].

        q is already scaled by log2(e) / sqrt(head_dim). Returns softmax2(q K^T) V, where softmax2
        has base 2, as [query_heads, head_dim]; query head h reads key/value head h // (query
        heads per key/value head).
        """


class PromptEngine(Protocol):
    """Causal attention over a whole prompt at once."""

    def attend(self, layer: int, q: Array16, k: Array16, v: Array16) -> Array16:
        """q [tokens, query_heads, head_dim], scaled as in `AttentionEngine.decode`; k, v [tokens,
        kv_heads, head_dim]. Token t meets keys 0..t. Returns [tokens, query_heads, head_dim].
        """


def scale_query(q: NDArray[np.floating]) -> NDArray[np.float64]:
    """q [..., head_dim] times log2(e) / sqrt(head_dim), so that the softmax has base 2."""
    return q.astype(np.float64) * (math.log2(math.e) / math.sqrt(q.shape[-1]))


def to_half(x: NDArray[np.floating], what: str) -> Array16:
    """Round to float16; ConfigError when a value leaves its range."""
    with np.errstate(over="ignore"):
        half = x.astype(np.float16)
    if not np.isfinite(half).all():
        raise ConfigError(
            f"{what} reaches {np.abs(x).max():.4g}, expected at most 65504, the largest float16; "
            "this model cannot keep its K/V cache in float16"
        )
    return half


def attend_wide(
    q: NDArray[np.floating], k: NDArray[np.floating], v: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Attention of one token in float64, not rounded.

    q [query_heads, head_dim] carries the scale of `scale_query`; k, v [tokens, kv_heads, head_dim].
    """
    kv_heads, head_dim = k.shape[1:]
    grouped = q.astype(np.float64).reshape(kv_heads, -1, head_dim)
    scores = np.einsum("kgd,tkd->kgt", grouped, k.astype(np.float64))
    weights = np.exp2(scores - scores.max(axis=-1, keepdims=True))
    context = np.einsum("kgt,tkd->kgd", weights, v.astype(np.float64))
    context /= weights.sum(axis=-1, keepdims=True)
    return context.reshape(q.shape)


def attend(q: Array16, k: Array16, v: Array16) -> Array16:
    """`attend_wide` rounded once to float16."""
    return attend_wide(q, k, v).astype(np.float16)


class NumpyPrompt:
    """Reference `PromptEngine`: `attend` token by token."""

    def attend(self, layer: int, q: Array16, k: Array16, v: Array16) -> Array16:
        """See `PromptEngine.attend`."""
        return np.stack([attend(row, k[: t + 1], v[: t + 1]) for t, row in enumerate(q)])


class NumpyAttention:
    """Reference engine: a cache in memory and float64 arithmetic."""

    def __init__(self) -> None:
        self._keys: list[Array16] = []
        self._values: list[Array16] = []
        self._used: list[int] = []
        self.calls = 0

    def start(
        self, *, layers: int, kv_heads: int, query_heads: int, head_dim: int, max_tokens: int
    ) -> None:
        """See `AttentionEngine.start`."""
        if query_heads % kv_heads:
            raise ConfigError(
                f"{query_heads} query heads cannot share {kv_heads} key/value heads evenly"
            )
        shape = (max_tokens, kv_heads, head_dim)
        self._keys = [np.zeros(shape, np.float16) for _ in range(layers)]
        self._values = [np.zeros(shape, np.float16) for _ in range(layers)]
        self._used = [0] * layers
        self.calls = 0

    def prefill(self, layer: int, k: Array16, v: Array16) -> None:
        """See `AttentionEngine.prefill`."""
        begin, end = self._used[layer], self._used[layer] + len(k)
        room = len(self._keys[layer])
        if end > room:
            raise ConfigError(
                f"layer {layer}: the K/V cache holds {room} tokens and {end} are needed; start the "
                "engine with a larger max_tokens"
            )
        self._keys[layer][begin:end] = k
        self._values[layer][begin:end] = v
        self._used[layer] = end

    def decode(self, layer: int, q: Array16, k: Array16, v: Array16) -> Array16:
        """See `AttentionEngine.decode`."""
        self.prefill(layer, k[None], v[None])
        self.calls += 1
        used = self._used[layer]
        return attend(q, self._keys[layer][:used], self._values[layer][:used])
