"""The shipped image classifier (mapping/models/digits_cnn) in the integers of the `npu` engine.

int8 throughout: weights symmetric with one scale per output channel, activations with one scale and
zero point per tensor from the ranges of the training images. Ref: docs/npu.md section 2.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from bankside.errors import ConfigError
from bankside.isa import numerics_npu_np as num
from bankside.isa.numerics_npu import SINGLE_HALF_UP, Output
from bankside.mapping.llm.quantise import Affine, multiplier
from bankside.mapping.npu_graph import Graph, Tensor
from bankside.mapping.npu_graph import Layer as GraphLayer
from bankside.mapping.npu_layers import Conv2d, Depthwise, Pool

I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

FOLDER = Path(__file__).parent / "models" / "digits_cnn"
ROUNDING = SINGLE_HALF_UP
CONV, DEPTHWISE, MAX_POOL, AVERAGE_POOL = "conv", "depthwise", "max_pool", "average_pool"


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of the float network. weight: [outputs, ky, kx, inputs], depthwise without the
    last; bias [outputs]; bounds: lowest and highest activation. Pools have none of the three and
    step by their kernel.
    """

    name: str
    kind: str
    kernel: int
    pad: int = 0
    relu: bool = False
    weight: F32 | None = None
    bias: F32 | None = None
    bounds: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Network:
    """The float network. shape: rows, columns, channels of an image; pixels are 0..levels."""

    name: str
    shape: tuple[int, int, int]
    levels: int
    layers: tuple[Layer, ...]

    def scores(self, pixels: U8) -> NDArray[np.float64]:
        """Float scores [images, classes] of pixels [images, rows, columns]."""
        x = pixels[..., None] / self.levels
        for layer in self.layers:
            x = _float_layer(layer, x)
        return x.reshape(len(x), -1)


