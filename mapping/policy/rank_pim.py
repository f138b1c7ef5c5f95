"""Units in the buffer chips of the host's DIMMs; GPUs, links and PIM take turns.

Baseline "rank-PIM" of CHIME (ISCA 2026).
"""

from __future__ import annotations

import numpy as np

from bankside.mapping.policy.base import Cost, total
from bankside.mapping.policy.beside import Beside
from bankside.mapping.workload.batch import Batch


class RankPim(Beside):
    """Queries, results and the prompt's keys and values go over the host links, exposed."""

    name = "rank_pim"
    section = "rank_pim"
    kv_place = "host memory"

    def step(self, batch: Batch) -> Cost:
        parts, energy = self.on_gpus(self.divided(batch))
        there, back = self.vector_bytes(batch)
        new = batch.prefill_tokens * self.arch.kv_bytes_per_token(self.bits.kv)
        parts = {
            **parts,
            "pim.attention": self.attention_seconds(batch),
            "link.exposed": self.layers * (self.over_links(there) + self.over_links(back))
            + new / self.system.host_bandwidth,
        }
        energy = self.pim_energy(self.of_all(energy), batch)
        moved = self.layers * (there + back) + new
        return Cost(total(parts), self.link_energy(energy, np.asarray(moved)), parts)


POLICY = RankPim
