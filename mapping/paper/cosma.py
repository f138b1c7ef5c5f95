"""COSMA (arXiv 2311.18246) on generated networks: exact plans beside every baseline heuristic.

Ref: docs/scheduling.md, section COSMA's numbers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from bankside.mapping.scheduling import generators
from bankside.mapping.scheduling.cosma import cosma
from bankside.mapping.scheduling.graph import Graph
from bankside.mapping.scheduling.heuristics import BASELINES, Baseline, baseline
from bankside.mapping.scheduling.plan import Plan
from bankside.mapping.scheduling.solve import EFFORT, Effort
from bankside.schema import Section, validate
from bankside.strict_yaml import load_yaml

MAKERS: dict[str, Callable[..., Graph]] = {
    maker.__name__: maker
    for maker in (
        generators.resnet, generators.densenet, generators.inception, generators.mobilenet,
        generators.unet, generators.transformer, generators.random_wired, generators.nas_cells,
    )
}  # fmt: skip
_Maker = Literal[
    "resnet", "densenet", "inception", "mobilenet", "unet", "transformer", "random_wired",
    "nas_cells",
]  # fmt: skip


class GraphEntry(Section):
    """A network: which maker, with which arguments; `search`: as architecture search makes them."""

    maker: _Maker
    arguments: dict[str, int | bool] = {}
    search: bool = False

    def graph(self) -> Graph:
        """The network."""
        return MAKERS[self.maker](**self.arguments)


class Published(Section):
    """Mean shares of the non-compulsory accesses that COSMA saves."""

    reduction: float
    reduction_search: float


class Cosma(Section):
    """Everything in cosma.yaml."""

    published: Published
    margins: list[float] = Field(min_length=1)
    effort_seconds: float = Field(gt=0)
    graphs: list[GraphEntry] = Field(min_length=10)


@cache
def parameters() -> Cosma:
    """The parameters, read once."""
    data, locations = load_yaml(Path(__file__).with_name("cosma.yaml"))
    return validate(Cosma, data, locations)


@dataclass(frozen=True)
class Point:
    """One network on one scratchpad.

    Attributes:
        graph: its name and number. tasks: how many. search: from architecture search. margin: of
            the scratchpad. plan: the exact one. baselines: non-compulsory bytes of each, by name.
        seconds: of the exact plan.
    """

    graph: str
    tasks: int
    search: bool
    margin: float
    plan: Plan
    baselines: dict[str, int]
    seconds: float

    def saved(self, name: str) -> float | None:
        """Share of a baseline's non-compulsory traffic that the exact plan saves; None where the
        baseline has none.
        """
        theirs = self.baselines[name]
        return 1 - self.plan.extra_bytes / theirs if theirs else None


def scratchpad(graph: Graph, margin: float) -> int:
    """Bytes between the largest working set (0) and the peak of the listed order (1)."""
    low = graph.largest_working_set
    peak = baseline(graph, sum(graph.sizes.values()), Baseline()).peak_bytes
    return int(low + margin * (peak - low)) // graph.granule * graph.granule


def point(entry: GraphEntry, margin: float, effort: Effort = EFFORT) -> Point:
    """The exact plan and every baseline of a network."""
    graph = entry.graph()
    capacity = scratchpad(graph, margin)
    begin = time.perf_counter()
    plan = cosma(graph, capacity, effort)
    seconds = time.perf_counter() - begin
    found = {kind.name: baseline(graph, capacity, kind).extra_bytes for kind in BASELINES}
    return Point(graph.name, len(graph.tasks), entry.search, margin, plan, found, seconds)


def points(data: Cosma) -> list[Point]:
    """Every network on every scratchpad."""
    effort = Effort(data.effort_seconds)
    return [point(entry, margin, effort) for entry in data.graphs for margin in data.margins]


def mean_saved(found: Sequence[Point], names: Sequence[str]) -> tuple[float, int]:
    """Mean share saved over all points and the named baselines, and over how many comparisons;
    those without traffic to save are left out.
    """
    shares = [share for each in found for name in names if (share := each.saved(name)) is not None]
    return statistics.fmean(shares), len(shares)
