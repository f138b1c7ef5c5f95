"""How far the attention output may lie from the exact one. Ref: docs/numerics.md, Error bounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bankside.isa.machine import Machine
from bankside.isa.numerics import FP16_MAX, FP16_ROUND_ABS, FP16_ROUND_REL, softmax_l1_bound

F64 = NDArray[np.float64]

_U = 2.0**-24
_RECIPROCAL_REL = 2.0**-24
_LARGEST = float(np.uint16(FP16_MAX).view(np.float16))


def _gamma(roundings: int) -> float:
    """Relative bound of that many FP32 roundings in a row."""
    return roundings * _U / (1 - roundings * _U)


@dataclass(frozen=True)
class Depths:
    """FP32 roundings on the longest way through a sum: a score, a context sum."""

    score: int
    context: int

    @classmethod
    def of(cls, machine: Machine, *, nhc: int, cpt: int, tokens: int) -> Depths:
        """Depths of the kernels on `machine` with N_hc chips per head, cpt columns per token."""
        tree = (machine.elements - 1).bit_length() + (nhc - 1).bit_length()
        slots = -(-tokens // machine.banks)
        return cls(tree + cpt - 1, slots - 1 + machine.banks - 1)


def exact_attention(q: F64, k: F64, v: F64) -> F64:
    """softmax2(k q) v in float64, saturated like the result.

    q [d], scaled; k and v [tokens, d]; softmax2 has base 2.
    """
    scores = k @ q
    weights = np.exp2(scores - scores.max())
    return np.clip(weights @ v / weights.sum(), -_LARGEST, _LARGEST)


def attention_bound(q: F64, k: F64, v: F64, depths: Depths) -> F64:
    """Bound of |output - exact_attention(q, k, v)|, shape [d].

    Scores are off by at most delta = gamma(score roundings) * max_t sum_i |q_i k_ti|, which moves
    every weight by a factor within 2^(+-2 delta); the weights of the computed scores are off by
    softmax_l1_bound; their sum is at most 1 plus that. All of it acts on values up to V = max |v|.
    The last step rounds once to FP16, after a reciprocal that is off by less than 2^-24.
    """
    delta = _gamma(depths.score) * float((np.abs(k) @ np.abs(q)).max())
    computed = softmax_l1_bound(len(k))
    # Whatever the scores: two sets of weights that sum to one differ by at most two.
    moved = min(2.0 ** min(2 * delta, 2.0) - 1, 2.0)
    weights = computed + moved + _gamma(depths.context) * (1 + computed)
    largest = np.abs(v).max(axis=0)
    rounding = FP16_ROUND_REL + _RECIPROCAL_REL
    before = weights * largest
    return before + rounding * (np.abs(exact_attention(q, k, v)) + before) + FP16_ROUND_ABS
