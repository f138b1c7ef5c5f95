"""Order and residence under the capacity alone: COSMA without addresses, a lower bound with them.

Ref: arXiv 2311.18246 (resident, create, preserve, fetch, spill per tensor and step).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ortools.sat.python import cp_model

from bankside.mapping.scheduling.graph import Graph
from bankside.mapping.scheduling.plan import Kept, Plan, Stay, spans
from bankside.mapping.scheduling.solve import Answer, Effort, solve


@dataclass(frozen=True)
class Residence:
    """A solution without addresses.

    Attributes:
        steps: step of each task. stays: residences at address 0. bound: proven lower bound of the
            non-compulsory traffic in bytes. proven: the stays reach it.
    """

    steps: tuple[int, ...]
    stays: tuple[Stay, ...]
    bound: int
    proven: bool


def residence(graph: Graph, capacity: int, start: Plan, effort: Effort) -> Residence:
    """Least non-compulsory traffic of any order and residence that respects the capacity.

    Args:
        start: a plan to begin the search from.
    """
    if len(graph.tasks) == 1:
        return Residence(start.steps, start.stays, 0, True)
    return _Model(graph, capacity).solve(start, effort)


class _Model:
    """Booleans per task and step (`runs`), per tensor and step (`there`, `fetch`)."""

    def __init__(self, graph: Graph, capacity: int) -> None:
        self.graph, self.unit = graph, graph.granule
        self.capacity = capacity // self.unit
        self.model = cp_model.CpModel()
        self.steps = range(len(graph.tasks))
        self.runs: dict[tuple[int, int], cp_model.IntVar] = {}
        self.there: dict[tuple[str, int], cp_model.IntVar] = {}
        self.fetch: dict[tuple[str, int], cp_model.IntVar] = {}
        self.spill: dict[str, cp_model.IntVar] = {}
        self.load: dict[int, list] = {s: [] for s in self.steps}
        self.cost: list = []
        self._order()
        for tensor in graph.sizes:
            self._tensor(tensor)
        for terms in self.load.values():
            self.model.add(sum(terms) <= self.capacity)
        self.model.minimize(sum(self.cost))

    # --- tasks ------------------------------------------------------------------------------------
    def _order(self) -> None:
        graph, model = self.graph, self.model
        for i in range(len(graph.tasks)):
            for s in graph.window(i):
                self.runs[i, s] = model.new_bool_var(f"runs_{i}_{s}")
            model.add_exactly_one(self.runs[i, s] for s in graph.window(i))
        for s in self.steps:
            model.add_exactly_one(v for (_, at), v in self.runs.items() if at == s)
        for i, earlier in enumerate(graph.direct):
            for j in earlier:
                for s in graph.window(i):
                    model.add(self.done(j, s - 1) >= self.done(i, s))

    def done(self, i: int, s: int):
        """1 when task i runs in step s or before."""
        window = self.graph.window(i)
        if s < window.start:
            return 0
        if s >= window.stop - 1:
            return 1
        return sum(self.runs[i, at] for at in range(window.start, s + 1))

    # --- tensors ----------------------------------------------------------------------------------
    def _tensor(self, tensor: str) -> None:
        graph = self.graph
        size = graph.sizes[tensor] // self.unit
        readers, writer = graph.readers[tensor], graph.writer.get(tensor)
        if writer is None and len(readers) < 2 or not readers:
            # Used once: there in that step and no other.
            for i in readers if writer is None else (writer,):
                for s in graph.window(i):
                    self.load[s].append(size * self.runs[i, s])
            return
        windows = [graph.window(i) for i in (*readers, *([] if writer is None else [writer]))]
        span = range(min(w.start for w in windows), max(w.stop for w in windows))
        for s in span:
            self.there[tensor, s] = self.model.new_bool_var(f"there_{tensor}_{s}")
            self.load[s].append(size * self.there[tensor, s])
        for i in (*readers, *([] if writer is None else [writer])):
            for s in graph.window(i):
                self.model.add_implication(self.runs[i, s], self.there[tensor, s])
        self._fetches(tensor, span, size)

    def _fetches(self, tensor: str, span: range, size: int) -> None:
        graph, model = self.graph, self.model
        writer, readers = graph.writer.get(tensor), graph.readers[tensor]
        fetches = []
        for s in span:
            runs = [self.runs[i, s] for i in readers if (i, s) in self.runs]
            here = self.there[tensor, s]
            before = self.there[tensor, s - 1] if s > span.start else 0
            made = self.runs.get((writer, s), 0) if writer is not None else 0
            if runs:
                # A fetch just before a use is as good as any earlier one.
                fetch = self.fetch[tensor, s] = model.new_bool_var(f"fetch_{tensor}_{s}")
                model.add(fetch <= sum(runs))
                fetches.append(fetch)
                model.add(here <= before + made + fetch)
            else:
                model.add(here <= before + made)
        self.cost += [size * fetch for fetch in fetches]
        if writer is None:
            self.cost.append(-size)  # one fetch is compulsory
            model.add_at_least_one(fetches)
        elif tensor not in graph.outputs:
            spill = self.spill[tensor] = model.new_bool_var(f"spill_{tensor}")
            for fetch in fetches:
                model.add_implication(fetch, spill)
            self.cost.append(size * spill)

    # --- solution ---------------------------------------------------------------------------------
    def hint(self, plan: Plan) -> None:
        """Begin from a plan."""
        for (i, s), var in self.runs.items():
            self.model.add_hint(var, plan.steps[i] == s)
        covered = {(stay.tensor, s) for stay in plan.stays for s in range(stay.first, stay.end)}
        for key, var in self.there.items():
            self.model.add_hint(var, key in covered)
        fetched = {(stay.tensor, stay.first) for stay in plan.stays if stay.fetched}
        for key, var in self.fetch.items():
            self.model.add_hint(var, key in fetched)
        again = {stay.tensor for stay in plan.stays if stay.fetched}
        for tensor, var in self.spill.items():
            self.model.add_hint(var, tensor in again)

    def solve(self, start: Plan, effort: Effort) -> Residence:
        self.hint(start)
        answer = solve(self.model, effort)
        if not answer.found:
            return Residence(start.steps, start.stays, self._bound(answer), False)
        steps = tuple(
            next(s for s in self.graph.window(i) if answer.solver.boolean_value(self.runs[i, s]))
            for i in range(len(self.graph.tasks))
        )
        stays = tuple(spans(self.graph, steps, self._kept(answer)))
        return Residence(steps, stays, self._bound(answer), answer.optimal)

    def _bound(self, answer: Answer) -> int:
        # Traffic is a sum of whole granules.
        return max(0, math.ceil(answer.bound - 1e-6)) * self.unit

    def _kept(self, answer: Answer) -> Kept:
        """A tensor stays until its next use where it is there in all steps between."""

        def kept(tensor: str, use: int, following: int) -> bool:
            value = answer.solver.boolean_value
            return all(value(self.there[tensor, s]) for s in range(use, following))

        return kept
