"""How far attention on the `array` engine may lie from the exact one. Ref: docs/numerics.md."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bankside.isa.numerics import EXP2_REL, FP16_ROUND_ABS, SCORE_FLOOR_REL

F64 = NDArray[np.float64]

_U = 2.0**-24
_LN2 = float(np.log(2.0))
_TINY = 2.0**-125
"""At least what one flush to zero takes away, of a PE's exponential also the cut at n = 127."""
_DIVISION_REL = 2.0**-24 + 2.0**-23 + _U
"""Reciprocal, floor of the denominator (above 1/2) to 2^-24, rounding of `mulq`."""
ROUND_REL = {"fp16": 2.0**-11, "bf16": 2.0**-8}
ROUND_ABS = {"fp16": FP16_ROUND_ABS, "bf16": 2.0**-126}
LARGEST = {"fp16": 65504.0, "bf16": 255 * 2.0**120}
NUMERATOR_REL = 5.70e-4
"""`to_tf32` of a PE's 2^x against 2^x, for x a multiple of 2^-16 from -126 to 0.

It depends on the fraction of x only, and tests/isa/test_array_bound.py tries all 65536 of them
(5.695e-4). Its parts: 2^-11 of the last rounding, 2^-13 ln 2 of the rounding of f, 2.4e-4 of the
six multiply-accumulates (at f = -1/2: sum over i of 2^-i 2^-11 p_i / 2^f, p_i the Horner values).
"""


@dataclass(frozen=True)
class Kernel:
    """What matters of a kernel: 16-bit format, whether scores and probabilities pass through the
    banks as 16-bit numbers, whether each probability is divided (`passd`) or only the result.
    """

    format: str
    in_banks: bool = False
    divided: bool = False


def _gamma(roundings: int) -> float:
    """Relative bound of that many FP32 roundings in a row."""
    return roundings * _U / (1 - roundings * _U)


def exact_attention(q: F64, k: F64, v: F64, fmt: str) -> F64:
    """softmax2(k q) v in float64, saturated like the result.

    q [E], scaled; k [M, E], v [M, F]: the keys that the query meets; softmax2 has base 2.
    """
    scores = k @ q
    weights = np.exp2(scores - scores.max())
    return np.clip(weights @ v / weights.sum(), -LARGEST[fmt], LARGEST[fmt])


def _score_error(q: F64, k: F64, kernel: Kernel) -> float:
    """Bound of |computed score - exact score| where both are below the largest of the format."""
    delta = _gamma(k.shape[1]) * float((np.abs(k) @ np.abs(q)).max()) + 2 * k.shape[1] * _TINY
    if not kernel.in_banks:
        return delta
    largest = float(np.abs(k @ q).max()) + delta
    saturated = max(0.0, largest - LARGEST[kernel.format])
    return delta + ROUND_REL[kernel.format] * largest + ROUND_ABS[kernel.format] + saturated


def _weight_errors(q: F64, k: F64, kernel: Kernel) -> tuple[float, float]:
    """(d, a): a weight before division is t (1 + d') + a' for the exact t = 2^(s - m), with
    |d'| <= d, |a'| <= a.
    """
    if kernel.in_banks:
        d, a = EXP2_REL, FP16_ROUND_ABS
        if kernel.format == "bf16":
            d, a = (1 + d) * (1 + ROUND_REL["bf16"]) - 1, a * (1 + ROUND_REL["bf16"])
        distance = 25.0
    else:
        d, a = (1 + NUMERATOR_REL) * (1 + SCORE_FLOOR_REL) - 1, _TINY
        distance = 127.0
    moved = 2.0 ** min(_score_error(q, k, kernel) + distance * _U * (1 + _U), 64.0)
    return (1 + d) * moved - 1, a


def attention_bound(q: F64, k: F64, v: F64, rows: int, kernel: Kernel) -> F64:
    """Bound of |output - exact_attention(q, k, v)|, shape [F]; R = `rows` of the machine.

    Let m be the final maximum, t_i = 2^(s_i - m) with the exact scores s_i, T = sum t_i, o the
    exact output. m is the ceiling of the largest computed score, so T > 2^(-1 - delta).

    Score. E products (exact) are added one after the other: |error| <= g(E) max sum |q_i k_i|,
    g(n) = n u / (1 - n u). In the banks it is rounded to 16 bits once more. With delta the sum of
    both, a weight moves by at most 2^delta. The subtraction of m rounds the result x by u |x|;
    |x| < 127 (PEs) or < 25 (lanes) where it matters.

    Weight. PEs: x is cut to 2^-16 (1.06e-5), NUMERATOR_REL includes the rounding to TF32, after
    which numerator and denominator use the same number. Lanes: EXP2_REL and 2^-25 as in the `pim`
    engine, for bf16 2^-8 more. All in all t_i (1 + d_i) + a_i with |d_i| <= d, |a_i| <= a. The
    errors of a weighted mean count by the distance from the mean:
        |sum p_i v_i / sum p_i - o| <= sum (d t_i + a) |v_i - o| / (T (1 - d) - n a),
    and never more than the largest |v_i - o|, since it stays a mean.

    Sums. Rescaling by powers of two is exact. A numerator goes through at most R - 1 roundings in
    its column and one per tile, which is g(R + tiles) of sum p_i |v_i|; so does the denominator of
    the PEs, while that of the lanes is summed key by key: g(n).

    Division. Floor of the denominator, reciprocal, product (`_DIVISION_REL`), rounding to 16 bits
    once. `divided`: every probability is rounded to 16 bits instead and the sum runs over those:
    ROUND_REL sum w_i |v_i| + ROUND_ABS sum |v_i| more.
    """
    d, a = _weight_errors(q, k, kernel)
    exact = exact_attention(q, k, v, kernel.format)
    scores = k @ q
    t = np.exp2(scores - scores.max())
    # The smallest T that the computed maximum allows scales all t alike.
    t *= 2.0 ** -(1 + min(_score_error(q, k, kernel), 64.0))
    away = np.abs(v - t @ v / t.sum())
    low = t.sum() * (1 - d) - len(k) * a
    mean = (d * t @ away + a * away.sum(axis=0)) / low if low > 0 else np.inf
    mean = np.minimum(mean, away.max(axis=0))
    size = np.minimum(t @ np.abs(v) / t.sum() + mean, np.abs(v).max(axis=0))
    tiles = -(-len(k) // rows) + 1
    sums = _gamma(rows + tiles) + (_gamma(len(k)) if kernel.in_banks else _gamma(rows + tiles))
    before = mean + (sums + _DIVISION_REL) * (1 + 2 * sums) * size + len(k) * _TINY
    relative, absolute = ROUND_REL[kernel.format], ROUND_ABS[kernel.format]
    if kernel.divided:
        before += (relative * size + absolute * np.abs(v).sum(axis=0)) * (1 + sums)
    return before + relative * (np.abs(exact) + before) + absolute
