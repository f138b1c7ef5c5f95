"""Keys and values in host memory; those of a layer come over the host links while another layer
computes, attention is the GPUs'.

Ref: FlexGen (ICML 2023), the offloading baseline of L3 (arXiv 2504.17584).
"""

from __future__ import annotations

import numpy as np

from bankside.errors import ConfigError
from bankside.mapping.policy.base import Cost, Policy, total
from bankside.mapping.workload.batch import Batch, Numbers


class HostOffload(Policy):
    """Whatever takes longer, links or GPUs, decides."""

    name = "host_offload"
    kv_place = "host memory"

    def check(self) -> None:
        if self.system.host is None or self.system.host_link is None:
            raise ConfigError(
                f"policy {self.name}: {self.system.name} has no host memory or no link to it; give "
                f"it a host and a host_link"
            )

    @property
    def kv_bytes(self) -> float:
        return self.system.host.memory_bytes if self.system.host else 0.0

    def step(self, batch: Batch) -> Cost:
        parts, energy = self.on_gpus(self.divided(batch))
        moved = self.moved_bytes(batch)
        computing = total(parts)
        exposed = np.maximum(moved / self.system.host_bandwidth - computing, 0)
        parts = {**parts, "link.exposed": exposed}
        return Cost(computing + exposed, self.link_energy(self.of_all(energy), moved), parts)

    def moved_bytes(self, batch: Batch) -> Numbers:
        """Keys and values that are read in decode and after a chunk, and new ones."""
        read = sum(n * op.kv_bytes for n, op in self.operators(batch, 1) if op.kind == "attention")
        return read + batch.tokens * self.arch.kv_bytes_per_token(self.bits.kv)


POLICY = HostOffload
