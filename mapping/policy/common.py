"""What a mapping policy is, whatever it computes on. Those with GPUs: `base`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bankside.errors import ConfigError
from bankside.mapping.system.gpu import Link
from bankside.mapping.system.system import System
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch, Numbers
from bankside.mapping.workload.operators import check_shares, head_operators
from bankside.mapping.workload.operators import operators as layer_operators
from bankside.mapping.workload.types import FULL, Bits, Operator

#: Share of a device's memory that weights may take where keys and values are elsewhere; the rest is
#: for activations.
WEIGHT_SHARE = 0.85


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
        kv_tokens: how many tokens' keys and values that is; shares that need the same ones hold
            them each.
    """

    weight_bytes: float
    weight_place: str
    kv_bytes: float
    kv_place: str
    kv_tokens: float


@dataclass(frozen=True)
class Shares:
    """How a model is spread over equal devices: tensor-parallel shares of each copy, copies."""

    tp: int
    copies: int


@dataclass(frozen=True)
class Devices:
    """Equal devices that hold copies of a model.

    Attributes:
        count, memory_bytes: how many, memory of each.
        kind: what they are called, in the plural.
        system: whose they are.
        link: key of the link between them in the system's description.
        linked: whether it is there; without it every device holds a copy of its own.
    """

    count: int
    memory_bytes: float
    kind: str
    system: str
    link: str
    linked: bool


def _divisors(count: int) -> list[int]:
    return [n for n in range(1, count + 1) if count % n == 0]


def share_out(
    arch: Architecture, devices: Devices, bits: Bits, tp: int | None, share: float
) -> Shares:
    """`tp` shares; by default the most that divide the model and the devices.

    That is the same number whatever the devices' memory, so more memory changes neither the time
    of a pass nor leaves less room: fewer shares mean more copies of the weights.

    Raises:
        ConfigError: no such division of the model, or a copy's weights take more than `share` of
            its devices' memory, with what would do.
    """
    if tp is not None:
        return _asked(arch, devices, tp)
    most = max(n for n in _divisors(devices.count) if n == 1 or _divides(arch, n))
    n = most if devices.linked else 1
    weights, memory = arch.weight_bytes(bits.weight), n * devices.memory_bytes
    if weights <= share * memory:
        return Shares(n, devices.count // n)
    alone = "" if n == most else f" (a copy each: {devices.system} has no {devices.link})"
    raise ConfigError(
        f"{arch.name}: {weights / 1e9:,.1f} GB of weights do not fit into {share:.0%} of the "
        f"{memory / 1e9:,.0f} GB of {n} {devices.kind} of {devices.system}{alone}; it takes "
        f"{weights / share / devices.memory_bytes:.1f} such {devices.kind}, or "
        f"{weights / share / n / 1e9:,.0f} GB on each"
    )


def _asked(arch: Architecture, devices: Devices, tp: int) -> Shares:
    check_shares(arch, tp)
    if devices.count % tp:
        raise ConfigError(f"tp = {tp} does not divide {devices.count} {devices.kind}")
    if tp > 1 and not devices.linked:
        raise ConfigError(
            f"tp = {tp}: {devices.system} has no {devices.link} between its {devices.kind}, over "
            f"which the shares of a copy are added; give it one, or choose tp = 1"
        )
    return Shares(tp, devices.count // tp)


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


class AnyPolicy:
    """What runs where.

    Args:
        arch: the model.
        system: the machine.
        bits: width of weights, activations, cached keys and values.
        tp: tensor-parallel shares; by default the most that divide model and devices.

    Raises:
        ConfigError: the model cannot run on that machine under this policy, and why.
    """

    name: ClassVar[str]
    #: Where weights, keys and values lie, for people.
    weight_place: ClassVar[str]
    kv_place: ClassVar[str]
    #: Share of the devices' memory for weights.
    weight_share: ClassVar[float] = WEIGHT_SHARE
    #: Whether every share of a copy holds the keys and values that it works on.
    kv_with_shares: ClassVar[bool] = False

    def __init__(
        self, arch: Architecture, system: System, bits: Bits = FULL, tp: int | None = None
    ) -> None:
        self.arch, self.system, self.bits = arch, system, bits
        self.check()
        self.shares = share_out(arch, self.devices, self.bits, tp, self.weight_share)
        if self.kv_bytes <= 0:
            raise ConfigError(
                f"policy {self.name}: weights leave no room for keys and values in the "
                f"{self.kv_place} of {system.name}; it lacks {-self.kv_bytes / 1e9:,.1f} GB"
            )

    def check(self) -> None:
        """Raise ConfigError when the system lacks what the policy needs."""

    @property
    def devices(self) -> Devices:
        """Those that hold the copies."""
        raise NotImplementedError

    @property
    def carried(self) -> Mapping[str, str]:
        """Parameters of a GPU model that are another GPU's, and why."""
        return {}

    # --- memory -----------------------------------------------------------------------------------
    @property
    def weight_bytes(self) -> float:
        """Of all copies."""
        return self.arch.weight_bytes(self.bits.weight) * self.shares.copies

    @property
    def kv_bytes(self) -> float:
        """Room for keys and values; negative: so much is missing."""
        return 0.95 * self.devices.count * self.devices.memory_bytes - self.weight_bytes

    @property
    def kv_repeats(self) -> float:
        """How often the keys and values of a token are held: shares beyond the key heads repeat
        them, and latent ones are each share's.
        """
        if not self.kv_with_shares:
            return 1.0
        latent = any(layer.attention == "latent" for layer in self.arch.layers)
        return max(self.shares.tp / (1 if latent else self.arch.kv_heads), 1.0)

    @property
    def capacity(self) -> Capacity:
        each = self.kv_repeats * self.arch.kv_bytes_per_token(self.bits.kv)
        return Capacity(
            self.weight_bytes, self.weight_place, self.kv_bytes, self.kv_place,
            self.kv_bytes / each,
        )  # fmt: skip

    # --- one pass ---------------------------------------------------------------------------------
    def step(self, batch: Batch) -> Cost:
        """One forward pass of all layers. Vectorised: `batch` may hold arrays."""
        raise NotImplementedError

    def sides(self, batch: Batch) -> tuple[Numbers, Numbers] | None:
        """Seconds of a pass on the GPUs, and on what attends beside them at the same time; None:
        nothing does.
        """
        return None

    def plan(self, batch: Batch) -> Plan:
        """The same per operator, for one point."""
        return Plan(tuple(self._lines(batch)), self.step(batch))

    def lower_bound(self, batch: Batch) -> Numbers:
        """Seconds that no schedule can beat."""
        raise NotImplementedError

    def _lines(self, batch: Batch) -> Iterator[Line]:
        raise NotImplementedError

    # --- parts ------------------------------------------------------------------------------------
    def divided(self, batch: Batch) -> Batch:
        """What one copy works on."""
        return divided(batch, self.shares.copies)

    def of_all(self, energy: Numbers | None) -> Numbers | None:
        """Joules of all copies from those of one."""
        return None if energy is None else energy * self.shares.copies

    def operators(self, batch: Batch, tp: int | None = None) -> Iterator[tuple[int, Operator]]:
        tp = self.shares.tp if tp is None else tp
        for layer in self.arch.layers:
            for op in layer_operators(self.arch, layer, batch, self.bits, tp):
                yield layer.count, op
        for op in head_operators(self.arch, batch, self.bits, tp):
            yield 1, op

    @property
    def layers(self) -> int:
        """Layers in all."""
        return sum(layer.count for layer in self.arch.layers)


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
