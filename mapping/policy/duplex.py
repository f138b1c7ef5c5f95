"""Duplex: each product and attention on the GPU or on the logic die of its HBM, whichever is
quicker; experts and attention of mixed batches on both at once.

Taken from Duplex: the choice by operations per byte, experts divided between both processors, a
prompt's attention on the GPU while the logic die attends for the requests that decode (where that
is quicker than each on its quicker processor in turn). Assumed:
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
    """One operator.

    Attributes:
        parts: where its seconds go.
        on_gpu: the share of it that the GPU does.
        alone: its seconds without what overlaps.
    """

    parts: dict[str, Numbers]
    on_gpu: Numbers
    alone: Numbers


def _is_expert(op: Operator) -> bool:
    return op.kind == "gemm" and op.name.startswith("expert_")


def _phase(op: Operator | None) -> str:
    return getattr(op, "phase", "")


class Duplex(Policy):
    """Keys and values beside the weights, in memory that both processors read.

    Args:
        arch, system, bits, tp: as of every policy.
        co_process: experts and attention on both processors at once; False: one at a time.
        dense: products of dense layers, too, may go to the logic die; False: they stay on the GPU,
            as published.
    """

    name = "duplex"
    kv_with_shares = True

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
            return _Run({"gpu.other": gpu}, 1.0, gpu)
        if not self.dense and op.kind == "gemm" and not _is_expert(op):
            return _Run({"gpu.linear": gpu}, 1.0, gpu)
        kind = "linear" if op.kind == "gemm" else "attention"
        pim = self.pim_seconds(op)
        here = np.asarray(gpu <= pim)
        parts = {f"gpu.{kind}": np.where(here, gpu, 0.0), f"pim.{kind}": np.where(here, 0.0, pim)}
        return _Run(parts, here.astype(float), np.minimum(gpu, pim))

    def _experts(self, op: Operator) -> _Run:
        """Divided so that both end together, where that is quicker than one of them alone."""
        one = self._single(op)
        launch = self.gpu.launch_s
        gpu = np.maximum(np.asarray(self.gpu_seconds(op)) - launch, 0)
        pim = np.asarray(self._pim_busy(op))
        share = pim / np.maximum(gpu + pim, 1e-300)
        together = np.maximum(share * gpu, op.bytes / max(self.bandwidth, self._supply)) + launch
        better = together < one.alone
        parts = {name: np.where(better, 0.0, value) for name, value in one.parts.items()}
        parts["both.experts"] = np.where(better, together, 0.0)
        seconds = np.where(better, together, one.alone)
        return _Run(parts, np.where(better, share, one.on_gpu), seconds)

    @property
    def _supply(self) -> float:
        return self.gpu.gpu.memory_bandwidth

    def _runs(self, ops: list[tuple[int, Operator]]) -> Iterator[tuple[int, Operator, _Run]]:
        """Every operator of a pass. The attention of a prompt stands in front of the attention of
        the requests that decode, where there are any.
        """
        prompt: tuple[Operator, _Run] | None = None
        for (layers, op), (_, after) in zip(ops, [*ops[1:], (0, None)], strict=True):
            run = self._experts(op) if self.co_process and _is_expert(op) else self._single(op)
            if prompt is not None:
                before, run = self._attend(*prompt, op, run)
                yield layers, prompt[0], before
                prompt = None
            elif self.co_process and _phase(op) == "prefill" and _phase(after) == "decode":
                prompt = op, run
                continue
            yield layers, op, run

    def _attend(self, prompt: Operator, before: _Run, op: Operator, run: _Run) -> tuple[_Run, _Run]:
        """A prompt's attention on the GPU while the logic die attends for the requests that decode,
        where that is quicker than one after the other.

        The seconds of both stand in the second run then.
        """
        gpu, pim = self.gpu_seconds(prompt), self.pim_seconds(op)
        supply = max(self.bandwidth, self._supply)
        together = np.maximum(np.maximum(gpu, pim), (prompt.bytes + op.bytes) / supply)
        both = (np.asarray(gpu) > 0) & (np.asarray(pim) > 0)
        better = both & (together < np.asarray(before.alone + run.alone))

        def unless(run: _Run, on_gpu: float, seconds: Numbers) -> _Run:
            parts = {name: np.where(better, 0.0, value) for name, value in run.parts.items()}
            return _Run(
                parts, np.where(better, on_gpu, run.on_gpu), np.where(better, seconds, run.alone)
            )

        first, second = unless(before, 1.0, gpu), unless(run, 0.0, pim)
        second.parts["both.attention"] = np.where(better, together, 0.0)
        return first, second

    # --- a pass -----------------------------------------------------------------------------------
    def step(self, batch: Batch) -> Cost:
        mine = self.divided(batch)
        parts: dict[str, Numbers] = dict.fromkeys(_PARTS, 0.0)
        sums: dict[str, Numbers] = dict.fromkeys(("flops", "moved", "pim"), 0.0)
        for layers, op, run in self._runs(list(self.operators(mine))):
            self._count(sums, layers, op, run)
            for name, value in run.parts.items():
                parts[name] = parts[name] + layers * value
        parts["gpu.sums"] = self.collectives(mine)
        return Cost(total(parts), self._energy(sums), parts)

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
            seconds = layers * float(np.asarray(run.alone))
            device = "both" if share else "logic_pim"
            compute = np.asarray(op.flops / self.flops) > np.asarray(op.bytes / self.bandwidth)
            bound = "compute" if compute else "memory"
            if layers * self.gpu.launch_s > seconds / 2:
                bound = "launch"
            yield Line(op.name, layers, device, seconds, bound, float(np.asarray(op.flops)),
                       float(np.asarray(op.bytes)))  # fmt: skip


POLICY = Duplex
