"""All of a pass on NPUs: weights, keys and values in their main memory, int8 activations.

Operators follow each other, each at the cycles of its program by the timing model
(`npu_latency`). Rows of a routing, the embedding's rows and the choice of a token, for which the
engine has no command, take their bytes at the bandwidth of main memory or of the data port.

Ref: docs/npu.md; docs/policies.md, section NPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bankside.errors import ConfigError
from bankside.mapping.policy.common import AnyPolicy, Cost, Devices, Line, sum_seconds, total
from bankside.mapping.policy.npu_latency import LONGEST, NpuLatency
from bankside.mapping.system.system import System
from bankside.mapping.system.tables import load_link
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch, Numbers
from bankside.mapping.workload.types import FULL, Attention, Bits, Gemm, Operator

#: Most channels of NORM (docs/npu.md section 9).
_NORM_CHANNELS = 4096
#: Products whose results are int16: into the residual stream, logits.
_WIDE = ("out", "lm_head", "project_in", "project_out")
_WITHOUT_COMMAND = ("embed", "route")


class OnNpu(AnyPolicy):
    """Tensor-parallel shares of each copy of the model; copies share the requests evenly.

    The widths are the engine's own: weights as its tiles store them, int8 activations and cache.
    """

    name = "npu"
    weight_place = "NPU memory"
    kv_place = "NPU memory"
    kv_with_shares = True

    def __init__(
        self, arch: Architecture, system: System, bits: Bits = FULL, tp: int | None = None
    ) -> None:
        if system.npu is None:
            raise ConfigError(
                f"policy {self.name}: {system.name} has no npu; choose a system that has, such as "
                f"npu, or another policy"
            )
        self.npu = system.npu
        self.latency = NpuLatency.of(
            self.npu.config(), self.npu.memory_bandwidth, self.npu.weight_bits
        )
        own = Bits(self.latency.stored_bits, 8, 8)
        if bits not in (FULL, own):
            raise ConfigError(
                f"policy {self.name}: {bits.weight:g}, {bits.activation:g} and {bits.kv:g} bits of "
                f"weights, activations, keys and values; the engine has {own.weight:g}, 8 and 8"
            )
        self.link = load_link(self.npu.link) if self.npu.link else None
        super().__init__(arch, system, own, tp)

    def check(self) -> None:
        arch = self.arch
        if self.npu.weight_bits not in (4, 8):
            raise ConfigError(
                f"policy {self.name}: {self.system.name} has npu.weight_bits = "
                f"{self.npu.weight_bits}; the engine has 4 and 8"
            )
        if any(layer.attention == "latent" for layer in arch.layers):
            raise ConfigError(
                f"policy {self.name}: {arch.name} has latent attention, of which no program for "
                f"the npu engine exists; use gpu_only"
            )
        if arch.hidden > _NORM_CHANNELS:
            raise ConfigError(
                f"policy {self.name}: {arch.name} is {arch.hidden} wide; NORM of the npu engine "
                f"takes at most {_NORM_CHANNELS} channels: use a narrower model, or a GPU"
            )

    @property
    def devices(self) -> Devices:
        npu, system = self.npu, self.system.name
        return Devices(
            npu.count, npu.memory_bytes, "NPUs", system, "npu.link", self.link is not None
        )

    # --- one pass ---------------------------------------------------------------------------------
    def step(self, batch: Batch) -> Cost:
        """Raises ConfigError: a context longer than SOFTMAX takes."""
        batch = self.divided(batch)
        parts = {f"npu.{part}": 0.0 * batch.tokens for part in ("linear", "attention", "other")}
        parts["npu.memory"] = parts["npu.sums"] = 0.0 * batch.tokens
        for layers, op, seconds in self._timed(batch):
            part = f"npu.{self._part(op)}"
            parts[part] = parts[part] + layers * seconds
        moved = batch.tokens * self.arch.hidden * self.bits.activation / 8
        layers = sum(layer.count for layer in self.arch.layers)
        parts["npu.sums"] = 2 * layers * sum_seconds(self.link, self.shares.tp, moved)
        return Cost(total(parts), self.energy(batch), parts)

    def lower_bound(self, batch: Batch) -> Numbers:
        """Seconds that no schedule can beat: every product once, and every weight, key and value
        read once, with all NPUs at their peaks.
        """
        flops, moved = self._work(self.divided(batch))
        return np.maximum(flops / self.peak, moved / self.latency.bandwidth)

    @property
    def peak(self) -> float:
        """Operations of products per second of one NPU."""
        return 2 * self.latency.machine.macs * self.latency.clock

    def energy(self, batch: Batch) -> Numbers | None:
        """Joules of all copies: products, weights, keys and values, once each; None: not known."""
        per_flop, per_byte = self.npu.energy_per_flop_pj, self.npu.energy_per_byte_pj
        if per_flop is None or per_byte is None:
            return None
        flops, moved = self._work(batch)
        return self.of_all(1e-12 * self.shares.tp * (per_flop * flops + per_byte * moved))

    def _work(self, batch: Batch) -> tuple[Numbers, Numbers]:
        """Operations of products; bytes of weights, keys and values: of one share."""
        flops: Numbers = 0.0
        moved: Numbers = 0.0
        for layers, op in self.operators(batch):
            flops = flops + layers * op.matrix_flops
            moved = moved + layers * (op.weight_bytes + op.kv_bytes)
        return flops, moved

    # --- operators --------------------------------------------------------------------------------
    def _timed(self, batch: Batch) -> Iterator[tuple[int, Operator, Numbers]]:
        """Every operator with its seconds on one NPU."""
        self._check_contexts(batch)
        before = Gemm("", "gemm")
        for layers, op in self.operators(batch):
            if self._part(op) == "memory":
                seconds = op.bytes / self.latency.bandwidth
            else:
                seconds = self._cycles(op, before, batch) / self.latency.clock
            yield layers, op, seconds
            before = op if isinstance(op, Gemm) else before

    def _check_contexts(self, batch: Batch) -> None:
        prompts = batch.prefill_context / np.maximum(batch.prefill_requests, 1e-300)
        longest = float(np.max(np.maximum(prompts, batch.decode_longest), initial=0))
        if longest > LONGEST and any(layer.window is None for layer in self.arch.layers):
            raise ConfigError(
                f"policy {self.name}: a context of {longest:,.0f} tokens; SOFTMAX of the npu "
                f"engine takes at most {LONGEST:,}: use shorter ones"
            )

    @staticmethod
    def _part(op: Operator) -> str:
        if op.kind in _WITHOUT_COMMAND or op.name == "sample":
            return "memory"
        return {"gemm": "linear", "attention": "attention"}.get(op.kind, "other")

    def _cycles(self, op: Operator, before: Gemm, batch: Batch) -> Numbers:
        """`before`: the last product before it."""
        arch, latency, tokens = self.arch, self.latency, batch.tokens
        if isinstance(op, Gemm):
            return op.count * latency.product(op.m, op.n, op.k, self._wide(op))
        if isinstance(op, Attention):
            return self._attention(op)
        heads, kv = arch.heads // self.shares.tp, max(arch.kv_heads // self.shares.tp, 1)
        match op.kind:
            case "norm":
                rms = arch.norm == "rmsnorm"
                if op.name == "qk_norm":
                    return latency.norm(tokens, heads + kv, arch.head_dim, rms)
                return latency.norm(tokens, 1, arch.hidden, rms)
            case "rope":
                return latency.rotation(tokens, heads + kv, arch.head_dim)
            case "cache":
                requests = batch.prefill_requests + batch.decode_requests
                return kv * latency.append(tokens, requests, arch.head_dim)
            case "act":
                gated = arch.ffn == "gated"
                inner = before.n // 2 if gated else before.n
                return before.count * latency.activation(before.m, inner, gated)
            case "add":
                return latency.addition(tokens, arch.hidden)
        raise NotImplementedError(f"operator {op.name} of kind {op.kind}")

    def _wide(self, op: Gemm) -> bool:
        rotated = op.name == "qkv" and self.arch.position == "rope"
        return rotated or op.name in _WIDE or op.name.endswith("down")

    def _attention(self, op: Attention) -> Numbers:
        """Requests of average length."""
        group = op.heads // op.kv_heads
        requests = np.asarray(op.requests, float)
        each = np.maximum(requests, 1e-300)
        if op.phase == "decode":
            rows, seen = np.where(requests > 0, group, 0), op.context / each
        else:
            rows = op.queries * group / each
            seen = op.pairs / np.maximum(op.queries, 1e-300)
        masked = op.phase == "prefill"
        return (
            requests * op.kv_heads * self.latency.attention(rows, seen, op.head_dim, group, masked)
        )

    def _lines(self, batch: Batch) -> Iterator[Line]:
        """What one NPU does."""
        for layers, op, seconds in self._timed(self.divided(batch)):
            each = float(np.asarray(seconds))
            memory = float(np.asarray(op.bytes)) / self.latency.bandwidth
            yield Line(
                op.name, layers, "npu", layers * each, "memory" if memory > each / 2 else "compute",
                float(np.asarray(op.flops)), float(np.asarray(op.bytes)),
            )  # fmt: skip


POLICY = OnNpu
