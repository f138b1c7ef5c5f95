"""The order in which a phase computes its nodes: block by block, as far as dependencies allow.

Functions then hold logic of one block of the design, which is idle or at work as a whole.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence

from bankside.sim.lanes.guards import Group, Item, Shared
from bankside.sim.lanes.netlist import Cell, Word
from bankside.sim.lanes.schedule import Call, Node

#: Levels of the hierarchy that make a block.
_DEPTH = 3


def block_of(item: Item) -> str:
    """Path of the block that an item belongs to."""
    if isinstance(item, Group):
        return block_of(item.flops[0])
    if isinstance(item, Shared):
        return block_of(item.nodes[0])
    name = item.instance.name if isinstance(item, Call) else item.name
    return ".".join(name.split(".")[:-1][:_DEPTH])


def by_blocks(
    items: Sequence[Item],
    reads: Callable[[Item], Iterable[Word]],
    inside: Callable[[Item], Iterable[Node]],
) -> list[Item]:
    """`items`, which are in an order that can be computed, with those of a block together.

    reads: words that an item needs. inside: all nodes that are computed with it.
    """
    producer = _producers(items, inside)
    waits = [set[int]() for _ in items]
    follow: dict[int, list[int]] = defaultdict(list)
    last_call: dict[int, int] = {}
    for index, item in enumerate(items):
        needs = {producer[w] for w in reads(item) if w in producer} - {index}
        if isinstance(item, Call):
            if id(item.instance) in last_call:
                needs.add(last_call[id(item.instance)])
            last_call[id(item.instance)] = index
        waits[index] = needs
        for other in needs:
            follow[other].append(index)
    return [items[i] for i in _greedy([block_of(i) for i in items], waits, follow)]


def _producers(items: Sequence[Item], inside: Callable[[Item], Iterable[Node]]) -> dict[Word, int]:
    out: dict[Word, int] = {}
    for index, item in enumerate(items):
        for node in inside(item):
            if isinstance(node, Cell):
                out[node.output] = index
            elif isinstance(node, Call):
                for port in node.phase.outputs:
                    if port in node.instance.outputs:
                        out[node.instance.outputs[port]] = index
    return out


def _greedy(
    blocks: Sequence[str], waits: list[set[int]], follow: dict[int, list[int]]
) -> list[int]:
    """Stay in a block while it has something ready, then go where most is ready."""
    ready: dict[str, deque[int]] = defaultdict(deque)
    for index, needs in enumerate(waits):
        if not needs:
            ready[blocks[index]].append(index)
    out: list[int] = []
    current = ""
    while len(out) < len(blocks):
        if not ready[current]:
            current = max((b for b in ready if ready[b]), key=lambda b: (len(ready[b]), b))
        index = ready[current].popleft()
        out.append(index)
        for other in follow[index]:
            waits[other].discard(index)
            if not waits[other]:
                ready[blocks[other]].append(other)
    return out
