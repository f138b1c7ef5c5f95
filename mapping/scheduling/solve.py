"""CP-SAT as every model here uses it: one worker, a fixed seed, effort in deterministic seconds.

The same model gives the same answer on every machine, whatever else runs there.
"""

from __future__ import annotations

from dataclasses import dataclass

from ortools.sat.python import cp_model


@dataclass(frozen=True)
class Effort:
    """How long to search, in CP-SAT's measure of work (about seconds of one core).

    Attributes:
        seconds: limit of one model. seed: of the search.
    """

    seconds: float = 20.0
    seed: int = 1


EFFORT = Effort()
"""The default."""


@dataclass(frozen=True)
class Answer:
    """What the search found.

    Attributes:
        solver: gives the values, where `found`.
        found: there is a solution. optimal: it is proven best. infeasible: proven that none exists.
        bound: of the objective, proven.
        work: deterministic seconds spent.
    """

    solver: cp_model.CpSolver
    found: bool
    optimal: bool
    infeasible: bool
    bound: float
    work: float


def solve(model: cp_model.CpModel, effort: Effort) -> Answer:
    """Search a model."""
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = effort.seed
    solver.parameters.max_deterministic_time = effort.seconds
    status = solver.solve(model)
    if status == cp_model.MODEL_INVALID:
        raise AssertionError(f"invalid model: {model.validate()}")
    return Answer(
        solver,
        status in (cp_model.OPTIMAL, cp_model.FEASIBLE),
        status == cp_model.OPTIMAL,
        status == cp_model.INFEASIBLE,
        solver.best_objective_bound,
        solver.deterministic_time,
    )
