"""The vectorised operations of the npu equal the scalar reference in every bit."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bankside.isa import numerics_npu as ref
from bankside.isa import numerics_npu_np as fast
from bankside.isa.numerics_npu import Output, Record, Scales

EDGES = [0, 1, -1, 2, 3, 127, -128, 1 << 30, -(1 << 30), (1 << 31) - 1, -(1 << 31), 1 - (1 << 31)]
ROUNDINGS = range(4)
INT32 = st.one_of(st.sampled_from(EDGES), st.integers(ref.INT32_MIN, ref.INT32_MAX))
SHIFT = st.integers(ref.SHIFT_MIN, ref.SHIFT_MAX)
ZERO, LOW, HIGH = (st.integers(*range_) for range_ in ((-32768, 32767), (-32768, 0), (0, 32767)))
OUTPUT = st.builds(Output, ZERO, LOW, HIGH)


def operands(seed: int) -> list[int]:
    random = Random(seed)
    plain = [random.getrandbits(32) - (1 << 31) for _ in range(300)]
    return EDGES + plain + [v >> random.randrange(32) for v in plain]


@pytest.mark.parametrize("edge", EDGES)
def test_srdhm(edge):
    a = operands(1)
    b = Random(2).sample(operands(2), len(a))
    assert fast.srdhm(a, b).tolist() == [ref.srdhm(x, y) for x, y in zip(a, b, strict=True)]
    assert fast.srdhm(a, edge).tolist() == [ref.srdhm(x, edge) for x in a]


@pytest.mark.parametrize("e", range(36))
def test_rdbpot(e):
    """Also next to every multiple of a half."""
    half = (1 << e) >> 1
    near = [k * half + d for k in (-3, -2, -1, 1, 2, 3) for d in (-1, 0, 1)]
    x = [ref.clamp(v, ref.INT32_MIN, ref.INT32_MAX) for v in operands(3) + near]
    assert fast.rdbpot(x, e).tolist() == [ref.rdbpot(v, e) for v in x]


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("shift", range(ref.SHIFT_MIN, ref.SHIFT_MAX + 1))
def test_mbqm(rounding, shift):
    x = operands(shift)
    m = Random(shift).sample(operands(4), len(x))
    expected = [ref.mbqm(v, w, shift, rounding) for v, w in zip(x, m, strict=True)]
    assert fast.mbqm(x, m, shift, rounding).tolist() == expected


@given(
    st.lists(st.tuples(INT32, INT32, INT32, SHIFT), min_size=1), OUTPUT,
    st.sampled_from(ROUNDINGS),
)  # fmt: skip
def test_requantise_with_a_record_each(rows, output, rounding):
    acc, bias, mult, shift = np.array(rows).T
    expected = [ref.requantise(a, Record(b, m, s), output, rounding) for a, b, m, s in rows]
    assert fast.requantise(acc, bias, mult, shift, output, rounding).tolist() == expected


@given(st.lists(st.tuples(st.integers(-(1 << 23), 1 << 23), st.integers(0, 1 << 16)), min_size=1))
def test_average(rows):
    acc, count = np.array(rows).T
    assert fast.average(acc, count).tolist() == [ref.average(*row) for row in rows]


@given(
    st.lists(st.tuples(st.integers(-65535, 65535), st.integers(-65535, 65535)), min_size=1),
    st.tuples(INT32, SHIFT), st.tuples(INT32, SHIFT), st.tuples(INT32, SHIFT),
    st.integers(0, 31), OUTPUT, st.sampled_from(ROUNDINGS),
)  # fmt: skip
def test_elementwise(rows, a_scale, b_scale, o_scale, left_shift, output, rounding):
    a, b = np.array(rows).T
    scales = Scales(a_scale, b_scale, o_scale, left_shift)
    for sign in (1, -1):
        expected = [ref.add(x, y, scales, output, rounding, sign=sign) for x, y in rows]
        assert fast.add(a, b, scales, output, rounding, sign=sign).tolist() == expected
    expected = [ref.mul(x, y, o_scale, output, rounding) for x, y in rows]
    assert fast.mul(a, b, o_scale, output, rounding).tolist() == expected


@given(st.lists(st.integers(0, ref.INT32_MAX), min_size=1))
def test_one_over_one_plus_x(a):
    assert fast.one_over_one_plus_x(a).tolist() == [ref.one_over_one_plus_x(v) for v in a]


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(0, 30),
    st.sampled_from([0, -1, -31, -255]), OUTPUT,
)  # fmt: skip
def test_softmax(seed, channels, left_shift, diff_min, output):
    """Also of tables that no scale gives: any 31 bits, and zeros."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-128, 128, (4, channels)) >> rng.integers(0, 8)
    mult = int(rng.integers(1 << 30, 1 << 31))
    tables = [
        ref.softmax_table(mult, left_shift, diff_min),
        rng.integers(0, 1 << 31, 256) >> rng.integers(0, 31),
        [0] * 256,
    ]
    for table in tables:
        table = [int(v) for v in table]
        expected = [ref.softmax([int(v) for v in row], table, output) for row in x]
        assert fast.softmax(x, table, output).tolist() == expected


def test_softmax_over_thousands_of_equal_values():
    """Sums at and beyond 31 bits; at 8192 channels the sum wraps to 0."""
    table = ref.softmax_table(1 << 30, 20, -255)
    output = Output(-128, -128, 127)
    for channels in (512, 4095, 4096, 8191, 8192):
        expected = ref.softmax([5] * channels, table, output)
        assert fast.softmax([[5] * channels], table, output).tolist() == [expected]


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 70), st.booleans(), st.booleans(),
    st.one_of(st.integers(-128, 127), st.integers(10, 45)), OUTPUT,
    st.one_of(st.just(0), st.integers(0, 1 << 40)),
)  # fmt: skip
def test_norm(seed, channels, wide, layer, o_shift, output, epsilon):
    rng = np.random.default_rng(seed)
    x = rng.integers(-65535, 65536, (3, channels)) >> (0 if wide else 8)
    x[0] = rng.integers(-2, 3)
    gain = rng.integers(-32768, 32768, channels)
    expected = [
        ref.norm(row.tolist(), gain.tolist(), epsilon, o_shift, output, layer=layer) for row in x
    ]
    assert fast.norm(x, gain, epsilon, o_shift, output, layer=layer).tolist() == expected


def test_norm_of_the_largest_inputs_and_sums_that_are_too_large():
    x, gain = np.full((1, 4096), -65535), np.full(4096, -32768)
    output = Output(0, -32768, 32767)
    expected = ref.norm(x[0].tolist(), gain.tolist(), 0, 40, output, layer=False)
    assert fast.norm(x, gain, 0, 40, output, layer=False).tolist() == [expected]
    with pytest.raises(ValueError, match="expected 1..2\\^62-1"):
        fast.norm(x, gain, 4 << 60, 40, output, layer=False)
