"""Shape of a decoder-only language model: layers, weights, bytes of keys and values.

Ref: docs/workloads.md; the published sizes that it reproduces are in its tests.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from bankside.schema import Section, key_problem

_Size = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class LayerKind:
    """A run of equal layers.

    Attributes:
        count: layers in the run.
        attention: `heads` (multi-head, grouped-query or multi-query) or `latent` (MLA).
        window: tokens that a query sees at most, itself included; None sees all before it.
        ffn: `dense`, or `moe` (experts behind a router).
    """

    count: int
    attention: Literal["heads", "latent"]
    window: int | None
    ffn: Literal["dense", "moe"]


class Mla(Section):
    """Multi-head latent attention. Ref: DeepSeek-V2, arXiv 2405.04434, section 2.1.

    Attributes:
        q_rank: width of the compressed query; None has no compression.
        kv_rank: width of the compressed keys and values, cached per token.
        nope_dim: width of a head's query and key without position.
        rope_dim: width of their rotated part; the key's is shared by all heads and cached.
        value_dim: width of a head's value.
    """

    q_rank: _Size | None = None
    kv_rank: _Size
    nope_dim: _Size
    rope_dim: _Size
    value_dim: _Size

    @property
    def cached(self) -> int:
        """Elements in the cache per token and layer."""
        return self.kv_rank + self.rope_dim


class Moe(Section):
    """Mixture of experts, each a gated feed-forward network.

    Attributes:
        experts: routed experts of a layer.
        top_k: experts that a token visits.
        expert_hidden: inner width of one expert.
        shared: experts that every token visits besides.
        first_dense: so many layers at the bottom are dense.
        dense_layers: further dense layers, by number from 0.
        bias: a learned correction per expert in the router (DeepSeek-V3).
    """

    experts: _Size
    top_k: _Size
    expert_hidden: _Size
    shared: int = Field(default=0, ge=0)
    first_dense: int = Field(default=0, ge=0)
    dense_layers: tuple[int, ...] = Field(default=(), strict=False)
    bias: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.top_k > self.experts:
            raise key_problem(
                "top_k", f"is {self.top_k}, more than the {self.experts} experts there are"
            )
        return self

    def touched(self, tokens: object) -> object:
        """Expected number of experts that `tokens` tokens visit, under uniform routing.

        Real routing is more uneven and touches fewer: `E (1 - (1 - k/E)^t)` is an upper estimate.
        """
        return self.experts * (1 - (1 - self.top_k / self.experts) ** tokens)  # type: ignore[operator]


class Architecture(Section):
    """A decoder-only transformer.

    Attributes:
        name: for people.
        depth: number of layers.
        hidden: width of the residual stream.
        heads, kv_heads, head_dim: query heads, key and value heads, width of each. With `mla` the
            cache is the latent one and `head_dim` is the width without rotation.
        ffn_hidden: inner width of a dense feed-forward network.
        ffn: `gated` (three matrices: gate, up, down) or `plain` (two).
        activation: of the feed-forward network.
        norm: `rmsnorm` or `layernorm` (which also has biases).
        position: `rope` (rotation of queries and keys) or `learned` (a table).
        position_rows: rows of that table; by default `max_positions`.
        vocab: rows of the embedding.
        embed_dim: width of the embedding where a projection joins it to `hidden`.
        max_positions: context that the model was made for.
        qkv_bias, out_bias, ffn_bias: biases of these matrices.
        qk_norm: each head's query and key are normalised.
        final_norm: a norm stands before the language-model head.
        tied: the head shares the embedding's weights.
        window: tokens that a query sees at most, itself included, in the layers `window_layers`
            (numbers from 0; None: all).
    """

    name: str = Field(min_length=1)
    depth: _Size
    hidden: _Size
    heads: _Size
    kv_heads: _Size
    head_dim: _Size
    ffn_hidden: _Size
    ffn: Literal["gated", "plain"]
    activation: Literal["silu", "gelu", "relu"]
    norm: Literal["rmsnorm", "layernorm"]
    position: Literal["rope", "learned"]
    position_rows: _Size | None = None
    vocab: _Size
    embed_dim: _Size | None = None
    max_positions: _Size
    qkv_bias: bool = False
    out_bias: bool = False
    ffn_bias: bool = False
    qk_norm: bool = False
    final_norm: bool = True
    tied: bool = False
    window: _Size | None = None
    window_layers: tuple[int, ...] | None = Field(default=None, strict=False)
    mla: Mla | None = None
    moe: Moe | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.heads % self.kv_heads:
            raise key_problem(
                "kv_heads",
                f"is {self.kv_heads}, which does not divide {self.heads} heads; each key and "
                f"value head serves equally many query heads",
            )
        if self.mla and self.kv_heads != self.heads:
            raise key_problem("kv_heads", f"is {self.kv_heads}; latent attention has {self.heads}")
        if self.moe and self.moe.first_dense > self.depth:
            raise key_problem(
                "moe.first_dense", f"is {self.moe.first_dense}; there are {self.depth} layers"
            )
        numbered = {"window_layers": self.window_layers or ()}
        if self.moe:
            numbered["moe.dense_layers"] = self.moe.dense_layers
        for key, layers in numbered.items():
            if any(not 0 <= layer < self.depth for layer in layers):
                raise key_problem(key, f"names a layer outside 0 to {self.depth - 1}")
        return self

    @classmethod
    def load(cls, source: str | Path) -> "Architecture":
        """Read an architecture.

        Args:
            source: name of a preset; or the path (contains "/" or ends in .json or .yaml) of a
                Hugging Face `config.json`, of a folder that holds one, or of a YAML file with
                these attributes as keys.

        Raises:
            ConfigError: no such preset or file, an unknown model family, a key that is missing or
                makes no sense.
        """
        from bankside.mapping.workload.load import load_architecture

        return load_architecture(source)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some attributes changed, checked again, nothing cached taken over."""
        return type(self).model_validate(self.model_dump() | dict(update or {}))

    # --- layers -----------------------------------------------------------------------------------
    @cached_property
    def layers(self) -> tuple[LayerKind, ...]:
        """Runs of equal layers, bottom to top."""
        kinds = [self._kind(layer) for layer in range(self.depth)]
        return tuple(
            LayerKind(sum(1 for _ in run), attention, window, ffn)  # type: ignore[arg-type]
            for (attention, window, ffn), run in groupby(kinds)
        )

    def _kind(self, layer: int) -> tuple[str, int | None, str]:
        windowed = self.window_layers is None or layer in self.window_layers
        moe = self.moe
        routed = moe is not None and layer >= moe.first_dense and layer not in moe.dense_layers
        return (
            "latent" if self.mla else "heads",
            self.window if windowed else None,
            "moe" if routed else "dense",
        )

    @property
    def group(self) -> int:
        """Query heads that share a key and value head."""
        return self.heads // self.kv_heads

    @property
    def value_dim(self) -> int:
        """Width of a head's result."""
        return self.mla.value_dim if self.mla else self.head_dim

    # --- parameters -------------------------------------------------------------------------------
    @property
    def _norm_size(self) -> int:
        return self.hidden * (1 if self.norm == "rmsnorm" else 2)

    def attention_parameters(self) -> int:
        """Weights of one layer's attention: projections, biases, norms inside."""
        if self.mla:
            return self._latent_parameters(self.mla)
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        weights = self.hidden * (wide + 2 * narrow) + wide * self.hidden
        biases = (wide + 2 * narrow) * self.qkv_bias + self.hidden * self.out_bias
        return weights + biases + 2 * self.head_dim * self.qk_norm

    def _latent_parameters(self, mla: Mla) -> int:
        query = self.heads * (mla.nope_dim + mla.rope_dim)
        into = self.hidden * query
        if mla.q_rank:
            into = self.hidden * mla.q_rank + mla.q_rank + mla.q_rank * query
            into += mla.q_rank * self.qkv_bias
        compress = self.hidden * mla.cached + mla.kv_rank + mla.cached * self.qkv_bias
        expand = mla.kv_rank * self.heads * (mla.nope_dim + mla.value_dim)
        out = self.heads * mla.value_dim * self.hidden + self.hidden * self.out_bias
        return into + compress + expand + out

    def _ffn_size(self, inner: int) -> int:
        matrices = 3 if self.ffn == "gated" else 2
        biases = inner * (matrices - 1) + self.hidden if self.ffn_bias else 0
        return matrices * self.hidden * inner + biases

    def layer_parameters(self, layer: LayerKind, active: bool = False) -> int:
        """Weights of one layer of a kind; `active`: those that one token meets."""
        total = self.attention_parameters() + 2 * self._norm_size
        if layer.ffn == "dense" or self.moe is None:
            return total + self._ffn_size(self.ffn_hidden)
        moe = self.moe
        experts = (moe.top_k if active else moe.experts) + moe.shared
        router = self.hidden * moe.experts + moe.experts * moe.bias
        return total + experts * self._ffn_size(moe.expert_hidden) + router

    def head_parameters(self) -> int:
        """Weights outside the layers: embedding, positions, last norm, language-model head."""
        width = self.embed_dim or self.hidden
        total = self.vocab * width * (1 if self.tied else 2)
        if self.embed_dim:
            total += 2 * self.embed_dim * self.hidden
        if self.position == "learned":
            total += (self.position_rows or self.max_positions) * self.hidden
        return total + self._norm_size * self.final_norm

    @cached_property
    def parameters(self) -> int:
        """All weights. Heads for predicting more than one token (DeepSeek's MTP) are left out."""
        layers = sum(kind.count * self.layer_parameters(kind) for kind in self.layers)
        return layers + self.head_parameters()

    @cached_property
    def active_parameters(self) -> int:
        """Weights that one token meets: of the experts, `top_k` and the shared ones."""
        layers = sum(kind.count * self.layer_parameters(kind, active=True) for kind in self.layers)
        return layers + self.head_parameters()

    def weight_bytes(self, bits: float = 16) -> float:
        """Bytes of all weights at `bits` per weight."""
        return self.parameters * bits / 8

    def active_weight_bytes(self, bits: float = 16) -> float:
        """Bytes of the weights that one token meets at `bits` per weight."""
        return self.active_parameters * bits / 8

    # --- keys and values --------------------------------------------------------------------------
    @property
    def kv_elements(self) -> int:
        """Elements cached per token in one layer: keys and values, or MLA's latent vector."""
        return self.mla.cached if self.mla else 2 * self.kv_heads * self.head_dim

    def kv_bytes_per_token(self, bits: float = 16) -> float:
        """Bytes cached per token over all layers, while every layer still keeps the token."""
        return self.depth * self.kv_elements * bits / 8

    def kv_bytes(self, context: float, bits: float = 16) -> float:
        """Bytes cached for a context of so many tokens; a window's layer keeps no more than it."""
        kept = sum(kind.count * min(context, kind.window or context) for kind in self.layers)
        return kept * self.kv_elements * bits / 8

    def describe(self) -> Iterator[str]:
        """Yield lines that tell people what this is."""
        kv = self.kv_bytes_per_token()
        yield f"{self.name}: {self.parameters / 1e9:.2f} G parameters, {self.depth} layers"
        if self.moe:
            yield f"  {self.active_parameters / 1e9:.2f} G of them active per token"
        yield f"  keys and values: {kv / 1024:.1f} KiB per token in 16 bits"
