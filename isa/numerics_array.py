"""Arithmetic of the `array` engine, in integers: the reference for RTL and golden model.

Every function works on bit patterns (Python ints); `numerics_array_np` holds the same operations
on NumPy arrays. Ref: docs/array.md section 2.

Formats
    TF32    FP32 whose low 13 bits are zero: what the multipliers take. No subnormals, +0 only.
    FP32    as in `numerics`, with one pattern more: MARKER stands for a masked score. It is below
            every number and never enters an adder whose result is used.
    16 bits FP16 (all exponents finite, as in `numerics`) or bf16, by a format code.
"""

from bankside.isa.numerics import (
    DENOM_BITS,
    DENOM_FRAC_BITS,
    EXP2_ZERO_N,
    SCALE_CLEAR,
    SCORE_FRAC_BITS,
    exp2_to_fp16,
    fp16_parts,
    fp32_add,
    fp32_pack,
    fp32_parts,
    fp32_scale_down,
    normalise,
    order_key,
    round_shift,
)

FP16, BF16 = 0, 1
"""Format codes, as `format` of KERNEL."""
MARKER = 0xFF800000
SCORE_MARKER = (0xFC00, 0xFF80)
"""A masked score in memory, by format; `round16` never gives it."""
TF32_MAX = 0x7F7FE000
TF32_DROP = 13
ONE = 0x3F800000
BF16_MAX = 0x7F7F
SPLIT_ZERO_N = 127
"""From this n on the PEs give +0: 2^-127 is below the smallest FP32 number."""
SPLIT_MAX = (1 << 23) - 1
EXP2_COEFFICIENTS = (
    *(0x3F800000, 0x3F317218, 0x3E75FDED, 0x3D63576A, 0x3C1D96EB, 0x3AAFA2E9, 0x3920E000),
)
"""C0..C6 of 2^f on [-1/2, 1/2], FP32 patterns, C6 a TF32 number.

The polynomial of degree 6 whose largest relative error is smallest (1.8559e-9), its highest
coefficient rounded to TF32; then, with that one fixed, again the best of the six others
(1.8644e-9), each rounded to FP32. C0 comes out as 1, so that 2^0 is exact. tests/isa derive them
again.
"""


def decode(bits: int, fmt: int) -> int:
    """16 bits of a format -> TF32; -0 and subnormal bf16 become +0, infinite and NaN bf16 the
    largest finite TF32 of their sign.
    """
    if fmt == FP16:
        sign, significand, exponent = fp16_parts(bits)
        return fp32_pack(-significand if sign else significand, exponent)
    field = bits >> 7 & 255
    if field == 0:
        return 0
    return (bits >> 15) << 31 | (TF32_MAX if field == 255 else (bits & 0x7FFF) << 16)


def to_tf32(x: int) -> int:
    """FP32 -> TF32, nearest even, saturated to TF32_MAX."""
    magnitude = round_shift(x & 0x7FFFFFFF, TF32_DROP) << TF32_DROP
    return x & 0x80000000 | min(magnitude, TF32_MAX)


def tf32_mul(a: int, b: int) -> int:
    """Exact product of two TF32 as FP32; it is +0 below 2^-126 and saturates."""
    sa, ma, ea = fp32_parts(a)
    sb, mb, eb = fp32_parts(b)
    return fp32_pack(-ma * mb if sa ^ sb else ma * mb, ea + eb)


def fp32_mac(total: int, a: int, b: int) -> int:
    """total + a * b as a PE computes it: product, then sum, each rounded (a, b TF32)."""
    return fp32_add(total, tf32_mul(a, b))


def negate(x: int) -> int:
    """-x of an FP32 number; zero stays +0. Of MARKER the result is not used."""
    return x ^ 0x80000000 if x else 0


def fp32_max(a: int, b: int) -> int:
    """The larger of two FP32 numbers or markers."""
    return a if order_key(a) >= order_key(b) else b


def ceil32(x: int) -> int:
    """Smallest integer not below x, as FP32; MARKER stays."""
    if x == MARKER:
        return MARKER
    sign, significand, exponent = fp32_parts(x)
    value = -significand if sign else significand
    return x if exponent >= 0 else fp32_pack(-(-value >> -exponent), 0)


