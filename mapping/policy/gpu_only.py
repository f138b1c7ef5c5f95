"""Everything on the GPUs, keys and values in their memory.

Ref: docs/gpu.md; tensor-parallel shares: Megatron-LM, arXiv 1909.08053.
"""

from __future__ import annotations

from bankside.mapping.policy.base import Cost, Policy, total
from bankside.mapping.workload.batch import Batch


class GpuOnly(Policy):
    """Tensor-parallel shares of each copy of the model; copies share the requests evenly."""

    name = "gpu_only"
    kv_with_shares = True

    def step(self, batch: Batch) -> Cost:
        parts, energy = self.on_gpus(self.divided(batch))
        return Cost(total(parts), self.of_all(energy), parts)


POLICY = GpuOnly
