"""Fixed execution patterns that per-edge choice is compared with: all sequential, all dataflow.

Ref: arXiv 2502.08807 (sequential and dataflow accelerators); docs/scheduling.md, section Edges.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bankside.errors import ConfigError
from bankside.mapping.scheduling.edges import Costs, Fabric, streams
from bankside.mapping.scheduling.graph import Graph


@dataclass(frozen=True)
class Fixed:
    """Time and traffic of a fixed pattern, and what they consist of (cycles)."""

    cycles: int
    traffic: int
    compute: int
    memory: int


def sequential(graph: Graph, fabric: Fabric, overlap: bool = False) -> Fixed:
    """One task after another on all multipliers, every tensor through memory.

    Args:
        overlap: transfers run beside the multipliers; else before and after them.

    Raises:
        ConfigError: a task does not fit the buffer.
    """
    costs, cycles, traffic, compute = Costs(graph, fabric), 0, 0, 0
    for i, task in enumerate(graph.tasks):
        group = costs.group((i,), ((i,),), {}, graph.before[i], frozenset(), frozenset())
        if group is None:
            raise graph.refuse(
                task,
                f"needs {costs.smallest_buffer(i)} bytes of buffer; there are "
                f"{fabric.buffer_bytes}",
            )
        moved = -int(-group.traffic // fabric.bytes_per_cycle)
        cycles += max(group.compute, moved) if overlap else group.compute + moved
        traffic, compute = traffic + group.traffic, compute + group.compute
    return Fixed(cycles, traffic, compute, -int(-traffic // fabric.bytes_per_cycle))


def dataflow(graph: Graph, fabric: Fabric) -> Fixed:
    """Every task on multipliers of its own for the whole time; what streams, streams; a task that
    needs an input whole waits for it, and its multipliers with it.

    Tensors that do not stream stay in the buffer as far as they fit, the largest ones first
    through memory. The split of the units is the best of all.

    Raises:
        ConfigError: fewer units than tasks with multiply-accumulates.
    """
    busy = [i for i, task in enumerate(graph.tasks) if task.macs]
    if len(busy) > fabric.units:
        raise ConfigError(
            f"graph {graph.name!r}: {len(busy)} tasks on {fabric.units} units; a dataflow design "
            f"needs one for each: raise units"
        )
    compute = min(
        _path(graph, fabric, dict(zip(busy, given, strict=True)))
        for given in _splits(fabric.units, len(busy))
    )
    traffic = _dataflow_traffic(graph, fabric)
    memory = -int(-traffic // fabric.bytes_per_cycle)
    return Fixed(max(compute, memory), traffic, compute, memory)


def _splits(units: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Every way to give each part at least one of the units."""
    if parts <= 1:
        yield (units,) * parts
        return
    for first in range(1, units - parts + 2):
        for rest in _splits(units - first, parts - 1):
            yield (first, *rest)


def _path(graph: Graph, fabric: Fabric, given: dict[int, int]) -> int:
    """Cycles until the last task ends."""
    costs = Costs(graph, fabric)
    begin: list[int] = []
    end: list[int] = []
    for i, task in enumerate(graph.tasks):
        own = -(-task.macs // (given.get(i, 1) * fabric.unit_macs)) + costs.function(i)
        start, last = 0, 0
        for tensor in task.inputs:
            j = graph.writer.get(tensor)
            if j is None:
                continue
            if streams(graph, fabric, tensor, i):
                # The first tile of its input; and it cannot end before the last one plus its own.
                start = max(start, begin[j] + -(-(end[j] - begin[j]) // fabric.tiles))
                last = max(last, end[j] + -(-own // fabric.tiles))
            else:
                start = max(start, end[j])
        begin.append(start)
        end.append(max(start + own, last))
    return max(end)


def _dataflow_traffic(graph: Graph, fabric: Fabric) -> int:
    room = fabric.buffer_bytes
    traffic = graph.compulsory_bytes
    whole = [
        t
        for t, i in graph.writer.items()
        if any(not streams(graph, fabric, t, j) for j in graph.readers[t])
    ]
    for tensor in sorted(whole, key=lambda t: graph.sizes[t]):
        if graph.sizes[tensor] <= room:
            room -= graph.sizes[tensor]
        else:
            stored = tensor not in graph.outputs
            traffic += graph.sizes[tensor] * (stored + len(graph.readers[tensor]))
    return traffic
