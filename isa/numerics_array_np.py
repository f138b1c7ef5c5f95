"""The operations of `numerics_array` on NumPy arrays, equal to them in every bit.

16-bit numbers are uint16 bit patterns; TF32, FP32 and integers held as FP32 are float32 arrays,
MARKER is -inf (the same bits). Shapes broadcast as usual. The marker is allowed where the scalar
reference allows it. Ref: docs/array.md section 2.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bankside.isa import numerics as base
from bankside.isa import numerics_array as ref
from bankside.isa import numerics_np as fp

U16 = NDArray[np.uint16]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

FP16, BF16 = ref.FP16, ref.BF16
MARKER = np.float32(-np.inf)
EXP2_COEFFICIENTS = np.array(ref.EXP2_COEFFICIENTS, np.uint32).view(np.float32)
_TF32_MAX = np.uint32(ref.TF32_MAX)
_SIGN = np.uint32(0x80000000)
_ONE = 1 << base.DENOM_FRAC_BITS + 1
# A sum of products that are zero or at least this large never falls below 2^-126 without being
# zero: a product of TF32 numbers is a multiple of 2^-21 of its size, and so is every sum of them.
_SAFE_PRODUCT = 2.0**-104
_SAFE_SUM = 2.0**126

fp32_add = fp.fp32_add
fp32_scale_down = fp.fp32_scale_down


def _decode_tables() -> tuple[F32, F32]:
    bits = np.arange(1 << 16, dtype=np.uint32)
    field, sign = bits >> np.uint32(7) & np.uint32(255), bits >> np.uint32(15) << np.uint32(31)
    low = np.where(field == 255, _TF32_MAX, (bits & np.uint32(0x7FFF)) << np.uint32(16))
    bf16 = np.where(field == 0, np.uint32(0), sign | low).astype(np.uint32).view(np.float32)
    return fp.fp16_decode(bits.astype(np.uint16)) + np.float32(0), bf16


_DECODE = _decode_tables()
for _table in _DECODE:
    _table.flags.writeable = False


def decode(bits: U16, fmt: int) -> F32:
    """16 bits -> TF32."""
    return _DECODE[fmt][bits]


def to_tf32(x: F32) -> F32:
    """FP32 -> TF32, nearest even, saturated."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    size = bits & np.uint32(0x7FFFFFFF)
    size = size + np.uint32(0xFFF) + (size >> np.uint32(ref.TF32_DROP) & np.uint32(1))
    size = np.minimum(size & np.uint32(0xFFFFE000), _TF32_MAX)
    return (size | bits & _SIGN).view(np.float32)


def tf32_mul(a: F32, b: F32) -> F32:
    """Products as FP32, exact but for flush and saturation."""
    with np.errstate(over="ignore"):
        return fp.canonical(np.multiply(a, b, dtype=np.float32))


def running_dot(a: F32, b: F32) -> F32:
    """Sum over the first axis from +0 on, in order: total = fp32_add(total, tf32_mul(a_i, b_i)).

    a, b: TF32 [n, ...], broadcast against each other behind the first axis.
    """
    shape = np.broadcast_shapes(a.shape[1:], b.shape[1:])
    total, product = np.zeros(shape, np.float32), np.empty(shape, np.float32)
    if _never_leaves_the_range(a, b):
        for x, y in zip(a, b, strict=True):
            np.multiply(x, y, out=product)
            np.add(total, product, out=total)
        return total
    for x, y in zip(a, b, strict=True):
        total = fp32_add(total, tf32_mul(x, y))
    return total


def _never_leaves_the_range(a: F32, b: F32) -> bool:
    """Whether no product and no sum needs to be flushed or saturated."""
    low, high = 1.0, float(len(a))
    for values in (a, b):
        size = np.abs(values)
        high *= float(size.max(initial=0.0))
        low *= float(size.min(initial=np.inf, where=size > 0))
    return low >= _SAFE_PRODUCT and high <= _SAFE_SUM


def ceil32(x: F32) -> F32:
    """Smallest integers not below x; MARKER stays; zero is +0."""
    return np.ceil(x) + np.float32(0)


def exp2_split(x: F32) -> tuple[I64, F32]:
    """(n, f) with x ~ f - n for x <= 0; n = 127 stands for the result zero."""
    scaled = np.abs(np.asarray(x, np.float64)) * 2.0**base.SCORE_FRAC_BITS
    a = np.minimum(scaled, ref.SPLIT_MAX).astype(np.int64)
    n = np.minimum((a + (1 << base.SCORE_FRAC_BITS - 1)) >> base.SCORE_FRAC_BITS, ref.SPLIT_ZERO_N)
    rest = ((n << base.SCORE_FRAC_BITS) - a).astype(np.float32)
    f = to_tf32(rest * np.float32(2.0**-base.SCORE_FRAC_BITS))
    return n, np.where(n == ref.SPLIT_ZERO_N, np.float32(0), f)


