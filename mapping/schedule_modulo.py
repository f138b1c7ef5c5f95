"""Modulo schedules for the `array` engine: the shortest pass, then the shortest iteration.

Given the blocks of one iteration, find slots so that an iteration can start every `ii` slots. Units
are taken modulo ii, distances hold within and between iterations (`isa/array_schedule.py`). CP-SAT
solves each ii exactly; feasibility is monotone in ii (an idle slot at the end of every pass keeps
all rules), so the smallest ii is proven by the infeasibility of the one below, or by a lower bound.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ortools.sat.python import cp_model

from bankside.cache import cache_entry
from bankside.errors import ConfigError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.array_schedule import (
    LANE_OPS,
    LANE_PARTS,
    MAX_STAGE,
    Block,
    Distance,
    Schedule,
    check,
    distances,
)
from bankside.isa.spec import load_spec

_VERSION = 2
#: CP-SAT's own measure of work; with one worker it makes results independent of the wall clock.
_EFFORT = 20.0


@dataclass(frozen=True)
class Problem:
    """Blocks of one iteration and what holds between them.

    Attributes:
        lengths: (operation, slots).
        rules: distances between them.
        units: operations that exclude each other, for each unit.
        in_order: operations that stay in the pass in which their iteration starts.
        limit: largest ii.
    """

    lengths: tuple[tuple[str, int], ...]
    rules: tuple[Distance, ...]
    units: tuple[tuple[str, ...], ...]
    in_order: tuple[str, ...] = ()
    limit: int = 4095

    def stage_limit(self, op: str) -> int:
        """Latest stage of a block."""
        return 0 if op in self.in_order else MAX_STAGE


@dataclass(frozen=True)
class Solution:
    """A schedule and how good it is.

    Attributes:
        ii: slots per pass.
        begins: (operation, slots from the start of the iteration).
        resource_bound, recurrence_bound: lower bounds of ii from the units and from the distances.
        ii_proven: no smaller ii is possible.
        span_proven: no shorter iteration is possible at this ii.
    """

    ii: int
    begins: tuple[tuple[str, int], ...]
    resource_bound: int
    recurrence_bound: int
    ii_proven: bool
    span_proven: bool

    @property
    def bound(self) -> int:
        """The larger of the two lower bounds."""
        return max(self.resource_bound, self.recurrence_bound)

    @property
    def status(self) -> str:
        """`optimal`, or what is not proven."""
        if self.ii_proven:
            return "optimal" if self.span_proven else "optimal ii, span not proven"
        return "feasible"


def resource_bound(problem: Problem) -> int:
    """Lower bound of ii: the busier unit's slots, and the longest block."""
    lengths = dict(problem.lengths)
    return max(*lengths.values(), *(sum(lengths[op] for op in unit) for unit in problem.units))


def recurrence_bound(problem: Problem) -> int:
    """Lower bound of ii from the distances alone: the smallest ii without a positive cycle."""
    rules = list(problem.rules)
    # All of them end within the pass in which the first one begins.
    inner = [(op, n) for op, n in problem.lengths if op in problem.in_order]
    rules += [Distance(a, b, n, 1) for a, n in inner for b, _ in inner if a != b]
    low, high = 1, problem.limit
    if _positive_cycle(problem, rules, high):
        raise ConfigError(_no_schedule(problem, high))
    while low < high:
        middle = (low + high) // 2
        if _positive_cycle(problem, rules, middle):
            low = middle + 1
        else:
            high = middle
    return low


def _positive_cycle(problem: Problem, rules: list[Distance], ii: int) -> bool:
    earliest = {op: 0 for op, _ in problem.lengths}
    for _ in range(len(earliest) + 1):
        changed = False
        for rule in rules:
            at = earliest[rule.first] + rule.slots - rule.later * ii
            if at > earliest[rule.second]:
                earliest[rule.second], changed = at, True
        if not changed:
            return False
    return True


def _no_schedule(problem: Problem, ii: int) -> str:
    lengths = ", ".join(f"{op} {length}" for op, length in problem.lengths)
    return (
        f"no schedule for the blocks {lengths} with up to {ii} slots per pass; use fewer or "
        f"shorter blocks, or raise array.score_registers"
    )


@dataclass(frozen=True)
class _Attempt:
    begins: tuple[tuple[str, int], ...] | None
    proven: bool


def _attempt(problem: Problem, ii: int, minimise: bool) -> _Attempt:
    """Solve for one ii: any schedule, or the one with the shortest iteration."""
    model = cp_model.CpModel()
    begins, intervals = {}, {}
    for op, length in problem.lengths:
        slot = model.new_int_var(0, ii - length, f"slot_{op}")
        stage = model.new_int_var(0, problem.stage_limit(op), f"stage_{op}")
        begins[op] = stage * ii + slot
        intervals[op] = model.new_fixed_size_interval_var(slot, length, op)
    for unit in problem.units:
        model.add_no_overlap([intervals[op] for op in unit])
    for rule in problem.rules:
        model.add(begins[rule.second] + rule.later * ii - begins[rule.first] >= rule.slots)
    if minimise:
        _shortest(model, problem, begins, ii)
    return _solve(model, begins)


