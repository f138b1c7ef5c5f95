"""Devices and links that a graph is spread over.

Ref: docs/scheduling.md, section Devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from bankside.errors import ConfigError
from bankside.mapping.scheduling.graph import Graph
from bankside.registry import nearest


@dataclass(frozen=True)
class Link:
    """How tensors get from one device to another.

    Attributes:
        bytes_per_tick: bandwidth. latency: ticks of a transfer of nothing.
        channel: links of one channel carry one transfer at a time; "": no contention.
    """

    bytes_per_tick: float
    latency: int = 0
    channel: str = ""

    def ticks(self, size: int) -> int:
        """Duration of a transfer of `size` bytes, rounded up."""
        return self.latency + -int(-size // self.bytes_per_tick)


@dataclass(frozen=True)
class Machine:
    """Devices, each runs one task at a time, and links.

    Attributes:
        devices: names, as in `Task.ticks`.
        links: (from, to) -> link; a pair without one cannot exchange tensors.
        home: device where tensors from memory lie at the start, and from which they are sent;
            those that are not named are on every device.
    """

    devices: tuple[str, ...]
    links: Mapping[tuple[str, str], Link]
    home: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for pair in self.links:
            self._check(*pair)
        self._check(*self.home.values())

    def _check(self, *names: str) -> None:
        for name in names:
            if name not in self.devices:
                raise ConfigError(
                    f"machine: no device {name!r}{nearest(name, self.devices)}; choose from: "
                    f"{', '.join(self.devices)}"
                )

    def reaches(self, source: str, target: str) -> bool:
        """Whether a tensor can get from one device to another."""
        return source == target or (source, target) in self.links

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """Channels that carry one transfer at a time."""
        return tuple(dict.fromkeys(ln.channel for ln in self.links.values() if ln.channel))


def devices_of(graph: Graph, machine: Machine) -> list[tuple[str, ...]]:
    """Devices of the machine that can run each task.

    Raises:
        ConfigError: none can; the task and what it has durations for.
    """
    found = [tuple(d for d in machine.devices if d in task.ticks) for task in graph.tasks]
    for task, devices in zip(graph.tasks, found, strict=True):
        if not devices:
            raise graph.refuse(
                task,
                f"no device of {', '.join(machine.devices)} can run it (it has durations on "
                f"{', '.join(task.ticks) or 'none'}); add one or give its ticks",
            )
    return found
