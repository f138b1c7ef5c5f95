"""Arithmetic of the PIM attention pipeline, in integers: the reference for RTL and golden model.

Every function here works on bit patterns (Python ints), so that it says exactly which bits the
hardware must produce.  `numerics_np` holds the same operations on NumPy arrays; tests prove the
two equal.

Formats
    FP16   1-5-10.  All exponents are finite (exponent 31 is an ordinary one, so the largest
           magnitude is 131008); subnormals are exact; there is no infinity and no NaN.
    FP32   1-8-23.  Normal numbers and +0 only.  Results below 2^-126 become +0, results above
           the largest finite number become it; -0, subnormals, infinity and NaN never arise.
    score  fixed point with 16 fraction bits, signed 60-bit.
    l      softmax denominator, unsigned 48-bit with 24 fraction bits.
"""

from collections.abc import Sequence

FP16_MAX = 0x7BFF
"""65504, the magnitude to which `normalise` saturates (the largest IEEE binary16)."""
FP32_MAX = 0x7F7FFFFF
SCORE_FRAC_BITS = 16
SCORE_FIXED_BITS = 60
SCORE_INT_BITS = 44
SCORE_EXP_MAX = 169
"""Biased exponent of the largest legal score: |s| < 2^43."""
DENOM_BITS = 48
DENOM_FRAC_BITS = 24
EXP2_SEGMENTS = 64
EXP2_FRAC_BITS = 20
EXP2_ZERO_N = 25
"""From this integer part on, 2^-n rounds to zero in FP16 (half of the smallest subnormal)."""
RECIP_BITS = 26
RECIP_SHIFT = 72
SCALE_CLEAR = 255
"""Scale step that clears whatever it is applied to."""


def _exp2_table() -> tuple[int, ...]:
    """Round(2^(-i/64) * 2^20) for i in 0..64, by exact integer comparison."""
    table = []
    for i in range(EXP2_SEGMENTS + 1):
        # The integer a nearest to x = 2^(20 - i/64) is the largest with (2a - 1)^64 <= (2x)^64,
        # which is a power of two; x is irrational between the ends, so ties cannot occur.
        bound = 1 << (64 * (EXP2_FRAC_BITS + 1) - i)
        a = 1 << (EXP2_FRAC_BITS - 1)
        for bit in reversed(range(EXP2_FRAC_BITS)):
            trial = a + (1 << bit)
            if (2 * trial - 1) ** EXP2_SEGMENTS <= bound:
                a = trial
        table.append(a)
    return tuple(table)


EXP2_TABLE: tuple[int, ...] = _exp2_table()

# Error bounds.  Each is derived here and measured by tests/isa/test_numerics.py.
EXP2_CHORD_REL = 1.48e-5
"""A chord of 2^-x over h = 1/64 lies above it by at most (h ln 2)^2 / 8 = 1.467e-5 of the value."""
EXP2_TABLE_REL = 2.0**-19
"""Rounded table entries (1/2 unit) and rounded interpolation (1/2 unit), of at least 2^19 units."""
SCORE_FLOOR_REL = 1.06e-5
"""The score is floored to 2^-16, which lowers 2^-x by at most ln 2 * 2^-16 = 1.058e-5."""
FP16_ROUND_REL = 2.0**-11
FP16_ROUND_ABS = 2.0**-25
"""Half of the subnormal step 2^-24; it replaces FP16_ROUND_REL below 2^-14."""
EXP2_REL = 5.17e-4
"""p against 2^(s-m) while 2^(s-m) >= 2^-14: (1 + chord + table + floor) * (1 + 2^-11) - 1."""
RECIP_REL = 2.0**-24
"""Q is floored and at least 2^24, so 0 <= 1/l - Q*2^(-1-e) < 2^-24 / l."""
PRODUCT_GRID_LOG2 = -48
"""FP16 products and their FP32 sums are multiples of 2^-48, far above the FP32 subnormals."""


