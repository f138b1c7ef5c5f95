"""Policies that compute attention of the decode phase beside the GPUs."""

from __future__ import annotations

from typing import Any

import numpy as np

from bankside.errors import ConfigError
from bankside.mapping.policy.base import Cost, Line, Policy, total
from bankside.mapping.workload.batch import Batch, Numbers
from bankside.mapping.workload.types import Operator


class Beside(Policy):
    """Decode attention on `self.unit`, one after the other with the GPUs' part unless a subclass
    overlaps them.
    """

    #: Section of `System` that computes attention.
    section = "hbm_pim"

    @property
    def unit(self) -> Any:
        """The PIM."""
        return getattr(self.system, self.section)

    def check(self) -> None:
        if self.unit is None:
            raise ConfigError(
                f"policy {self.name}: {self.system.name} has no {self.section}; choose a system "
                f"that has, or another policy"
            )

    @property
    def kv_bytes(self) -> float:
        return float(self.unit.memory_bytes)

    def on_gpu(self, op: Operator) -> bool:
        return not (op.kind == "attention" and getattr(op, "phase", "") == "decode")

    def attention_seconds(self, batch: Batch) -> Numbers:
        """Decode attention of all layers."""
        return sum(
            (n * self.operator_seconds(op, batch) for n, op in self.operators(batch, 1)
             if not self.on_gpu(op)),
            0.0 * batch.decode_requests,
        )  # fmt: skip

    def operator_seconds(self, op: Operator, batch: Batch) -> Numbers:
        """One layer's: its keys and values at the internal bandwidth, or its operations."""
        return np.maximum(op.kv_bytes / self.unit.bandwidth, op.flops / self.unit.flops)

    def step(self, batch: Batch) -> Cost:
        parts, energy = self.on_gpus(self.divided(batch))
        attention = self.attention_seconds(batch)
        parts = {**parts, "pim.attention": attention}
        return Cost(total(parts), self.pim_energy(self.of_all(energy), batch), parts)

    def pim_energy(self, gpus: Numbers | None, batch: Batch) -> Numbers | None:
        """Joules with those of the PIM; None where not known."""
        per_byte = getattr(self.unit, "energy_per_byte_pj", None)
        if gpus is None or per_byte is None:
            return None
        read = sum(n * op.kv_bytes for n, op in self.operators(batch, 1) if not self.on_gpu(op))
        return gpus + 1e-12 * per_byte * read

    def other_line(self, layers: int, op: Operator, batch: Batch) -> Line:
        seconds = float(np.asarray(layers * self.operator_seconds(op, batch)))
        compute = float(op.flops) / getattr(self.unit, "flops", float("inf"))
        bound = "compute" if layers * compute >= seconds > 0 else "memory"
        return Line(op.name, layers, self.section, seconds, bound, float(op.flops),
                    float(op.kv_bytes))  # fmt: skip

    # --- host links -------------------------------------------------------------------------------
    def vector_bytes(self, batch: Batch) -> tuple[Numbers, Numbers]:
        """Bytes per layer to the PIM (queries, new keys and values) and back (results)."""
        wide = self.bits.activation / 8
        heads = self.arch.heads * self.arch.head_dim
        new = 2 * self.arch.kv_heads * self.arch.head_dim
        return batch.decode_requests * (heads + new) * wide, batch.decode_requests * heads * wide

    def over_links(self, bytes_: Numbers) -> Numbers:
        """Seconds of one transfer over all host links."""
        link = self.system.host_link
        assert link is not None
        busy = np.asarray(bytes_) > 0
        return np.where(busy, bytes_ / self.system.host_bandwidth + link.latency_s, 0.0)
