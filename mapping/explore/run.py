"""An exploration: every search with every seed, its points evaluated once, its result.

Searches are computed from results, so an exploration that was killed is simply started again: what
the store holds is not evaluated a second time, and everything else follows as it would have.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bankside.errors import ConfigError
from bankside.mapping.explore.evaluate import FAILED, INFEASIBLE, OK, Outcome
from bankside.mapping.explore.pareto import Vector, front, hypervolume
from bankside.mapping.explore.search import Sample, ask
from bankside.mapping.explore.space import Space
from bankside.mapping.explore.store import Store
from bankside.mapping.explore.workers import Workers
from bankside.provenance import collect

#: The reference point lies this far beyond the worst of everything found, in shares of the range.
_MARGIN = 0.1
_REASONS = 20


@dataclass(frozen=True)
class Evaluated:
    """A point with its key and judged result.

    Attributes:
        sample: objectives, and last, where there are soft constraints, by how much they are missed.
        status: counts constraints too. reason: where it is not ok.
        missed: constraint -> by how much it is missed, relative to its bound; of a feasible point
            the soft ones, of an infeasible one the hard ones.
    """

    key: str
    point: dict[str, Any]
    outcome: Outcome
    sample: Sample
    status: str
    reason: str = ""
    missed: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Search:
    """One search with one seed: its points in order."""

    sampler: str
    seed: int
    found: list[Evaluated]


def explore(
    space: Space, store: Store, workers: Workers, on_done: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Run, or continue, an exploration; the result is plain data.

    Args:
        on_done: called with the number of points that are newly settled.
    """
    searches = [
        _search(space, sampler, seed, store, workers, on_done)
        for sampler in space.samplers
        for seed in space.seeds
    ]
    return _result(space, searches)


def _search(
    space: Space, sampler: str, seed: int, store: Store, workers: Workers,
    on_done: Callable[[int], None],
) -> Search:  # fmt: skip
    found: list[Evaluated] = []
    what, generation = space.description, 0
    while len(found) < what.budget:
        count = min(what.population, what.budget - len(found))
        points = ask(space, sampler, seed, generation, [e.sample for e in found], count)
        if not points:
            break
        outcomes = _outcomes(space, points, store, workers)
        found += [judge(space, p, o) for p, o in zip(points, outcomes, strict=True)]
        on_done(len(points))
        generation += 1
    return Search(sampler, seed, found)


def _outcomes(
    space: Space, points: Sequence[dict[str, Any]], store: Store, workers: Workers
) -> list[Outcome]:
    """Results in the order of the points, from the store where it has them."""
    keys = [space.key(point) for point in points]
    known = [store.get(key) for key in keys]
    missing = [i for i, outcome in enumerate(known) if outcome is None]
    for i, outcome in workers.run(space.task, [points[i] for i in missing]):
        place = missing[i]
        store.put(keys[place], points[place], outcome)
        known[place] = outcome
    return [outcome for outcome in known if outcome is not None]


def judge(space: Space, point: dict[str, Any], outcome: Outcome) -> Evaluated:
    """What constraints and objectives make of an outcome."""
    key = space.key(point)

    def none(status: str, reason: str, hard: Mapping[str, float] | None = None) -> Evaluated:
        sample = Sample(point, None, sum(hard.values()) if hard else math.inf)
        return Evaluated(key, point, outcome, sample, status, reason, hard or {})

    if outcome.status != OK:
        return none(outcome.status, outcome.reason)
    values = point | outcome.metrics
    what = space.description
    for name in (*what.objectives, *what.constraints):
        if not isinstance(values.get(name), int | float) or not math.isfinite(values[name]):
            return none(FAILED, f"{name} is {values.get(name)}; expected a number")
    missed = {name: v for name, bound in what.constraints.items()
              if (v := bound.violation(values[name])) > 0}  # fmt: skip
    hard = {name: v for name, v in missed.items() if name not in space.soft}
    if hard:
        reason = ", ".join(f"{name} is {values[name]:g}" for name in hard) + ": constraint"
        return none(INFEASIBLE, reason, hard)
    vector = tuple(
        float(values[name]) * (1 if way == "minimise" else -1)
        for name, way in what.objectives.items()
    )
    if space.soft:
        vector += (sum(missed.values()),)
    return Evaluated(key, point, outcome, Sample(point, vector, 0.0), OK, missed=missed)


# --- result ---------------------------------------------------------------------------------------


def _result(space: Space, searches: Sequence[Search]) -> dict[str, Any]:
    what = space.description
    everything = {e.key: e for search in searches for e in search.found}
    points = list(everything.values())
    feasible = [e for e in points if e.status == OK]
    best = [feasible[i] for i in front([e.sample.vector or () for e in feasible])]
    best.sort(key=lambda e: (bool(e.missed), e.sample.vector, e.key))
    scale = _Scale(
        [e.sample.vector or () for e in feasible],
        len(what.objectives) if what.scale == "log" else 0,
    )
    most = scale.volume([e.sample.vector or () for e in best])
    rows = [_search_row(space, search, scale, most) for search in searches]
    return {
        "kind": "explore",
        "name": space.name,
        "description": what.model_dump(mode="json"),
        "space_points": None if math.isinf(space.size) else int(space.size),
        "evaluated": len(points),
        "status": {s: sum(e.status == s for e in points) for s in (OK, INFEASIBLE, FAILED)},
        "reasons": _reasons(points),
        "pareto": [_point_row(e) for e in best],
        "hypervolume": most,
        "searches": rows,
        "samplers": _samplers(space, rows),
        "points": [_point_row(e) for e in points],
        "provenance": collect(config_hash=space.content_hash),
    }


