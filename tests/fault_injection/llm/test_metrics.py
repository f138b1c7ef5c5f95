"""Known values."""

import math

import numpy as np
import pytest

from bankside.fault_injection.llm.metrics import bits_per_token, divergence_bits, effect


def logits(*rows: tuple[float, ...]) -> np.ndarray:
    """Logits of rows of probabilities."""
    return np.log(np.array(rows)).astype(np.float32)


def test_divergence_of_known_distributions() -> None:
    one, two = logits((0.5, 0.5), (0.5, 0.5)), logits((0.25, 0.75), (0.5, 0.5))
    found = divergence_bits(one, two)
    assert found == pytest.approx([1 - 0.5 * math.log2(3), 0], abs=1e-6)
    assert divergence_bits(one + 7, two) == pytest.approx(found, abs=1e-5)


def test_bits_of_known_probabilities() -> None:
    rows = logits((0.25, 0.75), (0.5, 0.5))
    assert bits_per_token(rows, np.array([0, 1])) == pytest.approx(1.5, abs=1e-6)


def test_flips_and_length_until_they_come() -> None:
    golden = logits((0.9, 0.1), (0.9, 0.1), (0.2, 0.8))
    assert effect(golden, golden).same_tokens == 3
    late = logits((0.8, 0.2), (0.3, 0.7), (0.1, 0.9))
    found = effect(golden, late)
    assert (found.first_flip, found.any_flip, found.same_tokens, found.tokens) == (
        False, True, 1, 3,
    )  # fmt: skip
    assert found.kl_bits == pytest.approx(divergence_bits(golden, late).mean())
    assert effect(golden, logits((0.1, 0.9), (0.9, 0.1), (0.2, 0.8))).first_flip


def test_undefined_rows_are_flips_and_leave_the_mean() -> None:
    golden = logits((0.9, 0.1), (0.9, 0.1))
    faulty = golden.copy()
    faulty[1] = np.nan
    found = effect(golden, faulty)
    assert found.broken and found.any_flip and found.same_tokens == 1 and found.kl_bits == 0
    assert math.isnan(effect(golden, np.full_like(golden, np.nan)).kl_bits)
    assert math.isnan(bits_per_token(faulty, np.array([0, 0])))
