"""Graphs of one layer with random numbers, among them those of the comparison with Vela.

Ref: docs/npu_compiler.md.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bankside.mapping.llm.quantise import Affine, multiplier
from bankside.mapping.npu_graph import Graph, Tensor
from bankside.mapping.npu_layers import Conv2d, MatMul

_IN, _OUT = Affine(0.02, 3), Affine(0.05, -5)


def _scales(channels: int, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Multipliers that keep a sum of `depth` random products within int8."""
    pairs = [
        multiplier(0.5 / (74 * 74 * depth**0.5 / 60) * (1 + c % 7 / 20)) for c in range(channels)
    ]
    mult, shift = (np.array(v, np.int32) for v in zip(*pairs, strict=True))
    return mult, shift


def convolution(
    shape: tuple[int, int, int], outputs: int, kernel: int = 1, *, bits: int = 8, seed: int = 1
) -> Graph:
    """conv2d with equal padding and stride 1; bits 4: w4 weights (profile llm)."""
    rng = np.random.default_rng(seed)
    source = Tensor("x", shape, _IN)
    target = Tensor("y", (*shape[:2], outputs), _OUT)
    size = (outputs, kernel, kernel, shape[2])
    scales = None
    if bits == 4:
        scales = rng.integers(1, 17, (*size[:3], -(-shape[2] // 32))).astype(np.uint8)
    low = -8 if bits == 4 else -128
    weights = rng.integers(low, -low, size).astype(np.int8)
    mult, shift = _scales(outputs, kernel * kernel * shape[2])
    bias = rng.integers(-1000, 1000, outputs).astype(np.int32)
    layer = Conv2d(
        "layer", target, mult=mult, shift=shift, source=source, kernel=(kernel, kernel),
        pad=(kernel // 2, kernel // 2), weights=weights, bias=bias, scales=scales,
    )  # fmt: skip
    return Graph("convolution", [source], [layer], [target])


def fully_connected(inputs: int, outputs: int, *, rows: int = 1, bits: int = 8) -> Graph:
    """A fully connected layer on `rows` rows."""
    return convolution((1, rows, inputs), outputs, bits=bits)


def product(rows: int, inner: int, columns: int) -> Graph:
    """[rows, inner] times [columns, inner] transposed (profile llm)."""
    a, b = Tensor("a", (1, rows, inner), _IN), Tensor("b", (1, columns, inner), _IN)
    target = Tensor("y", (1, rows, columns), _OUT)
    mult, shift = _scales(1, inner)
    layer = MatMul("layer", target, mult=mult, shift=shift, a=a, b=b)
    return Graph("product", [a, b], [layer], [target])


#: Layers of the comparison with Vela and of the LLM profile, by name.
LAYERS: dict[str, Callable[[], Graph]] = {
    "conv1x1_M64_K64_N64": lambda: convolution((8, 8, 64), 64),
    "conv1x1_M256_K256_N256": lambda: convolution((16, 16, 256), 256),
    "conv3x3_H56_C64_OC64": lambda: convolution((56, 56, 64), 64, 3),
    "fc_M1_K768_N768": lambda: fully_connected(768, 768),
    "fc_M1_K768_N3072": lambda: fully_connected(768, 3072),
    "matmul_256": lambda: product(256, 256, 256),
}
