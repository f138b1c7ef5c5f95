"""Plans in time: types of `timed.py` and of their rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from bankside.errors import ConfigError
from bankside.mapping.scheduling.graph import Graph


@dataclass(frozen=True)
class Unit:
    """What runs the tasks.

    Attributes:
        device: key of `Task.ticks`. capacity: bytes of its scratchpad.
        bytes_per_tick: of the channel to memory, which carries one transfer at a time.
        latency: ticks of a transfer of nothing.

    Raises:
        ConfigError: no bandwidth.
    """

    device: str
    capacity: int
    bytes_per_tick: float
    latency: int = 0

    def __post_init__(self) -> None:
        if self.bytes_per_tick <= 0 or self.latency < 0:
            raise ConfigError(
                f"unit {self.device!r}: {self.bytes_per_tick} bytes per tick, latency "
                f"{self.latency}; expected more than 0, and at least 0"
            )

    def ticks(self, graph: Graph, i: int) -> int:
        """Duration of a task.

        Raises:
            ConfigError: it has none on this device.
        """
        task = graph.tasks[i]
        if self.device not in task.ticks:
            known = ", ".join(task.ticks) or "none"
            raise graph.refuse(task, f"has no ticks on {self.device!r}; it has: {known}")
        return task.ticks[self.device]

    def transfer_ticks(self, size: int) -> int:
        """Duration of a transfer, rounded up."""
        return self.latency + -int(-size // self.bytes_per_tick)


class TimedStay(NamedTuple):
    """One residence: from tick `first` to before `end`, from byte `address` on.

    Attributes:
        fetched: tick at which its fetch starts, None where a task creates it.
        stored: tick at which its store starts, None where it is not stored.
    """

    tensor: str
    first: int
    end: int
    address: int
    fetched: int | None
    stored: int | None


@dataclass(frozen=True)
class TimedPlan:
    """A graph on a unit.

    Attributes:
        starts: tick of each task, by its place in the graph. stays: residences, in any order.
        bound: proven lower bound of what was minimised, ticks or bytes. source: what found it.
    """

    graph: Graph
    unit: Unit
    starts: tuple[int, ...]
    stays: tuple[TimedStay, ...]
    bound: int = 0
    source: str = ""

    def end(self, i: int) -> int:
        """Tick at which a task has ended."""
        return self.starts[i] + self.unit.ticks(self.graph, i)

    def transfers(self) -> list[tuple[int, int, str]]:
        """(start, end, tensor) of every fetch and store."""
        found = []
        for stay in self.stays:
            ticks = self.unit.transfer_ticks(self.graph.sizes[stay.tensor])
            found += [
                (at, at + ticks, stay.tensor)
                for at in (stay.fetched, stay.stored)
                if at is not None
            ]
        return sorted(found)

    @property
    def makespan(self) -> int:
        """Tick at which the last task or store has ended."""
        last = max(self.end(i) for i in range(len(self.starts)))
        return max([last, *(end for _, end, _ in self.transfers())])

    @property
    def traffic(self) -> int:
        """Bytes fetched and stored."""
        return sum(self.graph.sizes[tensor] for _, _, tensor in self.transfers())

    @property
    def extra_bytes(self) -> int:
        """Non-compulsory traffic, as `plan.Plan.extra_bytes`."""
        return self.traffic - self.graph.compulsory_bytes
