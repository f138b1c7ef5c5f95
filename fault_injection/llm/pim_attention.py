"""Attention as a `pim` rank computes it, without its machine: many queries at once, equal in bits.

The order of every sum is that of the programs of `mapping.lower_pim`: products of one column in a
tree, columns one after the other, chips in a tree; context sums per bank over its token slots, then
over the banks as they are visited. Ref: docs/pim.md section 6, sim/golden/pim.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bankside.isa import numerics_np as fp
from bankside.isa.numerics import SCALE_CLEAR
from bankside.mapping.lower_pim import KvLayout

U16 = NDArray[np.uint16]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
_AT_ONCE = 1 << 22
"""Products formed at once; bounds the memory that a long context takes."""


def attend(layout: KvLayout, q: U16, k: U16, v: U16, first: int) -> U16:
    """Context of queries at positions `first`, `first` + 1, ...; each meets the keys up to its own.

    q: FP16 bits [rows, query_heads, head_dim], scaled as `AttentionEngine.decode` wants it; k, v:
    [tokens, kv_heads, head_dim], tokens >= first + rows. Returns FP16 bits of the shape of q.
    """
    block = max(1, _AT_ONCE // max(1, q[0].size * (first + len(q))))
    parts = [_attend(layout, q[i : i + block], k, v, first + i) for i in range(0, len(q), block)]
    return np.concatenate(parts)


def _attend(layout: KvLayout, q: U16, k: U16, v: U16, first: int) -> U16:
    rows, heads = q.shape[:2]
    group, chunk = heads // k.shape[1], layout.chunk_slots * layout.machine.banks
    last = first + np.arange(rows)
    state = _State(rows, heads, layout.machine.banks, q.shape[2])
    for start in range(0, first + rows, chunk):
        tokens = slice(start, min(start + chunk, first + rows))
        keys, values = (np.repeat(x[tokens], group, axis=1) for x in (k, v))
        scores = _scores(layout, q, keys)
        exists = np.arange(tokens.start, tokens.stop) <= last[:, None]
        busy = exists.any(axis=1)
        chance, scale = state.softmax(scores[busy], exists[busy, None], busy, start == 0)
        state.add(chance, values, scale, busy)
    return state.result(layout.machine.visiting)


def _by_column(layout: KvLayout, x: U16) -> F32:
    """[..., head_dim] -> values [..., chips of a head, columns, elements], padded with zero."""
    padded = np.zeros((*x.shape[:-1], layout.padded_dim), np.uint16)
    padded[..., : x.shape[-1]] = x
    shape = (*x.shape[:-1], layout.cpt, layout.machine.elements, layout.nhc)
    return np.moveaxis(fp.fp16_decode(padded).reshape(shape), -1, -3)


def _scores(layout: KvLayout, q: U16, keys: U16) -> F32:
    """[rows, heads, tokens]. Sums are multiples of 2^-48 and below 2^44: nothing to flush."""
    left = _by_column(layout, q)[:, :, None]
    right = _by_column(layout, keys).swapaxes(0, 1)[None]
    columns = _tree(left * right + np.float32(0))
    total = columns[..., 0]
    for i in range(1, layout.cpt):
        total = total + columns[..., i]
    return _tree(total)


def _tree(x: F32) -> F32:
    """Sum of the last axis by adjacent pairs, level by level; its length is a power of two."""
    while x.shape[-1] > 1:
        x = x[..., ::2] + x[..., 1::2]
    return x[..., 0]


class _State:
    """What a rank keeps from chunk to chunk: maxima, denominators, context sums of every bank."""

    def __init__(self, rows: int, heads: int, banks: int, width: int) -> None:
        self.maximum = np.zeros((rows, heads), np.int64)
        self.total = np.zeros((rows, heads), np.uint64)
        self.sums = np.zeros((rows, heads, banks, width), np.float32)

    def softmax(
        self, scores: F32, exists: NDArray[np.bool_], busy: NDArray[np.bool_], is_first: bool
    ) -> tuple[U16, I64]:
        """Probabilities [rows, heads, tokens] of a chunk and the scale of what was before it."""
        old = self.maximum[busy]
        top = fp.ceil_int(np.where(exists, scores, -np.inf).max(axis=-1))
        new = top if is_first else np.maximum(old, top)
        scale = np.full(new.shape, SCALE_CLEAR) if is_first else np.minimum(new - old, SCALE_CLEAR)
        clipped = np.where(exists, scores, new[..., None].astype(np.float32))
        chance = np.where(exists, fp.softmax_term(new[..., None], clipped), 0).astype(np.uint16)
        kept = fp.rescale_denominator(self.total[busy], np.where(scale == SCALE_CLEAR, 64, scale))
        self.maximum[busy] = new
        self.total[busy] = kept + fp.p24(chance).sum(axis=-1, dtype=np.uint64)
        return chance, scale

    def add(self, chance: U16, values: U16, scale: I64, busy: NDArray[np.bool_]) -> None:
        """Context of a chunk; token t lies in bank t mod banks."""
        banks = self.sums.shape[2]
        sums = fp.fp32_scale_down(self.sums[busy], scale[..., None, None])
        for start in range(0, len(values), banks):
            v = values[start : start + banks].swapaxes(0, 1)[None]
            p = chance[..., start : start + banks, None]
            used = v.shape[2]
            sums[:, :, :used] = fp.fp32_add(sums[:, :, :used], fp.fp16_mul(v, p))
        self.sums[busy] = sums

    def result(self, visiting: tuple[int, ...]) -> U16:
        """FP16 bits [rows, heads, head_dim]."""
        total = self.sums[:, :, visiting[0]]
        for bank in visiting[1:]:
            total = fp.fp32_add(total, self.sums[:, :, bank])
        q, e = fp.reciprocal(self.total)
        return fp.normalise(total, q[..., None], e[..., None])
