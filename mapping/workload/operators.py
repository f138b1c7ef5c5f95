"""Operators of a layer for a batch, vectorised. Ref: docs/workloads.md, section Operators."""

from __future__ import annotations

import numpy as np

from bankside.errors import ConfigError
from bankside.mapping.workload.architecture import Architecture, LayerKind
from bankside.mapping.workload.batch import Batch, Numbers
from bankside.mapping.workload.latent import latent_attention
from bankside.mapping.workload.parts import Parts
from bankside.mapping.workload.types import FULL, Bits, Operator


def operators(
    arch: Architecture, layer: LayerKind, batch: Batch, bits: Bits = FULL, tp: int = 1
) -> list[Operator]:
    """Operators of one layer, in order.

    Args:
        arch: the model.
        layer: one of `arch.layers`; the numbers are for one layer, whatever its `count`.
        batch: the tokens. Operators of a phase that no point has are left out.
        bits: width of weights, activations, cached keys and values.
        tp: tensor-parallel shares; the numbers are those of one of them. Heads, inner widths and
            experts' inner widths are divided; norms, additions, router and MLA's cache are not.
            The sums over all shares that this needs (two per layer, `tokens * hidden`
            activations each) are for the caller to price.

    Raises:
        ConfigError: the model cannot be divided so.
    """
    check_shares(arch, tp)
    make = Parts(arch, bits, tp)
    tokens = batch.tokens
    ops = [make.norm("attention_norm", tokens)]
    if layer.attention == "latent":
        ops += latent_attention(make, layer, batch)
    else:
        ops += _head_attention(make, layer, batch)
    ops += [make.add("attention_add", tokens), make.norm("ffn_norm", tokens)]
    ops += _experts(make, tokens) if layer.ffn == "moe" else _dense(make, tokens)
    return [*ops, make.add("ffn_add", tokens)]


def head_operators(
    arch: Architecture, batch: Batch, bits: Bits = FULL, tp: int = 1
) -> list[Operator]:
    """Operators outside the layers: embedding, last norm, language-model head, sampling.

    The head works on one token per request (`batch.outputs`): also for a chunk of a prompt that is
    not its last, which is an upper bound. Arguments as of `operators`.
    """
    check_shares(arch, tp)
    make = Parts(arch, bits, tp)
    width = arch.embed_dim or arch.hidden
    vocab = -(-arch.vocab // tp)
    ops = [make.embed("embedding", batch.tokens, width)]
    if arch.embed_dim:
        ops.append(make.gemm("project_in", batch.tokens, arch.hidden, width))
    if arch.final_norm:
        ops.append(make.norm("final_norm", batch.tokens))
    if arch.embed_dim:
        ops.append(make.gemm("project_out", batch.outputs, width, arch.hidden))
    ops.append(make.gemm("lm_head", batch.outputs, vocab, width))
    return [*ops, make.sample("sample", batch.outputs, vocab)]


def model_operators(
    arch: Architecture, batch: Batch, bits: Bits = FULL, tp: int = 1
) -> list[tuple[int, Operator]]:
    """Every operator of one forward pass with the number of layers that have it."""
    layers = [
        (layer.count, op) for layer in arch.layers for op in operators(arch, layer, batch, bits, tp)
    ]
    return layers + [(1, op) for op in head_operators(arch, batch, bits, tp)]


def check_shares(arch: Architecture, tp: int) -> None:
    """Raise ConfigError when the model cannot be divided among `tp` tensor-parallel devices."""
    sizes = {"heads": arch.heads, "ffn_hidden": arch.ffn_hidden}
    if arch.moe:
        sizes["moe.expert_hidden"] = arch.moe.expert_hidden
    for key, size in sizes.items():
        if tp < 1 or size % tp:
            fits = [n for n in range(1, arch.heads + 1) if not any(s % n for s in sizes.values())]
            raise ConfigError(
                f"{arch.name}: {key} = {size} does not divide among {tp} devices; expected one of "
                f"{', '.join(map(str, fits))}"
            )
    if arch.kv_heads % tp and tp % arch.kv_heads:
        raise ConfigError(
            f"{arch.name}: {arch.kv_heads} key heads neither divide among {tp} devices nor repeat "
            f"evenly on them; choose a divisor or a multiple of {arch.kv_heads}"
        )


# --- attention --------------------------------------------------------------------------------
def _head_attention(make: Parts, layer: LayerKind, batch: Batch) -> list[Operator]:
    """Multi-head, grouped-query and multi-query attention."""
    arch, tokens = make.arch, batch.tokens
    heads, kv_heads, dim = make.heads, make.kv_heads, arch.head_dim
    ops = [make.gemm("qkv", tokens, (heads + 2 * kv_heads) * dim, arch.hidden, bias=arch.qkv_bias)]
    if arch.qk_norm:
        ops.append(make.norm("qk_norm", tokens, (heads + kv_heads) * dim, weights=2 * dim))
    if arch.position == "rope":
        ops.append(make.rope("rope", tokens, (heads + kv_heads) * dim))
    ops.append(make.cache("kv_append", tokens, 2 * kv_heads * dim))
    ops += _phases(make, layer, batch)
    return [*ops, make.gemm("out", tokens, arch.hidden, heads * dim, bias=arch.out_bias)]


def _phases(make: Parts, layer: LayerKind, batch: Batch) -> list[Operator]:
    seen = batch.windowed(layer.window)
    shape = dict(
        heads=make.heads, kv_heads=make.kv_heads, head_dim=make.arch.head_dim,
        value_dim=make.arch.head_dim, window=layer.window,
        kv_elements=2 * make.kv_heads * make.arch.head_dim,
    )  # fmt: skip
    return [op for phase in ("prefill", "decode") if (op := make.attention(phase, seen, **shape))]


# --- feed-forward network ---------------------------------------------------------------------
def _dense(make: Parts, tokens: Numbers) -> list[Operator]:
    return make.ffn("", tokens, make.arch.ffn_hidden // make.tp)


def _experts(make: Parts, tokens: Numbers) -> list[Operator]:
    """Router, dispatch, the experts visited, their weighted sum, and the shared experts."""
    arch, moe = make.arch, make.arch.moe
    assert moe is not None
    inner = moe.expert_hidden // make.tp
    touched = moe.touched(tokens)
    visits = tokens * moe.top_k
    rows = visits / np.maximum(touched, 1e-300)
    ops = [
        make.gemm("router", tokens, moe.experts, arch.hidden),
        make.choose("top_k", tokens),
        make.move("dispatch", visits),
        *make.ffn("expert_", rows, inner, count=touched),
        make.combine("combine", tokens),
    ]
    if moe.shared:
        ops += make.ffn("shared_", tokens, moe.shared * inner)
        ops.append(make.add("shared_add", tokens))
    return ops
