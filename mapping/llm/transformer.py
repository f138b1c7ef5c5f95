"""Run a loaded model: the prompt in numpy, then token by token with a pluggable attention engine.

Everything but decode attention is float32 numpy with a fixed order of operations (`layers`). K
(after RoPE) and V are rounded to float16, the form of the K/V cache; q is scaled to base 2 and
rounded to float16; attention returns float16. Attention over the prompt uses the same formats and,
unless another engine computes it, the arithmetic of `NumpyAttention`, so cached decoding with that
engine repeats a full recomputation bit for bit.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError
from bankside.mapping.llm.attention import (
    Array16,
    AttentionEngine,
    NumpyAttention,
    NumpyPrompt,
    PromptEngine,
    scale_query,
    to_half,
)
from bankside.mapping.llm.layers import Array32, activate, linear, normalise, rotate
from bankside.mapping.llm.model import Layer, Model

__all__ = [
    "AttentionEngine",
    "Generation",
    "NumpyAttention",
    "bits_per_byte",
    "generate",
    "prompt_logits",
]

# Attention over a run of tokens: layer, q [tokens, query_heads, head_dim] scaled, k and v
# [tokens, kv_heads, head_dim]; returns [tokens, query_heads, head_dim].
Attend = Callable[[int, Array16, Array16, Array16], Array16]


@dataclass(frozen=True, eq=False)
class Generation:
    """New tokens, and the `logits` [new tokens, vocabulary] each was chosen from."""

    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    text: bytes
    logits: Array32
    attention_calls: int


def embed(model: Model, tokens: Sequence[int], first: int) -> Array32:
    """Input of the first layer [tokens, hidden] for tokens from position `first` on."""
    x = model.embedding[np.asarray(tokens)]
    if model.project_in is not None:
        x = linear(x, model.project_in)
    if model.positions is not None:
        row = first + model.position_offset
        x = x + model.positions[row : row + len(tokens)]
    return x


def _attention(model: Model, index: int, x: Array32, first: int, attention: Attend) -> Array32:
    """Self-attention of layer `index` on normalised x [tokens, hidden]."""
    layer = model.layers[index]
    q, k, v = (
        linear(x, part).reshape(len(x), -1, model.head_dim)
        for part in (layer.query, layer.key, layer.value)
    )
    if model.rope_inverse is not None:
        q, k = rotate(q, model.rope_inverse, first), rotate(k, model.rope_inverse, first)
    y = attention(
        index,
        to_half(scale_query(q), f"query of layer {index}"),
        to_half(k, f"key of layer {index}"),
        to_half(v, f"value of layer {index}"),
    )
    return linear(y.astype(np.float32).reshape(len(x), -1), layer.output)


def _feed_forward(model: Model, layer: Layer, x: Array32) -> Array32:
    up = linear(x, layer.up)
    if layer.gate is None:
        return linear(activate(up, model.activation), layer.down)
    return linear(activate(linear(x, layer.gate), model.activation) * up, layer.down)


def decoder_layer(model: Model, index: int, x: Array32, first: int, attention: Attend) -> Array32:
    """Output of layer `index` [tokens, hidden] for its input x, tokens from position `first` on."""
    layer = model.layers[index]
    for norm, part in (
        (layer.attention_norm, lambda h: _attention(model, index, h, first, attention)),
        (layer.mlp_norm, lambda h: _feed_forward(model, layer, h)),
    ):
        if model.pre_norm:
            x = x + part(normalise(x, norm, model.norm, model.epsilon))
        else:
            x = normalise(x + part(x), norm, model.norm, model.epsilon)
    return x


def _hidden(model: Model, tokens: Sequence[int], first: int, attention: Attend) -> Array32:
    """Output of the last layer [tokens, hidden] for tokens from position `first` on."""
    x = embed(model, tokens, first)
    for index in range(len(model.layers)):
        x = decoder_layer(model, index, x, first, attention)
    return x


def head_logits(model: Model, x: Array32) -> Array32:
    """Logits [tokens, vocabulary] of the last layer's output."""
    if model.final_norm is not None:
        x = normalise(x, model.final_norm, model.norm, model.epsilon)
    if model.project_out is not None:
        x = linear(x, model.project_out)
    return linear(x, model.head)


def _checked(engine: object, index: int, y: Array16, q: Array16) -> Array16:
    """The answer of an engine to q, whose form is checked."""
    if y.shape != q.shape or y.dtype != q.dtype:
        raise ConfigError(
            f"attention engine {type(engine).__name__} returned {y.dtype} {list(y.shape)} "
            f"in layer {index}, expected {q.dtype} {list(q.shape)}"
        )
    return y


def _prompt_attention(engine: AttentionEngine | None, prompt: PromptEngine) -> Attend:
    """Causal attention by `prompt`; K and V are handed to `engine` when there is one."""

    def run(index: int, q: Array16, k: Array16, v: Array16) -> Array16:
        if engine is not None:
            engine.prefill(index, k, v)
        return _checked(prompt, index, prompt.attend(index, q, k, v), q)

    return run


def _decode_attention(engine: AttentionEngine) -> Attend:
    """One new token through `engine`."""

    def run(index: int, q: Array16, k: Array16, v: Array16) -> Array16:
        return _checked(engine, index, engine.decode(index, q[0], k[0], v[0]), q[0])[None]

    return run


def _start(model: Model, engine: AttentionEngine, max_tokens: int) -> None:
    engine.start(
        layers=len(model.layers),
        kv_heads=model.kv_heads,
        query_heads=model.query_heads,
        head_dim=model.head_dim,
        max_tokens=max_tokens,
    )


