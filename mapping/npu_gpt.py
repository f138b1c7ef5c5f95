"""A Llama decoder in the integers of the `npu` engine: every parameter that a command stream needs,
from a float model and the ranges of its activations.

The residual stream is int16 with one scale; linear layers read int8. Queries and keys leave their
projection as int16, are rotated (RoPE) with tables of cosines and sines, and become int8. Keys and
values are cached as int8. Ref: docs/npu.md section 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bankside.isa.numerics_npu import SINGLE_HALF_UP, softmax_table
from bankside.mapping.llm.model import Linear, Model, Norm
from bankside.mapping.llm.quantise import (
    Affine,
    Ranges,
    Weights,
    calibrate,
    check_supported,
    equalise,
    multiplier,
    weights4,
    weights8,
)

I16 = NDArray[np.int16]
I32 = NDArray[np.int32]
F64 = NDArray[np.float64]
Format = Literal["w8a8", "w4a8"]

ROUNDING = SINGLE_HALF_UP
PROBABILITY = Affine(1 / 256, -128)
"""Output of SOFTMAX."""
_TABLE_BITS = 15
"""Fraction bits of cosines and sines."""
_ROPE_HEADROOM = 128
"""Steps of an int16 query or key per step of the rotated int8 one."""
_SOFTMAX_INTEGER_BITS = 5
_GAIN_TOP = 32767
_NORM_POINT = 46
_STRENGTH = 0.6
"""Of `equalise`: least loss on held-out text, w8a8."""


@dataclass(frozen=True, eq=False)
class QuantLinear:
    """Integer linear layer: requantise(x - zero of the input times weights, record of the output).

    mult and shift: [outputs]; out: form of the result.
    """

    weights: Weights
    source: Affine
    out: Affine
    mult: I32
    shift: I32

    @property
    def bias(self) -> I32:
        """The models have none."""
        return np.zeros(len(self.mult), np.int32)


@dataclass(frozen=True, eq=False)
class QuantNorm:
    """RMSNorm: int16 gain [channels], o_shift, epsilon << epsilon_shift, form of the result."""

    gain: I16
    o_shift: int
    epsilon: int
    epsilon_shift: int
    out: Affine


@dataclass(frozen=True, eq=False)
class QuantAttention:
    """One head: scores q k, softmax table, probabilities times values.

    score, context: (mult, shift) of the products; `score_out`, `context_out` their forms.
    """

    score: tuple[int, int]
    score_out: Affine
    table: I32
    context: tuple[int, int]
    context_out: Affine


@dataclass(frozen=True, eq=False)
class QuantLayer:
    """One decoder layer. rope: (mult, shift) of the products with the tables, then of their sum."""

    norm1: QuantNorm
    query_key: QuantLinear
    value: QuantLinear
    heads: tuple[QuantAttention, ...]
    output: QuantLinear
    norm2: QuantNorm
    gate: QuantLinear
    silu: NDArray[np.int8]
    silu_out: Affine
    up: QuantLinear
    product: tuple[int, int]
    product_out: Affine
    down: QuantLinear


@dataclass(frozen=True, eq=False)
class QuantGpt:
    """The whole model.

    Attributes:
        embedding: int16 [vocabulary, hidden] with the scale of `residual`.
        cosines, sines: int16 [context, head_dim], 15 fraction bits; the first half of the sines
            is negative, so that a rotation is x cos + (halves of x swapped) sin.
    """

    name: str
    format: Format
    hidden: int
    query_heads: int
    kv_heads: int
    head_dim: int
    context: int
    residual: Affine
    embedding: I16
    cosines: I16
    sines: I16
    layers: tuple[QuantLayer, ...]
    final: QuantNorm
    head: QuantLinear

    @property
    def vocabulary(self) -> int:
        return len(self.embedding)

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.query_heads // self.kv_heads

    @property
    def inner(self) -> int:
        """Width of the feed-forward part."""
        return len(self.layers[0].up.mult)


ROPE_PRODUCT = (1 << 30, 1 - _TABLE_BITS)
"""Scale of x times a table."""
UNIT = (1 << 30, 1)
"""Scale of 1."""
ROPE_SUM = (1 << 30, 1 - int(math.log2(_ROPE_HEADROOM)))
"""Scale of the sum of both products, int16 to int8."""


def quantise(
    model: Model, ranges: Ranges, form: Format = "w8a8", *, name: str = "model"
) -> QuantGpt:
    """Integer form of an equalised model; `ranges` are those of that model.

    Raises ConfigError for a model that is not a Llama decoder.
    """
    check_supported(model)
    return _Quantiser(model, ranges, form).build(name)


def prepared(
    model: Model, windows: Sequence[Sequence[int]], form: Format = "w8a8", *, name: str = "model"
) -> QuantGpt:
    """Integer form of a float model: calibrated on runs of tokens, equalised, quantised.

    Raises ConfigError for a model that is not a Llama decoder.
    """
    even, ranges = equalise(model, calibrate(model, windows), _STRENGTH)
    return quantise(even, ranges, form, name=name)


class _Quantiser:
    """Walks a model once."""

    def __init__(self, model: Model, ranges: Ranges, form: Format) -> None:
        self.model, self.ranges, self.form = model, ranges, form
        tops = [ranges.top("embedding")]
        for index in range(len(model.layers)):
            tops += [ranges.top(f"{index}.residual1"), ranges.top(f"{index}.residual2")]
        # Half of the range stays free: text beyond the calibration may go further.
        self.residual = Affine.symmetric(2 * max(tops), 16)

    def build(self, name: str) -> QuantGpt:
        model = self.model
        final = self.norm(model.final_norm, "final")
        logits = Affine.symmetric(1.5 * self.ranges.top("logits"), 16)
        assert model.rope_inverse is not None
        angles = np.arange(model.context)[:, None] * np.tile(model.rope_inverse, 2)
        sign = np.repeat([-1.0, 1.0], model.head_dim // 2)
        return QuantGpt(
            name=name,
            format=self.form,
            hidden=model.hidden,
            query_heads=model.query_heads,
            kv_heads=model.kv_heads,
            head_dim=model.head_dim,
            context=model.context,
            residual=self.residual,
            embedding=self.residual.quantise(model.embedding).astype(np.int16),
            cosines=_fraction(np.cos(angles)),
            sines=_fraction(np.sin(angles) * sign),
            layers=tuple(self.layer(index) for index in range(len(model.layers))),
            final=final,
            head=self.linear(model.head, "final", final.out, logits),
        )

    def norm(self, part: Norm | None, name: str) -> QuantNorm:
        assert part is not None
        out = Affine.symmetric(self.ranges.top(name))
        real = np.asarray(part.gain, np.float64) * math.sqrt(self.model.hidden) / out.scale
        point = math.floor(math.log2(_GAIN_TOP / np.abs(real).max()))
        # x' is x << 8; epsilon is added to the sum of its squares, not to their mean.
        wanted = self.model.epsilon * self.model.hidden / (self.residual.scale / 256) ** 2
        shift = max(math.frexp(wanted)[1] - 31, 0)
        gain = np.rint(real * 2.0**point).astype(np.int16)
        return QuantNorm(gain, _NORM_POINT + point, round(wanted / 2**shift), shift, out)

    def linear(
        self, part: Linear, name: str, source: Affine, out: Affine, steps: F64 | None = None
    ) -> QuantLinear:
        """`steps`: scale of every output, where it is not that of `out`."""
        if self.form == "w4a8":
            weights = weights4(part.weight, self.ranges.mean_square[name])
        else:
            weights = weights8(part.weight)
        steps = np.full(len(part.weight), out.scale) if steps is None else steps
        pairs = [multiplier(r) for r in weights.scale * source.scale / steps]
        mult, shift = (np.array(v, np.int32) for v in zip(*pairs, strict=True))
        return QuantLinear(weights, source, out, mult, shift)

    def layer(self, index: int) -> QuantLayer:
        layer, model = self.model.layers[index], self.model
        norm1 = self.norm(layer.attention_norm, f"{index}.norm1")
        value_out = Affine.symmetric(self.ranges.top(f"{index}.v"))
        steps = [self.head_steps(f"{index}.{name}_rotated") for name in ("q", "k")]
        joined = Linear(np.concatenate([layer.query.weight, layer.key.weight]))
        per_output = np.repeat(np.concatenate(steps) / _ROPE_HEADROOM, model.head_dim)
        heads = self.heads(index, *steps, value_out)
        gate, up, silu, product = self.mlp_forms(index)
        norm2 = self.norm(layer.mlp_norm, f"{index}.norm2")
        assert layer.gate is not None
        return QuantLayer(
            norm1=norm1,
            query_key=self.linear(
                joined, f"{index}.norm1", norm1.out, Affine(1.0, 0, 16), per_output
            ),
            value=self.linear(layer.value, f"{index}.norm1", norm1.out, value_out),
            heads=heads,
            output=self.linear(
                layer.output, f"{index}.context", heads[0].context_out, self.residual
            ),
            norm2=norm2,
            gate=self.linear(layer.gate, f"{index}.norm2", norm2.out, gate),
            silu=_silu_table(gate, silu),
            silu_out=silu,
            up=self.linear(layer.up, f"{index}.norm2", norm2.out, up),
            product=multiplier(silu.scale * up.scale / product.scale),
            product_out=product,
            down=self.linear(layer.down, f"{index}.product", product, self.residual),
        )

    def head_steps(self, name: str) -> F64:
        """int8 scale of every head of queries or keys."""
        return np.maximum(self.ranges.channels(name).max(axis=1), 1e-9) / 127

    def heads(self, index: int, q: F64, k: F64, value: Affine) -> tuple[QuantAttention, ...]:
        low, high = (r[f"{index}.scores"] for r in (self.ranges.low, self.ranges.high))
        context_out = Affine.symmetric(self.ranges.top(f"{index}.context"))
        context = multiplier(PROBABILITY.scale * value.scale / context_out.scale)
        found = []
        for head in range(self.model.query_heads):
            out = Affine.between(float(low[head]), float(high[head]))
            product = q[head] * k[head // self.model.group] / math.sqrt(self.model.head_dim)
            found.append(
                QuantAttention(
                    multiplier(product / out.scale), out, exponentials(out.scale),
                    context, context_out,
                )
            )  # fmt: skip
        return tuple(found)

    def mlp_forms(self, index: int) -> tuple[Affine, Affine, Affine, Affine]:
        """Of gate, up, SiLU of the gate, product."""
        ranges = self.ranges
        gate = Affine.between(
            max(float(ranges.low[f"{index}.gate"].min()), -8.0),
            float(ranges.high[f"{index}.gate"].max()),
        )
        silu = Affine.between(-0.2785, float(ranges.high[f"{index}.silu"].max()))
        up = Affine.symmetric(ranges.top(f"{index}.up"))
        return gate, up, silu, Affine.symmetric(ranges.top(f"{index}.product"))


def _fraction(x: F64) -> I16:
    """Q0.15, saturated."""
    return np.clip(np.rint(x * (1 << _TABLE_BITS)), -32767, 32767).astype(np.int16)


def _silu_table(source: Affine, out: Affine) -> NDArray[np.int8]:
    """SiLU of the 256 int8 numbers from -128 on."""
    x = source.real(np.arange(-128, 128))
    return out.quantise(x / (1 + np.exp(-x))).astype(np.int8)


def exponentials(scale: float) -> I32:
    """Table of SOFTMAX for inputs of that scale. Ref: TFLite PreprocessSoftmaxScaling."""
    mult, left = multiplier(min(scale * 2.0 ** (31 - _SOFTMAX_INTEGER_BITS), 2.0**31 - 1))
    top = (1 << _SOFTMAX_INTEGER_BITS) - 1
    diff_min = -math.floor(top * 2.0 ** (31 - _SOFTMAX_INTEGER_BITS) / 2.0**left)
    return np.array(softmax_table(mult, left, diff_min), np.int32)
