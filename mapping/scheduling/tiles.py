"""Tiles: tasks and their tensors cut into equal parts, so that COSMA's whole-tensor plans become
tile plans. One tile per task gives the graph itself back.

Ref: docs/scheduling.md, section Tiles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from bankside.errors import ConfigError
from bankside.mapping.scheduling.graph import Graph, Task

#: More tiles than this are not tried by `fewest_tiles`.
_MOST_TILES = 4096


def part_bytes(size: int, parts: int, number: int) -> int:
    """Bytes of part `number` of `parts` that differ by at most one byte and sum to `size`."""
    return size * (number + 1) // parts - size * number // parts


def cut_tensors(graph: Graph, i: int) -> list[str]:
    """Tensors of a task that are cut with it: all but weights and those it needs whole."""
    task = graph.tasks[i]
    return [t for t in task.tensors if t not in task.whole]


def fewest_tiles(graph: Graph, i: int, capacity: int) -> int | None:
    """Smallest number of tiles of a task with which each fits, its neighbours cut alike; None where
    none does.
    """
    cut = cut_tensors(graph, i)
    whole = graph.working_set(i) - sum(graph.sizes[t] for t in cut)
    smallest = min(graph.sizes[t] for t in cut)
    if whole + len(cut) > capacity:
        return None
    for parts in range(2, min(_MOST_TILES, smallest) + 1):
        if whole + sum(-(-graph.sizes[t] // parts) for t in cut) <= capacity:
            return parts
    return None


def tiled(graph: Graph, tiles: Mapping[str, int] | int) -> Graph:
    """The graph with tasks cut into tiles.

    A task of n tiles becomes n tasks; its output becomes n tensors. Tile j reads the parts of its
    inputs that overlap with part j, and all parts of inputs that it needs whole.

    Args:
        tiles: tiles of each task by name, missing ones are 1; or one number for all.

    Raises:
        ConfigError: fewer than 1 tile, a tensor of fewer bytes than tiles, an unknown task.
    """
    counts = _counts(graph, tiles)
    parts = {t: _parts(graph, counts, t) for t in graph.sizes}
    sizes: dict[str, int] = {}
    for tensor, n in parts.items():
        for j in range(n):
            sizes[_name(tensor, n, j)] = part_bytes(graph.sizes[tensor], n, j)
    tasks = [
        _tile(task, counts[task.name], j, parts)
        for task in graph.tasks
        for j in range(counts[task.name])
    ]
    outputs = [_name(t, parts[t], j) for t in graph.outputs for j in range(parts[t])]
    return Graph(graph.name, sizes, tuple(tasks), tuple(outputs))


def _counts(graph: Graph, tiles: Mapping[str, int] | int) -> dict[str, int]:
    if isinstance(tiles, int):
        tiles = {task.name: tiles for task in graph.tasks}
    if unknown := set(tiles) - set(graph.index):
        raise ConfigError(f"graph {graph.name!r}: no task {min(unknown)!r} to cut into tiles")
    counts = {task.name: tiles.get(task.name, 1) for task in graph.tasks}
    for i, task in enumerate(graph.tasks):
        limit = min(graph.sizes[t] for t in cut_tensors(graph, i))
        if not 1 <= counts[task.name] <= limit:
            raise graph.refuse(task, f"{counts[task.name]} tiles; expected 1..{limit}")
    return counts


def _parts(graph: Graph, counts: Mapping[str, int], tensor: str) -> int:
    """A result has the parts of its writer; an input from memory the fewest with which each tile
    of its readers gets exactly its share, or 1 where the tensor is too small for that.
    """
    if tensor in graph.writer:
        return counts[graph.tasks[graph.writer[tensor]].name]
    readers = [graph.tasks[i] for i in graph.readers[tensor]]
    parts = math.lcm(*(counts[task.name] for task in readers if tensor not in task.whole))
    return parts if parts <= graph.sizes[tensor] else 1


def _name(tensor: str, parts: int, j: int) -> str:
    return tensor if parts == 1 else f"{tensor}.{j}"


def _tile(task: Task, count: int, j: int, parts: Mapping[str, int]) -> Task:
    inputs: list[str] = []
    whole: list[str] = []
    for tensor in task.inputs:
        n = parts[tensor]
        if tensor in task.whole:
            names = [_name(tensor, n, k) for k in range(n)]
            whole += names
        else:
            # Parts [k/n, (k+1)/n) that overlap with [j/count, (j+1)/count).
            names = [_name(tensor, n, k) for k in range(j * n // count, -(-(j + 1) * n // count))]
        inputs += names
    return Task(
        _name(task.name, count, j),
        tuple(inputs),
        _name(task.output, parts[task.output], j),
        tuple(whole),
        {device: -(-ticks // count) for device, ticks in task.ticks.items()},
        part_bytes(task.macs, count, j),
        task.kind,
    )