def exp2(n: I64, f: F32) -> F32:
    """2^(f - n) of pairs from `exp2_split`."""
    p = np.broadcast_to(EXP2_COEFFICIENTS[6], np.shape(f))
    # |f| is zero or at least 2^-16 and p is near 1, so nothing here leaves the range.
    for c in EXP2_COEFFICIENTS[5::-1]:
        p = to_tf32(p) * f + c
    return np.where(n == ref.SPLIT_ZERO_N, np.float32(0), fp32_scale_down(p, n))


def distance(x: F32) -> I64:
    """Argument of `exp2_to_fp16` for x <= 0: 0..25 * 2^16."""
    scaled = np.abs(np.asarray(x, np.float64)) * 2.0**base.SCORE_FRAC_BITS
    return np.minimum(scaled, base.EXP2_ZERO_N << base.SCORE_FRAC_BITS).astype(np.int64)


def lane_exp2(x: F32, fmt: int) -> U16:
    """2^x for x <= 0 as 16 bits; MARKER gives +0."""
    p = fp.exp2_to_fp16(distance(x))
    return p if fmt == FP16 else round16(decode(p, FP16), BF16)


def round16(x: F32, fmt: int) -> U16:
    """FP32 -> 16 bits, nearest even, saturated to the largest finite; zero is +0."""
    if fmt == FP16:
        return fp.normalise(x, _ONE, base.DENOM_FRAC_BITS)
    bits = np.asarray(x, np.float32).view(np.uint32)
    size = bits & np.uint32(0x7FFFFFFF)
    size = size + np.uint32(0x7FFF) + (size >> np.uint32(16) & np.uint32(1)) >> np.uint32(16)
    size = np.minimum(size, np.uint32(ref.BF16_MAX))
    sign = bits >> np.uint32(31) << np.uint32(15)
    return np.where(size > 0, size | sign, np.uint32(0)).astype(np.uint16)


def score16(x: F32, fmt: int) -> U16:
    """`round16` of scores; MARKER becomes the score marker."""
    masked = np.isneginf(x)
    plain = round16(np.where(masked, np.float32(0), x), fmt)
    return np.where(masked, np.uint16(ref.SCORE_MARKER[fmt]), plain)


def decode_score(bits: U16, fmt: int) -> F32:
    """`decode` of scores; the score marker becomes MARKER."""
    return np.where(bits == np.uint16(ref.SCORE_MARKER[fmt]), MARKER, decode(bits, fmt))


def step(new: F32, old: F32) -> I64:
    """Rescale step 0..255 from maximum `old` to `new`."""
    start = np.isneginf(old)
    known = np.where(start, np.float32(0), old).astype(np.float64)
    difference = np.where(start, 0.0, new).astype(np.float64) - known
    grown = np.minimum(np.abs(difference), base.SCALE_CLEAR).astype(np.int64)
    return np.where(new == old, 0, np.where(start, base.SCALE_CLEAR, grown))


def denominator(total: F32) -> I64:
    """Denominator -> argument of `reciprocal`, 1..2^48-1."""
    scaled = np.abs(np.asarray(total, np.float64)) * 2.0**base.DENOM_FRAC_BITS
    return np.clip(np.floor(scaled), 1, (1 << base.DENOM_BITS) - 1).astype(np.int64)


reciprocal = fp.reciprocal


def mulq(x: F32, q: ArrayLike, e: ArrayLike) -> F32:
    """x * q * 2^(-1-e) as FP32: exact product, one rounding; (q, e) of `reciprocal`."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.int64)
    field = bits >> 23 & 255
    product = ((bits & 0x7FFFFF) | 0x800000) * np.asarray(q, np.int64)
    # Q lies in 2^24..2^25, so the product has 48 or 49 bits; align its leading one to bit 48.
    short = 1 - (product >> 48)
    aligned = product << short
    kept = (aligned + (1 << 24) - 1 + (aligned >> 25 & 1)) >> 25
    # The hidden one, or a carry out of the rounding, adds to the exponent field.
    size = (field + 23 - short - np.asarray(e, np.int64) << 23) + kept
    zero = (field == 0) | (product == 0) | (size < 1 << 23)
    size = np.where(zero, 0, np.minimum(size, base.FP32_MAX))
    sign = np.where(size > 0, bits >> 31 << 31, 0)
    return (size | sign).astype(np.uint32).view(np.float32)