def load_network(folder: Path = FOLDER) -> Network:
    """Read network.json and model.safetensors. ConfigError when they do not belong together."""
    try:
        data = json.loads((folder / "network.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "model.safetensors")
    except OSError as error:
        raise ConfigError(
            f"{folder}: {error.strerror}: {error.filename}; expected network.json and "
            "model.safetensors, as examples/train_digits.py writes them"
        ) from error
    rows, columns, channels = data["input"]
    layers = []
    for entry in data["layers"]:
        layers.append(_layer(folder, entry, tensors, channels))
        channels = entry.get("outputs", channels)
    return Network(folder.name, (rows, columns, data["input"][2]), data["levels"], tuple(layers))


def _layer(folder: Path, entry: dict, tensors: dict[str, F32], channels: int) -> Layer:
    name, kind, kernel = entry["name"], entry["kind"], entry["kernel"]
    if kind in (MAX_POOL, AVERAGE_POOL):
        return Layer(name, kind, kernel)
    if kind not in (CONV, DEPTHWISE):
        raise ConfigError(
            f"{folder}: layer {name!r} is of kind {kind!r}; expected {CONV}, {DEPTHWISE}, "
            f"{MAX_POOL} or {AVERAGE_POOL}"
        )
    shape = (entry["outputs"], kernel, kernel) + (() if kind == DEPTHWISE else (channels,))
    weight, bias = tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias")
    for what, found, expected in (("weight", weight, shape), ("bias", bias, shape[:1])):
        if found is None or found.shape != expected:
            raise ConfigError(
                f"{folder}: tensor {name}.{what} has shape "
                f"{None if found is None else list(found.shape)}, expected {list(expected)} from "
                "network.json; check that both files belong together"
            )
    low, high = entry["range"]
    return Layer(name, kind, kernel, entry["pad"], entry["relu"], weight, bias, (low, high))


def load_images(folder: Path = FOLDER) -> tuple[U8, U8]:
    """The shipped held-out images [n, rows, columns] and their labels [n]."""
    tensors = load_file(folder / "images.safetensors")
    return tensors["pixels"], tensors["labels"]


# --- windows ------------------------------------------------------------------------------------


def windows(x: NDArray, kernel: int, pad: int, step: int = 1, fill: int = 0) -> NDArray:
    """[n, y, x, c] -> [n, y, x, ky, kx, c]; `fill` outside."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(1, 2))
    return view[:, ::step, ::step].transpose(0, 1, 2, 4, 5, 3)


def _products(kind: str, seen: NDArray, weight: NDArray) -> NDArray:
    if kind == DEPTHWISE:
        return np.einsum("nyxklc,ckl->nyxc", seen, weight)
    return np.tensordot(seen, weight, axes=((3, 4, 5), (1, 2, 3)))


def _float_layer(layer: Layer, x: NDArray) -> NDArray:
    if layer.weight is None or layer.bias is None:
        seen = windows(x, layer.kernel, 0, layer.kernel)
        return seen.max(axis=(3, 4)) if layer.kind == MAX_POOL else seen.mean(axis=(3, 4))
    y = _products(layer.kind, windows(x, layer.kernel, layer.pad), layer.weight) + layer.bias
    return np.maximum(y, 0) if layer.relu else y


# --- integers -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class QuantConv:
    """Integer convolution, depthwise where the weights have no inputs.

    weight: int8, as in `Layer`; bias, mult, shift [outputs]; low: lower clamp (ReLU: the zero).
    """

    name: str
    kind: str
    kernel: int
    pad: int
    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    mult: NDArray[np.int32]
    shift: NDArray[np.int32]
    source: Affine
    out: Affine
    low: int


@dataclass(frozen=True)
class QuantPool:
    """Maximum or average over windows that do not overlap; scale and zero point stay."""

    name: str
    kind: str
    kernel: int
    out: Affine


@dataclass(frozen=True, eq=False)
class QuantNetwork:
    """The integer network."""

    name: str
    shape: tuple[int, int, int]
    levels: int
    source: Affine
    layers: tuple[QuantConv | QuantPool, ...]

    def image(self, pixels: U8) -> I64:
        """int8 input [..., rows, columns] of pixels 0..levels."""
        return self.source.quantise(pixels / self.levels)

    def scores(self, pixels: U8) -> I64:
        """int8 scores [images, classes] of pixels [images, rows, columns], as the engine's."""
        x = self.image(pixels)[..., None]
        for layer in self.layers:
            x = _pool(layer, x) if isinstance(layer, QuantPool) else _convolve(layer, x)
        return x.reshape(len(x), -1)


def quantise_network(network: Network) -> QuantNetwork:
    """Integer form of a network."""
    source = form = Affine.between(0.0, 1.0)
    layers: list[QuantConv | QuantPool] = []
    for layer in network.layers:
        if layer.weight is None or layer.bias is None:
            layers.append(QuantPool(layer.name, layer.kind, layer.kernel, form))
        else:
            layers.append(_quantise_conv(layer, layer.weight, layer.bias, form))
            form = layers[-1].out
    return QuantNetwork(network.name, network.shape, network.levels, source, tuple(layers))


def _quantise_conv(layer: Layer, weight: F32, bias: F32, source: Affine) -> QuantConv:
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    scale = np.maximum(np.abs(flat).max(axis=1), 1e-9) / 127
    numbers = np.rint(flat / scale[:, None]).astype(np.int8).reshape(weight.shape)
    out = Affine.between(*layer.bounds)
    pairs = [multiplier(r) for r in scale * source.scale / out.scale]
    mult, shift = (np.array(v, np.int32) for v in zip(*pairs, strict=True))
    return QuantConv(
        layer.name, layer.kind, layer.kernel, layer.pad, numbers,
        np.rint(bias / (scale * source.scale)).astype(np.int32), mult, shift, source, out,
        out.zero if layer.relu else out.low,
    )  # fmt: skip


def graph(network: QuantNetwork) -> Graph:
    """Layers for the compiler; input `image`, output named after the last layer."""
    source = x = Tensor("image", network.shape, network.source)
    layers: list[GraphLayer] = []
    for layer in network.layers:
        rows, columns, channels = x.shape
        window = (layer.kernel, layer.kernel)
        if isinstance(layer, QuantPool):
            shape = (rows // layer.kernel, columns // layer.kernel, channels)
            mode = "max" if layer.kind == MAX_POOL else "average"
            out = Tensor(layer.name, shape, layer.out)
            layers.append(Pool(layer.name, out, source=x, kernel=window, stride=window, mode=mode))
        else:
            grow = 2 * layer.pad - layer.kernel + 1
            out = Tensor(layer.name, (rows + grow, columns + grow, len(layer.weight)), layer.out)
            kind = Depthwise if layer.kind == DEPTHWISE else Conv2d
            layers.append(
                kind(
                    layer.name, out, source=x, kernel=window, pad=(layer.pad, layer.pad),
                    weights=layer.weight, bias=layer.bias, mult=layer.mult, shift=layer.shift,
                    rounding=ROUNDING, clamp=(layer.low, layer.out.high),
                )
            )  # fmt: skip
        x = out
    return Graph(network.name, [source], layers, [x])


def _convolve(layer: QuantConv, x: I64) -> I64:
    seen = windows(x - layer.source.zero, layer.kernel, layer.pad)
    acc = _products(layer.kind, seen, layer.weight.astype(np.int64))
    output = Output(layer.out.zero, layer.low, layer.out.high)
    return num.requantise(acc, layer.bias, layer.mult, layer.shift, output, ROUNDING)


def _pool(layer: QuantPool, x: I64) -> I64:
    seen = windows(x, layer.kernel, 0, layer.kernel)
    if layer.kind == MAX_POOL:
        return seen.max(axis=(3, 4))
    return num.average(seen.sum(axis=(3, 4)), layer.kernel**2)


def accuracy(scores: NDArray, labels: Sequence[int] | U8) -> float:
    """Share of right answers; of equal scores the first counts."""
    return float((scores.argmax(axis=1) == np.asarray(labels)).mean())
