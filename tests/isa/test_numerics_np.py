"""The NumPy operations equal the integer reference in every bit."""

from random import Random

import numpy as np
import pytest

from bankside.isa import numerics as ref
from bankside.isa import numerics_np as fast
from bankside.isa.numerics_vectors import DENOM_CORNERS, UNITS, random_denominator, random_fp32

SEED = 98
COUNT = 8000


def f32(bits) -> np.ndarray:
    return np.asarray(bits, dtype=np.uint32).view(np.float32)


def u16(bits) -> np.ndarray:
    return np.asarray(bits, dtype=np.uint16)


def bits(values: np.ndarray) -> np.ndarray:
    return values.view(np.uint32) if values.dtype == np.float32 else values


CALLS = {
    "fp16_mul": lambda a, b: (fast.fp16_mul(u16(a), u16(b)),),
    "fp32_add": lambda a, b: (fast.fp32_add(f32(a), f32(b)),),
    "scale_down": lambda a, k: (fast.fp32_scale_down(f32(a), k),),
    "score_to_fixed": lambda s: (fast.score_to_fixed(f32(s)),),
    "ceil_int": lambda s: (fast.ceil_int(f32(s)),),
    "softmax_distance": lambda m, s: _split(fast.softmax_distance(m, f32(s))),
    "exp2_to_fp16": lambda n, f: _with_p24(fast.exp2_to_fp16(n << 16 | f)),
    "normalise": lambda a, q, e: (fast.normalise(f32(a), q, e),),
}


def _split(fx):
    return np.minimum(fx >> 16, ref.EXP2_ZERO_N), fx & 0xFFFF


def _with_p24(p):
    return p, fast.p24(p)


def differences(name: str, call, count: int = COUNT) -> int:
    """How many operands of unit `name` get another result from `call` than from the reference."""
    unit = UNITS[name]
    operands = unit.operands(SEED, count)
    got = call(*np.array(operands, dtype=np.int64).T)
    want = np.array([unit.reference(*v) for v in operands], dtype=np.int64).T
    wrong = np.zeros(len(operands), dtype=bool)
    for g, w in zip(got, want, strict=True):
        wrong |= bits(g).astype(np.int64) != w
    return int(wrong.sum())


def test_every_unit_is_compared():
    assert CALLS.keys() == UNITS.keys()


@pytest.mark.parametrize("name", CALLS)
def test_arrays_equal_reference(name):
    assert differences(name, CALLS[name]) == 0, f"seed {SEED}"


WRONG_CALLS = {
    "fp16_mul": lambda a, b: (fast.fp16_decode(u16(a)) * fast.fp16_decode(u16(b)),),  # -0
    "fp32_add": lambda a, b: ((f32(a) + f32(b)),),  # subnormals, infinity
    "scale_down": lambda a, k: (f32(a) * np.exp2(-k.astype(np.float64)).astype(np.float32),),
    "score_to_fixed": lambda s: (np.trunc(f32(s).astype(np.float64) * 65536),),
    "ceil_int": lambda s: (np.rint(f32(s).astype(np.float64)),),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_plain_float_operations_are_told_apart(name):
    with np.errstate(all="ignore"):
        assert differences(name, WRONG_CALLS[name], 500) > 0


def test_softmax_term_is_the_composition():
    operands = UNITS["softmax_distance"].operands(SEED, 500)
    m, s = np.array(operands, dtype=np.int64).T
    want = [ref.softmax_term(*v) for v in operands]
    assert fast.softmax_term(m, f32(s)).tolist() == want


def test_order_keys():
    rng = Random(SEED)
    s = [0, *(random_fp32(rng) for _ in range(1000))]
    key = fast.order_key(f32(s))
    assert key.dtype == np.uint32 and key.tolist() == [ref.order_key(x) for x in s]
    assert bits(fast.order_unkey(key)).tolist() == s


def test_reciprocal_and_rescale():
    rng = Random(SEED)
    d = [*DENOM_CORNERS, *(random_denominator(rng) for _ in range(3000))]
    q, e = fast.reciprocal(d)
    assert list(zip(q.tolist(), e.tolist(), strict=True)) == [ref.reciprocal(x) for x in d]
    k = [rng.randrange(256) if i % 2 else rng.randrange(50) for i in range(len(d))]
    want = [ref.rescale_denominator(x, y) for x, y in zip(d, k, strict=True)]
    assert fast.rescale_denominator(d, k).tolist() == want


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 13, 16])
def test_adder_tree_along_each_axis(count):
    rng = Random(SEED + count)
    values = np.array([[random_fp32(rng, 110, 140) for _ in range(count)] for _ in range(20)])
    want = [ref.adder_tree([int(v) for v in row]) for row in values]
    assert bits(fast.adder_tree(f32(values))).tolist() == want
    assert bits(fast.adder_tree(f32(values.T), axis=0)).tolist() == want


def test_adder_tree_needs_values():
    with pytest.raises(ValueError, match="expected at least one FP32 value"):
        fast.adder_tree(np.zeros((3, 0), dtype=np.float32))


def test_order_of_summation_shows_in_the_bits():
    """A tree and a plain sum must differ somewhere, or the order would not be worth a rule."""
    rng = np.random.default_rng(SEED)
    values = rng.normal(size=(200, 64)).astype(np.float32)
    running = np.zeros(200, dtype=np.float32)
    for column in values.T:
        running = fast.fp32_add(running, column)
    assert (fast.adder_tree(values) != running).mean() > 0.5


def test_scalars_and_broadcasting():
    assert fast.fp16_mul(u16([[0x3C00], [0x4000]]), u16([0x3C00, 0xC000])).tolist() == [
        [1.0, -2.0],
        [2.0, -4.0],
    ]
    assert fast.softmax_term(1, f32([0x3F800000])).tolist() == [0x3C00]
    assert int(fast.rescale_denominator(1 << 47, 255)) == 0
