"""The npu's scalar arithmetic against exact fractions and real functions."""

import math
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bankside.isa import numerics_npu as n

INT32 = st.one_of(
    st.sampled_from([0, 1, -1, n.INT32_MIN, n.INT32_MAX, 1 << 30, -(1 << 30)]),
    st.integers(n.INT32_MIN, n.INT32_MAX),
)


def away(x: Fraction) -> int:
    """Nearest integer, ties away from zero."""
    whole = math.floor(abs(x) + Fraction(1, 2))
    return whole if x >= 0 else -whole


def half_up(x: Fraction) -> int:
    return math.floor(x + Fraction(1, 2))


@given(INT32, INT32)
def test_srdhm_is_half_up(a, b):
    """The nudge 1 - 2^30 of negative products sends ties to the larger number."""
    expected = min(half_up(Fraction(a * b, 1 << 31)), n.INT32_MAX)
    assert n.srdhm(a, b) == expected


def test_srdhm_saturates_once():
    assert n.srdhm(n.INT32_MIN, n.INT32_MIN) == n.INT32_MAX
    assert n.srdhm(n.INT32_MIN, n.INT32_MAX) == -n.INT32_MAX


@given(INT32, st.integers(0, 35))
def test_rdbpot(x, e):
    assert n.rdbpot(x, e) == away(Fraction(x, 1 << e))


@pytest.mark.parametrize(("x", "e", "y"), [(3, 1, 2), (-3, 1, -2), (1, 1, 1), (-1, 1, -1),
                                           (5, 2, 1), (6, 2, 2), (-6, 2, -2)])  # fmt: skip
def test_rdbpot_by_hand(x, e, y):
    assert n.rdbpot(x, e) == y


@given(INT32, INT32, st.integers(n.SHIFT_MIN, n.SHIFT_MAX))
def test_single_roundings(x, mult, shift):
    exact = Fraction(x * mult) * Fraction(2) ** (shift - 31)
    assert n.mbqm(x, mult, shift, n.SINGLE_HALF_UP) == n.wrap32(half_up(exact))
    assert n.mbqm(x, mult, shift, n.RNE) == n.wrap32(round(exact))
    assert n.mbqm(x, mult, shift, n.TRUNC) == n.wrap32(math.floor(exact))


def test_roundings_differ_where_they_should():
    """x * 1/2 by mult 2^30, shift 0; and 1/4 by shift -1, rounded twice."""
    half = [[n.mbqm(x, 1 << 30, 0, r) for r in range(4)] for x in (1, 3, -1, -3)]
    assert half == [[1, 1, 0, 0], [2, 2, 2, 1], [0, 0, 0, -1], [-1, -1, -2, -2]]
    quarter = [[n.mbqm(x, 1 << 30, -1, r) for r in range(4)] for x in (1, 2, -2, -3)]
    assert quarter == [[1, 0, 0, 0], [1, 1, 0, 0], [-1, 0, 0, -1], [-1, -1, -1, -1]]


@pytest.mark.parametrize("shift", [n.SHIFT_MIN - 1, n.SHIFT_MAX + 1])
def test_mbqm_refuses_shifts_beyond_its_range(shift):
    with pytest.raises(ValueError, match="expected -31..30"):
        n.mbqm(1, 1, shift, n.TRUNC)


@given(INT32, INT32, st.integers(-128, 127))
def test_records_round_trip(bias, mult, shift):
    record = n.Record(bias, mult, shift)
    assert n.Record.unpack(record.pack()) == record and len(record.pack()) == 16


def test_requantise_wraps_bias_and_clamps():
    output = n.Output(3, -128, 127)
    assert n.requantise(10, n.Record(2, 1 << 30, 0), output, n.TRUNC) == 9
    wrapped = n.requantise(n.INT32_MAX, n.Record(1, 1 << 30, 0), output, n.TRUNC)
    assert wrapped == -128


@given(st.integers(-(1 << 24), 1 << 24), st.integers(1, 1 << 16))
def test_average(acc, count):
    assert n.average(acc, count) == away(Fraction(acc, count))


def test_average_of_nothing():
    assert n.average(0, 0) == 0