def _check_tokens(model: Model, prompt: bytes | Sequence[int]) -> tuple[int, ...]:
    """Token ids of the prompt; bytes are ids only where the vocabulary is the 256 byte values."""
    if isinstance(prompt, bytes) and model.vocabulary != 256:
        raise ConfigError(
            f"the prompt is bytes, but the model has {model.vocabulary} tokens, expected 256 (byte "
            "level); tokenise the prompt and pass token ids"
        )
    tokens = tuple(int(t) for t in prompt)
    if not tokens:
        raise ConfigError("the prompt is empty; give at least one token")
    bad = [t for t in tokens if not 0 <= t < model.vocabulary]
    if bad:
        raise ConfigError(
            f"token {bad[0]} in the prompt, expected 0 to {model.vocabulary - 1}; "
            "tokenise it for this model"
        )
    return tokens


def _check_length(model: Model, total: int) -> None:
    if total > model.context:
        raise ConfigError(
            f"{total} tokens exceed the context of the model, which is {model.context} tokens; "
            "shorten the prompt or generate less"
        )


def prompt_logits(model: Model, tokens: bytes | Sequence[int]) -> Array32:
    """Logits [tokens, vocabulary] of every position, all computed at once without an engine."""
    ids = _check_tokens(model, tokens)
    _check_length(model, len(ids))
    return head_logits(model, _hidden(model, ids, 0, _prompt_attention(None, NumpyPrompt())))


def _choose(logits: Array32, temperature: float, random: np.random.Generator) -> int:
    """The likeliest token (the first of equals), or a sample when `temperature` is above 0."""
    if temperature == 0:
        return int(logits.argmax())
    scaled = (logits.astype(np.float64) - logits.max()) / temperature
    cumulative = np.cumsum(np.exp(scaled))
    return int(np.searchsorted(cumulative, random.random() * cumulative[-1], side="right"))


def generate(
    model: Model,
    engine: AttentionEngine,
    prompt: bytes | Sequence[int],
    new_tokens: int,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    prompt_engine: PromptEngine | None = None,
    on_token: Callable[[int], None] | None = None,
) -> Generation:
    """Continue `prompt` by `new_tokens` tokens; greedy unless `temperature` is above 0.

    The prompt's last logits give the first new token, so the engine decodes `new_tokens` - 1
    tokens in every layer. Attention over the prompt is computed by `prompt_engine`, in numpy when
    there is none. `on_token` is called with each token as soon as it is chosen. `text`
    holds the new bytes and is empty for a model whose tokens are not bytes.
    Errors: ConfigError for an empty or foreign prompt, a context overflow, a negative temperature.
    """
    ids = _check_tokens(model, prompt)
    if new_tokens < 1 or not 0 <= temperature < math.inf:
        raise ConfigError(
            f"new_tokens is {new_tokens} and temperature {temperature}; expected at least 1 token "
            "and a finite temperature of at least 0"
        )
    _check_length(model, len(ids) + new_tokens)
    random = np.random.default_rng(seed)
    _start(model, engine, len(ids) + new_tokens - 1)
    over_prompt = _prompt_attention(engine, prompt_engine or NumpyPrompt())
    x = _hidden(model, ids, 0, over_prompt)[-1:]
    decode = _decode_attention(engine)
    tokens: list[int] = []
    logits: list[Array32] = []
    while True:
        logits.append(head_logits(model, x)[0])
        tokens.append(_choose(logits[-1], temperature, random))
        if on_token is not None:
            on_token(tokens[-1])
        if len(tokens) == new_tokens:
            break
        x = _hidden(model, tokens[-1:], len(ids) + len(tokens) - 1, decode)
    text = bytes(tokens) if model.vocabulary == 256 else b""
    return Generation(
        ids, tuple(tokens), text, np.stack(logits), (new_tokens - 1) * len(model.layers)
    )


def _engine_logits(model: Model, ids: Sequence[int], engine: AttentionEngine) -> Array32:
    """Logits [tokens, vocabulary] with every token after the first decoded by `engine`."""
    _start(model, engine, len(ids))
    decode = _decode_attention(engine)
    first = _prompt_attention(engine, NumpyPrompt())
    parts = [head_logits(model, _hidden(model, ids[:1], 0, first))]
    parts += [
        head_logits(model, _hidden(model, ids[t : t + 1], t, decode)) for t in range(1, len(ids))
    ]
    return np.concatenate(parts)


def _bits(logits: Array32, following: NDArray[np.int64]) -> float:
    """Sum of -log2 p(next token) over rows [tokens, vocabulary]."""
    wide = logits.astype(np.float64)
    top = wide.max(axis=-1)
    total = top + np.log(np.exp(wide - top[:, None]).sum(axis=-1))
    return float((total - wide[np.arange(len(wide)), following]).sum() / math.log(2))


def bits_per_byte(model: Model, data: bytes, engine: AttentionEngine | None = None) -> float:
    """Mean bits to predict each byte of `data` from those before it, in windows of one context.

    With `engine`, every token after the first of a window is decoded by it; without, windows are
    computed at once. The first byte of each window has no past and is not counted.
    """
    ids = _check_tokens(model, data)
    if len(ids) < 2:
        raise ConfigError("bits per byte need at least 2 bytes of data")
    total, count = 0.0, 0
    for start in range(0, len(ids) - 1, model.context):
        window = ids[start : start + model.context]
        if len(window) < 2:
            break
        rows = (
            prompt_logits(model, window)
            if engine is None
            else _engine_logits(model, window, engine)
        )
        total += _bits(rows[:-1], np.asarray(window[1:], np.int64))
        count += len(window) - 1
    return total / count
