"""The integer reference against exact rational arithmetic, and its error bounds measured."""

import math
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bankside.isa import numerics as ref
from bankside.isa.numerics_vectors import (
    DENOM_CORNERS,
    FP16_CORNERS,
    UNITS,
    random_denominator,
    random_fp16,
    random_fp32,
    random_score,
)

SEED = 417
TWO = Fraction(2)
FP32 = (24, -149, 254)  # precision, exponent of the smallest step, largest exponent field
FP16 = (11, -24, 30)

fp32_numbers = st.builds(
    lambda sign, field, significand: (sign << 31 | field << 23 | significand) if field else 0,
    st.integers(0, 1),
    st.integers(0, 254),
    st.integers(0, (1 << 23) - 1),
)


def value16(bits: int) -> Fraction:
    """FP16 by its definition, exponent 31 included."""
    field, fraction = bits >> 10 & 31, bits & 1023
    magnitude = fraction * TWO**-24 if field == 0 else (1024 + fraction) * TWO ** (field - 25)
    return -magnitude if bits >> 15 else magnitude


def value32(bits: int) -> Fraction:
    """FP32 by its definition; only +0 and normal numbers are legal."""
    field = bits >> 23 & 255
    assert bits == 0 or 1 <= field <= 254, f"0x{bits:08x} is neither normal nor +0"
    magnitude = ((1 << 23) + (bits & 0x7FFFFF)) * TWO ** (field - 150) if bits else Fraction(0)
    return -magnitude if bits >> 31 else magnitude


def nearest(x: Fraction, form: tuple[int, int, int]) -> Fraction:
    """The number of the format next to `x`: both neighbours compared, ties to the even one."""
    precision, step, _ = form
    if x == 0:
        return x
    size = abs(x)
    # Powers of two around `size` by search, not by the bit tricks of the code under test.
    exponent = size.numerator.bit_length() - size.denominator.bit_length() - 1
    while TWO ** (exponent + 1) <= size:
        exponent += 1
    unit = TWO ** max(exponent - precision + 1, step)
    low = math.floor(size / unit)
    below, above = size - low * unit, (low + 1) * unit - size
    up = above < below or (above == below and low % 2 == 1)
    return (low + up) * unit * (1 if x > 0 else -1)


def expected_fp32(x: Fraction) -> Fraction:
    """`x` as this FP32 rounds it: nearest, flushed to zero, saturated."""
    y = nearest(x, FP32)
    top = ((1 << 24) - 1) * TWO**104
    if abs(x) < TWO**-126:
        return Fraction(0)
    return max(-top, min(y, top))


def wrong_sums(add, pairs) -> list[str]:
    """Pairs whose `add` is not the correctly rounded sum."""
    bad = []
    for a, b in pairs:
        got, want = add(a, b), expected_fp32(value32(a) + value32(b))
        if value32(got) != want:
            bad.append(f"0x{a:08x} + 0x{b:08x} -> 0x{got:08x}, expected {float(want)!r}")
    return bad


def test_fp16_products_are_exact():
    for a, b in UNITS["fp16_mul"].operands(SEED, 3000):
        assert value32(ref.fp16_mul(a, b)) == value16(a) * value16(b)


def test_fp16_exponent_31_is_ordinary():
    assert value32(ref.fp16_mul(0x7FFF, 0x3C00)) == 131008
    assert ref.fp16_mul(0x8000, 0x7FFF) == ref.fp16_mul(0x8000, 0x8000) == 0


def test_fp32_sums_are_correctly_rounded():
    bad = wrong_sums(ref.fp32_add, UNITS["fp32_add"].operands(SEED, 5000))
    assert not bad, f"seed {SEED}: {bad[:3]}"


@pytest.mark.parametrize("twin", ["truncate", "ties away", "no sticky"])
def test_wrong_adders_are_found(twin):
    def round_shift(value, shift):
        if shift <= 0:
            return value << -shift
        if twin == "truncate":
            return value >> shift
        if twin == "ties away":
            return (value + (1 << (shift - 1))) >> shift
        kept = value >> (shift - 1)  # one guard bit and nothing below it
        return (kept >> 1) + (kept & 1 & (kept >> 1))

    def add(a, b):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ref, "round_shift", round_shift)
            return ref.fp32_add(a, b)

    assert wrong_sums(add, UNITS["fp32_add"].operands(SEED, 300))


