"""Duplex: each product and attention on the GPU or on the logic die of its HBM, whichever is
quicker; experts and attention of mixed batches on both at once.

Taken from Duplex: the choice by operations per byte, experts divided between both processors, a
prompt's attention on the GPU while the logic die attends for the requests that decode. Assumed:
experts are equally loaded, a division may cut one (Duplex orders them by load); starting work on
the logic die costs what a kernel launch does; its units reach `logic_pim.bandwidth_gbps`, and banks
supply both processors with no more than that together.

Ref: arXiv 2409.01141.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bankside.errors import ConfigError
from bankside.mapping.policy.base import Cost, Line, Policy, total
from bankside.mapping.system.system import System
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch, Numbers
from bankside.mapping.workload.types import FULL, Bits, Operator

_PARTS = (
    "gpu.linear", "gpu.attention", "gpu.other", "pim.linear", "pim.attention", "both.experts",
    "both.attention",
)  # fmt: skip


@dataclass(frozen=True)
class _Run:
    """One operator: where its seconds go, and the share of it that the GPU does."""

    parts: dict[str, Numbers]
    on_gpu: Numbers


def _is_expert(op: Operator) -> bool:
    return op.kind == "gemm" and op.name.startswith("expert_")


class Duplex(Policy):
    """Keys and values beside the weights, in memory that both processors read.

    Args:
        arch, system, bits, tp: as of every policy.
        co_process: experts and attention on both processors at once; False: one at a time.
        dense: products of dense layers, too, may go to the logic die; False: they stay on the GPU,
            as published.
    """

    name = "duplex"

    def __init__(
        self,
        arch: Architecture,
        system: System,
        bits: Bits = FULL,
        tp: int | None = None,
        *,
        co_process: bool = True,
        dense: bool = True,
    ) -> None:
        self.co_process, self.dense = co_process, dense
        super().__init__(arch, system, bits, tp)

    def check(self) -> None:
        if self.system.logic_pim is None:
            raise ConfigError(
                f"policy {self.name}: {self.system.name} has no logic_pim; choose a system that "
                f"has, such as duplex, or another policy"
            )
        self.bandwidth = self.system.logic_pim.bandwidth / self.system.gpus
        self.flops = self.system.logic_pim.flops / self.system.gpus

    def lower_bound(self, batch: Batch) -> Numbers:
        """As of every policy, but with both processors' operations and the banks' bandwidth."""
        flops: Numbers = 0.0
        weights: Numbers = 0.0
        for layers, op in self.operators(self.divided(batch)):
            if op.kind == "gemm":
                flops = flops + layers * op.matrix_flops
                weights = weights + layers * op.weight_bytes
        gpu = self.gpu.gpu
        supplied = max(gpu.memory_bandwidth, self.bandwidth)
        return np.maximum(flops / (gpu.matrix_flops(16) + self.flops), weights / supplied)

    # --- one operator -----------------------------------------------------------------------------
    def pim_seconds(self, op: Operator) -> Numbers:
        """Seconds on the logic die, its start included; nothing where there is nothing to do."""
        busy = np.asarray(op.flops + op.read_bytes) > 0
        return np.where(busy, self._pim_busy(op) + self.gpu.launch_s, 0.0)

    def _pim_busy(self, op: Operator) -> Numbers:
        return np.maximum(op.bytes / self.bandwidth, op.flops / self.flops)

    def _single(self, op: Operator) -> _Run:
        """On the quicker processor."""
        gpu = self.gpu_seconds(op)
        if op.kind not in ("gemm", "attention"):
            return _Run({"gpu.other": gpu}, 1.0)
        if not self.dense and op.kind == "gemm" and not _is_expert(op):
            return _Run({"gpu.linear": gpu}, 1.0)
        kind = "linear" if op.kind == "gemm" else "attention"
        pim = self.pim_seconds(op)
        here = np.asarray(gpu <= pim)
        parts = {f"gpu.{kind}": np.where(here, gpu, 0.0), f"pim.{kind}": np.where(here, 0.0, pim)}
        return _Run(parts, here.astype(float))

    def _experts(self, op: Operator) -> _Run:
        """Divided so that both end together, where that is quicker than one of them alone."""
        one = self._single(op)
        launch = self.gpu.launch_s
        gpu = np.maximum(np.asarray(self.gpu_seconds(op)) - launch, 0)
        pim = np.asarray(self._pim_busy(op))
        share = pim / np.maximum(gpu + pim, 1e-300)
        together = np.maximum(share * gpu, op.bytes / max(self.bandwidth, self._supply)) + launch
        alone = total(one.parts)
        better = together < alone
        parts = {name: np.where(better, 0.0, value) for name, value in one.parts.items()}
        parts["both.experts"] = np.where(better, together, 0.0)
        return _Run(parts, np.where(better, share, one.on_gpu))

    @property
    def _supply(self) -> float:
        return self.gpu.gpu.memory_bandwidth

    def _runs(self, ops: list[tuple[int, Operator]]) -> Iterator[tuple[int, Operator, _Run]]:
        for layers, op in ops:
            both = self.co_process and _is_expert(op)
            yield layers, op, self._experts(op) if both else self._single(op)

    # --- a pass -----------------------------------------------------------------------------------
    def step(self, batch: Batch) -> Cost:
        mine = self.divided(batch)
        parts: dict[str, Numbers] = dict.fromkeys(_PARTS, 0.0)
        sums: dict[str, Numbers] = dict.fromkeys(("flops", "moved", "pim"), 0.0)
        waiting: tuple[Operator, _Run] | None = None
        for layers, op, run in self._runs(list(self.operators(mine))):
            self._count(sums, layers, op, run)
            if getattr(op, "phase", "") == "prefill":
                waiting = op, run
                continue
            if waiting is not None:
                run = self._attend(waiting, op, run)
                waiting = None
            self._add(parts, layers, run.parts)
        parts["gpu.sums"] = self.collectives(mine)
        return Cost(total(parts), self._energy(sums), parts)

    @staticmethod
    def _add(parts: dict[str, Numbers], layers: int, more: dict[str, Numbers]) -> None:
        for name, value in more.items():
            parts[name] = parts[name] + layers * value

    def _attend(self, prompt: tuple[Operator, _Run], op: Operator, run: _Run) -> _Run:
        """A prompt's attention and the operator after it.

        Where that is attention of the requests that decode, each has a processor of its own.
        """
        first, before = prompt
        apart = dict(before.parts)
        for name, value in run.parts.items():
            apart[name] = apart.get(name, 0.0) + value
        if op.kind != "attention" or not self.co_process:
            return _Run(apart, run.on_gpu)
        gpu, pim = self.gpu_seconds(first), self.pim_seconds(op)
        supply = max(self.bandwidth, self._supply)
        together = np.maximum(np.maximum(gpu, pim), (first.bytes + op.bytes) / supply)
        # Energy is counted by processor already, so only where neither moves.
        better = (np.asarray(before.on_gpu) == 1) & (np.asarray(run.on_gpu) == 0)
        better = better & (together < np.asarray(total(apart)))
        found = {name: np.where(better, 0.0, value) for name, value in apart.items()}
        found["both.attention"] = np.where(better, together, 0.0)
        return _Run(found, run.on_gpu)

    @staticmethod
    def _count(sums: dict[str, Numbers], layers: int, op: Operator, run: _Run) -> None:
        sums["flops"] = sums["flops"] + layers * run.on_gpu * op.flops
        sums["moved"] = sums["moved"] + layers * run.on_gpu * op.bytes
        sums["pim"] = sums["pim"] + layers * (1 - run.on_gpu) * op.bytes

    def _energy(self, sums: dict[str, Numbers]) -> Numbers | None:
        """Joules of all GPUs; of the logic die that of its traffic."""
        gpu, pim = self.system.gpu, self.system.logic_pim
        assert gpu is not None and pim is not None
        energy = gpu.energy_j(sums["flops"], sums["moved"])
        if energy is None or pim.energy_per_byte_pj is None:
            return None
        each = energy + 1e-12 * pim.energy_per_byte_pj * sums["pim"]
        return self.of_all(each * self.shares.tp)

    def _lines(self, batch: Batch) -> Iterator[Line]:
        """Of one GPU and its logic die."""
        for layers, op, run in self._runs(list(self.operators(self.divided(batch)))):
            share = float(np.asarray(run.on_gpu))
            if share == 1:
                yield self._gpu_line(layers, op)
                continue
            seconds = layers * float(np.asarray(total(run.parts)))
            device = "both" if share else "logic_pim"
            compute = np.asarray(op.flops / self.flops) > np.asarray(op.bytes / self.bandwidth)
            bound = "compute" if compute else "memory"
            if layers * self.gpu.launch_s > seconds / 2:
                bound = "launch"
            yield Line(op.name, layers, device, seconds, bound, float(np.asarray(op.flops)),
                       float(np.asarray(op.bytes)))  # fmt: skip


POLICY = Duplex
