"""FuseMax beside GPUs: attention of prompts on spatial arrays, all else on the GPUs, in turn.

The array's time is that of its closed form (sim/timing/array_closed_attention.py) for a request of
average length, times the requests: nothing of one overlaps the next. Queries, keys, values and
results cross the array's link before and after.

Ref: arXiv 2406.10491.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from bankside.config_array import ArrayHardware
from bankside.errors import ConfigError
from bankside.isa.array_machine import ArrayMachine
from bankside.mapping.binding.loader import load_binding
from bankside.mapping.policy.base import Cost, Line, Policy, total
from bankside.mapping.system.tables import load_link
from bankside.mapping.workload.batch import Batch, Numbers
from bankside.mapping.workload.types import Attention, Operator
from bankside.sim.timing.array_closed_attention import ClosedAttention


class FuseMax(Policy):
    """Keys and values lie in the GPUs' memory."""

    name = "fusemax"
    kv_with_shares = True

    def check(self) -> None:
        array, arch = self.system.array, self.arch
        if array is None:
            raise ConfigError(
                f"policy {self.name}: {self.system.name} has no array; choose a system that has, "
                f"such as fusemax, or another policy"
            )
        if any(layer.attention == "latent" for layer in arch.layers):
            raise ConfigError(
                f"policy {self.name}: {arch.name} has latent attention, whose keys and values "
                f"differ in length; the array's schedules take equal ones: use gpu_only"
            )
        self.array = array
        self.link = load_link(array.link) if array.link else None
        self.closed = _closed(array.config(), arch.head_dim)
        machine = self.closed[0].machine
        self.clock = machine.config.clock_mhz * 1e6

    def on_gpu(self, op: Operator) -> bool:
        return not (op.kind == "attention" and getattr(op, "phase", "") == "prefill")

    def array_seconds(self, op: Attention) -> Numbers:
        """One layer's attention of all prompts, spread over the arrays."""
        requests = np.asarray(op.requests, float)
        each = np.maximum(requests, 1e-300)
        queries = np.where(requests > 0, np.ceil(op.queries / each), 1).astype(np.int64)
        keys = np.where(requests > 0, np.ceil(op.context / each), 1).astype(np.int64)
        keys = np.maximum(keys, queries)
        shape = queries, keys, op.heads, op.kv_heads, 1, True, op.window or 0, keys - queries
        cycles = np.min([closed.estimate(*shape).total for closed in self.closed], axis=0)
        turns = np.maximum(requests / self.array.count, np.minimum(requests, 1))
        computed = turns * cycles / self.clock
        return np.maximum(computed, op.bytes / (self.array.count * self.array.memory_bandwidth))

    def link_seconds(self, op: Operator) -> Numbers:
        """What a layer's attention takes from the GPUs' memory, and brings back."""
        if self.link is None:
            return 0.0 * op.bytes
        moved = op.bytes / self.link.bandwidth
        return np.where(np.asarray(op.bytes) > 0, moved + 2 * self.link.latency_s, 0.0)

    def step(self, batch: Batch) -> Cost:
        parts, energy = self.on_gpus(self.divided(batch))
        attention, crossing, work = (0.0 * batch.tokens for _ in range(3))
        known = self._energies is not None
        for layers, op in self.operators(batch, 1):
            if not self.on_gpu(op):
                assert isinstance(op, Attention)
                attention = attention + layers * self.array_seconds(op)
                crossing = crossing + layers * self.link_seconds(op)
                work = work + layers * self._energy(op)
        parts = {**parts, "array.attention": attention, "link.exposed": crossing}
        gpus = self.of_all(energy)
        return Cost(total(parts), gpus + work if known and gpus is not None else None, parts)

    @property
    def _energies(self) -> tuple[float, float] | None:
        """Picojoules of an operation and of a byte; None where one is not known."""
        per_flop, per_byte = self.array.energy_per_flop_pj, self.array.energy_per_byte_pj
        return None if per_flop is None or per_byte is None else (per_flop, per_byte)

    def _energy(self, op: Operator) -> Numbers:
        """Joules of products and of main memory, without on-chip traffic."""
        flops, moved = self._energies or (0.0, 0.0)
        return 1e-12 * (flops * op.matrix_flops + moved * op.bytes)

    def other_line(self, layers: int, op: Operator, batch: Batch) -> Line:
        assert isinstance(op, Attention)
        computed, crossing = (float(np.asarray(f(op))) for f in
                              (self.array_seconds, self.link_seconds))  # fmt: skip
        bound = "link" if crossing > computed else "compute"
        return Line(op.name, layers, "array", layers * (computed + crossing), bound,
                    float(np.asarray(op.flops)), float(np.asarray(op.bytes)))  # fmt: skip


@lru_cache(maxsize=32)
def _closed(hardware: ArrayHardware, head_dim: int) -> list[ClosedAttention]:
    """One for each schedule that the machine can have.

    A schedule for more score registers starts tiles more often but ends the last one later, which
    short prompts notice; one for fewer runs on the same machine.
    """
    machine, binding = ArrayMachine.of(hardware), load_binding("interleaved")
    if head_dim > machine.config.array.lane_words:
        raise ConfigError(
            f"policy fusemax: heads of {head_dim} elements; {hardware.name} has lanes of "
            f"{machine.config.array.lane_words} words: raise array.lane_words"
        )
    found: dict[tuple, ClosedAttention] = {}
    for registers in range(1, machine.tags + 1):
        array = hardware.array.model_copy(update={"score_registers": registers})
        fewer = ArrayMachine.of(hardware.model_copy(update={"array": array}))
        schedules = [k.schedule(fewer, head_dim, head_dim, "fp16")[0] for k in binding.kernels]
        closed = ClosedAttention(machine, schedules, binding.scores)
        found.setdefault(tuple(closed.kernels), closed)
    return list(found.values())


POLICY = FuseMax