def test_wrong_flush_is_found():
    pairs = UNITS["fp32_add"].operands(SEED, 300)
    bad = wrong_sums(lambda a, b: ref.fp32_add(a, b) or 0x00800000, pairs)
    assert bad


@given(fp32_numbers, fp32_numbers)
@settings(max_examples=500, deadline=None)
def test_fp32_add_properties(a, b):
    assert wrong_sums(ref.fp32_add, [(a, b)]) == []
    assert ref.fp32_add(a, b) == ref.fp32_add(b, a)
    assert ref.fp32_add(a, 0) == a
    assert ref.fp32_add(a, a ^ 1 << 31 if a else 0) == 0


def test_adder_tree_takes_adjacent_pairs_level_by_level():
    values = [random_fp32(Random(SEED + i), 100, 150) for i in range(7)]
    add, v = ref.fp32_add, values
    assert ref.adder_tree(v[:4]) == add(add(v[0], v[1]), add(v[2], v[3]))
    assert ref.adder_tree(v[:3]) == add(add(v[0], v[1]), v[2])
    four = add(add(v[0], v[1]), add(v[2], v[3]))
    assert ref.adder_tree(v) == add(four, add(add(v[4], v[5]), v[6]))
    assert ref.adder_tree(v[:1]) == v[0]
    with pytest.raises(ValueError, match="no values, expected at least one"):
        ref.adder_tree([])


def test_scale_down_is_exact_or_zero():
    for a, k in UNITS["scale_down"].operands(SEED, 2000):
        exact = value32(a) / TWO**k
        assert value32(ref.fp32_scale_down(a, k)) == (exact if abs(exact) >= TWO**-126 else 0)
    with pytest.raises(ValueError, match="k = 256, expected 0..255"):
        ref.fp32_scale_down(0, 256)


def test_score_conversions_floor_and_ceil():
    for (s,) in UNITS["ceil_int"].operands(SEED, 2000):
        fixed, up = ref.score_to_fixed(s), ref.ceil_int(s)
        assert fixed == math.floor(value32(s) * 65536) and -(1 << 59) <= fixed < 1 << 59
        assert up == math.ceil(value32(s)) and -(1 << 43) <= up < 1 << 43
        assert fixed <= up << 16
    with pytest.raises(ValueError, match="expected a magnitude below 2\\^43"):
        ref.score_to_fixed(0x55000000)


@given(fp32_numbers, fp32_numbers)
def test_order_key_orders(a, b):
    assert (ref.order_key(a) < ref.order_key(b)) == (value32(a) < value32(b))
    assert ref.order_unkey(ref.order_key(a)) == a
    assert 0 <= ref.order_key(a) < 1 << 32


def test_exp2_table_is_the_rounded_power():
    for i, entry in enumerate(ref.EXP2_TABLE):
        # |entry - x| <= 1/2 with x^64 = 2^(1280 - i), compared in integers.
        assert (2 * entry - 1) ** 64 <= 1 << (64 * 21 - i) <= (2 * entry + 1) ** 64
    assert ref.EXP2_TABLE[0] == 1 << 20 and ref.EXP2_TABLE[64] == 1 << 19


def test_exp2_rounds_its_chord_once():
    for n, f in UNITS["exp2_to_fp16"].operands(SEED, 3000):
        y = ref.exp2_frac(f)
        assert 1 << 19 <= y <= 1 << 20
        assert value16(ref.exp2_to_fp16(n << 16 | f)) == nearest(y * TWO ** (-20 - n), FP16)


def test_exp2_never_rises():
    fx = range(0, 26 << 16, 61)
    values = [ref.exp2_to_fp16(x) for x in fx]
    assert all(a >= b for a, b in zip(values, values[1:], strict=False))
    assert ref.exp2_to_fp16(0) == 0x3C00 and ref.exp2_to_fp16(25 << 16) == 0


def test_p24_is_the_number_times_2_to_24():
    for p in range(0x3C01):
        assert ref.p24(p) == value16(p) * 2**24
    with pytest.raises(ValueError, match="0x3c01 is not an FP16 number in"):
        ref.p24(0x3C01)


