"""A language model led along given tokens, without and with faults, bit for bit as it decodes.

Tokens are fixed, so all rows (positions) of a layer are computed at once, and a fault costs only
the layers and rows behind it. Up to the first token that a fault changes, greedy decoding sees the
same tokens: which token changes first is exact. Prompt rows use the arithmetic of `NumpyPrompt`,
rows behind it that of the decode engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bankside.fault_injection.llm import pim_attention
from bankside.mapping.llm.attention import Array16, NumpyAttention, attend_wide
from bankside.mapping.llm.layers import Array32
from bankside.mapping.llm.model import Model
from bankside.mapping.llm.transformer import decoder_layer, embed, head_logits
from bankside.mapping.lower_pim import KvLayout

U16 = NDArray[np.uint16]
Tap = Callable[[int, int, Array16], Array16]
"""Layer, position of the first row, attention output [rows, query_heads, head_dim]; returns what
goes on instead."""


@dataclass(frozen=True, eq=False)
class Corruption:
    """Inverted bits of keys and values, read by rows `first` and after.

    keys, values: layer -> [tokens, kv_heads, head_dim] masks; a layer that is missing is right.
    """

    first: int
    keys: dict[int, U16] = field(default_factory=dict)
    values: dict[int, U16] = field(default_factory=dict)

    @property
    def lowest(self) -> int:
        """First layer that reads anything wrong."""
        return min([*self.keys, *self.values])


def corruption(
    shape: tuple[int, ...], element: NDArray[np.int64], xor: U16, first: int
) -> Corruption:
    """From elements of `placement.Placement` (of `shape`) and their inverted bits."""
    layer, value, token, head, dim = np.unravel_index(element, shape)
    found = Corruption(first)
    for side, masks in ((0, found.keys), (1, found.values)):
        for index in np.unique(layer[value == side]):
            here = (value == side) & (layer == index)
            mask = masks.setdefault(int(index), np.zeros(shape[2:], np.uint16))
            mask[token[here], head[here], dim[here]] = xor[here]
    return found


@dataclass(eq=False)
class _Trace:
    """What the fault-free run computed, by layer: inputs, keys, values, attention outputs."""

    inputs: list[Array32] = field(default_factory=list)
    keys: list[Array16] = field(default_factory=list)
    values: list[Array16] = field(default_factory=list)
    outputs: list[Array16] = field(default_factory=list)


class Forced:
    """One sequence of tokens through a model.

    tokens: all that is fed; the first `prompt` of them are the prompt. layout: the decode engine
    is the `pim` rank with this layout; None: a GPU (float64, rounded once; IEEE infinities).

    Attributes:
        logits: fault-free [tokens, vocabulary].
    """

    def __init__(
        self, model: Model, tokens: Sequence[int], prompt: int, layout: KvLayout | None = None
    ) -> None:
        self.model, self.tokens, self.prompt, self.layout = model, tuple(tokens), prompt, layout
        self._golden = _Trace()
        x = embed(model, self.tokens, 0)
        for index in range(len(model.layers)):
            self._golden.inputs.append(x)
            x = decoder_layer(model, index, x, 0, self._record)
        self.logits = head_logits(model, x)

    def _record(self, index: int, q: Array16, k: Array16, v: Array16) -> Array16:
        y = self._attend(q, k, v, 0)
        for kept, found in zip(
            (self._golden.keys, self._golden.values, self._golden.outputs), (k, v, y), strict=True
        ):
            kept.append(found)
        return y

    def _attend(self, q: Array16, k: Array16, v: Array16, first: int) -> Array16:
        """Rows `first` and after; keys and values of all tokens."""
        split = min(max(self.prompt - first, 0), len(q)) if self.layout is not None else len(q)
        parts = [
            attend_wide(row, k[: first + i + 1], v[: first + i + 1])
            for i, row in enumerate(q[:split])
        ]
        with np.errstate(over="ignore"):
            done = np.array(parts).reshape(-1, *q.shape[1:]).astype(np.float16)
        if split == len(q):
            return done
        bits = (np.ascontiguousarray(x).view(np.uint16) for x in (q[split:], k, v))
        assert self.layout is not None
        rest = pim_attention.attend(self.layout, *bits, first + split)
        return np.concatenate([done, rest.view(np.float16)])

    def faulty(self, wrong: Corruption | None = None, tap: Tap | None = None, *, first: int = 0,
               lowest: int = 0) -> Array32:  # fmt: skip
        """Logits [tokens, vocabulary] with a corrupted cache or with changed attention outputs.

        tap: sees attention outputs of rows `first` and after in layers `lowest` and above; what is
        before is known to be right. Rows from the first infinite or undefined number on are NaN.
        """
        if wrong is not None:
            first, lowest = max(first, wrong.first), wrong.lowest
        run = _Faulty(self, self._golden, first, wrong, tap)
        x = self._golden.inputs[lowest][first:]
        with np.errstate(over="ignore", invalid="ignore"):
            for index in range(lowest, len(self.model.layers)):
                x = decoder_layer(self.model, index, x, first, run.attention)
        logits = self.logits.copy()
        logits[first:] = head_logits(self.model, x)
        if run.broken is not None:
            logits[run.broken :] = np.nan
        return logits


class _Faulty:
    """Attention of one faulty run."""

    def __init__(
        self,
        forced: Forced,
        golden: _Trace,
        first: int,
        wrong: Corruption | None,
        tap: Tap | None,
    ) -> None:
        self.forced, self.golden, self.first = forced, golden, first
        self.wrong, self.tap, self.broken = wrong, tap, None

    def attention(self, index: int, q: Array16, k: Array16, v: Array16) -> Array16:
        keys = np.concatenate([self.golden.keys[index][: self.first], k])
        values = np.concatenate([self.golden.values[index][: self.first], v])
        if self.wrong is not None:
            keys = _invert(keys, self.wrong.keys.get(index))
            values = _invert(values, self.wrong.values.get(index))
        y = self.forced._attend(q, keys, values, self.first)
        if self.tap is not None:
            y = self.tap(index, self.first, y)
        bad = ~np.isfinite(y).all(axis=(1, 2))
        if bad.any():
            row = self.first + int(bad.argmax())
            self.broken = row if self.broken is None else min(self.broken, row)
            y = np.where(bad[:, None, None], np.float16(0), y)
        return y


def _invert(x: Array16, mask: U16 | None) -> Array16:
    if mask is None:
        return x
    return (np.ascontiguousarray(x).view(np.uint16) ^ mask[: len(x)]).view(np.float16)


class RankAttention(NumpyAttention):
    """`AttentionEngine` with the arithmetic of a `pim` rank and no rank behind it.

    layout: of any sequence that is long enough; the bits do not depend on its rows.
    """

    def __init__(self, layout: KvLayout) -> None:
        super().__init__()
        self.layout = layout

    def decode(self, layer: int, q: Array16, k: Array16, v: Array16) -> Array16:
        """See `AttentionEngine.decode`."""
        self.prefill(layer, k[None], v[None])
        self.calls += 1
        used = self._used[layer]
        bits = (x.view(np.uint16) for x in (q[None], self._keys[layer], self._values[layer]))
        return pim_attention.attend(self.layout, *bits, used - 1)[0].view(np.float16)
