"""Decoder-only language models in integers, for the `npu` engine: ranges of activations from text,
scales, int8 and 4-bit weights, multipliers, tables.

Activations are int8 (the residual stream, queries and keys before their rotation, and the scores of
the tokens int16); zero is 0 except where a range is one-sided. Ref: docs/npu.md section 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError
from bankside.isa.npu_weights import STEP_CHANNELS, W4_SCALE_MAX
from bankside.mapping.llm.model import Layer, Linear, Model, Norm

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


def multiplier(real: float) -> tuple[int, int]:
    """(mult, shift) with mult * 2^(shift - 31) nearest to `real` >= 0, mult in 2^30..2^31 - 1.

    Ref: TFLite QuantizeMultiplier.
    """
    if real == 0:
        return 0, 0
    fraction, shift = math.frexp(real)
    mult = round(fraction * (1 << 31))
    if mult == 1 << 31:
        mult, shift = mult // 2, shift + 1
    if shift < -31:
        return 0, 0
    return mult, shift


@dataclass(frozen=True)
class Affine:
    """real = scale * (integer - zero); `bits` 8 or 16."""

    scale: float
    zero: int = 0
    bits: int = 8

    @property
    def low(self) -> int:
        return -(1 << self.bits - 1)

    @property
    def high(self) -> int:
        return (1 << self.bits - 1) - 1

    @classmethod
    def symmetric(cls, top: float, bits: int = 8) -> Affine:
        """Of values in -top..top."""
        return cls(max(top, 1e-9) / ((1 << bits - 1) - 1), 0, bits)

    @classmethod
    def between(cls, low: float, high: float) -> Affine:
        """int8 of values in low..high, which holds 0."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max(high - low, 1e-9) / 255
        return cls(scale, round(-128 - low / scale))

    def quantise(self, x: NDArray) -> I64:
        """Nearest integers, clamped."""
        return np.clip(np.rint(x / self.scale) + self.zero, self.low, self.high).astype(np.int64)

    def real(self, x: NDArray) -> F64:
        """Values of integers."""
        return (np.asarray(x, np.float64) - self.zero) * self.scale


# --- weights ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Weights:
    """Integer weights of a linear layer, with one real scale per output.

    Attributes:
        numbers: [outputs, inputs] int8; of W4 in -8..7.
        scale: [outputs], real value of a weight of 1.
        group_scales: W4: [outputs, ceil(inputs / 32)], 1..63; weight = number * group scale.
    """

    numbers: NDArray[np.int8]
    scale: F64
    group_scales: NDArray[np.uint8] | None = None

    @property
    def whole(self) -> NDArray[np.int64]:
        """The integers that are multiplied, [outputs, inputs]."""
        if self.group_scales is None:
            return self.numbers.astype(np.int64)
        wide = np.repeat(self.group_scales.astype(np.int64), STEP_CHANNELS, axis=1)
        return self.numbers * wide[:, : self.numbers.shape[1]]


def weights8(weight: NDArray) -> Weights:
    """int8, symmetric, one scale per output."""
    scale = np.maximum(np.abs(weight).max(axis=1), 1e-9) / 127
    return Weights(np.rint(weight / scale[:, None]).astype(np.int8), scale.astype(np.float64))


_SHRINK = np.linspace(0.7, 1.0, 13)


def weights4(weight: NDArray, importance: NDArray | None = None) -> Weights:
    """4 bits in groups of 32 inputs, whose scales are 1..63 times that of the output.

    The scale of a group is the one of several with the least squared error; `importance`
    [inputs] weighs the errors (mean square of the input).
    """
    outputs, inputs = weight.shape
    groups = -(-inputs // STEP_CHANNELS)
    spare = groups * STEP_CHANNELS - inputs
    padded = np.pad(weight.astype(np.float64), ((0, 0), (0, spare)))
    split = padded.reshape(outputs, groups, STEP_CHANNELS)
    weigh = np.ones(inputs) if importance is None else importance
    weigh = np.pad(weigh, (0, spare)).reshape(groups, STEP_CHANNELS)
    widest = np.maximum(np.abs(split).max(axis=(1, 2)), 1e-9)
    scale = widest / 7 / W4_SCALE_MAX
    wanted = np.abs(split).max(axis=2) / 7 / scale[:, None]
    best, found, numbers = np.full((outputs, groups), np.inf), np.ones((outputs, groups)), split
    for shrink in _SHRINK:
        trial = np.clip(np.rint(wanted * shrink), 1, W4_SCALE_MAX)
        step = (trial * scale[:, None])[:, :, None]
        rounded = np.clip(np.rint(split / step), -8, 7)
        error = ((rounded * step - split) ** 2 * weigh).sum(axis=2)
        better = error < best
        best, found = np.where(better, error, best), np.where(better, trial, found)
        numbers = np.where(better[:, :, None], rounded, numbers)
    flat = numbers.reshape(outputs, -1)[:, :inputs].astype(np.int8)
    return Weights(flat, scale, found.astype(np.uint8))


# --- ranges of activations ----------------------------------------------------------------------


def _rms(x: F64, norm: Norm, epsilon: float) -> F64:
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + epsilon) * norm.gain


