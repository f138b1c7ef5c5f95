"""Multi-head latent attention (MLA): expanded for prompts, absorbed for decode.

The cache holds one vector of `kv_rank + rope_dim` elements per token for all heads. Expanded: keys
and values of every head are made of it again, then ordinary attention follows. Absorbed: the
matrices that would make them are applied to queries and results instead, so all heads share the
cached vector as their only key, and its first `kv_rank` elements as their value.

Ref: DeepSeek-V2, arXiv 2405.04434, sections 2.1.2 and 2.1.3; appendix C has the absorbed form.
"""

from __future__ import annotations

from bankside.mapping.workload.architecture import LayerKind, Mla
from bankside.mapping.workload.batch import Batch, Numbers
from bankside.mapping.workload.parts import Parts
from bankside.mapping.workload.types import Operator


def latent_attention(make: Parts, layer: LayerKind, batch: Batch) -> list[Operator]:
    """Attention of one layer with MLA, from the norm before to the projection after."""
    arch, mla, tokens = make.arch, make.arch.mla, batch.tokens
    assert mla is not None
    ops = _query(make, mla, tokens)
    ops += [
        make.gemm("kv_a", tokens, mla.cached, arch.hidden, bias=arch.qkv_bias),
        make.norm("kv_a_norm", tokens, mla.kv_rank),
        make.rope("rope", tokens, (make.heads + 1) * mla.rope_dim),
        make.cache("kv_append", tokens, mla.cached),
    ]
    seen = batch.windowed(layer.window)
    ops += _expanded(make, mla, seen, layer.window) + _absorbed(make, mla, seen, layer.window)
    wide = make.heads * mla.value_dim
    return [*ops, make.gemm("out", tokens, arch.hidden, wide, bias=arch.out_bias)]


def _query(make: Parts, mla: Mla, tokens: Numbers) -> list[Operator]:
    arch, wide = make.arch, make.heads * (mla.nope_dim + mla.rope_dim)
    if not mla.q_rank:
        return [make.gemm("q", tokens, wide, arch.hidden)]
    return [
        make.gemm("q_a", tokens, mla.q_rank, arch.hidden, bias=arch.qkv_bias),
        make.norm("q_a_norm", tokens, mla.q_rank),
        make.gemm("q_b", tokens, wide, mla.q_rank),
    ]


def _expanded(make: Parts, mla: Mla, seen: Batch, window: int | None) -> list[Operator]:
    """Prefill. Each pass expands the whole context, also what earlier chunks have cached."""
    made = make.heads * (mla.nope_dim + mla.value_dim)
    attention = make.attention(
        "prefill", seen, heads=make.heads, kv_heads=make.heads,
        head_dim=mla.nope_dim + mla.rope_dim, value_dim=mla.value_dim,
        kv_elements=mla.rope_dim, expanded=made, window=window,
    )  # fmt: skip
    if attention is None:
        return []
    return [
        make.gemm("kv_b", seen.prefill_context, made, mla.kv_rank, cached_input=True),
        attention,
    ]


def _absorbed(make: Parts, mla: Mla, seen: Batch, window: int | None) -> list[Operator]:
    """Decode. One product per head before and after attention on the cached vectors."""
    attention = make.attention(
        "decode", seen, heads=make.heads, kv_heads=1, head_dim=mla.cached,
        value_dim=mla.kv_rank, kv_elements=mla.cached, window=window,
    )  # fmt: skip
    if attention is None:
        return []
    rows, heads = seen.decode_requests, make.heads
    return [
        make.gemm("absorb_key", rows, mla.kv_rank, mla.nope_dim, heads),
        attention,
        make.gemm("absorb_value", rows, mla.value_dim, mla.kv_rank, heads),
    ]
