"""Keys and values in host memory; those of a layer come over the host links while another layer
computes, attention is the GPUs'.

Ref: FlexGen (ICML 2023), the offloading baseline of L3 (arXiv 2504.17584).
"""

from __future__ import annotations

import numpy as np

from bankside.errors import ConfigError
from bankside.mapping.policy.base import Cost, Policy, total
from bankside.mapping.policy.kv_transfer import KvTransfer
from bankside.mapping.workload.batch import Batch, Numbers


class HostOffload(Policy):
    """Whatever takes longest, GPUs, links or the host's DRAM, decides."""

    name = "host_offload"
    kv_place = "host memory"

    def check(self) -> None:
        if self.system.host is None or self.system.host_link is None:
            raise ConfigError(
                f"policy {self.name}: {self.system.name} has no host memory or no link to it; give "
                f"it a host and a host_link"
            )
        self.transfer = KvTransfer(self.arch, self.system, self.bits.kv)

    @property
    def kv_bytes(self) -> float:
        return self.system.host.memory_bytes if self.system.host else 0.0

    def step(self, batch: Batch) -> Cost:
        parts, energy = self.on_gpus(self.divided(batch))
        moved = self.moved_bytes(batch)
        computing = total(parts)
        linked = np.maximum(computing, self.transfer.link_seconds(*moved))
        seconds = np.maximum(linked, self.transfer.dram_seconds(*moved))
        # Of what the GPUs wait for, the DRAM's share is what the links would not explain.
        parts = {**parts, "link.exposed": linked - computing, "host.exposed": seconds - linked}
        return Cost(seconds, self._energy(self.of_all(energy), sum(moved)), parts)

    def lower_bound(self, batch: Batch) -> Numbers:
        """As of every policy, and the links and the host's memory at their peaks."""
        read, blocks, tokens = self.moved_bytes(batch)
        host = self.system.host
        assert host is not None
        links = self.transfer.link_seconds(read, blocks, tokens)
        memory = (read + blocks + tokens) / host.memory_bandwidth
        return np.maximum(super().lower_bound(batch), np.maximum(links, memory))

    def moved_bytes(self, batch: Batch) -> tuple[Numbers, Numbers, Numbers]:
        """Keys and values that are read in decode and after a chunk; new ones of prompts, which are
        whole blocks; new ones of decoded tokens.
        """
        read = sum(n * op.kv_bytes for n, op in self.operators(batch, 1) if op.kind == "attention")
        each = self.arch.kv_bytes_per_token(self.bits.kv)
        return read, batch.prefill_tokens * each, batch.decode_requests * each

    def _energy(self, gpus: Numbers | None, moved: Numbers) -> Numbers | None:
        """Joules with those of links and host memory; None where one is not known."""
        energy = self.link_energy(gpus, moved)
        per_byte = self.system.host.energy_per_byte_pj if self.system.host else None
        if energy is None or per_byte is None:
            return None
        return energy + 1e-12 * per_byte * moved


POLICY = HostOffload
