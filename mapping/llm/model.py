"""The neutral form of a decoder-only language model: sizes and float32 arrays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Linear:
    """y = x W^T + b; `weight` is [outputs, inputs], `bias` [outputs] or None."""

    weight: Array32
    bias: Array32 | None = None


@dataclass(frozen=True, eq=False)
class Norm:
    """Gain and bias of a normalisation, each [hidden]; `Model.norm` says which kind."""

    gain: Array32
    bias: Array32 | None = None


@dataclass(frozen=True, eq=False)
class Layer:
    """One decoder layer; `gate` is None unless the feed-forward part is gated (SwiGLU)."""

    attention_norm: Norm
    query: Linear
    key: Linear
    value: Linear
    output: Linear
    mlp_norm: Norm
    gate: Linear | None
    up: Linear
    down: Linear


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model.

    Shapes: `embedding` [vocabulary, embedding width], `positions` [rows, hidden] or None when the
    model rotates (RoPE), `rope_inverse` [head_dim / 2] radians per token in float64 or None.
    Token t takes row t + `position_offset` of `positions` (2 in OPT, else 0).
    """

    family: str
    vocabulary: int
    hidden: int
    query_heads: int
    kv_heads: int
    head_dim: int
    context: int
    norm: str
    epsilon: float
    activation: str
    pre_norm: bool
    embedding: Array32
    positions: Array32 | None
    position_offset: int
    rope_inverse: NDArray[np.float64] | None
    project_in: Linear | None
    layers: tuple[Layer, ...]
    final_norm: Norm | None
    project_out: Linear | None
    head: Linear

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.query_heads // self.kv_heads
