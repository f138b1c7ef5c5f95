"""The operations of `numerics_npu` on NumPy arrays, equal to them in every bit.

int64 arrays, shapes broadcast as usual; int32 values wrap. Range checks are left to the scalar
reference, except where a message needs the place.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bankside.isa import numerics_npu as ref
from bankside.isa.numerics_npu import Output, Scales

I64 = NDArray[np.int64]

_ONE = np.int64(1)
_WIDE_SHIFT = 62
"""Shifting right by more changes nothing: products of NORM stay below 2^61."""


def _int(values: ArrayLike) -> I64:
    return np.asarray(values, dtype=np.int64)


def wrap32(values: ArrayLike) -> I64:
    """Low 32 bits, signed."""
    return _int(values).astype(np.int32).astype(np.int64)


def srdhm(a: ArrayLike, b: ArrayLike) -> I64:
    """a * b / 2^31 rounded, int32; the lowest number squared saturates."""
    p = _int(a) * _int(b)
    p = p + np.where(p >= 0, 1 << 30, 1 - (1 << 30))
    # Truncation toward zero; 2^62 + 2^30 gives 2^31, which saturates.
    return np.minimum(np.where(p >= 0, p >> 31, -(-p >> 31)), ref.INT32_MAX)


def rdbpot(x: ArrayLike, e: ArrayLike) -> I64:
    """x / 2^e, ties away from zero; e in 0..62."""
    x, e = _int(x), _int(e)
    half = (_ONE << e) >> 1
    return np.where(x >= 0, x + half >> e, -(half - x >> e))


def mbqm(x: ArrayLike, mult: ArrayLike, shift: ArrayLike, rounding: int) -> I64:
    """x * mult * 2^(shift - 31), int32."""
    x, mult, shift = _int(x), _int(mult), _int(shift)
    if rounding == ref.GEMMLOWP_DOUBLE:
        left = wrap32(x << np.maximum(shift, 0))
        return rdbpot(srdhm(left, mult), np.maximum(-shift, 0))
    t, p = 31 - shift, x * mult
    if rounding == ref.SINGLE_HALF_UP:
        p = p + (_ONE << t - 1)
    elif rounding == ref.RNE:
        p = p + (_ONE << t - 1) - 1 + (p >> t & 1)
    return wrap32(p >> t)


def finish(scaled: ArrayLike, output: Output) -> I64:
    """Zero point and clamp of an int32 value."""
    low_first = np.maximum(wrap32(_int(scaled) + output.zero), output.low)
    return np.minimum(low_first, output.high)


def requantise(
    acc: ArrayLike,
    bias: ArrayLike,
    mult: ArrayLike,
    shift: ArrayLike,
    output: Output,
    rounding: int,
) -> I64:
    """Results of int32 accumulators; bias, mult and shift of their records."""
    return finish(mbqm(wrap32(_int(acc) + _int(bias)), mult, shift, rounding), output)


def average(acc: ArrayLike, count: ArrayLike) -> I64:
    """acc / count, ties away from zero; 0 where count is 0."""
    acc, divisor = _int(acc), np.maximum(_int(count), 1)
    half = divisor // 2
    quotient = np.where(acc >= 0, (acc + half) // divisor, -((half - acc) // divisor))
    return np.where(_int(count) == 0, 0, quotient)


def add(
    a: ArrayLike, b: ArrayLike, scales: Scales, output: Output, rounding: int, *, sign: int = 1
) -> I64:
    """ELEMENTWISE add (`sign` -1: sub)."""
    left = mbqm(wrap32(_int(a) << scales.left_shift), *scales.a, rounding)
    right = mbqm(wrap32(_int(b) << scales.left_shift), *scales.b, rounding)
    return finish(mbqm(wrap32(left + sign * right), *scales.o, rounding), output)


def mul(a: ArrayLike, b: ArrayLike, scale: tuple[int, int], output: Output, rounding: int) -> I64:
    """ELEMENTWISE mul."""
    return finish(mbqm(wrap32(_int(a) * _int(b)), *scale, rounding), output)


def _saturate(values: I64) -> I64:
    return np.clip(values, ref.INT32_MIN, ref.INT32_MAX)


def one_over_one_plus_x(a: ArrayLike) -> I64:
    """1 / (1 + a), Q0.31."""
    half_denominator = _int(a) + ref.INT32_MAX + 1 >> 1
    x = 1515870810 + srdhm(half_denominator, -1010580540)
    for _ in range(3):
        rest = (1 << 29) - srdhm(half_denominator, x)
        x = wrap32(x + _saturate(srdhm(x, rest) << 2))
    return _saturate(x << 1)


def softmax(
    x: ArrayLike, table: ArrayLike, output: Output, exists: NDArray[np.bool_] | None = None
) -> I64:
    """SOFTMAX over the last axis of int8 values.

    exists: values that take part (all); at least one a row. Results of the others mean nothing.
    """
    x, table = _int(x), _int(table)
    if exists is None:
        e = table[x.max(axis=-1, keepdims=True) - x]
    else:
        top = np.where(exists, x, x.min()).max(axis=-1, keepdims=True)
        e = np.where(exists, table[np.maximum(top - x, 0)], 0)
    total = rdbpot(e, ref.ACCUMULATION_BITS).sum(axis=-1, keepdims=True) & 0xFFFFFFFF
    headroom = 32 - np.frexp(total.astype(np.float64))[1].astype(np.int64)
    r = one_over_one_plus_x(wrap32((total << np.minimum(headroom, 31)) - (1 << 31)))
    shift = ref.ACCUMULATION_BITS - headroom + 31 - 8
    # Where the sum is 0 there is no shift to speak of; that row is replaced.
    y = finish(rdbpot(srdhm(r, e), np.maximum(shift, 0)), output)
    return np.where(total == 0, output.low, y)


def norm(
    x: ArrayLike,
    gain: ArrayLike,
    epsilon: int,
    o_shift: int,
    output: Output,
    *,
    layer: bool,
) -> I64:
    """NORM over the last axis of [positions, C]. Raises ValueError as the scalar reference."""
    x = _int(x)
    centred = x << ref.NORM_FRAC_BITS
    if layer:
        total = x.sum(axis=-1, keepdims=True) << ref.NORM_FRAC_BITS
        centred = centred - total // x.shape[-1]
    squares = (centred * centred).sum(axis=-1)
    roots = [ref.inverse_sqrt(max(int(s) + epsilon, 1)) for s in squares]
    r, e = np.array(roots, np.int64).reshape(-1, 2, 1).transpose(1, 0, 2)
    return _shifted_out(centred * _int(gain) * r, o_shift - e // 2, output)


def _shifted_out(product: I64, shift: I64, output: Output) -> I64:
    """product * 2^-shift, half up, as int64; zero point, clamp."""
    right = np.clip(shift, 1, _WIDE_SHIFT)
    down = product + (_ONE << right - 1) >> right
    up = np.where(shift > -64, product << np.clip(-shift, 0, 63), 0)
    y = np.where(shift > 0, down, up)
    # The limits move instead of y, which may be as large as 64 bits allow.
    y = np.minimum(np.maximum(y, output.low - output.zero), output.high - output.zero)
    return y + output.zero
