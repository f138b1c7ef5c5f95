"""One maker per kind of operator: the arithmetic of operations and bytes.

Operations per element, beside products (exponential and division count as one): RMS norm 4
(square, sum, scale, weight), layer norm 7 (sum, subtract, square, sum, scale, weight, bias),
softmax 5 (scale, maximum, subtract, exponential, sum), rotation 3 (two products and a sum), SiLU 4,
GELU (tanh form) 9, ReLU 1.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch, Numbers
from bankside.mapping.workload.types import Attention, Bits, Elementwise, Gemm, Operator

_NORM = {"rmsnorm": 4, "layernorm": 7}
_ACTIVATION = {"silu": 4, "gelu": 9, "relu": 1}
_SOFTMAX = 5
_ROTATION = 3


class Parts:
    """Makes operators for one of `tp` shares of a model.

    Args:
        arch: the model.
        bits: width of weights, activations, cached keys and values.
        tp: tensor-parallel shares, checked by the caller.
    """

    def __init__(self, arch: Architecture, bits: Bits, tp: int) -> None:
        self.arch, self.tp, self.bits = arch, tp, bits
        self.heads = arch.heads // tp
        self.kv_heads = max(arch.kv_heads // tp, 1)
        self._weight, self._act, self._kv = (width / 8 for width in bits)

    # --- products ---------------------------------------------------------------------------------
    def gemm(
        self,
        name: str,
        m: Numbers,
        n: int,
        k: int,
        count: Numbers = 1,
        bias: bool = False,
        cached_input: bool = False,
    ) -> Gemm:
        """Product with weights; `cached_input`: its rows come from the cache of keys and values."""
        rows = m * count
        used = count * np.greater(m, 0)
        source = rows * k * (self._kv if cached_input else self._act)
        return Gemm(
            name, "gemm",
            matrix_flops=2 * rows * n * k,
            vector_flops=rows * n * bias,
            weight_bytes=used * (n * k + n * bias) * self._weight,
            kv_bytes=source if cached_input else 0.0,
            input_bytes=0.0 if cached_input else source,
            output_bytes=rows * n * self._act,
            m=m, n=n, k=k, count=count, bits=self.bits.weight,
        )  # fmt: skip

    def ffn(self, prefix: str, m: Numbers, inner: int, count: Numbers = 1) -> list[Operator]:
        """Feed-forward network of `inner` width; `count` equal ones with `m` tokens each."""
        hidden, bias = self.arch.hidden, self.arch.ffn_bias
        gated = self.arch.ffn == "gated"
        width = 2 * inner if gated else inner
        elements = m * count * inner
        act = Elementwise(
            f"{prefix}act", "act",
            vector_flops=elements * (_ACTIVATION[self.arch.activation] + gated),
            input_bytes=m * count * width * self._act,
            output_bytes=elements * self._act,
        )  # fmt: skip
        return [
            self.gemm(
                f"{prefix}gate_up" if gated else f"{prefix}up", m, width, hidden, count, bias
            ),
            act,
            self.gemm(f"{prefix}down", m, hidden, inner, count, bias),
        ]

    # --- attention --------------------------------------------------------------------------------
    def attention(
        self,
        phase: Literal["prefill", "decode"],
        seen: Batch,
        *,
        heads: int,
        kv_heads: int,
        head_dim: int,
        value_dim: int,
        kv_elements: int,
        expanded: int = 0,
        window: int | None = None,
    ) -> Attention | None:
        """Attention of one phase; None where no point has it.

        Args:
            phase: `prefill` or `decode`.
            seen: the batch, with the window applied.
            kv_elements: elements read from the cache per token of context.
            expanded: elements read besides, that an operator before made of the cached ones.
        """
        decode = phase == "decode"
        queries = seen.decode_requests if decode else seen.prefill_tokens
        if not np.any(queries):
            return None
        pairs = seen.decode_context if decode else seen.prefill_pairs
        context = seen.decode_context if decode else seen.prefill_context
        return Attention(
            f"attention_{phase}", "attention",
            matrix_flops=2 * pairs * heads * (head_dim + value_dim),
            vector_flops=_SOFTMAX * pairs * heads,
            kv_bytes=context * kv_elements * self._kv,
            input_bytes=(queries * heads * head_dim + context * expanded) * self._act,
            output_bytes=queries * heads * value_dim * self._act,
            phase=phase, heads=heads, kv_heads=kv_heads, head_dim=head_dim, value_dim=value_dim,
            window=window, queries=queries,
            requests=seen.decode_requests if decode else seen.prefill_requests,
            pairs=pairs, context=context, longest=seen.decode_longest if decode else 0.0,
            kv_elements=kv_elements, bits=self.bits.kv,
        )  # fmt: skip

    # --- streams of elements ----------------------------------------------------------------------
    def _stream(
        self,
        name: str,
        kind: Any,
        tokens: Numbers,
        read: float,
        written: float,
        flops: float = 0,
        **bytes_: Numbers,
    ) -> Elementwise:
        """Elements read, written and operations, each per token."""
        return Elementwise(
            name, kind,
            vector_flops=tokens * flops,
            input_bytes=tokens * read * self._act,
            output_bytes=tokens * written * self._act,
            **bytes_,
        )  # fmt: skip

    def norm(
        self, name: str, tokens: Numbers, width: int | None = None, weights: int | None = None
    ) -> Elementwise:
        """Norm over `width` elements per token, with `weights` parameters (default: a norm's)."""
        width = width or self.arch.hidden
        weights = weights or width * (1 if self.arch.norm == "rmsnorm" else 2)
        read = np.greater(tokens, 0) * weights * self._weight
        flops = width * _NORM[self.arch.norm]
        return self._stream(name, "norm", tokens, width, width, flops, weight_bytes=read)

    def add(self, name: str, tokens: Numbers) -> Elementwise:
        """Sum of two streams of the hidden width."""
        hidden = self.arch.hidden
        return self._stream(name, "add", tokens, 2 * hidden, hidden, hidden)

    def rope(self, name: str, tokens: Numbers, width: int) -> Elementwise:
        """Rotation of `width` elements per token."""
        return self._stream(name, "rope", tokens, width, width, _ROTATION * width)

    def cache(self, name: str, tokens: Numbers, width: int) -> Elementwise:
        """New keys and values, `width` elements per token, appended to the cache."""
        appended = tokens * width * self._kv
        return self._stream(name, "cache", tokens, width, 0, kv_written_bytes=appended)

    def embed(self, name: str, tokens: Numbers, width: int) -> Elementwise:
        """Row of the embedding per token, and of the table of positions if there is one."""
        learned = self.arch.position == "learned"
        rows = tokens * width * (2 if learned else 1) * self._weight
        return self._stream(
            name, "embed", tokens, 0, width, width if learned else 0, weight_bytes=rows
        )

    def sample(self, name: str, tokens: Numbers, vocab: int) -> Elementwise:
        """Softmax over the vocabulary and a choice; one number per token is written."""
        return self._stream(name, "norm", tokens, vocab, 1, _SOFTMAX * vocab)

    # --- routing ----------------------------------------------------------------------------------
    def choose(self, name: str, tokens: Numbers) -> Elementwise:
        """Score of each expert, the `top_k` highest, their weights."""
        moe = self.arch.moe
        assert moe is not None
        flops = moe.experts * (_SOFTMAX + moe.bias) + moe.experts * moe.top_k
        bias = np.greater(tokens, 0) * moe.experts * moe.bias * self._weight
        written = 2 * moe.top_k  # a number and a weight for each
        return self._stream(name, "route", tokens, moe.experts, written, flops, weight_bytes=bias)

    def move(self, name: str, rows: Numbers) -> Elementwise:
        """Copy of rows of the hidden width, sorted by expert."""
        return self._stream(name, "route", rows, self.arch.hidden, self.arch.hidden)

    def combine(self, name: str, tokens: Numbers) -> Elementwise:
        """Weighted sum of the `top_k` experts' results."""
        moe, hidden = self.arch.moe, self.arch.hidden
        assert moe is not None
        return self._stream(
            name, "route", tokens, moe.top_k * hidden, hidden, 2 * moe.top_k * hidden
        )
