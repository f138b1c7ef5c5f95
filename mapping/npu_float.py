"""Layers of `npu_quantise` in real numbers: what the integers should come near to.

Arrays are [rows, columns, channels]. Ref: docs/npu.md section 2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Pair = tuple[int, int]


def windows(
    x: F64, size: Pair, kernel: Pair, stride: Pair = (1, 1), pad: Pair = (0, 0),
    dilation: Pair = (1, 1), outside: float = 0.0,
) -> F64:  # fmt: skip
    """[rows, columns, window rows, window columns, channels] for an output of `size`."""
    rows, columns = (
        np.arange(n)[:, None] * s + np.arange(k) * d - p
        for n, s, k, d, p in zip(size, stride, kernel, dilation, pad, strict=True)
    )
    inside = (rows >= 0) & (rows < x.shape[0])
    across = (columns >= 0) & (columns < x.shape[1])
    found = x[np.where(inside, rows, 0)[:, None, :, None],
              np.where(across, columns, 0)[None, :, None, :]]  # fmt: skip
    there = inside[:, None, :, None] & across[None, :, None, :]
    return np.where(there[..., None], found, outside)


def conv2d(x: F64, weight: F64, bias: F64, size: Pair, **window: Pair) -> F64:
    """weight [outputs, rows, columns, inputs]."""
    seen = windows(x, size, weight.shape[1:3], **window)
    return np.einsum("hwyxi,oyxi->hwo", seen, weight) + bias


def depthwise(x: F64, weight: F64, bias: F64, size: Pair, **window: Pair) -> F64:
    """weight [channels, rows, columns]."""
    seen = windows(x, size, weight.shape[1:], **window)
    return np.einsum("hwyxc,cyx->hwc", seen, weight) + bias


def max_pool(x: F64, size: Pair, kernel: Pair, **window: Pair) -> F64:
    return windows(x, size, kernel, **window, outside=-np.inf).max(axis=(2, 3))


def average_pool(x: F64, size: Pair, kernel: Pair, **window: Pair) -> F64:
    """Positions outside do not count."""
    count = windows(np.ones_like(x), size, kernel, **window).sum(axis=(2, 3))
    return windows(x, size, kernel, **window).sum(axis=(2, 3)) / count


def matmul(a: F64, b: F64, factor: float = 1.0) -> F64:
    """b [1, columns, inner]."""
    return factor * (a @ b[0].T)


def softmax(x: F64, factor: float = 1.0) -> F64:
    e = np.exp(factor * (x - x.max(axis=-1, keepdims=True)))
    return e / e.sum(axis=-1, keepdims=True)


def rms_norm(x: F64, gain: F64, epsilon: float = 1e-5) -> F64:
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + epsilon) * gain


def layer_norm(x: F64, gain: F64, epsilon: float = 1e-5) -> F64:
    return rms_norm(x - x.mean(axis=-1, keepdims=True), gain, epsilon)


def silu(x: F64) -> F64:
    return x * sigmoid(x)


def gelu(x: F64) -> F64:
    """With tanh, as language models have it."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def sigmoid(x: F64) -> F64:
    return 1 / (1 + np.exp(-x))


def relu(x: F64) -> F64:
    return np.maximum(x, 0)
