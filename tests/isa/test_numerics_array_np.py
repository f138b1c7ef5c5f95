"""The NumPy operations of the `array` engine equal the integer reference in every bit."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bankside.isa import numerics_array as ref
from bankside.isa import numerics_array_np as fast
from bankside.isa.numerics import reciprocal

COUNT = 6000
FORMATS = (ref.FP16, ref.BF16)
EVERY = np.arange(1 << 16, dtype=np.uint16)
CORNERS = (
    *(0x00000000, 0x00800000, 0x00FFFFFF, 0x33000000, 0x33800000, 0x387FE000, 0x387FF000),
    *(0x3EFFFFFF, 0x3F000000, 0x3F000001, 0x3F7FF000, 0x3F7FFFFF, 0x3F800000, 0x3F800001),
    *(0x3F801000, 0x3F803000, 0x3F808000, 0x3F818000, 0x42FDFFFF, 0x42FE0000, 0x42FF0000),
    *(0x477FE000, 0x477FF000, 0x47800000, 0x4B000001, 0x7F7F8000, 0x7F7FE000, 0x7F7FF000),
    *(0x7F7FFFFF,),
)
"""Ends of the range, ties of each rounding, ends of n and of the saturations."""


def operands(seed: int, count: int = COUNT) -> list[int]:
    """FP32 patterns of both signs: corners, any exponent, exponents around 1."""
    rng = Random(seed)
    found = [*CORNERS, *(x | 0x80000000 for x in CORNERS if x)]
    for i in range(count):
        field = rng.randint(1, 254) if i % 2 else rng.randint(100, 160)
        found.append(rng.getrandbits(1) << 31 | field << 23 | rng.getrandbits(23))
    return found


def f32(bits) -> np.ndarray:
    return np.asarray(bits, dtype=np.uint32).view(np.float32)


def bits(values: np.ndarray) -> list[int]:
    return (values.view(np.uint32) if values.dtype == np.float32 else values).tolist()


@pytest.mark.parametrize("fmt", FORMATS)
def test_decode_of_every_pattern(fmt):
    assert bits(fast.decode(EVERY, fmt)) == [ref.decode(x, fmt) for x in range(1 << 16)]
    assert bits(fast.decode_score(EVERY, fmt)) == [ref.decode_score(x, fmt) for x in range(1 << 16)]


@pytest.mark.parametrize("fmt", FORMATS)
def test_round16_next_to_every_16_bit_number(fmt):
    """Each number that has 16 bits, the ties above it and both neighbours of the tie."""
    base = fast.decode(EVERY, fmt).view(np.uint32).astype(np.int64)
    half = 1 << (12 if fmt == ref.FP16 else 15)
    for offset in (0, half - 1, half, half + 1):
        x = np.minimum(base & 0x7FFFFFFF, 0x7F7FFFFF - half - 1) + offset | base & 0x80000000
        x = [int(v) for v in x if v & 0x7F800000]
        assert bits(fast.round16(f32(x), fmt)) == [ref.round16(v, fmt) for v in x]


@pytest.mark.parametrize("fmt", FORMATS)
def test_conversions(fmt):
    x = operands(1)
    assert bits(fast.round16(f32(x), fmt)) == [ref.round16(v, fmt) for v in x]
    x.append(ref.MARKER)
    assert bits(fast.score16(f32(x), fmt)) == [ref.score16(v, fmt) for v in x]
    assert bits(fast.lane_exp2(f32(x), fmt)) == [ref.lane_exp2(v, fmt) for v in x]


def test_to_tf32_and_ceil32():
    x = operands(2)
    assert bits(fast.to_tf32(f32(x))) == [ref.to_tf32(v) for v in x]
    x.append(ref.MARKER)
    assert bits(fast.ceil32(f32(x))) == [ref.ceil32(v) for v in x]


def test_tf32_mul():
    a = [v & 0xFFFFE000 for v in operands(3)]
    b = [v & 0xFFFFE000 for v in Random(4).sample(operands(4), len(a))]
    want = [ref.tf32_mul(x, y) for x, y in zip(a, b, strict=True)]
    assert bits(fast.tf32_mul(f32(a), f32(b))) == want
    assert 0 in want and 0x7F7FFFFF in want


def test_exp2():
    x = [v for v in operands(5) if v >> 31 or v == 0]
    x += [ref.negate(ref.fp32_pack(Random(i).randrange(128 << 16), -16)) for i in range(4000)]
    x.append(ref.MARKER)
    n, f = fast.exp2_split(f32(x))
    want = [ref.exp2_split(v) for v in x]
    assert list(zip(n.tolist(), bits(f), strict=True)) == want
    assert bits(fast.exp2(n, f)) == [ref.exp2(*pair) for pair in want]
    assert fast.distance(f32(x)).tolist() == [ref.distance(v) for v in x]


def test_step():
    rng = Random(6)
    old = [rng.randint(-(2**20), 2**20) for _ in range(500)]
    new = [v + rng.choice((0, 1, 200, 254, 255, 256, 10**6)) for v in old]
    pairs = [(ref.fp32_pack(a, 0), ref.fp32_pack(b, 0)) for a, b in zip(new, old, strict=True)]
    pairs += [
        (0, ref.MARKER),
        (ref.MARKER, ref.MARKER),
        (ref.MARKER, 0),
        (0, 0x41000000),
        (0x7F000000, 0xFF000000),
    ]
    a, b = zip(*pairs, strict=True)
    assert fast.step(f32(a), f32(b)).tolist() == [ref.step(*pair) for pair in pairs]


def test_division():
    x = operands(7)
    assert fast.denominator(f32(x)).tolist() == [ref.denominator(v) for v in x]
    rng = Random(8)
    pairs = [reciprocal(rng.randrange(1, 1 << rng.randint(1, 48))) for _ in x]
    q, e = np.array(pairs).T
    want = [ref.mulq(v, *pair) for v, pair in zip(x, pairs, strict=True)]
    assert bits(fast.mulq(f32(x), q, e)) == want
    assert bits(fast.mulq(f32(x), 1 << 25, 24)) == x
    # Power-on state of a lane that has not divided yet.
    assert not fast.mulq(f32(x), 0, 0).any()


def scalar_dot(a: list[int], b: list[int]) -> int:
    total = 0
    for x, y in zip(a, b, strict=True):
        total = ref.fp32_mac(total, x, y)
    return total


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9), st.sampled_from([(1, 254), (60, 80), (110, 150)]))
def test_running_dot(seed, count, fields):
    """Also where products and sums leave the range: there it takes another way."""
    rng = Random(seed)

    def random_tf32():
        if rng.random() < 0.1:
            return 0
        return rng.getrandbits(1) << 31 | rng.randint(*fields) << 23 | rng.getrandbits(10) << 13

    a, b = ([[random_tf32() for _ in range(6)] for _ in range(count)] for _ in range(2))
    want = [scalar_dot(list(x), list(y)) for x, y in zip(zip(*a), zip(*b))]  # noqa: B905
    assert bits(fast.running_dot(f32(a), f32(b))) == want


def test_running_dot_at_the_ends_of_the_safe_range():
    """Cancellation down to the last bit, next to the product size from which no flush can come."""
    for field in range(55, 85):
        a = [field << 23 | 1 << 13, 0x80000000 | field << 23, 0x80000000 | field << 23]
        b = [75 << 23 | 1 << 13, 75 << 23 | 1 << 14, 0]
        assert bits(fast.running_dot(f32([a]).T, f32([b]).T)) == [scalar_dot(a, b)]


def test_running_dot_broadcasts_and_keeps_the_order():
    rng = np.random.default_rng(9)
    a = fast.to_tf32(rng.standard_normal((40, 5, 1)).astype(np.float32))
    b = fast.to_tf32(rng.standard_normal((40, 1, 3)).astype(np.float32))
    got = fast.running_dot(a, b)
    assert got.shape == (5, 3)
    lists = [[scalar_dot(bits(a[:, i, 0]), bits(b[:, 0, j])) for j in range(3)] for i in range(5)]
    assert bits(got) == lists
    assert (fast.running_dot(a[::-1], b[::-1]) != got).any()


def test_zero_is_plus_zero():
    zero = f32([0, 0x80000000])
    minus_one = f32([[0xBF800000], [0xBF800000]])
    assert bits(fast.running_dot(f32([[0x80000000], [0]]), minus_one)) == [0]
    assert bits(fast.ceil32(f32([0xBF000000]))) == [0]
    assert bits(fast.round16(zero, 0)) == [0, 0]
