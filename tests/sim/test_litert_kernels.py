"""What each LiteRT kernel does with an int32 sum, as formulas that hold bit for bit: the table of
docs/numerics.md, also where the npu has no mode that gives the same bits.

Layers without weights: every sum is a bias, so sums can be chosen, ties and all that is near them.
"""

import importlib.util
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from bankside.isa import numerics_npu as n
from bankside.isa import numerics_npu_np as arrays

for _name in ("tflite", "ai_edge_litert"):
    pytest.importorskip(_name, reason="install the extra: pip install -e .[litert]")


def _layers():
    """The module beside this file; test folders are no packages."""
    path = Path(__file__).with_name("litert_layers.py")
    spec = importlib.util.spec_from_file_location("litert_layers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


layers = _layers()
litert, multiplier, F = layers.litert, layers.multiplier, layers.F
OPERATORS = layers.CONVOLUTIONS


def scaled_by(operator: str, resolver: str, sums, scales) -> np.ndarray:
    """Results of a layer with these sums; scales of input, weights and output."""
    in_scale, w_scale, out_scale = scales
    count, fc = len(sums), operator == "FULLY_CONNECTED"
    per_channel = [w_scale] if fc else np.full(count, w_scale)
    if operator == "DEPTHWISE_CONV_2D":
        shape, kernel, axis, table = (1, 1, 1, count), (1, 1, 1, count), 3, "DepthwiseConv2DOptions"
    else:
        shape, kernel, axis, table = (1, 1, 1, 4), (count, 1, 1, 4), 0, "Conv2DOptions"
    options = {"Padding": 0, "StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1}
    if fc:
        shape, kernel, table, options = (1, 4), (count, 4), "FullyConnectedOptions", {}
    elif axis == 3:
        options["DepthMultiplier"] = 1
    tensor = litert.Tensor
    inputs = [
        tensor(shape, [in_scale]),
        tensor(kernel, per_channel, 0, np.zeros(kernel, np.int8), axis),
        tensor((count,), in_scale * np.asarray(per_channel), 0, np.asarray(sums, np.int32)),
    ]
    output = tensor((*shape[:-1], count), [out_scale])
    content = litert.model(operator, 4 if fc else 3, inputs, output, (table, options))
    return litert.run(content, [np.zeros(shape, np.int8)], resolver).reshape(-1)


# --- formulas: sums, scales -> results that are not clamped yet ---------------------------------


def xnnpack(sums, scales) -> np.ndarray:
    """A single-precision product, rounded to the nearest even integer."""
    scale = F(scales[0] * scales[1]) / F(scales[2])
    return np.rint(np.asarray(sums, F) * scale).astype(int)


def gemmlowp(sums, scales) -> np.ndarray:
    """The npu's gemmlowp_double."""
    return arrays.mbqm(sums, *multiplier(_real(scales)), n.GEMMLOWP_DOUBLE)


def twice_half_up(sums, scales) -> np.ndarray:
    """ruy: two roundings as gemmlowp's, both of them half up."""
    mult, shift = multiplier(_real(scales))
    high = ((np.asarray(sums, np.int64) << max(shift, 0)) * mult + (1 << 30)) >> 31
    right = max(-shift, 0)
    return (high + (1 << right >> 1)) >> right


def by_eight(sums, scales) -> np.ndarray:
    """Channels in groups of eight as ruy, those that are left over as gemmlowp."""
    whole = len(sums) // 8 * 8
    parts = twice_half_up(sums[:whole], scales), gemmlowp(sums[whole:], scales)
    return np.concatenate(parts)


def double_away(sums, scales) -> np.ndarray:
    """A double-precision product, rounded with ties away from zero; exact here (53 bits)."""
    real = Fraction(_real(scales))
    return np.array([_away(int(total) * real) for total in sums])


def integer_away(sums, scales) -> np.ndarray:
    """The 31-bit multiplier, one rounding, ties away from zero; no kernel does this."""
    mult, shift = multiplier(_real(scales))
    return np.array([_away(Fraction(int(total) * mult, 1 << 31 - shift)) for total in sums])


def integer_rne(sums, scales) -> np.ndarray:
    """The npu's rne with TFLite's multiplier."""
    return arrays.mbqm(sums, *multiplier(_real(scales)), n.RNE)


def _real(scales) -> float:
    return layers.product_scale("reference", *scales)


def _away(value: Fraction) -> int:
    size = math.floor(abs(value) + Fraction(1, 2))
    return size if value >= 0 else -size


KERNELS = {
    ("CONV_2D", "reference"): gemmlowp,
    ("DEPTHWISE_CONV_2D", "reference"): gemmlowp,
    ("FULLY_CONNECTED", "reference"): double_away,
    ("CONV_2D", "builtin"): twice_half_up,
    ("DEPTHWISE_CONV_2D", "builtin"): by_eight,
    ("FULLY_CONNECTED", "builtin"): twice_half_up,
    **{(operator, "default"): xnnpack for operator in OPERATORS},
}
FORMULAS = (xnnpack, gemmlowp, twice_half_up, by_eight, double_away)


def clamped(values) -> np.ndarray:
    return np.clip(values, -128, 127)


def drawn_scales(rng: np.random.Generator, *, exact: bool) -> tuple:
    if exact:
        a, b = 2.0 ** -rng.integers(3, 8, 2)
        return F(a), F(b), F(a * b * 2.0 ** rng.integers(1, 10))
    a, b = rng.uniform(0.003, 0.1, 2).astype(F)
    return a, b, F(a * b * F(rng.uniform(1.5, 50)))


def drawn_sums(rng: np.random.Generator, scales, count: int) -> np.ndarray:
    reach = int(140 / _real(scales))
    return rng.integers(-reach, reach + 1, count)


@pytest.mark.parametrize(("operator", "resolver"), KERNELS)
@pytest.mark.parametrize("exact", [False, True], ids=["", "powers of two"])
def test_kernels(operator, resolver, exact):
    """Each kernel is its formula, and the sums are such that no other one is."""
    rng, others = np.random.default_rng(5), dict.fromkeys(FORMULAS, 0)
    for _ in range(16):
        scales = drawn_scales(rng, exact=exact)
        sums = drawn_sums(rng, scales, 701)
        got = scaled_by(operator, resolver, sums, scales)
        for formula in FORMULAS:
            others[formula] += int((clamped(formula(sums, scales)) != got).sum())
    assert others.pop(KERNELS[operator, resolver]) == 0
    # Away from ties a single rounding has one result, whatever it is.
    single = {xnnpack, double_away}
    same = single if not exact and KERNELS[operator, resolver] in single else set()
    assert all((count == 0) == (f in same) for f, count in others.items()), others


def near_ties(first, second, count: int) -> list[tuple[int, tuple]]:
    """(sum, scales) that are so near a tie that the two formulas round differently."""
    rng, found = np.random.default_rng(7), []
    while len(found) < count:
        a, b = rng.uniform(0.003, 0.1, 2).astype(F)
        total, k = int(rng.integers(1 << 12, 1 << 18)), int(rng.integers(1, 120))
        scales = a, b, F(float(a) * float(b) * total / (k + 0.5))
        total *= 1 - 2 * int(rng.integers(2))
        if first([total], scales)[0] != second([total], scales)[0]:
            found.append((total, scales))
    return found


@pytest.mark.parametrize(
    ("operator", "resolver", "other"),
    [("FULLY_CONNECTED", "reference", integer_away),
     *((operator, "default", integer_rne) for operator in OPERATORS)],
)  # fmt: skip
def test_kernels_that_multiply_by_a_float(operator, resolver, other):
    """Beside a tie the precision of the scale decides: it is not an integer multiplier."""
    right = KERNELS[operator, resolver]
    for total, scales in near_ties(right, other, 8):
        got = scaled_by(operator, resolver, [total] * 4, scales)
        assert (got == clamped(right([total], scales))).all(), (total, scales)


@pytest.mark.parametrize(("op", "sign"), [("ADD", 1), ("SUB", -1)])
def test_the_default_addition_has_one_rounding(op, sign):
    """XNNPACK: both inputs times integers, one shift, half up. TFLite's integers with the same
    rounding miss some results, so `addition` must take XNNPACK's.
    """
    missed = 0
    for seed in range(12):
        rng = np.random.default_rng([3, seed])
        scales = tuple(rng.uniform(0.003, 0.1, 3).astype(F))
        layer = layers.Elementwise(op, scales, shape=(32, 32, 64), seed=seed)
        got = layer.litert("default")
        np.testing.assert_array_equal(layer.npu("default"), got)
        factors = layers.addition("default", *scales)
        a, b = (
            x.astype(int) - zero for x, zero in zip((layer.a, layer.b), layer.zeros, strict=False)
        )
        total = a * (factors.a[0] >> 9) + sign * b * (factors.b[0] >> 9)
        shift = 1 - factors.o[1]
        one = (total + (1 << shift - 1)) >> shift
        np.testing.assert_array_equal(clamped(one + layer.zeros[2]), got)
        missed += int((layer.npu("reference", rounding=layers.HALF_UP) != got).sum())
    assert missed > 0
