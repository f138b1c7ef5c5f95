"""The GPU host model: seconds of every operator, by calibrated parameters.

Ref: docs/gpu.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bankside.errors import ConfigError
from bankside.mapping.gpu import attention
from bankside.mapping.gpu.elementwise import elementwise_seconds
from bankside.mapping.gpu.fitted import SECTIONS, Fit, default_fit, load_fit
from bankside.mapping.gpu.gemm import gemm_seconds
from bankside.mapping.system import Gpu, load_gpu


@dataclass(frozen=True)
class GpuModel:
    """One GPU.

    All times are seconds of kernels without launch; arguments are numbers or arrays that broadcast,
    and the result has their shape.

    Attributes:
        gpu: rates, bandwidth, multiprocessors.
        fit: calibrated parameters.
    """

    gpu: Gpu
    fit: Fit

    @classmethod
    def load(cls, gpu: str | Gpu, fit: str | Path | None = None) -> GpuModel:
        """Make the model of a GPU.

        Args:
            gpu: name (`mapping/system/gpus.yaml`), or the GPU of a system.
            fit: name of a shipped fit or file of `bankside calibrate`; by default the one for this
                GPU, or of the nearest GPU (see `carried`). Kinds that a file lacks are taken from
                that one.

        Raises:
            ConfigError: unknown names, or a file that is not valid.
        """
        found = load_gpu(gpu) if isinstance(gpu, str) else gpu
        name = default_fit(found) if fit is None else fit
        chosen = load_fit(name)
        missing = [kind for kind in SECTIONS if getattr(chosen, kind) is None]
        if missing:
            other = load_fit(default_fit(found))
            chosen = chosen.model_copy(update={kind: getattr(other, kind) for kind in missing})
        return cls(found, chosen)

    @property
    def launch_s(self) -> float:
        """Seconds between kernels, per kernel."""
        return self.fit.launch.us * 1e-6

    @property
    def carried(self) -> dict[str, str]:
        """Kind of operator -> GPU that its parameters were fitted on, where it is another one."""
        fits = {kind: getattr(self.fit, kind).of for kind in SECTIONS}
        return {kind: of for kind, of in fits.items() if of != self.gpu.name}

    def gemm(
        self, m: ArrayLike, n: ArrayLike, k: ArrayLike, count: ArrayLike = 1, bits: float = 16
    ) -> NDArray:
        """`count` equal products (m x k) (k x n) in one kernel, elements of `bits`."""
        fit = self.fit.gemm
        return gemm_seconds(fit.parameters, self.gpu, fit.tiles, m, n, k, count, bits)

    def attention_prefill(
        self,
        pairs: ArrayLike,
        context: ArrayLike,
        queries: ArrayLike,
        heads: ArrayLike,
        kv_heads: ArrayLike,
        head_dim: ArrayLike,
        value_dim: ArrayLike | None = None,
        requests: ArrayLike = 1,
        kv_bits: float = 16,
        rotate: ArrayLike = True,
    ) -> NDArray:
        """Causal attention of new tokens; arguments of `attention.prefill_seconds`."""
        return attention.prefill_seconds(
            self.fit.prefill.parameters, self.gpu, pairs, context, queries, heads, kv_heads,
            head_dim, value_dim, requests, kv_bits, rotate,
        )  # fmt: skip

    def attention_decode(
        self,
        requests: ArrayLike,
        context: ArrayLike,
        heads: ArrayLike,
        kv_heads: ArrayLike,
        head_dim: ArrayLike,
        value_dim: ArrayLike | None = None,
        kv_dim: ArrayLike | None = None,
        kv_bits: float = 16,
        as_measured: bool = False,
    ) -> NDArray:
        """Attention of one token per request; arguments of `attention.decode_seconds`."""
        return attention.decode_seconds(
            self.fit.decode.parameters, self.gpu, requests, context, heads, kv_heads, head_dim,
            value_dim, kv_dim, kv_bits, as_measured,
        )  # fmt: skip

    def elementwise(
        self, read_bytes: ArrayLike, written_bytes: ArrayLike, flops: ArrayLike = 0
    ) -> NDArray:
        """A kernel that streams elements."""
        parameters = self.fit.elementwise.parameters
        return elementwise_seconds(parameters, self.gpu, read_bytes, written_bytes, flops)

    def operator(self, op: Any) -> NDArray:
        """Kernel seconds of an operator of `mapping.workload`, never below `floor`.

        Raises:
            ConfigError: not an operator.
        """
        return np.maximum(self._kernel(op), self.floor(op))

    def _kernel(self, op: Any) -> NDArray:
        kind = getattr(op, "kind", None)
        if kind is None:
            raise ConfigError(f"{op!r} is no operator; expected one of mapping.workload.operators")
        if kind == "gemm":
            return self.gemm(op.m, op.n, op.k, op.count, op.bits)
        if kind != "attention":
            return self.elementwise(op.read_bytes, op.written_bytes, op.flops)
        if op.phase == "prefill":
            return self.attention_prefill(
                op.pairs, op.context, op.queries, op.heads, op.kv_heads, op.head_dim,
                op.value_dim, op.requests, op.bits, rotate=False,
            )  # fmt: skip
        shared = op.kv_elements < op.kv_heads * (op.head_dim + op.value_dim)
        return self.attention_decode(
            op.requests, op.context, op.heads, op.kv_heads, op.head_dim, op.value_dim,
            op.kv_elements / op.kv_heads if shared else None, op.bits,
        )  # fmt: skip

    def floor(self, op: Any) -> NDArray:
        """Seconds that no kernel can beat for an operator: peak rates, each byte moved once."""
        bits = op.bits if op.kind == "gemm" else 16
        return np.asarray(op.bound_seconds(
            self.gpu.matrix_flops(bits), self.gpu.vector_flops, self.gpu.memory_bandwidth
        ))  # fmt: skip