class _Scale:
    """Hypervolume in units of the range of everything found: 1 per objective, and the margin."""

    def __init__(self, vectors: Sequence[Vector], logarithms: int) -> None:
        """`logarithms`: of the first so many numbers of a vector."""
        self._logarithms = logarithms
        columns = list(zip(*(self._seen(v) for v in vectors), strict=True))
        self._low = [min(column) for column in columns]
        self._range = [(max(c) - min(c)) or 1.0 for c in columns]

    def _seen(self, vector: Vector) -> Vector:
        """Logarithms that keep the order, also of objectives that were negated to maximise them."""
        logs, rest = vector[: self._logarithms], vector[self._logarithms :]
        if 0 in logs:
            raise ConfigError(
                "scale: is log, but an objective is 0 somewhere; use scale: linear (what is "
                "finished is kept)"
            )
        return (*(math.copysign(1, x) * math.log(abs(x)) for x in logs), *rest)

    def volume(self, vectors: Sequence[Vector]) -> float:
        if not vectors:
            return 0.0
        sizes = list(zip(self._low, self._range, strict=True))
        scaled = [
            tuple((x - low) / size for x, (low, size) in zip(self._seen(v), sizes, strict=True))
            for v in vectors
        ]
        return hypervolume(scaled, (1 + _MARGIN,) * len(sizes))


def _search_row(space: Space, search: Search, scale: _Scale, most: float) -> dict[str, Any]:
    """One search: hypervolume after each sample, samples to the target."""
    curve: list[float] = []
    best: list[Vector] = []
    for e in search.found:
        vector, volume = e.sample.vector, curve[-1] if curve else 0.0
        if vector is not None:
            wider = [*best, vector]
            kept = [wider[i] for i in front(wider)]
            if kept != best:
                best, volume = kept, scale.volume(kept)
        curve.append(volume)
    target = space.description.target * most
    reached = next((i + 1 for i, v in enumerate(curve) if most and v >= target * (1 - 1e-12)), None)
    return {
        "sampler": search.sampler,
        "seed": search.seed,
        "samples": len(search.found),
        "hypervolume": curve[-1] if curve else 0.0,
        "samples_to_target": reached,
        "curve": curve,
    }


def _samplers(space: Space, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each kind of search over its seeds; a seed that never got there makes the median later."""
    table = []
    for name in space.samplers:
        own = [row for row in rows if row["sampler"] == name]
        needed = [row["samples_to_target"] or math.inf for row in own]
        middle = median(needed)
        table.append(
            {
                "sampler": name,
                "seeds": len(own),
                "hypervolume_median": median(row["hypervolume"] for row in own),
                "reached": sum(math.isfinite(n) for n in needed),
                "samples_to_target_median": middle if math.isfinite(middle) else None,
            }
        )
    return table


def _point_row(e: Evaluated) -> dict[str, Any]:
    return {"hash": e.key, "point": e.point, "status": e.status, "metrics": e.outcome.metrics,
            "missed": dict(e.missed), "reason": e.reason}  # fmt: skip


def _reasons(points: Sequence[Evaluated]) -> list[dict[str, Any]]:
    """Why points gave no number, most frequent first; of constraints also the nearest miss."""
    groups: dict[tuple[str, str], list[Evaluated]] = {}
    for e in points:
        if e.status != OK:
            told = f"constraint on {', '.join(e.missed)} missed" if e.missed else e.reason
            groups.setdefault((e.status, told), []).append(e)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [{"status": status, "reason": told + _nearest(found), "points": len(found)}
            for (status, told), found in ordered[:_REASONS]]  # fmt: skip


def _nearest(found: Sequence[Evaluated]) -> str:
    """How far the point that misses its constraints by least is from them."""
    least = min(found, key=lambda e: (e.sample.violation, e.key))
    if not least.missed:
        return ""
    values = least.point | least.outcome.metrics
    return ", least with " + ", ".join(f"{name} {values[name]:g}" for name in least.missed)


def table_csv(result: Mapping[str, Any]) -> str:
    """Every point as a row: hash, status, parameters, metrics, on the front or not, reason."""
    names = list(result["description"]["parameters"])
    metrics = sorted({name for row in result["points"] for name in row["metrics"]})
    best = {row["hash"] for row in result["pareto"]}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["hash", "status", "pareto", *names, *metrics, "reason"])
    for row in result["points"]:
        writer.writerow(
            [row["hash"], row["status"], int(row["hash"] in best)]
            + [row["point"][name] for name in names]
            + [row["metrics"].get(name, "") for name in metrics]
            + [row["reason"]]
        )
    return text.getvalue()