def test_softmax_term_refuses_scores_above_the_maximum():
    with pytest.raises(ValueError, match="above m = 0, expected s <= m"):
        ref.softmax_term(0, 0x3F800000)


def test_denominator_rescale():
    full = (1 << 48) - 1
    assert [ref.rescale_denominator(full, k) for k in (0, 1, 47, 48, 255)] == [
        *(full, full >> 1),
        *(1, 0, 0),
    ]


def test_reciprocal_brackets_the_quotient():
    rng = Random(SEED)
    for d in [*DENOM_CORNERS, *(random_denominator(rng) for _ in range(2000))]:
        q, e = ref.reciprocal(d)
        aligned = d << (47 - e)
        assert 1 << 47 <= aligned < 1 << 48 and 1 << 24 <= q <= 1 << 25
        assert q * aligned <= 1 << 72 < (q + 1) * aligned
    for bad in (0, 1 << 48):
        with pytest.raises(ValueError, match="expected 1..2\\^48-1"):
            ref.reciprocal(bad)


def test_normalise_rounds_the_exact_product_once():
    for acc, q, e in UNITS["normalise"].operands(SEED, 4000):
        exact = nearest(value32(acc) * q * TWO ** (-1 - e), FP16)
        bits = ref.normalise(acc, q, e)
        assert value16(bits) == max(Fraction(-65504), min(exact, Fraction(65504)))
        assert bits != 0x8000


def test_operands_reach_the_special_cases():
    """The operands above would prove little if they never came near ties and ends."""
    ties = flushed = 0
    for a, b in UNITS["fp32_add"].operands(SEED, 5000):
        x = value32(a) + value32(b)
        flushed += 0 < abs(x) < TWO**-126
        ties += x != 0 and nearest(x, (25, *FP32[1:])) == x != nearest(x, FP32)
    assert ties > 50 and flushed > 10
    out = [ref.normalise(*v) & 0x7FFF for v in UNITS["normalise"].operands(SEED, 4000)]
    assert sum(0 < y < 0x400 for y in out) > 100 and sum(y == 0x7BFF for y in out) > 20


# --- error bounds -------------------------------------------------------------------------------


def test_exp2_error_bounds_hold_and_are_tight():
    f = np.arange(1 << 16)
    chord = np.array([ref.exp2_frac(int(x)) for x in f]) / 2.0**20
    error = np.abs(chord / np.exp2(-f / 65536) - 1).max()
    bound = ref.EXP2_CHORD_REL + ref.EXP2_TABLE_REL
    assert bound / 2 < error <= bound
    rng = Random(SEED)
    worst = 0.0
    for _ in range(20000):
        s = random_fp32(rng, 97, 130)
        m = ref.ceil_int(s)
        exact = math.exp2(float(value32(s)) - m) if m - value32(s) < 40 else 0.0
        got = float(value16(ref.softmax_term(m, s)))
        if exact >= 2.0**-14:
            worst = max(worst, abs(got / exact - 1))
        else:
            assert abs(got - exact) <= ref.FP16_ROUND_ABS * (1 + ref.EXP2_REL)
    assert 0.9 * ref.EXP2_REL < worst <= ref.EXP2_REL


def test_reciprocal_error_bound_holds_and_is_tight():
    rng, worst = Random(SEED), Fraction(0)
    for _ in range(5000):
        d = random_denominator(rng)
        q, e = ref.reciprocal(d)
        error = 1 - q * TWO ** (-1 - e) * Fraction(d, 1 << 24)
        assert error >= 0
        worst = max(worst, error)
    assert ref.RECIP_REL / 2 < worst < ref.RECIP_REL


def online_softmax(scores: list[int], chunk: int) -> tuple[list[Fraction], int]:
    """Terms at the final maximum and denominator of a chunked softmax, as the hardware runs it."""
    m, denominator, terms = None, 0, []
    for start in range(0, len(scores), chunk):
        part = scores[start : start + chunk]
        top = max(ref.ceil_int(s) for s in part)
        new = top if m is None else max(m, top)
        k = 255 if m is None else min(new - m, 255)
        terms = [t / TWO**k for t in terms]
        p = [ref.softmax_term(new, s) for s in part]
        denominator = ref.rescale_denominator(denominator, k) + sum(map(ref.p24, p))
        terms += [value16(x) for x in p]
        m = new
    return terms, denominator


