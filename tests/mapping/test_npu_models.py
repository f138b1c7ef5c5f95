"""Quantisation of the language model: multipliers, 4-bit weights, equalisation, ranges; what it
costs on held-out text.
"""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bankside.errors import ConfigError
from bankside.isa.npu_weights import RAW8, W4, WeightLayout
from bankside.mapping.llm import quantise_np
from bankside.mapping.llm.loader import SHIPPED, load_model
from bankside.mapping.llm.quantise import (
    Affine,
    calibrate,
    check_supported,
    equalise,
    multiplier,
    trace,
    weights4,
    weights8,
)
from bankside.mapping.llm.transformer import prompt_logits
from bankside.mapping.npu_gpt import QuantGpt, exponentials, prepared

TEXT = SHIPPED / "text_kjv"
MODEL = load_model(SHIPPED / "gpt_mha")


def windows(name: str, count: int) -> list[np.ndarray]:
    data = np.frombuffer((TEXT / name).read_bytes(), np.uint8).astype(np.int64)
    return list(data.reshape(-1, 256)[:count])


@pytest.fixture(scope="module")
def ranges():
    return calibrate(MODEL, windows("calibration.txt", 4))


@given(st.floats(min_value=2.0**-20, max_value=2.0**20))
def test_multipliers_have_31_bits(real: float) -> None:
    mult, shift = multiplier(real)
    assert 1 << 30 <= mult < 1 << 31
    error = abs(Fraction(mult) * Fraction(2) ** (shift - 31) / Fraction(real) - 1)
    assert error <= Fraction(1, 1 << 31)


def test_multipliers_at_the_ends() -> None:
    assert multiplier(0) == (0, 0)
    assert multiplier(1.0) == (1 << 30, 1)
    assert multiplier(1 - 2.0**-40) == (1 << 30, 1)
    assert multiplier(2.0**-40) == (0, 0)


@given(st.floats(-1000, 0), st.floats(0, 1000))
def test_zero_has_an_exact_integer(low: float, high: float) -> None:
    form = Affine.between(low, high)
    assert form.low <= form.zero <= form.high
    assert form.real(form.quantise(np.zeros(1)))[0] == 0
    ends = form.real(form.quantise(np.array([low, high])))
    assert np.abs(ends - [low, high]).max() <= form.scale


def test_int8_weights_are_the_nearest() -> None:
    weight = np.random.default_rng(1).normal(size=(6, 50))
    made = weights8(weight)
    assert np.abs(made.whole).max(axis=1).tolist() == [127] * 6
    assert np.abs(made.whole * made.scale[:, None] - weight).max() <= made.scale.max() / 2


def test_4_bit_weights_fit_their_form_and_beat_one_scale_per_output() -> None:
    generator = np.random.default_rng(2)
    weight = generator.normal(size=(8, 100)) * np.exp(generator.normal(size=(8, 100)))
    made = weights4(weight)
    assert made.numbers.min() >= -8 and made.numbers.max() <= 7
    assert made.group_scales.shape == (8, 4)
    assert made.group_scales.min() >= 1 and made.group_scales.max() <= 63
    error = ((made.whole * made.scale[:, None] - weight) ** 2).sum()
    step = np.abs(weight).max(axis=1, keepdims=True) / 7
    plain = ((np.rint(weight / step) * step - weight) ** 2).sum()
    assert error < 0.5 * plain
    layout = WeightLayout(W4, 8, 256, 8, (1, 1), 100)
    content = layout.encode(made.numbers[:, None, None], made.group_scales[:, None, None])
    decoded = layout.decode(np.frombuffer(content, np.uint8))
    assert np.array_equal(decoded[:, 0, 0], made.whole)


def test_important_inputs_are_rounded_better() -> None:
    weight = np.random.default_rng(3).normal(size=(16, 32))
    important = np.ones(32)
    important[:4] = 1000
    errors = [
        ((w.whole * w.scale[:, None] - weight) ** 2)[:, :4].sum()
        for w in (weights4(weight, important), weights4(weight))
    ]
    assert errors[0] < errors[1]


