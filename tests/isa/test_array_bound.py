"""The constants of the error bound, by exhaustion, and what the bound says in cases one can see."""

import numpy as np
import pytest

from bankside.isa import numerics_array_np as fp
from bankside.isa.array_bound import (
    NUMERATOR_REL,
    ROUND_REL,
    Kernel,
    attention_bound,
    exact_attention,
)


def numerators(x: np.ndarray) -> np.ndarray:
    return fp.to_tf32(fp.exp2(*fp.exp2_split(x.astype(np.float32)))).astype(np.float64)


@pytest.mark.parametrize("whole", [0, 1, 60, 124])
def test_numerator_error_of_every_fraction(whole):
    x = -np.arange(1 << 16) / 2**16 - whole
    error = np.abs(numerators(x) / np.exp2(x) - 1).max()
    assert 0.99 * NUMERATOR_REL < error <= NUMERATOR_REL


def test_the_multiply_accumulates_alone():
    """The part of the docstring: 2.4e-4 from six roundings of p, at f = -1/2."""
    c = fp.EXP2_COEFFICIENTS.astype(np.float64)
    f, p, error = -0.5, c[6], 0.0
    for i in range(5, -1, -1):
        error = abs(f) * (error + 2.0**-11 * (abs(p) + error)) + 2.0**-24
        p = p * f + c[i]
    assert 2.4e-4 < error / 2.0**f < 2.5e-4


@pytest.mark.parametrize("fmt", ["fp16", "bf16"])
@pytest.mark.parametrize("in_banks", [False, True])
def test_one_key_is_only_rounded(fmt, in_banks):
    q, k, v = np.array([0.5, 0.25]), np.array([[1.0, 2.0]]), np.array([[3.0, -7.0, 0.0]])
    bound = attention_bound(q, k, v, 4, Kernel(fmt, in_banks))
    np.testing.assert_array_equal(exact_attention(q, k, v, fmt), v[0])
    assert (bound <= 1.02 * ROUND_REL[fmt] * np.abs(v[0]) + 2.0**-24).all()


def test_equal_values_do_not_care_about_weights():
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal(8), rng.standard_normal((50, 8)) * 100
    v = np.broadcast_to(rng.standard_normal(3), (50, 3))
    bound = attention_bound(q, k, v, 4, Kernel("fp16"))
    assert (bound < 1.1 * 2.0**-11 * np.abs(v[0])).all()


def test_the_bound_stays_finite_and_below_the_spread():
    """Scores that FP32 cannot tell apart: any mean of the values may come out."""
    q, k = np.full(4, 1e4), np.array([[1e4] * 4, [-1e4] * 4, [1e4, 1e4, 1e4, 1e4 - 1]])
    v = np.array([[1.0], [2.0], [3.0]])
    for kernel in (Kernel("fp16"), Kernel("bf16", True), Kernel("fp16", True, True)):
        bound = attention_bound(q, k, v, 4, kernel)
        assert 1.9 < bound[0] < 2.2