def softmax_l1(scores: list[int], chunk: int) -> float:
    """Sum of |p/l - softmax| against float64."""
    terms, denominator = online_softmax(scores, chunk)
    got = np.array([float(t * 2**24 / denominator) for t in terms])
    x = np.array([float(value32(s)) for s in scores])
    exact = np.exp2(x - x.max())
    return float(np.abs(got - exact / exact.sum()).sum())


def bits32(x: float) -> int:
    return int(np.float32(x).view(np.uint32))


SOFTMAX_CASES = {
    "one token": [3.7],
    "all equal": [-2.0] * 100,
    "one dominant": [0.0] * 50 + [40.0] + [0.0] * 50,
    "large negative": [-60000.0 - 0.37 * i for i in range(64)],
    "rising maximum": [0.9 * i for i in range(130)],
    "many subnormal terms": [0.0] + [-15.3] * 500,
    "terms that round to zero": [0.0] + [-25.5] * 500,
    "just above an integer": [2.0**-20] * 77,
}


@pytest.mark.parametrize("case", SOFTMAX_CASES)
@pytest.mark.parametrize("chunk", [1, 16, 61])
def test_softmax_error_bound_on_adversarial_scores(case, chunk):
    scores = [bits32(x) for x in SOFTMAX_CASES[case]]
    assert softmax_l1(scores, chunk) <= ref.softmax_l1_bound(len(scores))


def test_softmax_error_bound_on_random_scores():
    rng = np.random.default_rng(SEED)
    for tokens in (7, 100, 1000):
        scores = [bits32(x) for x in rng.normal(0, 4, tokens)]
        error = softmax_l1(scores, 64)
        assert ref.softmax_l1_bound(tokens) / 100 < error <= ref.softmax_l1_bound(tokens)


def test_softmax_bound_sees_a_wrong_rescale():
    scores = [bits32(0.9 * i) for i in range(130)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ref, "rescale_denominator", lambda d, k: d if k < 48 else 0)
        assert softmax_l1(scores, 16) > ref.softmax_l1_bound(len(scores))


# --- why FP32 subnormals are not built ----------------------------------------------------------


def on_grid(bits: int) -> bool:
    return (value32(bits) * 2**48).denominator == 1


def test_fp16_products_lie_on_the_grid():
    """Every FP16 is a multiple of 2^-24 (all 65536 tried), so every product is one of 2^-48."""
    assert all((value16(bits) * 2**24).denominator == 1 for bits in range(1 << 16))
    assert min(value16(b) for b in range(1, 1 << 15)) ** 2 == TWO**ref.PRODUCT_GRID_LOG2
    assert all(on_grid(ref.fp16_mul(a, b)) for a in FP16_CORNERS for b in FP16_CORNERS)


def test_sums_of_products_stay_on_the_grid():
    """Rounding keeps the grid: below 2^-24 sums are exact, above it the FP32 step is coarser."""
    rng = Random(SEED)
    smallest = Fraction(1)
    for _ in range(300):
        products = [ref.fp16_mul(random_fp16(rng), random_fp16(rng)) for _ in range(8)]
        # Opposite pairs make the sums cancel down to the small ends.
        tiny = [ref.fp16_mul(rng.randrange(1, 4), rng.randrange(0x8001, 0x8004))]
        values = products + tiny + [p ^ (p > 0) << 31 for p in products]
        total = 0
        for v in rng.sample(values, len(values)):
            total = ref.fp32_add(total, v)
            assert on_grid(total)
            smallest = min(smallest, abs(value32(total)) or smallest)
        assert on_grid(ref.adder_tree(values))
    assert smallest >= TWO**-48


def test_grid_check_can_fail():
    assert not on_grid(ref.fp32_scale_down(ref.fp16_mul(1, 1), 1))


def test_random_scores_are_legal():
    rng = Random(SEED)
    assert all(abs(value32(random_score(rng))) < 2**43 for _ in range(2000))
