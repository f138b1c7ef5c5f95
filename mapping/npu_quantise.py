"""Layers from real numbers: weights, multipliers and tables for tensors whose scales are given.

Weights have one scale per output channel, biases the scale of the accumulator; multipliers are
those of TFLite (QuantizeMultiplier; add with `left_shift`). What the layers stand for:
`npu_float`. Ref: docs/npu.md section 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError
from bankside.isa.npu_weights import STEP_CHANNELS
from bankside.mapping.llm.quantise import Affine, Weights, multiplier, weights4, weights8
from bankside.mapping.npu_gpt import exponentials
from bankside.mapping.npu_graph import Tensor
from bankside.mapping.npu_layers import (
    Conv2d,
    Depthwise,
    Elementwise,
    Lut,
    MatMul,
    Normalisation,
    Softmax,
)

F64 = NDArray[np.float64]
PROBABILITY = Affine(1 / 256, -128)
"""Form of the output of softmax."""
_GAIN_TOP = 32767
_NORM_POINT = 46
_FRACTION = 256


def _pairs(real: Iterable[float]) -> dict[str, NDArray[np.int32]]:
    mult, shift = zip(*(multiplier(float(r)) for r in real), strict=True)
    return {"mult": np.array(mult, np.int32), "shift": np.array(shift, np.int32)}


def _bias(name: str, bias: NDArray | None, step: F64) -> NDArray[np.int32]:
    """Integers of the scale of the accumulator, one for each output."""
    if bias is None:
        return np.zeros(len(step), np.int32)
    whole = np.rint(np.asarray(bias, np.float64) / step)
    if whole.shape != step.shape or np.abs(whole).max() >= 1 << 31:
        raise ConfigError(
            f"layer {name!r}: bias of shape {whole.shape} up to {np.abs(whole).max():.3g} steps of "
            f"the accumulator; expected {step.shape}, below 2^31"
        )
    return whole.astype(np.int32)


def _weights(weight: NDArray, bits: int) -> tuple[Weights, NDArray[np.uint8] | None]:
    """Of [outputs, ...]: numbers [outputs, the rest flat]; group scales of 4 bits."""
    if bits == 8:
        return weights8(weight.reshape(len(weight), -1)), None
    spare = -weight.shape[-1] % STEP_CHANNELS
    padded = np.pad(weight, [(0, 0)] * (weight.ndim - 1) + [(0, spare)])
    found = weights4(padded.reshape(len(weight), -1))
    numbers = found.numbers.reshape(padded.shape)[..., : weight.shape[-1]]
    assert found.group_scales is not None
    scales = found.group_scales.reshape(*weight.shape[:-1], -1)
    return Weights(np.ascontiguousarray(numbers), found.scale), scales


def conv2d(
    name: str, source: Tensor, output: Tensor, weight: NDArray, bias: NDArray | None = None, *,
    bits: int = 8, table: NDArray[np.int8] | None = None, **window: Any,
) -> Conv2d:  # fmt: skip
    """weight: real [outputs, rows, columns, inputs]; bias: [outputs]. bits: 8, or 4 in groups of 32
    inputs. window: stride, pad, dilation, clamp, rounding of `Conv2d`.
    """
    found, scales = _weights(weight, bits)
    step = found.scale * source.form.scale
    return Conv2d(
        name, output, **_pairs(step / output.form.scale), source=source,
        kernel=(weight.shape[1], weight.shape[2]), weights=found.numbers.reshape(weight.shape),
        bias=_bias(name, bias, step), scales=scales, table=table, **window,
    )  # fmt: skip


def fully_connected(
    name: str, source: Tensor, output: Tensor, weight: NDArray, bias: NDArray | None = None,
    **options: Any,
) -> Conv2d:  # fmt: skip
    """weight: real [outputs, inputs]; every position is a row of its own."""
    return conv2d(name, source, output, weight[:, None, None, :], bias, **options)


def depthwise(
    name: str, source: Tensor, output: Tensor, weight: NDArray, bias: NDArray | None = None,
    **window: Any,
) -> Depthwise:  # fmt: skip
    """weight: real [channels, rows, columns]."""
    found = weights8(weight.reshape(len(weight), -1))
    step = found.scale * source.form.scale
    return Depthwise(
        name, output, **_pairs(step / output.form.scale), source=source, kernel=weight.shape[1:],
        weights=found.numbers.reshape(weight.shape), bias=_bias(name, bias, step), **window,
    )  # fmt: skip


def matmul(
    name: str, a: Tensor, b: Tensor, output: Tensor, factor: float = 1.0, **options: Any
) -> MatMul:
    """factor times a times b transposed."""
    real = factor * a.form.scale * b.form.scale / output.form.scale
    return MatMul(name, output, **_pairs([real]), a=a, b=b, **options)


def add(name: str, a: Tensor, b: Tensor, output: Tensor, **options: Any) -> Elementwise:
    return _sum("add", name, a, b, output, options)


def sub(name: str, a: Tensor, b: Tensor, output: Tensor, **options: Any) -> Elementwise:
    return _sum("sub", name, a, b, output, options)


def _sum(
    op: Any, name: str, a: Tensor, b: Tensor, output: Tensor, options: dict[str, Any]
) -> Elementwise:
    """Both operands get a common scale, with as many fraction bits as int32 holds."""
    left = 15 if 16 in (a.form.bits, b.form.bits) else 20
    twice = 2 * max(a.form.scale, b.form.scale)
    return Elementwise(
        name, output, op=op, a=a, b=b, left_shift=left, a_scale=multiplier(a.form.scale / twice),
        b_scale=multiplier(b.form.scale / twice),
        o_scale=multiplier(twice / ((1 << left) * output.form.scale)), **options,
    )  # fmt: skip


def mul(name: str, a: Tensor, b: Tensor, output: Tensor, **options: Any) -> Elementwise:
    scale = multiplier(a.form.scale * b.form.scale / output.form.scale)
    return Elementwise(name, output, op="mul", a=a, b=b, o_scale=scale, **options)


def table(function: Callable[[F64], F64], source: Affine, output: Affine) -> NDArray[np.int8]:
    """A function of the 256 int8 numbers from -128 on (silu, gelu and others: `npu_float`)."""
    return output.quantise(function(source.real(np.arange(-128, 128)))).astype(np.int8)


def lut(name: str, source: Tensor, output: Tensor, function: Callable[[F64], F64]) -> Lut:
    """A function of every element."""
    return Lut(name, output, source=source, table=table(function, source.form, output.form))


def softmax(name: str, source: Tensor, output: Tensor, factor: float = 1.0) -> Softmax:
    """Of factor * x over channels. output: of the form PROBABILITY."""
    if output.form != PROBABILITY:
        raise ConfigError(
            f"layer {name!r}: {output.name!r} has scale {output.form.scale} and zero point "
            f"{output.form.zero}; softmax gives 1/256 and -128 (PROBABILITY)"
        )
    return Softmax(name, output, source=source, table=exponentials(factor * source.form.scale))


def rms_norm(
    name: str, source: Tensor, output: Tensor, gain: NDArray, epsilon: float = 1e-5
) -> Normalisation:
    """x / sqrt(mean of x^2 + epsilon) * gain over channels."""
    return _norm("rms", name, source, output, gain, epsilon)


def layer_norm(
    name: str, source: Tensor, output: Tensor, gain: NDArray, epsilon: float = 1e-5
) -> Normalisation:
    """(x - mean) / sqrt(variance + epsilon) * gain over channels."""
    return _norm("layer", name, source, output, gain, epsilon)


def _norm(
    mode: Any, name: str, source: Tensor, output: Tensor, gain: NDArray, epsilon: float
) -> Normalisation:
    """The engine divides by the root of the sum, not of the mean: sqrt(C) goes into the gain."""
    channels = source.shape[2]
    real = np.asarray(gain, np.float64) * math.sqrt(channels) / output.form.scale
    point = math.floor(math.log2(_GAIN_TOP / max(np.abs(real).max(), 1e-9)))
    wanted = epsilon * channels / (source.form.scale / _FRACTION) ** 2
    shift = max(math.frexp(wanted)[1] - 31, 0)
    return Normalisation(
        name, output, mode=mode, source=source, gain=np.rint(real * 2.0**point).astype(np.int16),
        epsilon=round(wanted / 2**shift), epsilon_shift=shift, o_shift=_NORM_POINT + point,
    )  # fmt: skip
