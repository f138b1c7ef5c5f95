"""The arithmetic of a decoder layer in numpy, with the same bits on every run and thread count.

BLAS is avoided: its blocking, and so the order of its sums, depends on the number of threads and
on how many rows are multiplied at once. Every row here goes through the same call with the same
shapes, so a token gets the same bits alone as in the middle of a prompt. Transcendental functions
are evaluated in float64 and rounded, which hides the last-place differences between processors.
"""

import math

import numpy as np
from numpy.typing import NDArray

from bankside.mapping.llm.model import Linear, Norm

Array32 = NDArray[np.float32]
Array64 = NDArray[np.float64]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def linear(x: Array32, part: Linear) -> Array32:
    """x [tokens, inputs] times `part` gives [tokens, outputs], accumulated in float32."""
    y = np.empty((len(x), len(part.weight)), np.float32)
    for row, values in enumerate(x):
        np.einsum("i,oi->o", values, part.weight, out=y[row])
    return y if part.bias is None else y + part.bias


def normalise(x: Array32, part: Norm, kind: str, epsilon: float) -> Array32:
    """RMSNorm (`kind` "rms") or LayerNorm ("layer") of each row of x [tokens, hidden]."""
    wide = x.astype(np.float64)
    if kind == "layer":
        wide = wide - wide.mean(axis=-1, keepdims=True)
    scale = 1.0 / np.sqrt((wide * wide).mean(axis=-1, keepdims=True) + epsilon)
    y = (wide * scale).astype(np.float32) * part.gain
    return y if part.bias is None else y + part.bias


def activate(x: Array32, kind: str) -> Array32:
    """Activation by name: silu, gelu_tanh, gelu_erf or relu."""
    if kind == "relu":
        return np.maximum(x, np.float32(0))
    wide = x.astype(np.float64)
    if kind == "silu":
        # tanh does not overflow, unlike exp(-x).
        y = 0.5 * wide * (1 + np.tanh(0.5 * wide))
    elif kind == "gelu_tanh":
        y = 0.5 * wide * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
    elif kind == "gelu_erf":
        y = 0.5 * wide * (1 + _erf(wide / math.sqrt(2)))
    else:
        raise ValueError(f"unknown activation {kind!r}; expected silu, gelu_tanh, gelu_erf or relu")
    return y.astype(np.float32)


def rotate(x: Array32, inverse: Array64, first: int) -> Array32:
    """RoPE in the NeoX half-split layout: pairs are (i, i + head_dim / 2).

    x [tokens, heads, head_dim] holds tokens `first`, `first` + 1, ...; `inverse` [head_dim / 2] is
    radians per token.
    """
    angles = (first + np.arange(len(x)))[:, None] * inverse[None, :]
    cos = np.cos(angles).astype(np.float32)[:, None, :]
    sin = np.sin(angles).astype(np.float32)[:, None, :]
    low, high = np.split(x, 2, axis=-1)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)
