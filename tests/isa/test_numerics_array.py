"""The integer reference of the `array` engine against exact rational arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bankside.isa import numerics_array as ref
from bankside.isa.numerics import SCALE_CLEAR, reciprocal

TWO = Fraction(2)
FP32_TOP = ((1 << 24) - 1) * TWO**104
FP32_LEAST = TWO**-126
FORMATS = (ref.FP16, ref.BF16)
# precision, smallest step, largest magnitude of what `round16` gives
ROUNDED = {ref.FP16: (11, -24, Fraction(65504)), ref.BF16: (8, -133, Fraction(255) * TWO**120)}

fp32 = st.builds(
    lambda sign, field, low: (sign << 31 | field << 23 | low) if field else 0,
    st.integers(0, 1), st.integers(0, 254), st.integers(0, (1 << 23) - 1),
)  # fmt: skip
near_one = st.builds(
    lambda sign, field, low: sign << 31 | field << 23 | low,
    st.integers(0, 1), st.integers(110, 150), st.integers(0, (1 << 23) - 1),
)  # fmt: skip
numbers = st.one_of(fp32, near_one)
tf32 = numbers.map(lambda x: x & 0xFFFFE000)


def value(bits: int) -> Fraction:
    """FP32 by its definition; only +0 and normal numbers are legal."""
    field = bits >> 23 & 255
    assert bits == 0 or 1 <= field <= 254, f"0x{bits:08x} is neither normal nor +0"
    magnitude = ((1 << 23) + (bits & 0x7FFFFF)) * TWO ** (field - 150) if bits else Fraction(0)
    return -magnitude if bits >> 31 else magnitude


def value16(bits: int, fmt: int) -> Fraction | None:
    """16 bits by the definition of the format; None: infinite or not a number."""
    width = 10 if fmt == ref.FP16 else 7
    bias, fields = (25, 31) if fmt == ref.FP16 else (134, 255)
    field, low = bits >> width & fields, bits & (1 << width) - 1
    if fmt == ref.BF16 and field == 255:
        return None
    magnitude = (low + (1 << width if field else 0)) * TWO ** (max(field, 1) - bias)
    return -magnitude if bits >> 15 else magnitude


def nearest(x: Fraction, precision: int, least: int) -> Fraction:
    """Multiple of 2^least with so many bits next to `x`, ties to the even one."""
    if x == 0:
        return x
    exponent = math.floor(math.log2(abs(x)))
    exponent += (abs(x) >= TWO ** (exponent + 1)) - (abs(x) < TWO**exponent)
    unit = TWO ** max(exponent - precision + 1, least)
    low = math.floor(x / unit)
    rest = x / unit - low
    return (low + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and low % 2))) * unit


def clamp(x: Fraction, top: Fraction) -> Fraction:
    return max(-top, min(x, top))


def flushed(x: Fraction) -> Fraction:
    """`x` as FP32: nearest with 24 bits, zero below 2^-126, saturated."""
    y = nearest(x, 24, -1000)
    return clamp(y, FP32_TOP) if abs(y) >= FP32_LEAST else Fraction(0)


# --- conversions ------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", FORMATS)
def test_decode_of_every_pattern(fmt):
    for bits in range(1 << 16):
        want, got = value16(bits, fmt), ref.decode(bits, fmt)
        assert got & 0x1FFF == 0
        if want is None:
            assert got == (ref.TF32_MAX | bits >> 15 << 31)
        elif fmt == ref.BF16 and abs(want) < FP32_LEAST:
            assert got == 0
        else:
            assert value(got) == want


@pytest.mark.parametrize("fmt", FORMATS)
def test_round16_undoes_decode(fmt):
    for bits in range(1 << 16):
        want = value16(bits, fmt)
        if want is not None and abs(want) <= ROUNDED[fmt][2]:
            flush = want == 0 or (fmt == ref.BF16 and abs(want) < FP32_LEAST)
            assert ref.round16(ref.decode(bits, fmt), fmt) == (0 if flush else bits)


@given(numbers, st.sampled_from(FORMATS))
def test_round16_takes_the_nearest(x, fmt):
    precision, least, top = ROUNDED[fmt]
    got = ref.round16(x, fmt)
    assert value16(got, fmt) == clamp(nearest(value(x), precision, least), top)
    assert got != 0x8000 and got != ref.SCORE_MARKER[fmt]


@given(numbers)
def test_to_tf32_takes_the_nearest(x):
    want = clamp(nearest(value(x), 11, -1000), value(ref.TF32_MAX))
    assert value(ref.to_tf32(x)) == want


def test_markers_pass_through_memory():
    for fmt in FORMATS:
        assert ref.score16(ref.MARKER, fmt) == ref.SCORE_MARKER[fmt]
        assert ref.decode_score(ref.SCORE_MARKER[fmt], fmt) == ref.MARKER
        assert ref.decode_score(0x3C00, fmt) == ref.decode(0x3C00, fmt)
        assert ref.score16(0xFF7FFFFF, fmt) != ref.SCORE_MARKER[fmt]


# --- arithmetic -------------------------------------------------------------------------------


@given(tf32, tf32)
def test_tf32_mul_is_exact(a, b):
    exact = value(a) * value(b)
    want = Fraction(0) if abs(exact) < FP32_LEAST else clamp(exact, FP32_TOP)
    assert value(ref.tf32_mul(a, b)) == want


@given(numbers)
def test_ceil32(x):
    assert value(ref.ceil32(x)) == math.ceil(value(x))


@given(numbers, numbers)
def test_fp32_max_puts_the_marker_below_all(a, b):
    assert value(ref.fp32_max(a, b)) == max(value(a), value(b))
    assert ref.fp32_max(a, ref.MARKER) == a == ref.fp32_max(ref.MARKER, a)


def test_the_marker_stays():
    assert ref.ceil32(ref.MARKER) == ref.MARKER
    assert ref.exp2_split(ref.MARKER) == (127, 0)
    for fmt in FORMATS:
        assert ref.lane_exp2(ref.MARKER, fmt) == 0


@given(st.integers(-(2**23), 2**23), st.integers(0, 400))
def test_step(old, grown):
    new, low = (ref.fp32_pack(v, 0) for v in (old + grown, old))
    assert ref.step(new, low) == min(grown, SCALE_CLEAR)
    assert ref.step(low, ref.MARKER) == SCALE_CLEAR
    assert ref.step(ref.MARKER, ref.MARKER) == 0


@given(numbers.map(lambda x: x & 0x7FFFFFFF))
def test_denominator(x):
    assert ref.denominator(x) == max(1, min(2**48 - 1, math.floor(value(x) * 2**24)))


@given(numbers, st.integers(1, (1 << 48) - 1))
def test_mulq_rounds_once(x, denominator):
    q, e = reciprocal(denominator)
    assert value(ref.mulq(x, q, e)) == flushed(value(x) * q * TWO ** (-1 - e))


@given(numbers)
def test_one_is_a_reciprocal(x):
    assert reciprocal(1 << 24) == (1 << 25, 24)
    assert ref.mulq(x, 1 << 25, 24) == x


# --- exp2 -------------------------------------------------------------------------------------


@given(st.one_of(numbers.map(lambda x: x | 0x80000000 if x else 0)))
def test_exp2_split(x):
    n, f = ref.exp2_split(x)
    a = min(math.floor(abs(value(x)) * 2**16), 2**23 - 1)
    whole = math.floor(Fraction(a, 2**16) + Fraction(1, 2))
    if whole >= 127:
        assert (n, f) == (127, 0)
    else:
        assert n == whole
        assert value(f) == nearest(n - Fraction(a, 2**16), 11, -1000)
        assert f & 0x1FFF == 0 and abs(value(f)) <= Fraction(1, 2)


@given(numbers.map(lambda x: x | 0x80000000 if x else 0), st.sampled_from(FORMATS))
def test_lane_exp2(x, fmt):
    got = float(value16(ref.lane_exp2(x, fmt), fmt))
    want = 2.0 ** float(value(x))
    relative = 2.0**-11 + 3e-5 + (2.0**-8 if fmt == ref.BF16 else 0)
    assert abs(got - want) <= relative * want + 2.0**-25 * 1.01


def best_polynomial(target, powers: range) -> tuple[np.ndarray, float]:
    """Coefficients with the smallest relative error on [-1/2, 1/2] (Remez exchange), and that."""
    count = len(powers) + 1
    points = -0.5 * np.cos(np.pi * np.arange(count) / (count - 1))
    grid = np.linspace(-0.5, 0.5, 100001)
    for _ in range(12):
        signs = (-1.0) ** np.arange(count) * 2.0**points
        system = np.stack([*(points**p for p in powers), signs], 1)
        c = np.linalg.solve(system, target(points))[:-1]
        fit = sum(a * grid**p for a, p in zip(c, powers, strict=True))
        error = (fit - target(grid)) / 2.0**grid
        runs = np.split(np.arange(len(grid)), np.flatnonzero(np.diff(np.sign(error))) + 1)
        peaks = [run[np.abs(error[run]).argmax()] for run in runs]
        while len(peaks) > count:
            peaks.pop(0 if abs(error[peaks[0]]) < abs(error[peaks[-1]]) else -1)
        points = grid[peaks]
    return c, float(np.abs(error).max())


def test_coefficients_are_the_best_polynomial():
    full, error = best_polynomial(lambda f: 2.0**f, range(7))
    assert error == pytest.approx(1.8559e-9, rel=1e-3)
    top = ref.to_tf32(int(np.float32(full[6]).view(np.uint32)))
    c6 = float(value(top))
    rest, error = best_polynomial(lambda f: 2.0**f - c6 * f**6, range(6))
    assert error == pytest.approx(1.8644e-9, rel=1e-3)
    bits = [int(np.float32(c).view(np.uint32)) for c in rest]
    # One unit in the last place is what the two grids of float64 arithmetic may differ by.
    for got, want in zip(ref.EXP2_COEFFICIENTS, [*bits, top], strict=True):
        assert abs(got - want) <= 1
    assert ref.EXP2_COEFFICIENTS[6] & 0x1FFF == 0 and ref.EXP2_COEFFICIENTS[0] == ref.ONE


@settings(max_examples=300)
@given(st.integers(0, 126 << 16))
def test_exp2_against_the_power(a):
    x = ref.negate(ref.fp32_pack(a, -16))
    got = ref.exp2(*ref.exp2_split(x))
    want = 2.0 ** float(value(x))
    if want >= 2.0**-125:
        assert float(value(got)) == pytest.approx(want, rel=3e-4, abs=0)


def test_exp2_ends():
    assert ref.exp2(*ref.exp2_split(0)) == ref.ONE
    assert ref.exp2(*ref.exp2_split(ref.negate(ref.fp32_pack(100, 0)))) == 27 << 23
    assert ref.exp2(*ref.exp2_split(ref.negate(ref.fp32_pack(127, 0)))) == 0
    assert ref.exp2(*ref.exp2_split(0xFF7FFFFF)) == 0
