"""Units in the buffer chips of the host's DIMMs; GPUs, links and PIM take turns.

Ref: baseline "rank-PIM" of CHIME (ISCA 2026).
"""

from __future__ import annotations

import numpy as np

from bankside.mapping.policy.base import Cost, total
from bankside.mapping.policy.beside import Beside
from bankside.mapping.policy.kv_transfer import KvTransfer
from bankside.mapping.workload.batch import Batch


class RankPim(Beside):
    """Queries, results and the prompt's keys and values go over the host links, exposed; the DRAM
    has to keep pace with the latter.
    """

    name = "rank_pim"
    section = "rank_pim"
    kv_place = "host memory"

    def check(self) -> None:
        super().check()
        self.transfer = KvTransfer(self.arch, self.system, self.bits.kv)

    def step(self, batch: Batch) -> Cost:
        parts, energy = self.on_gpus(self.divided(batch))
        there, back = self.vector_bytes(batch)
        new = batch.prefill_tokens * self.arch.kv_bytes_per_token(self.bits.kv)
        parts = {
            **parts,
            "pim.attention": self.attention_seconds(batch),
            "link.exposed": self.layers * (self.over_links(there) + self.over_links(back))
            + self.transfer.seconds(0.0, new),
        }
        energy = self.pim_energy(self.of_all(energy), batch)
        moved = self.layers * (there + back) + new
        return Cost(total(parts), self.link_energy(energy, np.asarray(moved)), parts)


POLICY = RankPim
