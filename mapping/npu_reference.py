"""What a graph computes, in NumPy: its integers bit for bit, or the real numbers they stand for.

`integers` uses the arithmetic of `numerics_npu_np` without machine, blocks or buffers. `real` takes
weights and tables for the real numbers they stand for and rounds nothing. Ref: docs/npu.md
section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from bankside.isa import numerics_npu_np as n
from bankside.isa.npu_weights import STEP_CHANNELS
from bankside.isa.numerics_npu import Output, Scales
from bankside.mapping.npu_graph import Graph, Layer, Tensor
from bankside.mapping.npu_layers import (
    Conv2d,
    Depthwise,
    Elementwise,
    MatMul,
    Normalisation,
    Pool,
    Scaled,
    Windowed,
)

I64 = NDArray[np.int64]
Values = dict[int, I64]
"""id of a tensor that is no view -> its integers."""


def integers(
    graph: Graph, inputs: Mapping[str, NDArray], persistent: dict[str, I64] | None = None
) -> dict[str, I64]:
    """Integers of every tensor that is no view, by name.

    persistent: integers that persistent tensors have (by name; zero where missing), brought up to
    date.
    """
    kept = {} if persistent is None else persistent
    values: Values = {}
    for tensor in graph.tensors():
        given = tensor.data if tensor.data is not None else inputs.get(tensor.name)
        if tensor.persistent:
            given = kept.get(tensor.name)
        values[id(tensor)] = np.array(np.zeros(tensor.shape) if given is None else given, np.int64)
    for layer in graph.layers:
        _part(values, layer.output)[...] = _BY_KIND[layer.kind](
            layer, *(_part(values, t) for t in layer.inputs)
        )
    found = {t.name: values[id(t)] for t in graph.tensors()}
    kept.update((t.name, found[t.name]) for t in graph.persistent)
    return found


def _part(values: Values, tensor: Tensor) -> I64:
    """The tensor, or its part of another one (a NumPy view)."""
    where = tuple(slice(a, a + size) for a, size in zip(tensor.at, tensor.shape, strict=True))
    return values[id(tensor.base)][where]


def _output(layer: Layer) -> Output:
    form = layer.output.form
    low, high = getattr(layer, "clamp", None) or (form.low, form.high)
    return Output(form.zero, low, high)


def windows(layer: Windowed, x: I64, outside: int) -> I64:
    """[rows, columns, window rows, window columns, channels] of an input."""
    height, width, _ = layer.output.shape
    (ky, kx), (sy, sx), (dy, dx) = layer.kernel, layer.stride, layer.dilation
    top, left = layer.pad
    below = max((height - 1) * sy + (ky - 1) * dy + 1 - top - x.shape[0], 0)
    right = max((width - 1) * sx + (kx - 1) * dx + 1 - left - x.shape[1], 0)
    padded = np.pad(x, ((top, below), (left, right), (0, 0)), constant_values=outside)
    rows = np.arange(height)[:, None] * sy + np.arange(ky) * dy
    columns = np.arange(width)[:, None] * sx + np.arange(kx) * dx
    return padded[rows[:, None, :, None], columns[None, :, None, :]]


def whole_weights(layer: Conv2d) -> I64:
    """The numbers that are multiplied (4-bit weights with their scales)."""
    if layer.scales is None:
        return layer.weights.astype(np.int64)
    wide = np.repeat(layer.scales.astype(np.int64), STEP_CHANNELS, axis=-1)
    return layer.weights * wide[..., : layer.weights.shape[-1]]


def _finish(layer: Scaled, acc: I64, bias: I64 | int) -> I64:
    y = n.requantise(n.wrap32(acc), bias, layer.mult, layer.shift, _output(layer), layer.rounding)
    return y if layer.table is None else layer.table.astype(np.int64)[y + 128]


def _conv(layer: Conv2d, x: I64) -> I64:
    parts = windows(layer, x, layer.source.form.zero) - layer.source.form.zero
    # Products below 2^18, sums of fewer than 2^35 of them: float64 is exact.
    flat = parts.reshape(*parts.shape[:2], -1).astype(np.float64)
    weights = whole_weights(layer).reshape(len(layer.weights), -1).astype(np.float64)
    return _finish(layer, np.rint(flat @ weights.T).astype(np.int64), layer.bias.astype(np.int64))


def _depthwise(layer: Depthwise, x: I64) -> I64:
    parts = windows(layer, x, layer.source.form.zero) - layer.source.form.zero
    acc = np.einsum("hwyxc,cyx->hwc", parts, layer.weights.astype(np.int64))
    return _finish(layer, acc, layer.bias.astype(np.int64))


def _matmul(layer: MatMul, a: I64, b: I64) -> I64:
    left, right = a - layer.a.form.zero, b[0] - layer.b.form.zero
    acc = left.astype(np.float64) @ right.T.astype(np.float64)
    return _finish(layer, np.rint(acc).astype(np.int64), 0)


def _pool(layer: Pool, x: I64) -> I64:
    inside = windows(layer, np.ones_like(x), 0)
    parts = windows(layer, x, 0)
    output = _output(layer)
    if layer.mode == "max":
        y = np.where(inside == 1, parts, -128).max(axis=(2, 3))
    else:
        y = n.average(parts.sum(axis=(2, 3)), inside.sum(axis=(2, 3)))
    return np.clip(y, output.low, output.high)


def _elementwise(layer: Elementwise, a: I64, b: I64) -> I64:
    a, b = a - layer.a.form.zero, b - layer.b.form.zero
    if layer.op == "mul":
        return n.mul(a, b, layer.o_scale, _output(layer), layer.rounding)
    scales = Scales(layer.a_scale, layer.b_scale, layer.o_scale, layer.left_shift)
    sign = 1 if layer.op == "add" else -1
    return n.add(a, b, scales, _output(layer), layer.rounding, sign=sign)


def _norm(layer: Normalisation, x: I64) -> I64:
    flat = (x - layer.source.form.zero).reshape(-1, x.shape[2])
    epsilon = layer.epsilon << layer.epsilon_shift
    output, is_layer = _output(layer), layer.mode == "layer"
    y = n.norm(flat, layer.gain, epsilon, layer.o_shift, output, layer=is_layer)
    return y.reshape(x.shape)


_BY_KIND: dict[str, Callable[..., I64]] = {
    "conv2d": _conv,
    "depthwise": _depthwise,
    "matmul": _matmul,
    "pool": _pool,
    "elementwise": _elementwise,
    "lut": lambda layer, x: layer.table.astype(np.int64)[x + 128],
    "softmax": lambda layer, x: n.softmax(x, layer.table, _output(layer)),
    "norm": _norm,
    "copy": lambda layer, x: x.transpose(layer.order).reshape(layer.output.shape),
}


# --- real numbers -------------------------------------------------------------------------------


def real(layer: Layer, *inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The result of a layer on real inputs: its integer parameters taken for the numbers that they
    stand for, nothing rounded or cut but by a table.
    """
    forms = [t.form for t in layer.inputs]
    out = layer.output.form
    if isinstance(layer, Conv2d | Depthwise | MatMul):
        step = layer.mult * 2.0 ** (layer.shift - 31.0) * out.scale
        units = [x / form.scale for x, form in zip(inputs, forms, strict=True)]
        return _real_sum(layer, units) * step
    if isinstance(layer, Elementwise):
        return _real_elementwise(layer, *(x / f.scale for x, f in zip(inputs, forms, strict=True)))
    if isinstance(layer, Normalisation):
        return _real_norm(layer, inputs[0] / forms[0].scale) * out.scale
    whole = [form.quantise(x) for x, form in zip(inputs, forms, strict=True)]
    return out.real(_BY_KIND[layer.kind](layer, *whole))