def softmax_l1_bound(tokens: int) -> float:
    """Bound of sum_i |p_i/l - softmax_i| over `tokens` tokens, any chunking.

    With t_i = 2^(s_i - m), T = sum t_i > 1/2 (m is the ceiling of the maximum) and
    p_i = t_i (1 + d_i) + a_i, |d_i| <= EXP2_REL, |a_i| <= 2^-25: the sum D of |p_i - t_i| is at
    most EXP2_REL*T + tokens*2^-25.  Each rescale of l floors away less than 2^-24 and halves (or
    more) what was lost before, so l = sum p_i - c with 0 <= c < 2^-23.  Hence
    sum |p_i/l - t_i/T| <= (2 D + c) / l, and the right side is largest at T = 1/2.
    """
    total = 0.5
    distance = EXP2_REL * total + tokens * FP16_ROUND_ABS
    lost = 2.0**-23
    low = total - distance - lost
    return (2 * distance + lost) / low if low > 0 else float("inf")


def round_shift(value: int, shift: int) -> int:
    """`value * 2^-shift` (value >= 0) rounded to nearest, ties to even."""
    if shift <= 0:
        return value << -shift
    down, rest, half = value >> shift, value & ((1 << shift) - 1), 1 << (shift - 1)
    return down + (rest > half or (rest == half and down & 1 == 1))


def fp16_parts(bits: int) -> tuple[int, int, int]:
    """FP16 bits -> (sign 0/1, significand 0..2047, exponent e) with value significand * 2^e."""
    field = bits >> 10 & 31
    return bits >> 15 & 1, bits & 1023 | (1024 if field else 0), max(field, 1) - 25


def fp32_parts(bits: int) -> tuple[int, int, int]:
    """FP32 bits -> (sign, significand, exponent); a zero exponent field reads as zero."""
    field = bits >> 23 & 255
    return bits >> 31 & 1, bits & 0x7FFFFF | 0x800000 if field else 0, max(field, 1) - 150


def fp32_pack(value: int, exponent: int) -> int:
    """FP32 bits of the signed integer `value * 2^exponent`, rounded once (see FP32 above)."""
    if value == 0:
        return 0
    sign, magnitude = (value < 0) << 31, abs(value)
    drop = magnitude.bit_length() - 24
    significand = round_shift(magnitude, drop)
    if significand >> 24:
        significand, drop = significand >> 1, drop + 1
    field = drop + exponent + 150
    if field < 1:
        return 0
    return sign | (FP32_MAX if field > 254 else field << 23 | significand & 0x7FFFFF)


def fp16_mul(a: int, b: int) -> int:
    """Exact product of two FP16 as FP32 bits; zero is always +0."""
    sa, ma, ea = fp16_parts(a)
    sb, mb, eb = fp16_parts(b)
    return fp32_pack(-ma * mb if sa ^ sb else ma * mb, ea + eb)


def fp32_add(a: int, b: int) -> int:
    """FP32 sum, rounded to nearest even; exact zero is +0."""
    sa, ma, ea = fp32_parts(a)
    sb, mb, eb = fp32_parts(b)
    low = min(ea, eb)
    x, y = ma << (ea - low), mb << (eb - low)
    return fp32_pack((-x if sa else x) + (-y if sb else y), low)


def adder_tree(values: Sequence[int]) -> int:
    """FP32 sum by adjacent pairs, level by level; an odd last value moves up a level unchanged."""
    level = list(values)
    if not level:
        raise ValueError("adder_tree: no values, expected at least one FP32 value")
    while len(level) > 1:
        odd = [level[-1]] if len(level) & 1 else []
        level = [fp32_add(x, y) for x, y in zip(level[::2], level[1::2], strict=False)] + odd
    return level[0]


def fp32_scale_down(a: int, k: int) -> int:
    """`a * 2^-k` for k in 0..255: exact, or +0 where the exponent would fall below 1."""
    if not 0 <= k <= 255:
        raise ValueError(f"fp32_scale_down: k = {k}, expected 0..255")
    return a - (k << 23) if (a >> 23 & 255) - k >= 1 else 0


def _score_parts(s: int) -> tuple[int, int]:
    sign, significand, exponent = fp32_parts(s)
    if exponent + 150 > SCORE_EXP_MAX:
        raise ValueError(f"score 0x{s:08x} is out of range, expected a magnitude below 2^43")
    return -significand if sign else significand, exponent


