"""Layers from real numbers: integers that stand for what NumPy computes without rounding."""

from collections.abc import Callable

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.mapping import npu_float as f
from bankside.mapping import npu_quantise as q
from bankside.mapping.llm.quantise import Affine
from bankside.mapping.npu_graph import Graph, Layer, Tensor
from bankside.mapping.npu_layers import Pool
from bankside.mapping.npu_reference import integers, real

RNG = np.random.default_rng(11)
SHAPE = (7, 6, 40)
WINDOW = {"stride": (2, 1), "pad": (1, 1)}
SIZE = (4, 6)


def source(name: str = "x", shape: tuple[int, int, int] = SHAPE, bits: int = 8) -> Tensor:
    return Tensor(name, shape, Affine(0.04 if bits == 8 else 0.04 / 256, 3, bits))


def fitting(values: np.ndarray, bits: int = 8) -> Tensor:
    """An output whose form has room for these numbers."""
    if bits == 16:
        return Tensor("y", values.shape, Affine.symmetric(float(np.abs(values).max()), 16))
    return Tensor("y", values.shape, Affine.between(float(values.min()), float(values.max())))


def steps_off(
    make: Callable[..., Layer], reference: Callable[..., np.ndarray], *inputs: Tensor,
    output: Tensor | None = None, bits: int = 8,
) -> float:  # fmt: skip
    """Largest distance of integers and reals, in steps of the output."""
    given = {t.name: RNG.integers(t.form.low // 2, t.form.high // 2, t.shape) for t in inputs}
    values = [t.form.real(given[t.name]) for t in inputs]
    wanted = reference(*values)
    output = output or fitting(wanted, bits)
    layer = make(*inputs, output)
    found = integers(Graph("g", list(inputs), [layer], [output]), given)["y"]
    assert len(np.unique(found)) > 20
    # `real` has the integer parameters: the rest is the rounding of results.
    result = output.form.real(found)
    assert np.abs(result - real(layer, *values)).max() < 1.1 * output.form.scale
    return float(np.abs(result - wanted).max() / output.form.scale)


@pytest.mark.parametrize("bits", [8, 16])
def test_conv2d(bits: int) -> None:
    weight, bias = RNG.normal(size=(20, 3, 3, 40)), RNG.normal(size=20)
    window = WINDOW | {"dilation": (1, 2)}
    off = steps_off(
        lambda x, y: q.conv2d("l", x, y, weight, bias, **window),
        lambda x: f.conv2d(x, weight, bias, SIZE, **window), source(), bits=bits,
    )  # fmt: skip
    assert off < (2.5 if bits == 8 else 400)


def test_four_bits_are_groups_of_32() -> None:
    weight = RNG.normal(size=(20, 3, 3, 40))
    layer = q.conv2d("l", source(), Tensor("y", (*SIZE, 20), Affine(0.5)), weight, bits=4, **WINDOW)
    assert layer.scales is not None and layer.scales.shape == (20, 3, 3, 2)
    wide = np.repeat(layer.scales.astype(float), 32, -1)[..., :40] * layer.weights
    step = (wide * weight).sum(axis=(1, 2, 3)) / (wide * wide).sum(axis=(1, 2, 3))
    error = wide * step[:, None, None, None] - weight
    assert np.abs(error).max() < 0.45 and np.sqrt((error**2).mean()) < 0.15
    assert layer.mult.shape == (20,)


def test_fully_connected_and_depthwise() -> None:
    weight, bias = RNG.normal(size=(30, 40)), RNG.normal(size=30)
    off = steps_off(
        lambda x, y: q.fully_connected("l", x, y, weight, bias),
        lambda x: x @ weight.T + bias, source(),
    )  # fmt: skip
    assert off < 2
    kernel, bias = RNG.normal(size=(40, 3, 2)), RNG.normal(size=40)
    off = steps_off(
        lambda x, y: q.depthwise("l", x, y, kernel, bias, **WINDOW),
        lambda x: f.depthwise(x, kernel, bias, SIZE, **WINDOW), source(),
    )  # fmt: skip
    assert off < 1.5


def test_matmul() -> None:
    b = source("b", (1, 30, 40))
    off = steps_off(
        lambda a, b, y: q.matmul("l", a, b, y, 0.3), lambda a, b: f.matmul(a, b, 0.3), source(), b
    )
    assert off < 0.51


@pytest.mark.parametrize("mode", ["max", "average"])
def test_pool(mode: str) -> None:
    x = source()
    output = Tensor("y", (*SIZE, 40), x.form)
    function = f.max_pool if mode == "max" else f.average_pool
    off = steps_off(
        lambda x, y: Pool("l", y, source=x, mode=mode, kernel=(3, 2), **WINDOW),
        lambda x: function(x, SIZE, (3, 2), **WINDOW), x, output=output,
    )  # fmt: skip
    assert off < 0.51


@pytest.mark.parametrize("bits", [8, 16])
def test_elementwise(bits: int) -> None:
    a, b = source("a", bits=bits), Tensor("b", (1, 6, 40), Affine(0.1, -4))
    for make, function in ((q.add, np.add), (q.sub, np.subtract), (q.mul, np.multiply)):
        off = steps_off(lambda a, b, y, make=make: make("l", a, b, y), function, a, b, bits=bits)
        assert off < (0.6 if bits == 8 else 1.1)


@pytest.mark.parametrize("function", [f.silu, f.gelu, f.sigmoid, f.relu, np.tanh])
def test_lut(function: Callable[[np.ndarray], np.ndarray]) -> None:
    off = steps_off(lambda x, y: q.lut("l", x, y, function), function, source())
    assert off < 0.51


def test_softmax() -> None:
    output = Tensor("y", SHAPE, q.PROBABILITY)
    off = steps_off(
        lambda x, y: q.softmax("l", x, y, 0.7), lambda x: f.softmax(x, 0.7), source(), output=output
    )
    assert off < 1.1
    with pytest.raises(ConfigError, match=r"softmax gives 1/256 and -128"):
        q.softmax("l", source(), Tensor("y", SHAPE, Affine(0.1)))


@pytest.mark.parametrize("bits", [8, 16])
def test_norms(bits: int) -> None:
    gain = RNG.normal(size=40)
    for make, function in ((q.rms_norm, f.rms_norm), (q.layer_norm, f.layer_norm)):
        off = steps_off(
            lambda x, y, make=make: make("l", x, y, gain, 0.01),
            lambda x, function=function: function(x, gain, 0.01), source(bits=bits),
        )  # fmt: skip
        assert off < 0.6


def test_bias_must_fit() -> None:
    with pytest.raises(ConfigError, match=r"layer 'l': bias .* below 2\^31"):
        q.fully_connected(
            "l", source(), Tensor("y", (*SHAPE[:2], 2)), np.ones((2, 40)), np.array([0, 1e12])
        )
