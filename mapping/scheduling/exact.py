"""Exact timetables on heterogeneous devices with transfers, by CP-SAT, begun from HEFT.

Each task has an optional interval on each device that can run it, each tensor one on each link it
may need; devices and channels are NoOverlap. Ref: docs/scheduling.md, section Devices.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ortools.sat.python import cp_model

from bankside.mapping.scheduling.graph import Graph
from bankside.mapping.scheduling.heft import heft
from bankside.mapping.scheduling.machine import Machine, devices_of
from bankside.mapping.scheduling.solve import EFFORT, Effort, solve
from bankside.mapping.scheduling.timetable import Run, Timetable, Transfer, check_times


def exact(graph: Graph, machine: Machine, effort: Effort = EFFORT) -> Timetable:
    """The timetable that ends first, or the best found, with its proven bound.

    Raises:
        ConfigError: a task that no device can run, or whose inputs cannot get there.
    """
    start = heft(graph, machine)
    if start.optimal:
        return start
    return _Model(graph, machine, start.makespan).solve(start, effort)


class _Model:
    def __init__(self, graph: Graph, machine: Machine, horizon: int) -> None:
        self.graph, self.machine, self.horizon = graph, machine, horizon
        self.model = cp_model.CpModel()
        self.devices = devices_of(graph, machine)
        self.on: dict[tuple[int, str], cp_model.IntVar] = {}
        self.start: list[cp_model.IntVar] = []
        self.end: list = []
        self.lanes: dict[str, list] = {name: [] for name in (*machine.devices, *machine.channels)}
        self.moves: dict[tuple[str, str, str], tuple] = {}
        self.makespan = self.model.new_int_var(0, horizon, "makespan")
        for i in range(len(graph.tasks)):
            self._task(i)
        for tensor in graph.sizes:
            for device in machine.devices:
                self._tensor(tensor, device)
        for lane in self.lanes.values():
            self.model.add_no_overlap(lane)
        self.model.minimize(self.makespan)

    def _task(self, i: int) -> None:
        model, task = self.model, self.graph.tasks[i]
        start = model.new_int_var(0, self.horizon, f"start_{i}")
        for device in self.devices[i]:
            chosen = self.on[i, device] = model.new_bool_var(f"on_{i}_{device}")
            self.lanes[device].append(
                model.new_optional_fixed_size_interval_var(
                    start, task.ticks[device], chosen, f"run_{i}_{device}"
                )
            )
        model.add_exactly_one(self.on[i, d] for d in self.devices[i])
        self.start.append(start)
        self.end.append(start + sum(task.ticks[d] * self.on[i, d] for d in self.devices[i]))
        model.add(self.makespan >= self.end[i])
        for j in self.graph.direct[i]:
            model.add(start >= self.end[j])

    def _tensor(self, tensor: str, target: str) -> None:
        """What it takes to have a tensor on a device where tasks read it."""
        readers = [i for i in self.graph.readers[tensor] if (i, target) in self.on]
        writer = self.graph.writer.get(tensor)
        home = self.machine.home.get(tensor)
        if not readers or (writer is None and home in (None, target)):
            return
        sources = [home] if writer is None else [d for d in self.devices[writer] if d != target]
        for source in sources:
            there = None if writer is None else self.on[writer, source]
            if (source, target) not in self.machine.links:
                for i in readers:
                    apart = [self.on[i, target].negated()]
                    self.model.add_bool_or(apart + ([there.negated()] if there is not None else []))
                continue
            self._move(tensor, source, target, readers, there)

    def _move(self, tensor: str, source: str, target: str, readers: list[int], there) -> None:
        model, link = self.model, self.machine.links[source, target]
        name = f"{tensor}_{source}_{target}"
        sent = model.new_bool_var(f"sent_{name}")
        start = model.new_int_var(0, self.horizon, f"move_{name}")
        ticks = link.ticks(self.graph.sizes[tensor])
        if link.channel:
            self.lanes[link.channel].append(
                model.new_optional_fixed_size_interval_var(start, ticks, sent, f"carry_{name}")
            )
        if there is not None:
            model.add_implication(sent, there)
            writer = self.graph.writer[tensor]
            model.add(start >= self.end[writer]).only_enforce_if(sent)
        model.add_bool_or([sent.negated(), *(self.on[i, target] for i in readers)])
        for i in readers:
            needed = [self.on[i, target], *([there] if there is not None else [])]
            model.add_bool_or([sent, *(literal.negated() for literal in needed)])
            model.add(self.start[i] >= start + ticks).only_enforce_if([sent, self.on[i, target]])
        self.moves[tensor, source, target] = (sent, start, ticks)

    # --- solution ---------------------------------------------------------------------------------
    def _hint(self, table: Timetable) -> None:
        for i, run in enumerate(table.runs):
            self.model.add_hint(self.start[i], run.start)
            for device in self.devices[i]:
                self.model.add_hint(self.on[i, device], run.device == device)
        at = {(m.tensor, m.source, m.target): m.start for m in table.transfers}
        for key, (sent, start, _) in self.moves.items():
            self.model.add_hint(sent, key in at)
            self.model.add_hint(start, at.get(key, 0))
        self.model.add_hint(self.makespan, table.makespan)

    def solve(self, start: Timetable, effort: Effort) -> Timetable:
        """The better of `start` and what the search finds."""
        self._hint(start)
        self.model.add(self.makespan >= start.bound)
        answer = solve(self.model, effort)
        bound = max(start.bound, math.ceil(answer.bound - 1e-6))
        if not answer.found or answer.solver.value(self.makespan) >= start.makespan:
            return replace(start, bound=min(bound, start.makespan))
        value = answer.solver.value
        runs = []
        for i, task in enumerate(self.graph.tasks):
            device = next(d for d in self.devices[i] if value(self.on[i, d]))
            begin = int(value(self.start[i]))
            runs.append(Run(task.name, device, begin, begin + task.ticks[device]))
        transfers = [
            Transfer(*key, int(value(begin)), int(value(begin)) + ticks)
            for key, (sent, begin, ticks) in self.moves.items()
            if value(sent)
        ]
        table = Timetable(self.graph, self.machine, tuple(runs), tuple(transfers), bound, "cp-sat")
        return check_times(table)
