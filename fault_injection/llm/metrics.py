"""What changed between two runs of a language model along the same tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bankside.mapping.llm.layers import Array32

F64 = NDArray[np.float64]


def log2_probabilities(logits: Array32) -> F64:
    """log2 of the softmax of each row [tokens, vocabulary]; rows with NaN stay NaN."""
    wide = logits.astype(np.float64)
    top = wide.max(axis=-1, keepdims=True)
    total = top + np.log(np.exp(wide - top).sum(axis=-1, keepdims=True))
    return (wide - total) / math.log(2)


def divergence_bits(golden: Array32, faulty: Array32) -> F64:
    """Kullback-Leibler divergence of each row, golden against faulty, in bits; at least 0."""
    one, two = log2_probabilities(golden), log2_probabilities(faulty)
    return np.maximum((np.exp2(one) * (one - two)).sum(axis=-1), 0.0)


@dataclass(frozen=True)
class Effect:
    """A faulty run against its golden twin, over the tokens predicted after the fault.

    Attributes:
        first_flip: the first of these tokens is another one.
        any_flip: some token is, so the text differs from there on.
        same_tokens: tokens before the first that differs; all of them (`tokens`) where none does.
        tokens: how many were predicted.
        kl_bits: mean divergence per token over the rows that are defined, NaN where none is.
        broken: some row was infinite or undefined.
    """

    first_flip: bool
    any_flip: bool
    same_tokens: int
    tokens: int
    kl_bits: float
    broken: bool


def effect(golden: Array32, faulty: Array32) -> Effect:
    """Compare logits [tokens, vocabulary] of the same tokens. An undefined row is a flip."""
    undefined = np.isnan(faulty).any(axis=-1)
    chosen = np.where(undefined, -1, np.nan_to_num(faulty).argmax(axis=-1))
    differs = chosen != golden.argmax(axis=-1)
    same = int(differs.argmax()) if differs.any() else len(differs)
    kept = ~undefined
    kl = float(divergence_bits(golden[kept], faulty[kept]).mean()) if kept.any() else math.nan
    return Effect(
        bool(differs[0]), bool(differs.any()), same, len(differs), kl, bool(undefined.any())
    )


def bits_per_token(logits: Array32, following: NDArray[np.int64]) -> float:
    """Mean -log2 p of the tokens that follow each row; NaN where a row is undefined.

    Of a model whose tokens are bytes: bits per byte.
    """
    rows = log2_probabilities(logits)
    return float(-rows[np.arange(len(rows)), following].mean())
