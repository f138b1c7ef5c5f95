"""Exhaustive answers for small graphs, written without the code under test."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product

from hypothesis import strategies as st

from bankside.mapping.scheduling.graph import Graph, Task

Box = tuple[int, int, int]
"""First step, end, bytes."""


@st.composite
def graphs(draw: st.DrawFn, most_tasks: int = 5, most_bytes: int = 4) -> Graph:
    """Graphs of a few tasks, each of which reads one to three earlier tensors."""
    size = st.integers(1, most_bytes)
    sizes = {"x": draw(size), "w": draw(size)}
    tasks: list[Task] = []
    for n in range(draw(st.integers(1, most_tasks))):
        inputs = draw(st.lists(st.sampled_from(list(sizes)), min_size=1, max_size=3, unique=True))
        sizes[f"y{n}"] = draw(size)
        tasks.append(Task(f"t{n}", tuple(inputs), f"y{n}"))
    written = [task.output for task in tasks]
    outputs = draw(st.lists(st.sampled_from(written), min_size=1, unique=True))
    return Graph("drawn", sizes, tuple(tasks), tuple(outputs))


def least_traffic(graph: Graph, capacity: int) -> int | None:
    """Least non-compulsory bytes of all orders, residences and addresses; None: no plan."""
    found = sorted(_candidates(graph, capacity), key=lambda item: item[0])
    return next((cost for cost, boxes in found if _fits(boxes, capacity)), None)


def _candidates(graph: Graph, capacity: int) -> Iterator[tuple[int, list[Box]]]:
    n = len(graph.tasks)
    for steps in permutations(range(n)):
        if any(steps[j] >= steps[i] for i in range(n) for j in graph.direct[i]):
            continue
        gaps = []
        for tensor in graph.sizes:
            at = sorted(
                steps[i]
                for i, task in enumerate(graph.tasks)
                if tensor in task.inputs or tensor == task.output
            )
            gaps += [(tensor, a, b) for a, b in zip(at, at[1:], strict=False)]
        for kept in product((True, False), repeat=len(gaps)):
            yield _cost(graph, steps, dict(zip(gaps, kept, strict=True)))


def _cost(graph: Graph, steps: tuple[int, ...], kept: dict) -> tuple[int, list[Box]]:
    cost, boxes = 0, []
    for tensor, size in graph.sizes.items():
        at = sorted(
            steps[i]
            for i, task in enumerate(graph.tasks)
            if tensor in task.inputs or tensor == task.output
        )
        made = any(task.output == tensor for task in graph.tasks)
        first, breaks = (at[0] if at else None), 0
        for a, b in zip(at, at[1:], strict=False):
            if not kept[tensor, a, b]:
                boxes.append((first, a + 1, size))
                first, breaks = b, breaks + 1
        if at:
            boxes.append((first, at[-1] + 1, size))
        cost += breaks * size
        cost += size if breaks and made and tensor not in graph.outputs else 0
    return cost, boxes


def _fits(boxes: list[Box], capacity: int) -> bool:
    """Whether addresses exist, by trying every address of every box."""

    def place(number: int, placed: list[tuple[Box, int]]) -> bool:
        if number == len(boxes):
            return True
        box = boxes[number]
        return any(
            all(not _meet(box, address, other, at) for other, at in placed)
            and place(number + 1, [*placed, (box, address)])
            for address in range(capacity - box[2] + 1)
        )

    steps = {step for first, end, _ in boxes for step in range(first, end)}
    for step in steps:
        if sum(size for first, end, size in boxes if first <= step < end) > capacity:
            return False
    boxes = sorted(boxes)
    return place(0, [])


def _meet(a: Box, a_at: int, b: Box, b_at: int) -> bool:
    return max(a[0], b[0]) < min(a[1], b[1]) and max(a_at, b_at) < min(a_at + a[2], b_at + b[2])