def _fixed(x: int, limit: int) -> int:
    """min(trunc(abs(x) * 2^16), limit)."""
    _, significand, exponent = fp32_parts(x)
    shift = exponent + SCORE_FRAC_BITS
    return min(round_down(significand, min(shift, limit.bit_length())), limit)


def round_down(value: int, shift: int) -> int:
    """floor(value * 2^shift), value >= 0."""
    return value << shift if shift >= 0 else value >> -shift


def exp2_split(x: int) -> tuple[int, int]:
    """(n, f) with x ~ f - n for x <= 0 (the sign is not looked at): n in 0..127, f TF32 in
    [-1/2, 1/2]. n = 127 stands for the result zero; MARKER and all x below -126.5 give (127, 0).
    """
    if x == MARKER:
        return SPLIT_ZERO_N, 0
    a = _fixed(x, SPLIT_MAX)
    n = (a + (1 << SCORE_FRAC_BITS - 1)) >> SCORE_FRAC_BITS
    if n >= SPLIT_ZERO_N:
        return SPLIT_ZERO_N, 0
    return n, to_tf32(fp32_pack((n << SCORE_FRAC_BITS) - a, -SCORE_FRAC_BITS))


def exp2_step(p: int, f: int, i: int) -> int:
    """One multiply-accumulate of `exp2`: to_tf32(p) * f + C[i]."""
    return fp32_mac(EXP2_COEFFICIENTS[i], to_tf32(p), f)


def exp2(n: int, f: int) -> int:
    """2^(f - n) of a pair from `exp2_split`, FP32."""
    if n >= SPLIT_ZERO_N:
        return 0
    p = EXP2_COEFFICIENTS[6]
    for i in reversed(range(6)):
        p = exp2_step(p, f, i)
    return fp32_scale_down(p, n)


def distance(x: int) -> int:
    """Argument of `exp2_to_fp16` for x <= 0 (the sign is not looked at): 0..25 * 2^16."""
    limit = EXP2_ZERO_N << SCORE_FRAC_BITS
    return limit if x == MARKER else _fixed(x, limit)


def lane_exp2(x: int, fmt: int) -> int:
    """2^x for x <= 0 as 16 bits, as the lanes compute it; MARKER gives +0."""
    p = exp2_to_fp16(distance(x))
    return p if fmt == FP16 else round16(decode(p, FP16), BF16)


def round16(x: int, fmt: int) -> int:
    """FP32 -> 16 bits, nearest even, saturated to the largest finite; zero is +0."""
    if fmt == FP16:
        return normalise(x, 1 << DENOM_FRAC_BITS + 1, DENOM_FRAC_BITS)
    magnitude = min(round_shift(x & 0x7FFFFFFF, 16), BF16_MAX)
    return x >> 31 << 15 | magnitude if magnitude else 0


def score16(x: int, fmt: int) -> int:
    """`round16` of a score; MARKER becomes the score marker."""
    return SCORE_MARKER[fmt] if x == MARKER else round16(x, fmt)


def decode_score(bits: int, fmt: int) -> int:
    """`decode` of a score; the score marker becomes MARKER."""
    return MARKER if bits == SCORE_MARKER[fmt] else decode(bits, fmt)


def step(new: int, old: int) -> int:
    """Rescale step 0..255 from the maximum `old` to `new` (integers as FP32, or MARKER): 0 if
    equal, 255 from MARKER, else their distance up to 255.
    """
    if new == old:
        return 0
    if old == MARKER:
        return SCALE_CLEAR
    _, significand, exponent = fp32_parts(fp32_add(new, negate(old)))
    return min(SCALE_CLEAR, round_down(significand, min(exponent, 8)))


def denominator(total: int) -> int:
    """FP32 denominator (the sign is not looked at) -> argument of `reciprocal`, 1..2^48-1, with 24
    fraction bits.
    """
    _, significand, exponent = fp32_parts(total)
    shift = min(exponent + DENOM_FRAC_BITS, DENOM_BITS)
    return max(1, min((1 << DENOM_BITS) - 1, round_down(significand, shift)))


def mulq(x: int, q: int, e: int) -> int:
    """x * q * 2^(-1-e) as FP32: exact product, one rounding; (q, e) of `reciprocal`."""
    sign, significand, exponent = fp32_parts(x)
    product = significand * q
    return fp32_pack(-product if sign else product, exponent - 1 - e)