def _shortest(model: cp_model.CpModel, problem: Problem, begins: dict, ii: int) -> None:
    """Shortest iteration first, then everything as early as possible (few values alive)."""
    longest = (MAX_STAGE + 1) * ii
    span = model.new_int_var(0, longest, "span")
    for op, length in problem.lengths:
        model.add(span >= begins[op] + length)
    weight = longest * len(begins) + 1
    model.minimize(span * weight + sum(begins.values()))


def _solve(model: cp_model.CpModel, begins: dict) -> _Attempt:
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 1
    solver.parameters.max_deterministic_time = _EFFORT
    status = solver.solve(model)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        found = tuple((op, int(solver.value(begin))) for op, begin in begins.items())
        return _Attempt(found, status == cp_model.OPTIMAL)
    return _Attempt(None, status == cp_model.INFEASIBLE)


def solve(problem: Problem) -> Solution:
    """The schedule with the smallest ii and, at that ii, the shortest iteration.

    Deterministic. Raises ConfigError when no ii that KERNEL can express has a schedule.
    """
    resource, recurrence = resource_bound(problem), recurrence_bound(problem)
    limit = problem.limit
    low = max(resource, recurrence)
    if low > limit:
        raise ConfigError(_no_schedule(problem, limit))
    ii, proven = low, True
    if _attempt(problem, low, False).begins is None:
        ii, proven = _search(problem, low, limit)
    best = _attempt(problem, ii, True)
    begins = best.begins or _attempt(problem, ii, False).begins
    assert begins is not None  # this ii was found feasible above
    return Solution(ii, begins, resource, recurrence, proven, best.proven)


def _search(problem: Problem, infeasible: int, limit: int) -> tuple[int, bool]:
    """Smallest feasible ii above one that is not, by bisection; whether it is proven."""
    step, proven, feasible = 1, True, None
    while feasible is None:
        trial = min(infeasible + step, limit)
        attempt = _attempt(problem, trial, False)
        if attempt.begins is not None:
            feasible = trial
        elif trial == limit:
            raise ConfigError(_no_schedule(problem, limit))
        else:
            infeasible, step, proven = trial, 2 * step, proven and attempt.proven
    while feasible - infeasible > 1:
        middle = (feasible + infeasible) // 2
        attempt = _attempt(problem, middle, False)
        if attempt.begins is not None:
            feasible = middle
        else:
            infeasible, proven = middle, proven and attempt.proven
    return feasible, proven


@functools.lru_cache(maxsize=256)
def solve_cached(problem: Problem) -> Solution:
    """`solve`, kept in memory and under the build folder."""
    key = {"version": _VERSION, "problem": asdict(problem), "solver": cp_model.__name__}
    with cache_entry("schedule", key) as entry:
        if not entry.hit:
            (entry.path / "solution.json").write_text(json.dumps(asdict(solve(problem))))
    data = json.loads((entry.path / "solution.json").read_text())
    data["begins"] = tuple((op, begin) for op, begin in data["begins"])
    return Solution(**data)


def problem_of(
    lengths: Mapping[str, int],
    machine: ArrayMachine,
    *,
    chunked: bool = False,
    one_at_a_time: bool = False,
) -> Problem:
    """The scheduling problem of blocks (operation -> slots) on a machine.

    one_at_a_time: iterations do not overlap in the 2D array.
    """
    rules = tuple(distances(dict(lengths), machine, chunked))
    array = tuple(op for op in lengths if op not in LANE_OPS)
    lanes = tuple(op for op in lengths if op in LANE_PARTS)
    limit = load_spec("array").commands["KERNEL"].field_map["ii"].maximum
    in_order = array if one_at_a_time else ()
    return Problem(tuple(lengths.items()), rules, (array, lanes), in_order, limit)


def modulo_schedule(
    lengths: Mapping[str, int],
    machine: ArrayMachine,
    *,
    format: str = "fp16",
    chunked: bool = False,
    correct: bool = False,
    one_at_a_time: bool = False,
) -> tuple[Schedule, Solution]:
    """Best schedule of blocks (operation -> slots), ready for a program, and its quality.

    Raises ConfigError when there is none.
    """
    problem = problem_of(lengths, machine, chunked=chunked, one_at_a_time=one_at_a_time)
    solution = solve_cached(problem)
    blocks = tuple(
        Block(op, begin % solution.ii, lengths[op], begin // solution.ii)
        for op, begin in solution.begins
    )
    schedule = Schedule(solution.ii, blocks, format, chunked, correct).marked()
    check(schedule, machine)
    return schedule, solution
