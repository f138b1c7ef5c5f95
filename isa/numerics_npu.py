"""Arithmetic of the `npu` engine, in integers: the reference for RTL and golden model.

Every function works on Python ints; `numerics_npu_np` holds the same operations on NumPy arrays.
int32 values that leave their range wrap, as in the hardware. Ref: docs/npu.md section 2; the
fixed-point functions of softmax and the double rounding are those of gemmlowp (fixedpoint.h),
where a shift beyond 31 bits is not defined and here has its mathematical value.
"""

from collections.abc import Sequence
from math import isqrt
from typing import NamedTuple

from bankside.isa.spec import load_spec

_ROUNDING = load_spec("npu").enums["rounding"]
GEMMLOWP_DOUBLE = _ROUNDING["gemmlowp_double"]
SINGLE_HALF_UP = _ROUNDING["single_half_up"]
RNE = _ROUNDING["rne"]
TRUNC = _ROUNDING["trunc"]

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
SHIFT_MIN, SHIFT_MAX = -31, 30
"""Range of `shift` in `mbqm`: 31 - shift, the shift of the single roundings, is 1..62."""
RECORD_BYTES = 16
LUT_BYTES = 256
EXP_ENTRIES = 256
NORM_FRAC_BITS = 8
"""Fraction bits that NORM gives its inputs."""
ACCUMULATION_BITS = 12
"""Integer bits of the sum of SOFTMAX (19 fraction bits)."""
_SOFTMAX_SHIFT = 31 - 8
_SQRT_BITS = 62
_SQRT_SCALE = 92


def wrap(value: int, bits: int) -> int:
    """`value` as a signed number of `bits` bits, higher bits dropped."""
    half = 1 << bits - 1
    return (value + half & (1 << bits) - 1) - half


def wrap32(value: int) -> int:
    return wrap(value, 32)


def clamp(value: int, low: int, high: int) -> int:
    """The lower limit first: `high` wins where the limits cross."""
    return min(max(value, low), high)


def srdhm(a: int, b: int) -> int:
    """Saturating rounding doubling high multiplication of two int32: a * b / 2^31."""
    if a == b == INT32_MIN:
        return INT32_MAX
    p = a * b
    p += 1 << 30 if p >= 0 else 1 - (1 << 30)
    return p >> 31 if p >= 0 else -(-p >> 31)


def rdbpot(x: int, e: int) -> int:
    """x / 2^e, nearest, ties away from zero. x int32, e in 0..62."""
    half = (1 << e) >> 1
    return x + half >> e if x >= 0 else -(half - x >> e)


def mbqm(x: int, mult: int, shift: int, rounding: int) -> int:
    """x * mult * 2^(shift - 31), int32 (wraps). x, mult int32, shift SHIFT_MIN..SHIFT_MAX."""
    if not SHIFT_MIN <= shift <= SHIFT_MAX:
        raise ValueError(f"mbqm: shift = {shift}, expected {SHIFT_MIN}..{SHIFT_MAX}")
    if rounding == GEMMLOWP_DOUBLE:
        return rdbpot(srdhm(wrap32(x << max(shift, 0)), mult), max(-shift, 0))
    t, p = 31 - shift, x * mult
    if rounding == SINGLE_HALF_UP:
        p += 1 << t - 1
    elif rounding == RNE:
        p += (1 << t - 1) - 1 + (p >> t & 1)
    return wrap32(p >> t)


class Record(NamedTuple):
    """Scale of one output channel: bias and mult int32, shift int8."""

    bias: int
    mult: int
    shift: int

    def pack(self) -> bytes:
        """The 16 bytes of docs/npu.md section 2."""
        fields = ((self.bias, 4), (self.mult, 4), (self.shift, 1))
        packed = b"".join(v.to_bytes(n, "little", signed=True) for v, n in fields)
        return packed.ljust(RECORD_BYTES, b"\0")

    @classmethod
    def unpack(cls, data: bytes) -> "Record":
        """Of 16 bytes; the last 7 are not looked at."""
        parts = (data[:4], data[4:8], data[8:9])
        return cls(*(int.from_bytes(part, "little", signed=True) for part in parts))


class Output(NamedTuple):
    """What the output unit adds and clamps to: `ofm_zero`, `ofm_min`, `ofm_max`."""

    zero: int
    low: int
    high: int


def requantise(acc: int, record: Record, output: Output, rounding: int) -> int:
    """Result of an int32 accumulator."""
    scaled = mbqm(wrap32(acc + record.bias), record.mult, record.shift, rounding)
    return clamp(wrap32(scaled + output.zero), output.low, output.high)


def average(acc: int, count: int) -> int:
    """acc / count, nearest, ties away from zero; 0 where nothing counts."""
    if count == 0:
        return 0
    half = count // 2
    return (acc + half) // count if acc >= 0 else -((-acc + half) // count)


class Scales(NamedTuple):
    """Registers of ELEMENTWISE: (mult, shift) of both operands and of the result."""

    a: tuple[int, int]
    b: tuple[int, int]
    o: tuple[int, int]
    left_shift: int


def add(a: int, b: int, scales: Scales, output: Output, rounding: int, *, sign: int = 1) -> int:
    """ELEMENTWISE add (`sign` -1: sub) of two operands without their zero points."""
    left = mbqm(wrap32(a << scales.left_shift), *scales.a, rounding)
    right = mbqm(wrap32(b << scales.left_shift), *scales.b, rounding)
    scaled = mbqm(wrap32(left + sign * right), *scales.o, rounding)
    return clamp(wrap32(scaled + output.zero), output.low, output.high)


