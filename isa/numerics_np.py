"""The operations of `numerics` on NumPy arrays, equal to them in every bit.

Shapes broadcast as usual.  FP16 values are uint16 bit patterns, FP32 values are float32 arrays
(`bits.view(np.float32)` and back), fixed-point values are int64, denominators uint64.  float32
addition and multiplication of NumPy are IEEE per operation; sums are written out because the
order of `np.sum` and `np.dot` is not specified.  Range checks are left to the scalar reference.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bankside.isa import numerics as ref

U16 = NDArray[np.uint16]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

_MIN_NORMAL = np.float32(2.0**-126)
_MAX_FINITE = np.float32(np.finfo(np.float32).max)
_ZERO = np.float32(0)
_EXP2_TABLE = np.array(ref.EXP2_TABLE, dtype=np.int64)


def _decode_table() -> F32:
    bits = np.arange(1 << 16, dtype=np.int64)
    field = bits >> 10 & 31
    significand = (bits & 1023) + np.where(field > 0, 1024, 0)
    value = np.ldexp(significand.astype(np.float32), (np.maximum(field, 1) - 25).astype(np.int32))
    return np.where(bits >> 15 == 1, -value, value).astype(np.float32)


_DECODE = _decode_table()
_DECODE.flags.writeable = False


def fp16_decode(bits: U16) -> F32:
    """FP16 bit patterns -> their values, exactly (the sign of -0 is kept)."""
    return _DECODE[bits]


def canonical(values: F32) -> F32:
    """Flush what is below 2^-126 (and -0) to +0, saturate what is above the largest finite."""
    out = np.clip(values, -_MAX_FINITE, _MAX_FINITE)
    return np.where(np.abs(out) < _MIN_NORMAL, _ZERO, out).astype(np.float32, copy=False)


def fp16_mul(a: U16, b: U16) -> F32:
    """Exact products; adding +0 turns -0 into +0 and changes nothing else."""
    return _DECODE[a] * _DECODE[b] + _ZERO


def fp32_add(a: F32, b: F32) -> F32:
    """Sums rounded to nearest even, then `canonical`."""
    with np.errstate(over="ignore"):
        return canonical(np.add(a, b, dtype=np.float32))


def adder_tree(values: F32, axis: int = -1) -> F32:
    """Sum along `axis` by adjacent pairs, level by level; an odd last value moves up unchanged."""
    level = np.moveaxis(np.asarray(values, dtype=np.float32), axis, 0)
    if level.shape[0] == 0:
        raise ValueError("adder_tree: no values, expected at least one FP32 value")
    while level.shape[0] > 1:
        odd = level[-1:] if level.shape[0] & 1 else level[:0]
        pairs = level.shape[0] // 2 * 2
        level = np.concatenate([fp32_add(level[:pairs:2], level[1:pairs:2]), odd])
    return level[0]


def fp32_scale_down(a: F32, k: ArrayLike) -> F32:
    """`a * 2^-k`, k in 0..255: exact, or +0 where the exponent would fall below 1."""
    bits = np.asarray(a, dtype=np.float32).view(np.uint32)
    step = np.asarray(k, dtype=np.int64)
    keep = (bits >> np.uint32(23) & np.uint32(255)).astype(np.int64) - step >= 1
    scaled = bits.astype(np.int64) - (step << 23)
    return np.where(keep, scaled, 0).astype(np.uint32).view(np.float32)


def score_to_fixed(s: F32) -> I64:
    """floor(s * 2^16), |s| < 2^43 (exact: a 24-bit significand stays one in float64)."""
    return np.floor(np.ldexp(np.asarray(s, dtype=np.float64), 16)).astype(np.int64)


def ceil_int(s: F32) -> I64:
    """ceil(s), |s| < 2^43."""
    return np.ceil(np.asarray(s, dtype=np.float64)).astype(np.int64)


def order_key(s: F32) -> NDArray[np.uint32]:
    """Unsigned keys that order as the numbers do."""
    bits = np.asarray(s, dtype=np.float32).view(np.uint32)
    return np.where(bits >> np.uint32(31) == 1, ~bits, bits | np.uint32(0x80000000))


def order_unkey(key: NDArray[np.uint32]) -> F32:
    """Inverse of `order_key`."""
    key = np.asarray(key, dtype=np.uint32)
    bits = np.where(key >> np.uint32(31) == 1, key & np.uint32(0x7FFFFFFF), ~key)
    return bits.view(np.float32)


def _round_shift(value: I64, shift: I64) -> I64:
    """`value * 2^-shift` (value in 0..2^61, shift in 1..62), ties to even."""
    down = value >> shift
    return (value + (np.int64(1) << (shift - 1)) - 1 + (down & 1)) >> shift


def softmax_distance(m: ArrayLike, s: F32) -> I64:
    """(m << 16) - floor(s * 2^16)."""
    return (np.asarray(m, dtype=np.int64) << ref.SCORE_FRAC_BITS) - score_to_fixed(s)


def exp2_frac(f: I64) -> I64:
    """2^(-f/65536) * 2^20 by chords, f in 0..65535."""
    index, r = f >> 10, f & 1023
    here, there = _EXP2_TABLE[index], _EXP2_TABLE[index + 1]
    return here - (((here - there) * r + 512) >> 10)


def exp2_to_fp16(fx: I64) -> U16:
    """2^(-fx/65536) as FP16 bits, fx >= 0."""
    fx = np.asarray(fx, dtype=np.int64)
    n = np.minimum(fx >> ref.SCORE_FRAC_BITS, ref.EXP2_ZERO_N)
    kept = _round_shift(exp2_frac(fx & 0xFFFF), np.maximum(9, n - 4))
    bits = (np.maximum(13 - n, 0) << 10) + kept
    return np.where(n >= ref.EXP2_ZERO_N, 0, bits).astype(np.uint16)


def softmax_term(m: ArrayLike, s: F32) -> U16:
    """p = 2^(s - m) as FP16 bits, for integers m >= s."""
    return exp2_to_fp16(softmax_distance(m, s))


def p24(p: U16) -> U64:
    """FP16 bits of numbers in [0, 1] -> those numbers times 2^24."""
    wide = np.asarray(p, dtype=np.int64)
    field = wide >> 10
    significand = (wide & 1023) + np.where(field > 0, 1024, 0)
    return (significand << (np.maximum(field, 1) - 1)).astype(np.uint64)


def rescale_denominator(denom: ArrayLike, k: ArrayLike) -> U64:
    """`denom >> k`, k in 0..255 (NumPy leaves shifts of 64 and more undefined)."""
    return np.asarray(denom, dtype=np.uint64) >> np.minimum(k, ref.DENOM_BITS).astype(np.uint64)


def reciprocal(denom: ArrayLike) -> tuple[I64, I64]:
    """(Q, e) per element, denom in 1..2^48-1.

    2^72 exceeds 64 bits, so the quotient is found 2^60 first and 12 bits after.
    """
    wide = np.asarray(denom, dtype=np.uint64).astype(np.int64)
    e = np.frexp(wide.astype(np.float64))[1].astype(np.int64) - 1
    divisor = wide << (ref.DENOM_BITS - 1 - e)
    high, rest = np.divmod(np.int64(1) << 60, divisor)
    return (high << 12) + (rest << 12) // divisor, e


def normalise(acc: F32, q: ArrayLike, e: ArrayLike) -> U16:
    """acc * Q * 2^(-1-e) as FP16 bits: exact product, one rounding, saturated to +-65504."""
    bits = np.asarray(acc, dtype=np.float32).view(np.uint32).astype(np.int64)
    field = bits >> 23 & 255
    product = ((bits & 0x7FFFFF) | 0x800000) * np.asarray(q, dtype=np.int64)
    # Q lies in 2^24..2^25, so the product has 48 or 49 bits; align its leading one to bit 48.
    short = 1 - (product >> 48)
    biased = field - 88 - np.asarray(e, dtype=np.int64) - short
    drop = np.clip(39 - biased, 38, 50)
    kept = _round_shift(product << short, drop)
    magnitude = np.minimum((np.clip(biased - 1, 0, 31) << 10) + kept, ref.FP16_MAX)
    magnitude = np.where(field == 0, 0, magnitude)
    return (magnitude | np.where(magnitude > 0, bits >> 31 << 15, 0)).astype(np.uint16)