def test_the_trace_is_the_float_model() -> None:
    tokens = windows("held_out.txt", 1)[0][:40]
    ours = trace(MODEL, tokens)["logits"]
    theirs = prompt_logits(MODEL, tokens.tolist())
    # Its keys, values and queries are float16.
    assert np.abs(ours - theirs).max() < 0.1
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean() > 0.95


@pytest.mark.parametrize("name", ["gpt_mha", "gpt_gqa"])
def test_equalisation_changes_no_function_and_its_ranges_are_right(name: str) -> None:
    model, runs = load_model(SHIPPED / name), windows("calibration.txt", 2)
    found = calibrate(model, runs)
    even, ranges = equalise(model, found, 0.6)
    before, after = (trace(m, runs[0])["logits"] for m in (model, even))
    assert np.abs(before - after).max() < 1e-4
    again = calibrate(even, runs)
    for key, low in again.low.items():
        assert np.allclose(ranges.low[key], low, rtol=1e-4, atol=1e-3), key
        assert np.allclose(ranges.high[key], again.high[key], rtol=1e-4, atol=1e-3), key
    for key in ("0.norm1", "1.norm2", "2.product", "final", "3.context"):
        assert np.allclose(ranges.mean_square[key], again.mean_square[key], rtol=1e-4), key
        spread = [np.ptp(np.log(r.channels(key))) for r in (found, ranges)]
        assert spread[1] <= spread[0] + 1e-9


def test_softmax_table_is_the_exponential() -> None:
    scale = 0.11
    wanted = np.exp(-scale * np.arange(256))
    assert np.abs(exponentials(scale) / 2.0**31 - wanted).max() < 1e-6


def quantised(form: str, ranges_of: int = 16) -> QuantGpt:
    return prepared(MODEL, windows("calibration.txt", ranges_of), form, name="gpt_mha")


@pytest.mark.parametrize(("form", "loss"), [("w8a8", 0.02), ("w4a8", 0.05)])
def test_what_quantisation_costs_on_held_out_text(form: str, loss: float) -> None:
    """1,020 predictions: the float model needs 1.24 bits per byte."""
    runs = windows("held_out.txt", 4)
    real = [trace(MODEL, run)["logits"][:-1] for run in runs]
    bits = sum(quantise_np.bits(r, t[1:]) for r, t in zip(real, runs, strict=True)) / (4 * 255)
    made = quantise_np.bits_per_byte(quantised(form), (TEXT / "held_out.txt").read_bytes()[:1024])
    assert 1.0 < bits < 1.4
    assert abs(made - bits) < loss


def test_no_calibration_value_saturates(ranges) -> None:
    made = quantised("w8a8", 4)
    for name in ("embedding", "3.residual2"):
        assert ranges.top(name) < made.residual.scale * 32767
    assert all(layer.norm1.gain.max() > 8000 for layer in made.layers)


def test_calibration_that_is_empty_is_refused() -> None:
    with pytest.raises(ConfigError, match="calibration: no text"):
        calibrate(MODEL, [])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"norm": "layer"}, "norm is 'layer', expected 'rms'"),
        ({"activation": "relu"}, "activation is 'relu', expected 'silu'"),
        ({"rope_inverse": None}, "positions is False, expected True"),
    ],
)
def test_other_architectures_are_refused(change: dict, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        check_supported(replace(MODEL, **change))


def test_raw_tiles_hold_the_weights() -> None:
    made = weights8(MODEL.layers[0].down.weight)
    layout = WeightLayout(RAW8, 32, 256, *made.numbers.shape[:1], (1, 1), made.numbers.shape[1])
    content = layout.encode(made.numbers[:, None, None])
    assert np.array_equal(layout.decode(np.frombuffer(content, np.uint8))[:, 0, 0], made.whole)