def mul(a: int, b: int, scale: tuple[int, int], output: Output, rounding: int) -> int:
    """ELEMENTWISE mul of two operands without their zero points."""
    scaled = mbqm(wrap32(a * b), *scale, rounding)
    return clamp(wrap32(scaled + output.zero), output.low, output.high)


# --- softmax ------------------------------------------------------------------------------------


def _saturate(value: int) -> int:
    return clamp(value, INT32_MIN, INT32_MAX)


_EXP_MINUS_EIGHTH, _THIRD = 1895147668, 715827883
# exp(-2^i) as Q0.31 for i = -2..4.
_EXP_STEPS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
_EXP_FRAC_BITS = 26


def _exp_quarter(a: int) -> int:
    """exp(a) of a in [-1/4, 0), Q0.31: Taylor's series about -1/8, as published."""
    x = a + (1 << 28)
    x2 = srdhm(x, x)
    x3, x4 = srdhm(x2, x), srdhm(x2, x2)
    rest = rdbpot(srdhm(rdbpot(x4, 2) + x3, _THIRD) + x2, 1)
    return _EXP_MINUS_EIGHTH + srdhm(_EXP_MINUS_EIGHTH, x + rest)


def exp_on_negative_values(a: int) -> int:
    """exp(a) as Q0.31 of a <= 0 with 5 integer and 26 fraction bits."""
    if a == 0:
        return INT32_MAX
    quarter = 1 << _EXP_FRAC_BITS - 2
    low = (a & quarter - 1) - quarter
    result, rest = _exp_quarter(low << 5), low - a
    for i, step in enumerate(_EXP_STEPS):
        if rest >> _EXP_FRAC_BITS - 2 + i & 1:
            result = srdhm(result, step)
    return result


def softmax_table(mult: int, left_shift: int, diff_min: int) -> tuple[int, ...]:
    """E[d] of d = maximum - x, d = 0..255: exp(-d * scale), Q0.31.

    mult, left_shift: of the input scale with 26 fraction bits (TFLite: PreprocessSoftmaxScaling);
    distances below `diff_min` (<= 0) give 0.
    """
    table = []
    for d in range(EXP_ENTRIES):
        scaled = srdhm(wrap32(-d << left_shift), mult)
        table.append(exp_on_negative_values(scaled) if -d >= diff_min else 0)
    return tuple(table)


def one_over_one_plus_x(a: int) -> int:
    """1 / (1 + a) of a in [0, 1), both Q0.31: three Newton steps, as published."""
    half_denominator = a + INT32_MAX + 1 >> 1
    x = 1515870810 + srdhm(half_denominator, -1010580540)
    for _ in range(3):
        rest = (1 << 29) - srdhm(half_denominator, x)
        x = wrap32(x + _saturate(srdhm(x, rest) << 2))
    return _saturate(x << 1)


def softmax(x: Sequence[int], table: Sequence[int], output: Output) -> list[int]:
    """SOFTMAX over int8 values with a table of `softmax_table`."""
    top = max(x)
    e = [table[top - v] for v in x]
    total = sum(rdbpot(v, ACCUMULATION_BITS) for v in e) & 0xFFFFFFFF
    if total == 0:
        return [output.low] * len(e)
    headroom = 32 - total.bit_length()
    r = one_over_one_plus_x(wrap32((total << headroom) - (1 << 31)))
    shift = ACCUMULATION_BITS - headroom + _SOFTMAX_SHIFT
    return [
        clamp(wrap32(rdbpot(srdhm(r, v), shift) + output.zero), output.low, output.high) for v in e
    ]


# --- norm ---------------------------------------------------------------------------------------


def inverse_sqrt(s: int) -> tuple[int, int]:
    """(r, e) with 1/sqrt(s) = r * 2^(e/2 - 46), s in 1..2^62-1; r in 2^15..2^16, e even."""
    if not 0 < s < 1 << _SQRT_BITS:
        raise ValueError(f"inverse_sqrt: s = {s}, expected 1..2^62-1")
    e = _SQRT_BITS - s.bit_length() & ~1
    return isqrt((1 << _SQRT_SCALE) // (s << e)), e


def norm(
    x: Sequence[int],
    gain: Sequence[int],
    epsilon: int,
    o_shift: int,
    output: Output,
    *,
    layer: bool,
) -> list[int]:
    """NORM of inputs without their zero point; `gain` int16. epsilon: added to the sum of squares.

    Raises ValueError when that sum does not stay below 2^62.
    """
    centred = [v << NORM_FRAC_BITS for v in x]
    if layer:
        mean = (sum(x) << NORM_FRAC_BITS) // len(x)
        centred = [v - mean for v in centred]
    r, e = inverse_sqrt(max(sum(v * v for v in centred) + epsilon, 1))
    shift = o_shift - e // 2
    return [
        clamp(_shifted(v * g * r, shift) + output.zero, output.low, output.high)
        for v, g in zip(centred, gain, strict=True)
    ]


def _shifted(value: int, shift: int) -> int:
    """value * 2^-shift, half up, as int64 (wraps to the left)."""
    if shift <= 0:
        return wrap(value << -shift, 64)
    return value + (1 << shift - 1) >> shift
