"""Tiles in time: when each task runs, when each tensor is fetched and stored, where it lies.

One unit, one channel to memory, a scratchpad as address x time (NoOverlap2D). Fetches may come long
before their use and stores long after (SoMa); with traffic as the objective the optimum is COSMA's.
Ref: arXiv 2501.12634 (SoMa), arXiv 2311.18246 (COSMA); docs/scheduling.md, section Time.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, NamedTuple

from ortools.sat.python import cp_model

from bankside.mapping.scheduling.cosma import cosma
from bankside.mapping.scheduling.graph import Graph
from bankside.mapping.scheduling.plan import Plan, Stay
from bankside.mapping.scheduling.solve import EFFORT, Answer, Effort, solve
from bankside.mapping.scheduling.timed_rules import check_timed
from bankside.mapping.scheduling.timed_types import TimedPlan, TimedStay, Unit

Objective = Literal["time", "traffic"]


def timed(
    graph: Graph,
    unit: Unit,
    objective: Objective = "time",
    effort: Effort = EFFORT,
    start: TimedPlan | None = None,
) -> TimedPlan:
    """The plan that ends first (then with the least traffic), or the one with the least traffic
    (then first), or the best found with its bound.

    Args:
        start: a plan to begin from; by default COSMA's, one thing after another.

    Raises:
        ConfigError: a task does not fit, or has no duration on the unit.
    """
    start = start or serial(cosma(graph, unit.capacity, effort), unit)
    return _Model(graph, unit, start.makespan, objective).solve(start, effort)


def serial(plan: Plan, unit: Unit) -> TimedPlan:
    """A plan of steps in time: fetches, the task, stores, one after another."""
    graph, now = plan.graph, 0
    begin: dict[int, int] = {}
    opened: dict[Stay, int] = {}
    stays: list[TimedStay] = []
    for step, i in enumerate(plan.order):
        for stay in sorted((s for s in plan.stays if s.first == step), key=lambda s: not s.fetched):
            opened[stay] = now
            now += unit.transfer_ticks(graph.sizes[stay.tensor]) if stay.fetched else 0
        begin[i] = now
        now += unit.ticks(graph, i)
        for stay in [s for s in opened if s.end == step + 1]:
            first = opened.pop(stay)
            stored = now if stay.stored else None
            now += unit.transfer_ticks(graph.sizes[stay.tensor]) if stay.stored else 0
            fetched = first if stay.fetched else None
            stays.append(TimedStay(stay.tensor, first, now, stay.address, fetched, stored))
    starts = tuple(begin[i] for i in range(len(graph.tasks)))
    return check_timed(TimedPlan(graph, unit, starts, tuple(stays), 0, "serial"))


class _Vars(NamedTuple):
    """Of one possible stay: interval, presence, address, start of its store (None: never)."""

    tensor: str
    number: int
    first: cp_model.IntVar
    end: cp_model.IntVar
    present: cp_model.IntVar
    address: cp_model.IntVar
    store: cp_model.IntVar | None
    stored: cp_model.IntVar | None


class _Model:
    def __init__(self, graph: Graph, unit: Unit, horizon: int, objective: Objective) -> None:
        self.graph, self.unit, self.horizon = graph, unit, horizon
        self.granule = graph.granule
        self.room = unit.capacity // self.granule
        self.model = cp_model.CpModel()
        self.start = [
            self.model.new_int_var(0, horizon, f"start_{i}") for i in range(len(graph.tasks))
        ]
        self.long = [unit.ticks(graph, i) for i in range(len(graph.tasks))]
        self.makespan = self.model.new_int_var(0, horizon, "makespan")
        self.stays: list[_Vars] = []
        self.rows: list = []
        self.columns: list = []
        self.channel: list = []
        self.traffic: list = []
        self._tasks()
        for tensor in graph.sizes:
            if graph.readers[tensor] or tensor in graph.writer:
                self._tensor(tensor)
        self.model.add_no_overlap_2d(self.columns, self.rows)
        self.model.add_no_overlap(self.channel)
        self._objective(objective)

    def _objective(self, objective: Objective) -> None:
        traffic = sum(self.traffic)
        most = sum(
            (len(self.graph.readers[t]) + 1) * size // self.granule
            for t, size in self.graph.sizes.items()
        )
        self.objective = objective
        self.weight = most + 1 if objective == "time" else self.horizon + 1
        first, second = (
            (self.makespan, traffic) if objective == "time" else (traffic, self.makespan)
        )
        self.model.minimize(first * self.weight + second)

    def _tasks(self) -> None:
        model, runs = self.model, []
        for i, start in enumerate(self.start):
            runs.append(model.new_fixed_size_interval_var(start, self.long[i], f"run_{i}"))
            model.add(self.makespan >= start + self.long[i])
            for j in self.graph.direct[i]:
                model.add(start >= self.start[j] + self.long[j])
        model.add_no_overlap(runs)

    # --- tensors ----------------------------------------------------------------------------------
    def _tensor(self, tensor: str) -> None:
        graph, model = self.graph, self.model
        made, readers = graph.writer.get(tensor), graph.readers[tensor]
        count = len(readers) + (made is not None)
        stays = [self._stay(tensor, k, made, count) for k in range(count)]
        ticks = self.unit.transfer_ticks(graph.sizes[tensor])
        for i in readers:
            inside = [model.new_bool_var(f"use_{tensor}_{i}_{s.number}") for s in stays]
            model.add_exactly_one(inside)
            for used, stay in zip(inside, stays, strict=True):
                fetched = made is None or stay.number > 0
                model.add_implication(used, stay.present)
                ready = stay.first + (ticks if fetched else 0)
                model.add(self.start[i] >= ready).only_enforce_if(used)
                model.add(stay.end >= self.start[i] + self.long[i]).only_enforce_if(used)
        for one, other in zip(stays, stays[1:], strict=False):
            model.add(one.end <= other.first).only_enforce_if(other.present)
            model.add_implication(other.present, one.present)
        if len(stays) > 1 and stays[0].stored is not None:
            model.add_implication(stays[1].present, stays[0].stored)

    def _stay(self, tensor: str, number: int, made: int | None, count: int) -> _Vars:
        model, name = self.model, f"{tensor}_{number}"
        size = self.graph.sizes[tensor] // self.granule
        first = model.new_int_var(0, self.horizon, f"first_{name}")
        end = model.new_int_var(0, self.horizon, f"end_{name}")
        length = model.new_int_var(1, max(1, self.horizon), f"length_{name}")
        address = model.new_int_var(0, self.room - size, f"at_{name}")
        present = model.new_bool_var(f"stay_{name}")
        if number == 0:
            model.add(present == 1)
        self.columns.append(
            model.new_optional_interval_var(first, length, end, present, f"column_{name}")
        )
        self.rows.append(
            model.new_optional_fixed_size_interval_var(address, size, present, f"row_{name}")
        )
        stay = _Vars(tensor, number, first, end, present, address, None, None)
        ticks = self.unit.transfer_ticks(self.graph.sizes[tensor])
        if made is None or number > 0:
            self.traffic.append(size * present)
            self.channel.append(
                model.new_optional_fixed_size_interval_var(first, ticks, present, f"fetch_{name}")
            )
        else:
            model.add(first == self.start[made])
            model.add(end >= first + self.long[made])
            stay = self._store(stay, made, ticks, count)
        self.stays.append(stay)
        return stay

    def _store(self, stay: _Vars, made: int, ticks: int, count: int) -> _Vars:
        """The store of a created tensor: always for outputs, else where it is fetched again."""
        model, output = self.model, stay.tensor in self.graph.outputs
        if not output and count == 1:
            return stay
        stored = model.new_bool_var(f"stored_{stay.tensor}")
        store = model.new_int_var(0, self.horizon, f"store_{stay.tensor}")
        self.channel.append(
            model.new_optional_fixed_size_interval_var(store, ticks, stored, f"write_{stay.tensor}")
        )
        model.add(store >= self.start[made] + self.long[made]).only_enforce_if(stored)
        model.add(stay.end >= store + ticks).only_enforce_if(stored)
        model.add(self.makespan >= store + ticks).only_enforce_if(stored)
        if output:
            model.add(stored == 1)
        self.traffic.append(self.graph.sizes[stay.tensor] // self.granule * stored)
        return stay._replace(store=store, stored=stored)

    # --- solution ---------------------------------------------------------------------------------
    def _hint(self, plan: TimedPlan) -> None:
        model = self.model
        for var, start in zip(self.start, plan.starts, strict=True):
            model.add_hint(var, start)
        model.add_hint(self.makespan, plan.makespan)
        known: dict[str, list[TimedStay]] = {}
        for stay in sorted(plan.stays, key=lambda stay: stay.first):
            known.setdefault(stay.tensor, []).append(stay)
        for var in self.stays:
            stays = known.get(var.tensor, [])
            model.add_hint(var.present, var.number < len(stays))
            if var.number < len(stays):
                stay = stays[var.number]
                model.add_hint(var.first, stay.first)
                model.add_hint(var.end, stay.end)
                model.add_hint(var.address, stay.address // self.granule)
                if var.store is not None and var.stored is not None:
                    model.add_hint(var.stored, stay.stored is not None)
                    model.add_hint(var.store, stay.stored or 0)

    def solve(self, start: TimedPlan, effort: Effort) -> TimedPlan:
        """The better of `start` and what the search finds, with the bound of the objective."""
        self._hint(start)
        answer = solve(self.model, effort)
        bound = max(0, math.ceil(answer.bound - 1e-6)) // self.weight
        bound *= 1 if self.objective == "time" else self.granule
        plan = self._plan(answer) if answer.found else start
        key = (
            (lambda p: (p.makespan, p.traffic))
            if self.objective == "time"
            else (lambda p: (p.traffic, p.makespan))
        )
        return check_timed(replace(min(plan, start, key=key), bound=bound))

    def _plan(self, answer: Answer) -> TimedPlan:
        value = answer.solver.value
        stays = []
        for var in self.stays:
            if not value(var.present):
                continue
            first = int(value(var.first))
            fetched = var.number > 0 or var.tensor not in self.graph.writer
            stored = None
            if var.stored is not None and var.store is not None and value(var.stored):
                stored = int(value(var.store))
            stays.append(
                TimedStay(
                    var.tensor,
                    first,
                    int(value(var.end)),
                    int(value(var.address)) * self.granule,
                    first if fetched else None,
                    stored,
                )  # fmt: skip
            )
        starts = tuple(int(value(start)) for start in self.start)
        return TimedPlan(self.graph, self.unit, starts, tuple(stays), 0, "cp-sat")