def _rotate(x: F64, inverse: F64) -> F64:
    angles = np.arange(len(x))[:, None, None] * inverse
    low, high = np.split(x, 2, axis=-1)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def _silu(x: F64) -> F64:
    return 0.5 * x * (1 + np.tanh(0.5 * x))


def check_supported(model: Model) -> None:
    """ConfigError unless the model is a Llama decoder whose parts the quantised form knows."""
    wants = {
        "norm": (model.norm, "rms"),
        "activation": (model.activation, "silu"),
        "pre_norm": (model.pre_norm, True),
        "positions": (model.positions is None and model.rope_inverse is not None, True),
        "gated": (all(layer.gate is not None for layer in model.layers), True),
        "final norm": (model.final_norm is not None, True),
    }
    for what, (found, expected) in wants.items():
        if found != expected:
            raise ConfigError(
                f"model of family {model.family}: {what} is {found!r}, expected {expected!r}; the "
                "npu runs Llama decoders (RMSNorm, RoPE, SwiGLU)"
            )


def trace(model: Model, tokens: Sequence[int]) -> dict[str, F64]:
    """Activations of a run of tokens from position 0 on, in float64.

    Names: `embedding`, `N.norm1`, `N.q`, `N.k` (before the rotation), `N.q_rotated`,
    `N.k_rotated`, `N.v`, `N.scores` (of the causal pairs, scaled by 1 / sqrt(head_dim)),
    `N.context`, `N.residual1`, `N.norm2`, `N.gate`, `N.silu`, `N.up`, `N.product`, `N.residual2`,
    `final`, `logits`.
    """
    seen: dict[str, F64] = {}
    x = seen["embedding"] = model.embedding[np.asarray(tokens)].astype(np.float64)
    for index, layer in enumerate(model.layers):
        found = _trace_attention(model, index, x)
        x = found["residual1"] = x + found["context"] @ layer.output.weight.T
        h = found["norm2"] = _rms(x, layer.mlp_norm, model.epsilon)
        assert layer.gate is not None
        found["gate"] = h @ layer.gate.weight.T
        found["up"], found["silu"] = h @ layer.up.weight.T, _silu(found["gate"])
        found["product"] = found["silu"] * found["up"]
        x = found["residual2"] = x + found["product"] @ layer.down.weight.T
        seen |= {f"{index}.{name}": value for name, value in found.items()}
    assert model.final_norm is not None
    seen["final"] = _rms(x, model.final_norm, model.epsilon)
    seen["logits"] = seen["final"] @ model.head.weight.T
    return seen


def _trace_attention(model: Model, index: int, x: F64) -> dict[str, F64]:
    layer, count = model.layers[index], len(x)
    h = _rms(x, layer.attention_norm, model.epsilon)
    found = {"norm1": h}
    for name, part in (("q", layer.query), ("k", layer.key), ("v", layer.value)):
        found[name] = (h @ part.weight.T).reshape(count, -1, model.head_dim)
    assert model.rope_inverse is not None
    for name in ("q", "k"):
        found[f"{name}_rotated"] = _rotate(found[name], model.rope_inverse)
    heads = np.repeat(found["k_rotated"].transpose(1, 2, 0), model.group, axis=0)
    scores = found["q_rotated"].transpose(1, 0, 2) @ heads / math.sqrt(model.head_dim)
    past = np.tril(np.ones((count, count), bool))
    found["scores"] = np.stack([head[past] for head in scores], axis=1)
    chance = np.where(past, scores, -np.inf)
    chance = np.exp(chance - chance.max(axis=-1, keepdims=True))
    chance /= chance.sum(axis=-1, keepdims=True)
    values = np.repeat(found["v"].transpose(1, 0, 2), model.group, axis=0)
    found["context"] = (chance @ values).transpose(1, 0, 2).reshape(count, -1)
    return found


@dataclass(frozen=True)
class Ranges:
    """Lowest and highest value of every channel of every activation of `trace`; `mean_square` of
    the inputs of linear layers.
    """

    low: dict[str, F64]
    high: dict[str, F64]
    mean_square: dict[str, F64]

    def top(self, name: str) -> float:
        """Largest magnitude."""
        return float(max(-self.low[name].min(), self.high[name].max()))

    def channels(self, name: str) -> F64:
        """Largest magnitude of every channel."""
        return np.maximum(np.abs(self.low[name]), np.abs(self.high[name]))


