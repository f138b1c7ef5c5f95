"""What every mapping policy with GPUs has, and the registry of all policies. To add one: a file
with a `POLICY`, and a line in `POLICIES`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError
from bankside.mapping.gpu.model import GpuModel
from bankside.mapping.policy.common import (
    WEIGHT_SHARE,
    AnyPolicy,
    Capacity,
    Cost,
    Devices,
    Line,
    Plan,
    Shares,
    divided,
    sum_seconds,
    total,
)
from bankside.mapping.system.system import System
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch, Numbers
from bankside.mapping.workload.types import FULL, Bits, Gemm, Operator
from bankside.registry import Lazy, Registry

__all__ = [
    "POLICIES", "WEIGHT_SHARE", "AnyPolicy", "Capacity", "Cost", "Line", "Plan", "Policy", "Shares",
    "divided", "sum_seconds", "total",
]  # fmt: skip

#: Points below which looking for equal ones costs more than it saves.
_FEW = 16


class Policy(AnyPolicy):
    """What runs where, of machines with GPUs. Subclasses say where attention of the decode phase
    happens. Arguments and errors as of `AnyPolicy`.
    """

    weight_place = "GPU memory"
    kv_place = "GPU memory"

    def __init__(
        self, arch: Architecture, system: System, bits: Bits = FULL, tp: int | None = None
    ) -> None:
        if system.gpu is None:
            raise ConfigError(f"policy {self.name}: {system.name} has no GPU; choose one that has")
        self.gpu = GpuModel.load(system.gpu)
        super().__init__(arch, system, bits, tp)

    @property
    def devices(self) -> Devices:
        system = self.system
        return Devices(
            system.gpus, self.gpu.gpu.memory_bytes, "GPUs", system.name, "gpu_link",
            system.gpu_link is not None,
        )  # fmt: skip

    @property
    def carried(self) -> Mapping[str, str]:
        return self.gpu.carried

    def lower_bound(self, batch: Batch) -> Numbers:
        """Seconds that no schedule can beat: every product once and every weight read once, with
        all GPUs at their peaks. Attention and memory beside the GPUs are left out.
        """
        flops: Numbers = 0.0
        weights: Numbers = 0.0
        for layers, op in self.operators(self.divided(batch)):
            if op.kind == "gemm":
                flops = flops + layers * op.matrix_flops
                weights = weights + layers * op.weight_bytes
        gpu = self.gpu.gpu
        return np.maximum(flops / gpu.matrix_flops(16), weights / gpu.memory_bandwidth)

    # --- parts ------------------------------------------------------------------------------------
    def link_energy(self, energy: Numbers | None, moved: Numbers) -> Numbers | None:
        """Joules with those of bytes over the host links; None where not known."""
        link = self.system.host_link
        if energy is None or link is None or link.energy_per_byte_pj is None:
            return None
        return energy + 1e-12 * link.energy_per_byte_pj * moved

    def on_gpu(self, op: Operator) -> bool:
        """Whether an operator runs on the GPUs; the others are `_elsewhere`."""
        return True

    def gpu_seconds(self, op: Operator) -> NDArray[np.float64] | float:
        """Kernel and its launch; nothing where a point has no such operator."""
        busy = np.asarray(op.flops + op.read_bytes) > 0
        return np.where(busy, self._kernel(op) + self.gpu.launch_s, 0.0)

    def _kernel(self, op: Operator) -> NDArray[np.float64]:
        """Products depend on their rows only, and those of a sweep repeat."""
        if isinstance(op, Gemm) and np.size(op.m) > _FEW and np.ndim(op.count) == 0:
            rows, place = np.unique(op.m, return_inverse=True)
            once = self.gpu.gemm(rows, op.n, op.k, op.count, op.bits)
            return np.maximum(once[place].reshape(np.shape(op.m)), self.gpu.floor(op))
        return self.gpu.operator(op)

    def collectives(self, batch: Batch) -> Numbers:
        """Seconds of the sums over tensor-parallel shares, two per layer."""
        return 2 * self.layers * sum_seconds(
            self.system.gpu_link, self.shares.tp,
            batch.tokens * self.arch.hidden * self.bits.activation / 8,
        )  # fmt: skip

    def on_gpus(self, batch: Batch) -> tuple[dict[str, Numbers], Numbers | None]:
        """Seconds by kind of operator on the GPUs of one copy, and joules of one copy."""
        parts: dict[str, Numbers] = {"gpu.linear": 0.0, "gpu.attention": 0.0, "gpu.other": 0.0}
        flops: Numbers = 0.0
        moved: Numbers = 0.0
        for layers, op in self.operators(batch):
            if not self.on_gpu(op):
                continue
            kind = {"gemm": "linear", "attention": "attention"}.get(op.kind, "other")
            parts[f"gpu.{kind}"] = parts[f"gpu.{kind}"] + layers * self.gpu_seconds(op)
            flops = flops + layers * op.flops
            moved = moved + layers * (op.read_bytes + op.written_bytes)
        parts["gpu.sums"] = self.collectives(batch)
        energy: Any = self.gpu.gpu.energy_j(flops, moved)
        return parts, None if energy is None else energy * self.shares.tp

    def _lines(self, batch: Batch) -> Iterator[Line]:
        """GPUs: what one of them does; beside them: what all of it does."""
        whole = self.operators(batch, 1)
        for (layers, op), (_, all_of_it) in zip(
            self.operators(self.divided(batch)), whole, strict=True
        ):
            if self.on_gpu(op):
                yield self._gpu_line(layers, op)
            else:
                yield self.other_line(layers, all_of_it, batch)

    def _gpu_line(self, layers: int, op: Operator) -> Line:
        seconds = float(self.gpu_seconds(op))
        gpu = self.gpu.gpu
        times = {
            "compute": float(op.matrix_flops) / gpu.matrix_flops(16)
            + float(op.vector_flops) / gpu.vector_flops,
            "memory": float(op.read_bytes + op.written_bytes) / gpu.memory_bandwidth,
            "launch": self.gpu.launch_s,
        }
        bound = max(times, key=lambda key: times[key])
        return Line(
            op.name, layers, "gpu", layers * seconds, bound, float(op.flops),
            float(op.read_bytes + op.written_bytes),
        )  # fmt: skip

    def other_line(self, layers: int, op: Operator, batch: Batch) -> Line:
        raise NotImplementedError


#: Name -> class.
POLICIES: Registry[type[AnyPolicy]] = Registry("policy")
for _name in (
    "gpu_only",
    "host_offload",
    "hbm_pim",
    "hbm_pim_ext",
    "rank_pim",
    "l3",
    "duplex",
    "fusemax",
    "npu",
):
    POLICIES.add(_name, Lazy(f"bankside.mapping.policy.{_name}:POLICY"))
