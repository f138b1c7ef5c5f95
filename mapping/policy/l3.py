"""L3 / CHIME: decode attention in DIMM-PIM while the GPUs work on the other half of the requests.

Two sub-batches alternate: one has its linear layers on the GPUs, the other its attention in the
ranks. Results and the prompts' keys and values move while ranks compute (one rankset communicates,
the others compute); what a layer's attention waits for are its queries. Requests are spread over
the ranksets so that each layer finds all ranks busy. Few requests are quicker where chips share
fewer heads, so that one request lies on more ranks: of the mappings for the machine's query lanes
and for fewer of them, a pass has the quickest (assumed: requests lie in memory as the pass that
holds them needs; nothing is moved between mappings).

Ref: arXiv 2504.17584; CHIME (ISCA 2026), sections V and VI.
"""

from __future__ import annotations

import numpy as np

from bankside.errors import ConfigError
from bankside.mapping.policy.base import Cost, Line, divided, total
from bankside.mapping.policy.beside import Beside
from bankside.mapping.policy.kv_transfer import KvTransfer
from bankside.mapping.policy.pim_latency import RankAttention
from bankside.mapping.workload.batch import Batch, Numbers
from bankside.mapping.workload.types import Operator


class L3(Beside):
    """The slower side decides; both halves, or where that is quicker, everything in one."""

    name = "l3"
    section = "dimm_pim"
    kv_place = "DIMM-PIM"
    sub_batches = 2

    def check(self) -> None:
        super().check()
        arch = self.arch
        if any(layer.attention == "latent" for layer in arch.layers):
            raise ConfigError(
                f"policy {self.name}: {arch.name} has latent attention, one key of "
                f"{arch.kv_elements} elements for all heads; bank units take keys and values of "
                f"each head: use gpu_only"
            )
        self.ranks = RankAttention.up_to(
            self.system.dimm_pim, arch.heads, arch.kv_heads, arch.head_dim
        )
        self.transfer = KvTransfer(arch, self.system, self.bits.kv)

    def operator_seconds(self, op: Operator, batch: Batch) -> Numbers:
        """One layer's attention in all ranks, the slowest of which counts."""
        return np.min(
            [ranks.seconds(op.requests, op.context, op.longest) for ranks in self.ranks], axis=0
        )

    def step(self, batch: Batch) -> Cost:
        half = divided(batch, self.sub_batches)
        parts, energy = self.on_gpus(self.divided(half))
        whole, whole_energy = self.on_gpus(self.divided(batch))
        new = batch.prefill_tokens * self.arch.kv_bytes_per_token(self.bits.kv)
        # The host's DRAM is simulated when it is first asked.
        stored = self.transfer.seconds(0.0, new) if np.any(new) else 0.0 * new
        both = self._interleaved(half, parts, stored)
        one = self._in_turn(batch, whole, stored)
        better = np.asarray(total(both)) < np.asarray(total(one))
        better = better & (np.asarray(batch.decode_requests) >= self.sub_batches)
        chosen = {name: np.where(better, both[name], one[name]) for name in both}
        if energy is not None and whole_energy is not None:
            energy = np.where(better, self.sub_batches * energy, whole_energy)
        return Cost(total(chosen), self.pim_energy(self.of_all(energy), batch), chosen)

    def sides(self, batch: Batch) -> tuple[Numbers, Numbers]:
        """Of both sub-batches: all work on the GPUs; attention in the ranks and its queries.

        Ref: CHIME (ISCA 2026), section VI-C, T_GPU and T_PIM.
        """
        half = divided(batch, self.sub_batches)
        parts, _ = self.on_gpus(self.divided(half))
        attention, queries = self._ranks_side(half)
        return self.sub_batches * total(parts), self.sub_batches * (attention + queries)

    def _ranks_side(self, batch: Batch) -> tuple[Numbers, Numbers]:
        """Seconds of attention, and of the queries that it waits for."""
        there, _ = self.vector_bytes(batch)
        return self.attention_seconds(batch), self.layers * self.over_links(there)

    def _interleaved(
        self, half: Batch, parts: dict[str, Numbers], stored: Numbers
    ) -> dict[str, Numbers]:
        attention, queries = self._ranks_side(half)
        computing = total(parts)
        waiting = np.maximum(attention + queries - computing, 0)
        # Of what the GPUs wait for, the links' share is what attention alone would not explain.
        exposed = np.minimum(waiting, queries)
        found = {name: self.sub_batches * value for name, value in parts.items()}
        found |= {
            "pim.attention": self.sub_batches * (waiting - exposed),
            "link.exposed": self.sub_batches * exposed,
        }
        found["link.exposed"] = found["link.exposed"] + np.maximum(stored - total(found), 0)
        return found

    def _in_turn(
        self, batch: Batch, parts: dict[str, Numbers], stored: Numbers
    ) -> dict[str, Numbers]:
        attention, queries = self._ranks_side(batch)
        found = {**parts, "pim.attention": attention, "link.exposed": queries}
        found["link.exposed"] = queries + np.maximum(stored - total(found), 0)
        return found

    def other_line(self, layers: int, op: Operator, batch: Batch) -> Line:
        line = super().other_line(layers, op, batch)
        return Line(line.name, layers, "dimm_pim", line.seconds, "memory", line.flops, line.bytes)


POLICY = L3