def score_to_fixed(s: int) -> int:
    """floor(s * 2^16) of an FP32 score, |s| < 2^43: a signed 60-bit integer."""
    value, exponent = _score_parts(s)
    shift = exponent + SCORE_FRAC_BITS
    return value << shift if shift >= 0 else value >> -shift


def ceil_int(s: int) -> int:
    """ceil(s) of an FP32 score, |s| < 2^43: a signed 44-bit integer."""
    value, exponent = _score_parts(s)
    return value << exponent if exponent >= 0 else -(-value >> -exponent)


def order_key(s: int) -> int:
    """FP32 bits -> unsigned 32-bit key; keys order as the numbers do."""
    return s ^ 0xFFFFFFFF if s >> 31 else s | 0x80000000


def order_unkey(key: int) -> int:
    """Inverse of `order_key`."""
    return key & 0x7FFFFFFF if key >> 31 else key ^ 0xFFFFFFFF


def softmax_distance(m: int, s: int) -> int:
    """(m << 16) - floor(s * 2^16): how far score `s` lies below the integer maximum `m`."""
    fx = (m << SCORE_FRAC_BITS) - score_to_fixed(s)
    if fx < 0:
        raise ValueError(f"score 0x{s:08x} is above m = {m}, expected s <= m")
    return fx


def exp2_frac(f: int) -> int:
    """2^(-f/65536) * 2^20 by 64 chords, f in 0..65535; result in 2^19..2^20."""
    index, r = f >> 10, f & 1023
    here, there = EXP2_TABLE[index], EXP2_TABLE[index + 1]
    return here - (((here - there) * r + 512) >> 10)


def exp2_to_fp16(fx: int) -> int:
    """2^(-fx/65536) as FP16 bits, fx >= 0; rounded to nearest even, subnormals included."""
    n = fx >> SCORE_FRAC_BITS
    if n >= EXP2_ZERO_N:
        return 0
    # Up to n = 13 eleven bits are kept, below that all down to 2^-24.  Adding the hidden one to
    # the exponent field lets the carry of the rounding correct the exponent.
    kept = round_shift(exp2_frac(fx & 0xFFFF), max(9, n - 4))
    return (max(13 - n, 0) << 10) + kept


def softmax_term(m: int, s: int) -> int:
    """p = 2^(s - m) as FP16 bits, for the integer m >= s (signed 44-bit) and the FP32 score s."""
    return exp2_to_fp16(softmax_distance(m, s))


def p24(p: int) -> int:
    """FP16 bits of a number in [0, 1] -> that number times 2^24, an integer."""
    if not 0 <= p <= 0x3C00:
        raise ValueError(f"p24: 0x{p:04x} is not an FP16 number in [0, 1]")
    _, significand, exponent = fp16_parts(p)
    return significand << (exponent + DENOM_FRAC_BITS)


def rescale_denominator(denom: int, k: int) -> int:
    """`denom >> k` of the 48-bit denominator, k in 0..255."""
    return denom >> k if k < DENOM_BITS else 0


def reciprocal(denom: int) -> tuple[int, int]:
    """(Q, e) with 1/l_real ~ Q * 2^(-1-e), for denom in 1..2^48-1 and l_real = denom * 2^-24."""
    if not 1 <= denom < 1 << DENOM_BITS:
        raise ValueError(f"reciprocal: denominator = {denom}, expected 1..2^48-1")
    e = denom.bit_length() - 1
    return (1 << RECIP_SHIFT) // (denom << (DENOM_BITS - 1 - e)), e


def normalise(acc: int, q: int, e: int) -> int:
    """FP32 acc * Q * 2^(-1-e) as FP16 bits: exact product, one rounding, saturated to 65504."""
    sign, significand, exponent = fp32_parts(acc)
    product, scale = significand * q, exponent - 1 - e
    if product == 0:
        return 0
    lead = product.bit_length() - 1 + scale
    kept = round_shift(product, max(lead - 10, -24) - scale)
    # As in exp2_to_fp16: the hidden one, or a carry out of the rounding, adds to the exponent.
    magnitude = min((max(lead + 14, 0) << 10) + kept, FP16_MAX)
    return sign << 15 | magnitude if magnitude else 0