def _real_sum(layer: Conv2d | Depthwise | MatMul, units: list) -> NDArray[np.float64]:
    if isinstance(layer, MatMul):
        return units[0] @ units[1][0].T
    parts = windows(layer, units[0], 0)
    if isinstance(layer, Depthwise):
        return np.einsum("hwyxc,cyx->hwc", parts, layer.weights.astype(float)) + layer.bias
    return np.einsum("hwyxi,oyxi->hwo", parts, whole_weights(layer).astype(float)) + layer.bias


def _factor(pair: tuple[int, int]) -> float:
    return pair[0] * 2.0 ** (pair[1] - 31)


def _real_elementwise(layer: Elementwise, a: NDArray, b: NDArray) -> NDArray[np.float64]:
    scale = _factor(layer.o_scale) * layer.output.form.scale
    if layer.op == "mul":
        return a * b * scale
    left = 2.0**layer.left_shift
    sign = 1 if layer.op == "add" else -1
    return (a * left * _factor(layer.a_scale) + sign * b * left * _factor(layer.b_scale)) * scale


def _real_norm(layer: Normalisation, x: NDArray) -> NDArray[np.float64]:
    x = x * 256
    if layer.mode == "layer":
        x = x - x.mean(axis=-1, keepdims=True)
    total = (x * x).sum(axis=-1, keepdims=True) + layer.epsilon * 2.0**layer.epsilon_shift
    return x * layer.gain * 2.0 ** (46 - layer.o_shift) / np.sqrt(total)
