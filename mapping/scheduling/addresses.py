"""Addresses as rectangles in address x step that do not overlap (NoOverlap2D).

Ref: docs/scheduling.md, section COSMA. COSMA orders every pair of tensors with big-M instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ortools.sat.python import cp_model

from bankside.mapping.scheduling.graph import Graph
from bankside.mapping.scheduling.plan import Plan, Stay
from bankside.mapping.scheduling.solve import Answer, Effort, solve


def fixed_addresses(
    graph: Graph, capacity: int, steps: Sequence[int], stays: Sequence[Stay], effort: Effort
) -> Plan | None:
    """A plan with these stays at addresses that fit; None where none are found."""
    model, unit = cp_model.CpModel(), graph.granule
    rows, columns, at = [], [], []
    for number, stay in enumerate(stays):
        size = graph.sizes[stay.tensor] // unit
        address = model.new_int_var(0, capacity // unit - size, f"at_{number}")
        at.append(address)
        rows.append(model.new_fixed_size_interval_var(address, size, f"row_{number}"))
        length = stay.end - stay.first
        columns.append(model.new_fixed_size_interval_var(stay.first, length, f"column_{number}"))
    model.add_no_overlap_2d(columns, rows)
    answer = solve(model, effort)
    if not answer.found:
        return None
    placed = tuple(
        stay._replace(address=int(answer.solver.value(address)) * unit)
        for stay, address in zip(stays, at, strict=True)
    )
    return Plan(graph, capacity, tuple(steps), placed)


def joint_plan(
    graph: Graph,
    capacity: int,
    start: Plan,
    bound: int,
    effort: Effort,
    order: Sequence[int] | None = None,
) -> tuple[Plan | None, int]:
    """Order, residence and addresses in one model.

    Args:
        start: a plan to begin from; the answer has less traffic.
        bound: known lower bound of the non-compulsory traffic.
        order: steps of the tasks, where they are given.

    Returns:
        A plan, None where nothing better than `start` is found; and a lower bound that holds
        where no order was given.
    """
    return _Joint(graph, capacity, order).solve(start, bound, effort)


class _Joint:
    """A task has a step; a tensor has as many possible stays as uses, in order of time."""

    def __init__(self, graph: Graph, capacity: int, order: Sequence[int] | None) -> None:
        self.graph, self.unit = graph, graph.granule
        self.capacity = capacity // self.unit
        self.model = cp_model.CpModel()
        self.cost: list = []
        self.step = [
            self.model.new_int_var(graph.window(i).start, graph.window(i).stop - 1, f"step_{i}")
            if order is None
            else self.model.new_constant(order[i])
            for i in range(len(graph.tasks))
        ]
        self.model.add_all_different(self.step)
        for i, earlier in enumerate(graph.direct):
            for j in earlier:
                self.model.add(self.step[j] < self.step[i])
        self.stays: list[tuple[str, int, tuple]] = []
        self.rows: list = []
        self.columns: list = []
        for tensor in graph.sizes:
            if graph.readers[tensor] or tensor in graph.writer:
                self._tensor(tensor)
        self.model.add_no_overlap_2d(self.columns, self.rows)
        self.model.minimize(sum(self.cost))

    def _tensor(self, tensor: str) -> None:
        graph, model = self.graph, self.model
        made, readers = graph.writer.get(tensor), graph.readers[tensor]
        stays = [
            self._stay(tensor, k, optional=k > 0) for k in range(len(readers) + (made is not None))
        ]
        first, end, _, _ = stays[0]
        if made is not None:
            model.add(first == self.step[made])
        for i in readers:
            within = [model.new_bool_var(f"use_{tensor}_{i}_{k}") for k in range(len(stays))]
            model.add_exactly_one(within)
            for used, (first, end, present, _) in zip(within, stays, strict=True):
                model.add_implication(used, present)
                model.add(first <= self.step[i]).only_enforce_if(used)
                model.add(end > self.step[i]).only_enforce_if(used)
        size = graph.sizes[tensor] // self.unit
        for one, other in zip(stays, stays[1:], strict=False):
            model.add(one[1] <= other[0]).only_enforce_if(other[2])
            model.add_implication(other[2], one[2])
            self.cost.append(size * other[2])
        if len(stays) > 1 and made is not None and tensor not in graph.outputs:
            self.cost.append(size * stays[1][2])

    def _stay(self, tensor: str, number: int, optional: bool) -> tuple:
        model, n = self.model, len(self.graph.tasks)
        size = self.graph.sizes[tensor] // self.unit
        first = model.new_int_var(0, n - 1, f"first_{tensor}_{number}")
        end = model.new_int_var(1, n, f"end_{tensor}_{number}")
        length = model.new_int_var(1, n, f"length_{tensor}_{number}")
        address = model.new_int_var(0, self.capacity - size, f"at_{tensor}_{number}")
        present = model.new_bool_var(f"stay_{tensor}_{number}")
        if not optional:
            model.add(present == 1)
        name = f"{tensor}_{number}"
        self.columns.append(
            model.new_optional_interval_var(first, length, end, present, f"column_{name}")
        )
        self.rows.append(
            model.new_optional_fixed_size_interval_var(address, size, present, f"row_{name}")
        )
        self.stays.append((tensor, number, (first, end, present, address)))
        return first, end, present, address

    def _hint(self, plan: Plan) -> None:
        for var, step in zip(self.step, plan.steps, strict=True):
            self.model.add_hint(var, step)
        known: dict[str, list[Stay]] = {}
        for stay in sorted(plan.stays, key=lambda stay: stay.first):
            known.setdefault(stay.tensor, []).append(stay)
        for tensor, number, (first, end, present, address) in self.stays:
            stays = known.get(tensor, [])
            self.model.add_hint(present, number < len(stays))
            if number < len(stays):
                self.model.add_hint(first, stays[number].first)
                self.model.add_hint(end, stays[number].end)
                self.model.add_hint(address, stays[number].address // self.unit)

    def solve(self, start: Plan, bound: int, effort: Effort) -> tuple[Plan | None, int]:
        """A plan with less traffic than `start`, and a bound."""
        self._hint(start)
        total = sum(self.cost)
        self.model.add(total >= bound // self.unit)
        self.model.add(total < start.extra_bytes // self.unit)
        answer = solve(self.model, effort)
        if answer.infeasible:
            return None, start.extra_bytes
        bound = max(bound, math.ceil(answer.bound - 1e-6) * self.unit)
        return (self._plan(answer) if answer.found else None), bound

    def _plan(self, answer: Answer) -> Plan:
        value, outputs = answer.solver.value, set(self.graph.outputs)
        present: dict[str, int] = {}
        for tensor, _, (_, _, there, _) in self.stays:
            present[tensor] = present.get(tensor, 0) + int(value(there))
        stays = []
        for tensor, number, (first, end, there, address) in self.stays:
            if not value(there):
                continue
            created = number == 0 and tensor in self.graph.writer
            stored = created and (present[tensor] > 1 or tensor in outputs)
            place = int(value(address)) * self.unit
            stays.append(Stay(tensor, value(first), value(end), place, not created, stored))
        steps = tuple(value(s) for s in self.step)
        return Plan(self.graph, self.capacity * self.unit, steps, tuple(stays))
