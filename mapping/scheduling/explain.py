"""Why a scratchpad is too small, and the smallest changes that help.

Ref: docs/scheduling.md, section Infeasible.
"""

from __future__ import annotations

from dataclasses import dataclass

from bankside.errors import ConfigError
from bankside.mapping.scheduling.graph import Graph
from bankside.mapping.scheduling.tiles import fewest_tiles


@dataclass(frozen=True)
class Shortage:
    """The task that binds.

    Attributes:
        task: its name. needed, capacity: bytes. tensors: (name, bytes) of what it needs at once,
            largest first. others: how many more tasks do not fit.
        tiles: smallest number of tiles into which it can be cut so that it fits; None: none does.
    """

    task: str
    needed: int
    capacity: int
    tensors: tuple[tuple[str, int], ...]
    others: int
    tiles: int | None

    @property
    def missing(self) -> int:
        """Bytes by which the scratchpad is too small for the graph."""
        return self.needed - self.capacity

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {_bytes(size)}" for name, size in self.tensors)
        more = f" ({self.others} more tasks do not fit either)" if self.others else ""
        cut = (
            f"cut it into {self.tiles} tiles"
            if self.tiles
            else "no number of tiles helps: what every tile needs whole is too large"
        )
        return (
            f"scratchpad of {_bytes(self.capacity)} is {_bytes(self.missing)} too small for "
            f"{self.task!r}: it needs {_bytes(self.needed)} at once ({parts}){more}; use at least "
            f"{self.needed} bytes, or {cut}"
        )


def _bytes(count: int) -> str:
    return f"{count / 1024:.4g} KiB" if count >= 1024 else f"{count} B"


def shortage(graph: Graph, capacity: int) -> Shortage | None:
    """Why no plan exists; None where one does.

    The working set of each task is the only condition of existence: between any two steps all
    tensors can be stored and fetched again.
    """
    short = [i for i in range(len(graph.tasks)) if graph.working_set(i) > capacity]
    if not short:
        return None
    worst = max(short, key=graph.working_set)
    task = graph.tasks[worst]
    sizes = sorted(((t, graph.sizes[t]) for t in task.tensors), key=lambda item: -item[1])
    return Shortage(
        task.name,
        graph.working_set(worst),
        capacity,
        tuple(sizes),
        len(short) - 1,
        fewest_tiles(graph, worst, capacity),
    )


def require_capacity(graph: Graph, capacity: int) -> None:
    """Raise ConfigError that explains why no plan exists."""
    if found := shortage(graph, capacity):
        raise ConfigError(f"graph {graph.name!r}: {found}")
