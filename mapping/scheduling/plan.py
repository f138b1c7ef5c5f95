"""Plans: when each task runs, where each tensor lies in the scratchpad, what crosses its border.

Ref: docs/scheduling.md, section Plans.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bankside.mapping.scheduling.graph import Graph


class Stay(NamedTuple):
    """One residence of a tensor in the scratchpad.

    Attributes:
        tensor: its name.
        first, end: from step `first` to before step `end`.
        address: first byte.
        fetched: it was brought from memory; otherwise a task created it here.
        stored: it was written to memory before the stay ended.
    """

    tensor: str
    first: int
    end: int
    address: int
    fetched: bool
    stored: bool


@dataclass(frozen=True)
class Plan:
    """A graph on one unit with a scratchpad, one task per step.

    Attributes:
        graph: what runs.
        capacity: bytes of the scratchpad.
        steps: step of each task, by its place in the graph.
        stays: residences, in any order.
        bound: no plan has less non-compulsory traffic (bytes); 0 where nothing is known.
        source: what found it.
    """

    graph: Graph
    capacity: int
    steps: tuple[int, ...]
    stays: tuple[Stay, ...]
    bound: int = 0
    source: str = ""

    @property
    def order(self) -> tuple[int, ...]:
        """Places of the tasks in the order in which they run."""
        return tuple(sorted(range(len(self.steps)), key=self.steps.__getitem__))

    @property
    def fetched_bytes(self) -> int:
        """Bytes read from memory."""
        return sum(self.graph.sizes[s.tensor] for s in self.stays if s.fetched)

    @property
    def stored_bytes(self) -> int:
        """Bytes written to memory."""
        return sum(self.graph.sizes[s.tensor] for s in self.stays if s.stored)

    @property
    def extra_bytes(self) -> int:
        """Non-compulsory traffic: what exceeds one fetch of each input and one store of each
        output.
        """
        return self.fetched_bytes + self.stored_bytes - self.graph.compulsory_bytes

    @property
    def gap(self) -> int:
        """Bytes between this plan and the bound; 0: certified optimum."""
        return self.extra_bytes - self.bound

    @property
    def optimal(self) -> bool:
        """Whether no plan has less traffic, proven."""
        return self.gap == 0

    @property
    def peak_bytes(self) -> int:
        """Largest sum of the tensors that are in the scratchpad in one step."""
        return max(
            sum(self.graph.sizes[s.tensor] for s in self.stays if s.first <= step < s.end)
            for step in range(len(self.steps))
        )


Kept = Callable[[str, int, int], bool]
"""(tensor, step of a use, step of the next use) -> the tensor stays between them."""


def uses(graph: Graph, tensor: str, steps: Sequence[int]) -> list[int]:
    """Steps at which a tensor has to be in the scratchpad, ascending; the first is its creation
    where a task writes it.
    """
    places = list(graph.readers[tensor])
    if tensor in graph.writer:
        places.append(graph.writer[tensor])
    return sorted(steps[i] for i in places)


def spans(graph: Graph, steps: Sequence[int], kept: Kept) -> list[Stay]:
    """Shortest stays at address 0 for tasks at `steps`, where tensors stay as `kept` says."""
    found: list[Stay] = []
    outputs = set(graph.outputs)
    for tensor in graph.sizes:
        at = uses(graph, tensor, steps)
        if not at:
            continue
        runs = _runs(tensor, at, kept)
        made = tensor in graph.writer
        for number, (first, last) in enumerate(runs):
            created = made and number == 0
            stored = created and (len(runs) > 1 or tensor in outputs)
            found.append(Stay(tensor, first, last + 1, 0, not created, stored))
    return found


def _runs(tensor: str, at: list[int], kept: Kept) -> list[tuple[int, int]]:
    """(first, last) use of each residence."""
    runs = [(at[0], at[0])]
    for step, following in zip(at, at[1:], strict=False):
        if kept(tensor, step, following):
            runs[-1] = (runs[-1][0], following)
        else:
            runs.append((following, following))
    return runs
