"""What every mapping policy has. To add one: a file with a `POLICY`, and a line in `POLICIES`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError
from bankside.mapping.gpu.model import GpuModel
from bankside.mapping.system.gpu import Gpu, Link
from bankside.mapping.system.system import System
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch, Numbers
from bankside.mapping.workload.operators import check_shares, head_operators
from bankside.mapping.workload.operators import operators as layer_operators
from bankside.mapping.workload.types import FULL, Bits, Gemm, Operator
from bankside.registry import Lazy, Registry

#: Share of GPU memory that weights may take where keys and values are elsewhere; the rest is for
#: activations.
WEIGHT_SHARE = 0.85
#: Points below which looking for equal ones costs more than it saves.
_FEW = 16


@dataclass(frozen=True)
class Cost:
    """One forward pass.

    Attributes:
        seconds: how long it takes.
        energy_j: joules, None: not known for some device.
        parts: what the seconds consist of; they sum to `seconds`.
    """

    seconds: Numbers
    energy_j: Numbers | None
    parts: Mapping[str, Numbers]


@dataclass(frozen=True)
class Line:
    """One operator of a pass on one device.

    Attributes:
        name, layers: which, and how many layers have it.
        device: where it runs.
        seconds: of all those layers, one after the other, without what overlaps.
        bound: `compute`, `memory`, `link` or `launch`: what takes most of it.
        flops, bytes: of one layer.
    """

    name: str
    layers: int
    device: str
    seconds: float
    bound: str
    flops: float
    bytes: float


@dataclass(frozen=True)
class Plan:
    """A pass for people."""

    lines: tuple[Line, ...]
    cost: Cost


@dataclass(frozen=True)
class Capacity:
    """What memory holds.

    Attributes:
        weight_bytes, weight_place: of all copies together.
        kv_bytes, kv_place: room for keys and values.
        kv_tokens: how many tokens' keys and values that is.
    """

    weight_bytes: float
    weight_place: str
    kv_bytes: float
    kv_place: str
    kv_tokens: float


@dataclass(frozen=True)
class Shares:
    """How a model is spread over equal GPUs: tensor-parallel shares of each copy, copies."""

    tp: int
    copies: int


def _divisors(count: int) -> list[int]:
    return [n for n in range(1, count + 1) if count % n == 0]


def spread(arch: Architecture, system: System, bits: Bits, tp: int | None, share: float) -> Shares:
    """The fewest shares whose GPUs hold a copy of the weights in `share` of their memory.

    Raises:
        ConfigError: no division of the model fits the GPUs, with what would.
    """
    assert system.gpu is not None
    if tp is not None:
        check_shares(arch, tp)
        if system.gpus % tp:
            raise ConfigError(f"tp = {tp} does not divide {system.gpus} GPUs")
        return Shares(tp, system.gpus // tp)
    weights = arch.weight_bytes(bits.weight)
    possible = [n for n in _divisors(system.gpus) if _divides(arch, n)]
    for n in possible:
        if weights <= share * n * system.gpu.memory_bytes:
            return Shares(n, system.gpus // n)
    most = possible[-1] * system.gpu.memory_bytes
    raise ConfigError(
        f"{arch.name}: {weights / 1e9:,.1f} GB of weights do not fit into {share:.0%} of the "
        f"{most / 1e9:,.0f} GB of {possible[-1]} GPUs of {system.name}; it takes "
        f"{weights / share / system.gpu.memory_bytes:.1f} such GPUs, or "
        f"{weights / share / possible[-1] / 1e9:,.0f} GB on each"
    )


def _divides(arch: Architecture, tp: int) -> bool:
    try:
        check_shares(arch, tp)
    except ConfigError:
        return False
    return True


def divided(batch: Batch, parts: float) -> Batch:
    """The share of one of so many equal machines; the longest context stays."""
    return Batch(
        *(getattr(batch, name) / parts for name in (
            "prefill_tokens", "prefill_requests", "prefill_pairs", "prefill_context",
            "decode_requests", "decode_context",
        )),
        batch.decode_longest,
    )  # fmt: skip


class Policy:
    """What runs where. Subclasses say where attention of the decode phase happens.

    Args:
        arch: the model.
        system: the machine.
        bits: width of weights, activations, cached keys and values.
        tp: tensor-parallel shares; by default the fewest that fit.

    Raises:
        ConfigError: the model cannot run on that machine under this policy, and why.
    """

    name: ClassVar[str]
    #: Where keys and values lie, for people.
    kv_place: ClassVar[str] = "GPU memory"
    #: Share of GPU memory for weights; policies that keep keys and values there lower it.
    weight_share: ClassVar[float] = WEIGHT_SHARE

    def __init__(
        self, arch: Architecture, system: System, bits: Bits = FULL, tp: int | None = None
    ) -> None:
        if system.gpu is None:
            raise ConfigError(f"policy {self.name}: {system.name} has no GPU; choose one that has")
        self.arch, self.system, self.bits = arch, system, bits
        self.check()
        self.shares = spread(arch, system, bits, tp, self.weight_share)
        self.gpu = GpuModel.load(system.gpu)
        if self.kv_bytes <= 0:
            raise ConfigError(
                f"policy {self.name}: weights leave no room for keys and values in the "
                f"{self.kv_place} of {system.name}; it lacks {-self.kv_bytes / 1e9:,.1f} GB"
            )

    def check(self) -> None:
        """Raise ConfigError when the system lacks what the policy needs."""

    # --- memory -----------------------------------------------------------------------------------
    @property
    def weight_bytes(self) -> float:
        """Of all copies."""
        return self.arch.weight_bytes(self.bits.weight) * self.shares.copies

    @property
    def kv_bytes(self) -> float:
        """Room for keys and values; negative: so much is missing."""
        return 0.95 * self.system.gpu_memory_bytes - self.weight_bytes

    @property
    def capacity(self) -> Capacity:
        each = self.arch.kv_bytes_per_token(self.bits.kv)
        return Capacity(
            self.weight_bytes, "GPU memory", self.kv_bytes, self.kv_place, self.kv_bytes / each
        )

    # --- one pass ---------------------------------------------------------------------------------
    def step(self, batch: Batch) -> Cost:
        """One forward pass of all layers. Vectorised: `batch` may hold arrays."""
        raise NotImplementedError

    def plan(self, batch: Batch) -> Plan:
        """The same per operator, for one point."""
        return Plan(tuple(self._lines(batch)), self.step(batch))

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
    def divided(self, batch: Batch) -> Batch:
        """What one copy works on."""
        return divided(batch, self.shares.copies)

    def of_all(self, energy: Numbers | None) -> Numbers | None:
        """Joules of all copies from those of one."""
        return None if energy is None else energy * self.shares.copies

    def link_energy(self, energy: Numbers | None, moved: Numbers) -> Numbers | None:
        """Joules with those of bytes over the host links; None where not known."""
        link = self.system.host_link
        if energy is None or link is None or link.energy_per_byte_pj is None:
            return None
        return energy + 1e-12 * link.energy_per_byte_pj * moved

    def operators(self, batch: Batch, tp: int | None = None) -> Iterator[tuple[int, Operator]]:
        tp = self.shares.tp if tp is None else tp
        for layer in self.arch.layers:
            for op in layer_operators(self.arch, layer, batch, self.bits, tp):
                yield layer.count, op
        for op in head_operators(self.arch, batch, self.bits, tp):
            yield 1, op

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

    @property
    def layers(self) -> int:
        """Layers in all."""
        return sum(layer.count for layer in self.arch.layers)

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
        assert isinstance(self.system.gpu, Gpu)
        energy: Any = self.system.gpu.energy_j(flops, moved)
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


def sum_seconds(link: Link | None, tp: int, bytes_: Numbers) -> Numbers:
    """A sum over `tp` devices in a ring: each sends and receives 2 (tp - 1) / tp of the data.

    Ref: bandwidth-optimal all-reduce (Patarasuk and Yuan, 2009).
    """
    if tp == 1 or link is None:
        return 0.0 * bytes_
    steps = 2 * (tp - 1)
    return np.where(
        np.asarray(bytes_) > 0, steps / tp * bytes_ / link.bandwidth + steps * link.latency_s, 0.0
    )


def total(parts: Mapping[str, Numbers]) -> Numbers:
    """Sum of parts that follow each other."""
    return sum(parts.values(), 0.0 * next(iter(parts.values())))


#: Name -> subclass of `Policy`.
POLICIES: Registry[type[Policy]] = Registry("policy")
for _name in (
    "gpu_only",
    "host_offload",
    "hbm_pim",
    "hbm_pim_ext",
    "rank_pim",
    "l3",
    "duplex",
    "fusemax",
):
    POLICIES.add(_name, Lazy(f"bankside.mapping.policy.{_name}:POLICY"))