def test_add_and_mul_against_reals():
    """Half a step from the exact value, and what the roundings before the last one add."""
    random, output = Random(1), n.Output(-3, -128, 127)
    for _ in range(500):
        a, b = random.randrange(-255, 256), random.randrange(-255, 256)
        fa, fb, fo = (random.randrange(1 << 30, 1 << 31) for _ in range(3))
        scales = n.Scales((fa, 0), (fb, -1), (fo, -19), 20)
        for sign in (1, -1):
            exact = (a * fa / 2**31 + sign * b * fb / 2**32) * fo / 2**31 * 2
            y = n.add(a, b, scales, output, n.GEMMLOWP_DOUBLE, sign=sign)
            assert abs(y - max(-128, min(127, exact - 3))) <= 0.501
        y = n.mul(a, b, (fo, -8), output, n.GEMMLOWP_DOUBLE)
        assert abs(y - max(-128, min(127, a * b * fo / 2**39 - 3))) <= 0.5 + 2**-9


def test_exp_against_reals():
    for a in [*range(0, 400), *Random(2).sample(range(1 << 31), 2000)]:
        y = n.exp_on_negative_values(-a) / 2**31
        assert abs(y - math.exp(-a / 2**26)) < 2.5e-7


def test_softmax_table_is_monotone_and_ends_at_diff_min():
    table = n.softmax_table(1 << 30, 22, -99)
    assert table[0] == n.INT32_MAX and all(a >= b for a, b in zip(table, table[1:], strict=False))
    assert table[99] > 0 and not any(table[100:])


@given(st.integers(0, n.INT32_MAX))
def test_reciprocal_against_reals(a):
    assert abs(n.one_over_one_plus_x(a) / 2**31 - 1 / (1 + a / 2**31)) < 2e-8


@pytest.mark.parametrize("channels", [1, 2, 10, 100, 1000])
def test_softmax_against_reals(channels):
    """Inputs of scale 1/16: within one step of 1/256."""
    random = Random(channels)
    table = n.softmax_table(1 << 30, 23, -255)
    x = [random.randrange(-128, 128) for _ in range(channels)]
    y = n.softmax(x, table, n.Output(-128, -128, 127))
    total = sum(math.exp(v / 16) for v in x)
    for v, q in zip(x, y, strict=True):
        assert abs(min(255, math.exp(v / 16) / total * 256) - (q + 128)) <= 0.51


def test_softmax_of_an_empty_sum():
    assert n.softmax([1, 2], [0] * 256, n.Output(-128, -7, 127)) == [-7, -7]


@given(st.integers(1, (1 << 62) - 1))
def test_inverse_sqrt(s):
    r, e = n.inverse_sqrt(s)
    assert e % 2 == 0 and 1 << 15 <= r <= 1 << 16 and 1 << 60 <= s << e < 1 << 62
    exact = 1 / math.sqrt(s)
    assert -2**-14.9 < r * 2.0 ** (e / 2 - 46) / exact - 1 < 1e-15


@pytest.mark.parametrize("s", [0, 1 << 62])
def test_inverse_sqrt_refuses(s):
    with pytest.raises(ValueError, match="expected 1..2\\^62-1"):
        n.inverse_sqrt(s)


@pytest.mark.parametrize("layer", [False, True])
@pytest.mark.parametrize("channels", [1, 7, 64, 1024])
def test_norm_against_reals(channels, layer):
    """g in Q4.11, outputs scaled by 2^5: y = 32 x g / sqrt(sum of squares)."""
    random, output = Random(channels), n.Output(2, -32768, 32767)
    x = [random.randrange(-255, 256) for _ in range(channels)]
    gain = [random.randrange(-32768, 32768) for _ in range(channels)]
    y = n.norm(x, gain, 0, 46 - 5, output, layer=layer)
    mean = sum(x) / channels if layer else 0
    norm = math.sqrt(sum((v - mean) ** 2 for v in x))
    for v, g, q in zip(x, gain, y, strict=True):
        exact = 32 * (v - mean) * g / norm if norm else 0
        bound = 0.5 + abs(exact) * 2**-14.5 + (32 * abs(g) * 2**-8 / norm if layer and norm else 0)
        assert abs(min(32767, max(-32768, exact + 2)) - q) <= bound + 1e-6


def test_norm_shifts_left_where_the_shift_is_negative():
    """x' = g r = 2^24, e/2 = 22: without shift 2^24, with o_shift 0 it goes 22 to the left; what
    leaves 64 bits is lost.
    """
    output = n.Output(5, -(1 << 63), 1 << 62)
    for o_shift, y in ((22, 1 << 24), (23, 1 << 23), (0, 1 << 46), (-16, 1 << 62), (-18, 0)):
        assert n.norm([1], [1], 0, o_shift, output, layer=False) == [min(y + 5, 1 << 62)]
