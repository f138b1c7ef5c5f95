"""A quantised model in NumPy, whole runs of tokens at once, equal to the `npu` engine in every bit.

Sums of products are formed in float64, where they are exact: they stay below 2^53.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bankside.isa import numerics_npu_np as num
from bankside.isa.numerics_npu import Output, Scales
from bankside.mapping.llm.quantise import Affine
from bankside.mapping.npu_gpt import (
    PROBABILITY,
    ROPE_PRODUCT,
    ROPE_SUM,
    ROUNDING,
    UNIT,
    QuantAttention,
    QuantGpt,
    QuantLinear,
    QuantNorm,
)

I64 = NDArray[np.int64]
Tap = Callable[[str, I64], I64]
"""Name of an operation ("2.gate", "head") and its result; returns what goes on instead."""


def no_tap(name: str, result: I64) -> I64:
    """Changes nothing."""
    return result


def _output(form: Affine) -> Output:
    return Output(form.zero, form.low, form.high)


_INT16 = _output(Affine(1.0, 0, 16))
_INT8 = _output(Affine(1.0))


def product(x: I64, y: I64) -> I64:
    """x [n, i] times y [o, i], exact."""
    return (x.astype(np.float64) @ y.T.astype(np.float64)).astype(np.int64)


def linear(x: I64, part: QuantLinear) -> I64:
    """CONV of one position per row of x."""
    acc = product(x - part.source.zero, part.weights.whole)
    return num.requantise(acc, part.bias, part.mult, part.shift, _output(part.out), ROUNDING)


def norm(x: I64, part: QuantNorm) -> I64:
    """NORM, rms."""
    epsilon = part.epsilon << part.epsilon_shift
    return num.norm(x, part.gain, epsilon, part.o_shift, _output(part.out), layer=False)


def add(x: I64, y: I64) -> I64:
    """ELEMENTWISE add of two int16 of the same scale."""
    return num.add(x, y, Scales(UNIT, UNIT, UNIT, 0), _INT16, ROUNDING)


def rotate(x: I64, cosines: I64, sines: I64) -> I64:
    """x [tokens, heads, head_dim] int16, tables [tokens, head_dim]; int8."""
    swapped = np.roll(x, x.shape[-1] // 2, axis=-1)
    one = num.mul(x, cosines[:, None], ROPE_PRODUCT, _INT16, ROUNDING)
    two = num.mul(swapped, sines[:, None], ROPE_PRODUCT, _INT16, ROUNDING)
    return num.add(one, two, Scales(UNIT, UNIT, ROPE_SUM, 0), _INT8, ROUNDING)


def _attend(q: I64, k: I64, v: I64, part: QuantAttention) -> I64:
    """Causal attention of one head; q, k, v [tokens, head_dim]."""
    scores = num.requantise(product(q, k), 0, *part.score, _output(part.score_out), ROUNDING)
    past = np.tri(len(scores), dtype=bool)
    made = num.softmax(scores, part.table, _output(PROBABILITY), past)
    chance = np.where(past, made - PROBABILITY.zero, 0)
    acc = product(chance, v.T)
    return num.requantise(acc, 0, *part.context, _output(part.context_out), ROUNDING)


def attention(model: QuantGpt, index: int, x: I64, tap: Tap = no_tap) -> I64:
    """Output of the heads [tokens, query heads * head_dim] for normalised x from position 0 on."""
    count, width, layer = len(x), model.head_dim, model.layers[index]
    joined = tap(f"{index}.query_key", linear(x, layer.query_key)).reshape(count, -1, width)
    cosines, sines = (t[:count].astype(np.int64) for t in (model.cosines, model.sines))
    rotated = rotate(joined, cosines, sines)
    q, k = rotated[:, : model.query_heads], rotated[:, model.query_heads :]
    v = tap(f"{index}.value", linear(x, layer.value)).reshape(count, -1, width)
    heads = [
        _attend(q[:, h], k[:, h // model.group], v[:, h // model.group], part)
        for h, part in enumerate(layer.heads)
    ]
    return tap(f"{index}.context", np.concatenate(heads, axis=1))


def feed_forward(model: QuantGpt, index: int, x: I64, tap: Tap = no_tap) -> I64:
    """SwiGLU before its last projection."""
    layer = model.layers[index]
    gate = layer.silu.astype(np.int64)[tap(f"{index}.gate", linear(x, layer.gate)) + 128]
    up = tap(f"{index}.up", linear(x, layer.up))
    a, b = gate - layer.silu_out.zero, up - layer.up.out.zero
    return num.mul(a, b, layer.product, _output(layer.product_out), ROUNDING)


def logits(model: QuantGpt, tokens: Sequence[int], tap: Tap = no_tap) -> I64:
    """int16 scores [tokens, vocabulary] of every position, from position 0 on.

    `tap` sees, and may change, the result of every matrix product: per layer query_key (before the
    rotation), value, context (of all heads), output, gate (before its table), up, down; then head.
    """
    x = model.embedding[np.asarray(tokens)].astype(np.int64)
    for i, layer in enumerate(model.layers):
        context = attention(model, i, norm(x, layer.norm1), tap)
        x = add(x, tap(f"{i}.output", linear(context, layer.output)))
        inner = feed_forward(model, i, norm(x, layer.norm2), tap)
        x = add(x, tap(f"{i}.down", linear(inner, layer.down)))
    return tap("head", linear(norm(x, model.final), model.head))


def bits(scores: NDArray[np.float64], following: I64) -> float:
    """Sum of -log2 p(next token) over rows of real scores."""
    top = scores.max(axis=-1)
    total = top + np.log(np.exp(scores - top[:, None]).sum(axis=-1))
    return float((total - scores[np.arange(len(scores)), following]).sum() / math.log(2))


def bits_per_byte(model: QuantGpt, data: bytes) -> float:
    """As `transformer.bits_per_byte`, of the quantised model."""
    total, count = 0.0, 0
    for start in range(0, len(data) - 1, model.context):
        window = np.frombuffer(data[start : start + model.context], np.uint8).astype(np.int64)
        if len(window) < 2:
            break
        rows = model.head.out.real(logits(model, window)[:-1])
        total += bits(rows, window[1:])
        count += len(window) - 1
    return total / count
