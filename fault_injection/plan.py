"""The least area whose metrics meet a target even at their worst bounds: one mechanism per block.

Exact (areas to 2**-24 of the largest): an integer program, solved to proven optimality by CP-SAT,
whose coefficients are rounded so that no plan looks worse than it is; a plan that does not meet the
target after all is forbidden, and the next best one looked at. What is chosen has to be injected
again: bounds of protected blocks come from campaigns on each mechanism.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from ortools.sat.python import cp_model

from bankside.errors import ConfigError, ToolError
from bankside.fault_injection.blocks import BlockFit, BlockResult, Reading, level_of_each
from bankside.fault_injection.rates import RawRates
from bankside.fault_injection.safety import Target, measure
from bankside.fault_injection.statistics import Floats
from bankside.fault_injection.strata import Bound

__all__ = ["Candidate", "NoPlan", "Plan", "least_area"]

# Of the largest coefficient. CP-SAT 9.15 (presolve) loses plans where numbers need 40 bits.
_SCALE = 2**24


@dataclass(frozen=True)
class Candidate:
    """One way to build a block.

    mechanism: "none" for the block as it is. area: of block and mechanism, in gate equivalents.
    results: injections into the block built so, its added registers included.
    """

    block: str
    mechanism: str
    area: float
    results: tuple[BlockResult, ...]


@dataclass(frozen=True)
class Plan:
    """What is chosen.

    metrics: with the bounds of all candidates together, so that choosing among them is paid for.
    area, base_area (nothing protected), duplicated_area (everything twice): gate equivalents.
    """

    chosen: tuple[Candidate, ...]
    metrics: Mapping[str, Bound]
    area: float
    base_area: float
    duplicated_area: float

    @property
    def overhead(self) -> float:
        """Added area over that of the unprotected design; 0.38 is + 38 %."""
        return self.area / self.base_area - 1

    @property
    def duplicated_overhead(self) -> float:
        """The same for full duplication."""
        return self.duplicated_area / self.base_area - 1


@dataclass(frozen=True)
class NoPlan:
    """No choice meets the target.

    binding: metrics that no choice reaches even alone; empty if only all together are out of reach.
    reachable: best worst-case value of each metric alone, whatever the area.
    """

    binding: tuple[str, ...]
    reachable: Mapping[str, float]


@dataclass
class _Problem:
    """Candidates as coefficients, per raw rate (a column of each)."""

    candidates: Sequence[Candidate]
    fits: list[list[BlockFit]]
    rates: dict[str, Floats] = field(default_factory=dict)
    bits: list[tuple[int, int, float, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        groups: dict[tuple[str, str], int] = {}
        low, high = [], []
        for row, fits in enumerate(self.fits):
            for fit in fits:
                key = (fit.result.mode, fit.result.kind)
                if key not in groups:
                    groups[key] = len(groups)
                    low.append(fit.rate.per_bit.low)
                    high.append(fit.rate.per_bit.high)
                size = fit.result.bits * fit.result.duty * fit.result.rate_factor
                latent = fit.shares["latent"].high
                self.bits.append((row, groups[key], size, fit.dangerous.high, latent))
        self.rates = {"low": np.array(low), "high": np.array(high)}

    def excess(self, metric: str, limit: float) -> Floats:
        """What each candidate adds to a sum that must not be above 0; candidates x rates.

        SPFM: sum(dangerous - (1 - limit)); LFM: sum(latent - (1 - limit)(1 - dangerous)); PMHF:
        dangerous alone, to stay below a limit of its own. Times bits, for a raw rate of 1.
        """
        found = np.zeros((len(self.candidates), len(self.rates["low"])))
        for row, group, size, bad, latent in self.bits:
            if metric == "SPFM":
                part = bad - (1 - limit)
            elif metric == "LFM":
                part = latent - (1 - limit) * (1 - min(bad, 1 - latent))
            else:
                part = bad
            found[row, group] += size * part
        return found

    def blocks(self) -> dict[str, list[int]]:
        """Candidates of each block."""
        rows: dict[str, list[int]] = {}
        for row, candidate in enumerate(self.candidates):
            rows.setdefault(candidate.block, []).append(row)
        return rows

    def measure(self, rows: Sequence[int]) -> dict[str, Bound]:
        return measure([fit for row in rows for fit in self.fits[row]])


def _down(values: Floats, scale: float) -> list[int]:
    """Whole numbers not above scale x values."""
    return [math.floor(value * scale) for value in values.tolist()]


class _Solver:
    """One integer program over a problem."""

    def __init__(self, problem: _Problem) -> None:
        self.problem = problem
        self.model = cp_model.CpModel()
        self.take = [self.model.new_bool_var(f"c{row}") for row in range(len(problem.candidates))]
        for rows in problem.blocks().values():
            self.model.add_exactly_one([self.take[row] for row in rows])

    def demand(self, metric: str, limit: float) -> None:
        """Require a metric at its worst bound, at every corner of the raw rates; rounded."""
        excess = self.problem.excess(metric, limit)
        if metric == "PMHF":
            fit = excess @ self.problem.rates["high"]
            scale = _SCALE / max(limit, float(fit.max()))
            self._below(_down(fit, scale), math.ceil(limit * scale))
            return
        for corner in itertools.product(("low", "high"), repeat=excess.shape[1]):
            rates = [self.problem.rates[end][group] for group, end in enumerate(corner)]
            values = excess @ np.array(rates)
            largest = float(np.abs(values).max())
            self._below(_down(values, _SCALE / largest if largest else 1.0), 0)

    def _below(self, values: Sequence[int], limit: int) -> None:
        self.model.add(sum(t * v for t, v in zip(self.take, values, strict=True)) <= limit)

    def forbid(self, rows: Sequence[int]) -> None:
        """Not this choice again."""
        self.model.add_bool_or([self.take[row].negated() for row in rows])

    def choose(self, asked: Mapping[str, float], goal: object, seconds: float) -> list[int] | None:
        """The choice with the least goal that meets all limits."""
        for metric, limit in asked.items():
            self.demand(metric, limit)
        while (rows := self.least(goal, seconds)) is not None:
            found = self.problem.measure(rows)
            if not any(_misses(m, _worst(m, found[m]), limit) for m, limit in asked.items()):
                return rows
            self.forbid(rows)
        return None

    def least(self, goal: object, seconds: float) -> list[int] | None:
        """Candidates with the least goal; None if there is no choice at all."""
        self.model.minimize(goal)  # type: ignore[arg-type]
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1  # the same choice among equals, on any machine
        solver.parameters.random_seed = 1
        solver.parameters.max_time_in_seconds = seconds
        status = solver.solve(self.model)
        if status == cp_model.INFEASIBLE:
            return None
        if status != cp_model.OPTIMAL:
            raise ToolError(
                f"plan of {len(self.take)} candidates: CP-SAT ended as "
                f"{solver.status_name(status)} after {seconds:g} s, "
                "expected a proven optimum; allow more seconds"
            )
        return [row for row, take in enumerate(self.take) if solver.value(take)]

    def area(self) -> object:
        """Area, in whole parts of the largest one."""
        areas = np.array([c.area for c in self.problem.candidates])
        scale = _SCALE / max(float(areas.max()), 1e-300)
        parts = [round(area * scale) for area in areas.tolist()]
        return sum(t * v for t, v in zip(self.take, parts, strict=True))


def _reachable(problem: _Problem, metric: str, seconds: float) -> float:
    """Best worst-case value of one metric, to 1e-12. Ratios: the limit is halved in between what a
    plan reaches and what none does.
    """
    if metric == "PMHF":
        fit = problem.excess("PMHF", 0) @ problem.rates["high"]
        return float(sum(min(fit[row] for row in rows) for rows in problem.blocks().values()))
    best = problem.measure([rows[0] for rows in problem.blocks().values()])[metric].low
    above = 1.0
    while above - best > 1e-12:
        limit = (best + above) / 2
        rows = _Solver(problem).choose({metric: limit}, 0, seconds)
        if rows is None:
            above = limit
        else:
            best = problem.measure(rows)[metric].low
    return best


def _check(candidates: Sequence[Candidate]) -> None:
    seen = set()
    for candidate in candidates:
        key = (candidate.block, candidate.mechanism)
        if key in seen or not candidate.results or not 0 <= candidate.area < math.inf:
            raise ConfigError(
                f"candidate {candidate.mechanism} of {candidate.block}: area {candidate.area!r}, "
                f"{len(candidate.results)} results{', given twice' if key in seen else ''}; "
                "expected each mechanism once per block, with results and an area of 0 or more"
            )
        seen.add(key)
    blocks = {block for block, _ in seen}
    if without := sorted(block for block in blocks if (block, "none") not in seen):
        raise ConfigError(
            f"candidates of {', '.join(without)}: none with mechanism 'none'; expected one per "
            "block, added area is counted from it"
        )
    if not seen:
        raise ConfigError("no candidates: expected at least one block with mechanism 'none'")


def least_area(
    candidates: Sequence[Candidate],
    rates: RawRates,
    target: Target,
    reading: Reading | None = None,
    level: float = 0.95,
    looks: int = 1,
    pmhf_share: float = 1.0,
    duplicated_area: float | None = None,
    seconds: float = 60.0,
) -> Plan | NoPlan:
    """Choose one candidate per block: least area with SPFM, LFM and PMHF in target at their bounds.

    The bounds of all candidates hold together with `level`. PMHF counts single-point and residual
    faults (no second ones). duplicated_area: of the design in lockstep; without it twice the
    unprotected one, comparator not counted.

    Raises:
        ConfigError: candidates that are no choice, or a missing raw rate.
        ToolError: no proven optimum within `seconds`.
    """
    _check(candidates)
    each = level_of_each([r for c in candidates for r in c.results], level, looks)
    how = reading or Reading()
    fits = [[BlockFit.of(r, rates, how, each) for r in c.results] for c in candidates]
    problem = _Problem(candidates, fits)
    budget = None if target.pmhf is None else target.pmhf * pmhf_share
    limits = {"SPFM": target.spfm, "LFM": target.lfm, "PMHF": budget}
    asked = {metric: limit for metric, limit in limits.items() if limit is not None}
    solver = _Solver(problem)
    rows = solver.choose(asked, solver.area(), seconds)
    if rows is None:
        reachable = {metric: _reachable(problem, metric, seconds) for metric in asked}
        return NoPlan(tuple(m for m in asked if _misses(m, reachable[m], asked[m])), reachable)
    base = sum(c.area for c in candidates if c.mechanism == "none")
    return Plan(
        tuple(candidates[row] for row in rows),
        problem.measure(rows),
        sum(candidates[row].area for row in rows),
        base,
        2 * base if duplicated_area is None else duplicated_area,
    )


def _worst(metric: str, bound: Bound) -> float:
    return bound.high if metric == "PMHF" else bound.low


def _misses(metric: str, value: float, limit: float) -> bool:
    return value >= limit if metric == "PMHF" else value < limit