def calibrate(model: Model, windows: Iterable[Sequence[int]]) -> Ranges:
    """Ranges over some runs of tokens. ConfigError for a model that is not supported."""
    check_supported(model)
    low: dict[str, F64] = {}
    high: dict[str, F64] = {}
    square: dict[str, F64] = {}
    count = 0
    for tokens in windows:
        count += 1
        for name, value in trace(model, tokens).items():
            low[name] = np.minimum(low.get(name, np.inf), value.min(axis=0))
            high[name] = np.maximum(high.get(name, -np.inf), value.max(axis=0))
            square[name] = square.get(name, 0) + (value * value).mean(axis=0)
    if not count:
        raise ConfigError("calibration: no text; give at least one window of tokens")
    mean = {name: value / count for name, value in square.items()}
    return Ranges(*(_rounded(part) for part in (low, high, mean)))


def _rounded(values: dict[str, F64]) -> dict[str, F64]:
    """To float32: the last bits of sums depend on the processor, the integers must not."""
    return {name: np.float64(np.float32(value)) for name, value in values.items()}


# --- equalisation -------------------------------------------------------------------------------


def _balance(activation: F64, *columns: NDArray, strength: float) -> F64:
    """Factor by which each channel of an activation is divided (its geometric mean is 1)."""
    weight = np.max([np.abs(c).max(axis=0) for c in columns], axis=0)
    raw = np.maximum(activation, 1e-6) ** strength / np.maximum(weight, 1e-6) ** (1 - strength)
    return raw / np.exp(np.log(raw).mean())


def _into_columns(part: Linear, factor: F64) -> Linear:
    return replace(part, weight=(part.weight * factor).astype(np.float64))


def _out_of_rows(part: Linear, factor: F64) -> Linear:
    return replace(part, weight=(part.weight / factor[:, None]).astype(np.float64))


def equalise(model: Model, ranges: Ranges, strength: float = 0.5) -> tuple[Model, Ranges]:
    """The same function with channels of more even range: what an activation loses, the weights
    that read it gain. Also the ranges of the new model.

    Moves factors from the norms into what reads them, from values into the output projection, from
    `up` into `down`. Ref: Xiao et al., SmoothQuant, ICML 2023 (strength is its alpha).
    """
    layers, factors = [], dict[str, F64]()
    for index, layer in enumerate(model.layers):
        found = _layer_factors(model, index, ranges, strength)
        layers.append(_with_factors(layer, found))
        factors |= {f"{index}.{name}": factor for name, factor in found.items()}
        factors[f"{index}.up"] = found["product"]
        # Values lie as [heads, head_dim].
        factors[f"{index}.v"] = found["context"].reshape(model.query_heads, -1)[: model.kv_heads]
    assert model.final_norm is not None
    last = factors["final"] = _balance(
        ranges.channels("final"), model.head.weight, strength=strength
    )
    even = replace(
        model,
        layers=tuple(layers),
        final_norm=Norm(model.final_norm.gain / last),
        head=_into_columns(model.head, last),
    )
    return even, _divided(ranges, factors)


def _layer_factors(model: Model, index: int, ranges: Ranges, strength: float) -> dict[str, F64]:
    layer = model.layers[index]
    assert layer.gate is not None
    readers = {
        "norm1": (layer.query, layer.key, layer.value),
        "norm2": (layer.gate, layer.up),
        "product": (layer.down,),
        "context": (layer.output,),
    }
    found = {
        name: _balance(
            ranges.channels(f"{index}.{name}"), *(p.weight for p in parts), strength=strength
        )
        for name, parts in readers.items()
    }
    if model.group != 1:  # several query heads read one value head
        found["context"] = np.ones_like(found["context"])
    return found


def _with_factors(layer: Layer, factors: dict[str, F64]) -> Layer:
    one, two, product = (factors[name] for name in ("norm1", "norm2", "product"))
    assert layer.gate is not None
    values = factors["context"][: len(layer.value.weight)]
    return replace(
        layer,
        attention_norm=Norm(layer.attention_norm.gain / one),
        query=_into_columns(layer.query, one),
        key=_into_columns(layer.key, one),
        value=_out_of_rows(_into_columns(layer.value, one), values),
        output=_into_columns(layer.output, factors["context"]),
        mlp_norm=Norm(layer.mlp_norm.gain / two),
        gate=_into_columns(layer.gate, two),
        up=_out_of_rows(_into_columns(layer.up, two), product),
        down=_into_columns(layer.down, product),
    )


def _divided(ranges: Ranges, factors: dict[str, F64]) -> Ranges:
    def apart(values: dict[str, F64], power: int) -> dict[str, F64]:
        return {n: v / factors.get(n, 1.0) ** power for n, v in values.items()}

    return Ranges(apart(ranges.low, 1), apart(ranges.high, 1), apart(ranges.mean_square, 2))
