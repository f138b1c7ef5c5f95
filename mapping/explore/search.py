"""Searches: each proposes the next generation of points from all earlier ones and their results.

A proposal depends only on the search's name, its seed, the generation and earlier results. To add a
search: a function like `nsga2`, and a line below `SAMPLERS`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bankside.mapping.explore.pareto import Vector, crowding, ranks
from bankside.registry import Registry

if TYPE_CHECKING:
    from bankside.mapping.explore.space import Choices, Parameter, Point, Range, Space

#: Draws for a point that this search has not had before it is looked for by counting.
_TRIES = 64
#: Up to this many points a space is listed to find those that are left.
_LISTED = 200_000
_GOOD, _CANDIDATES = 0.25, 24


@dataclass(frozen=True)
class Sample:
    """A point with its result.

    Attributes:
        vector: objectives, to be minimised; None where it is not feasible.
        violation: by how much constraints are missed; infinite where there is no metric.
    """

    point: dict[str, Any]
    vector: Vector | None
    violation: float


#: (space, earlier samples, random numbers) -> one proposal after the other
Proposer = Callable[["Space", Sequence[Sample], random.Random], Callable[[], "Point"]]
SAMPLERS: Registry[Proposer] = Registry("sampler")


def ask(
    space: Space, sampler: str, seed: int, generation: int, history: Sequence[Sample], count: int
) -> list[Point]:
    """Points that this search has not had, at most `count`; none once the space is exhausted."""
    rng = random.Random(f"{sampler}/{seed}/{generation}")
    seen = {_identity(sample.point) for sample in history}
    propose = SAMPLERS.get(sampler)(space, history, rng)
    points: list[Point] = []
    for _ in range(count):
        point = _unseen(space, propose, rng, seen)
        if point is None:
            break
        seen.add(_identity(point))
        points.append(point)
    return points


def _identity(point: Mapping[str, Any]) -> tuple:
    return tuple(repr(value) for value in point.values())


def _unseen(
    space: Space, propose: Callable[[], Point], rng: random.Random, seen: set[tuple]
) -> Point | None:
    for source in (propose, lambda: space.random_point(rng)):
        for _ in range(_TRIES):
            if _identity(point := source()) not in seen:
                return point
    if space.size > _LISTED:  # as good as impossible unless nearly all of it is known
        return None
    left = [p for p in map(dict, _all_points(space)) if _identity(p) not in seen]
    return rng.choice(left) if left else None


def _all_points(space: Space) -> list[list[tuple[str, Any]]]:
    found: list[list[tuple[str, Any]]] = [[]]
    for name, parameter in space.parameters.items():
        found = [[*head, (name, value)] for head in found for value in _values(parameter)]
    return found


def _values(parameter: Parameter) -> Sequence[Any]:
    if not _is_range(parameter):
        return parameter.values
    step = parameter.grid
    values = [parameter.low + i * step for i in range(int(parameter.count))]
    return [int(v) for v in values] if parameter.whole else values


def _is_range(parameter: Choices | Range) -> bool:
    return hasattr(parameter, "low")


def order(history: Sequence[Sample]) -> list[int]:
    """Indices, best first: by front and room in it; then by violated constraints.

    Ref: NSGA-II with constrained domination, Deb et al. 2002, section VI.
    """
    feasible = [i for i, sample in enumerate(history) if sample.vector is not None]
    vectors = [history[i].vector or () for i in feasible]
    place = ranks(vectors)
    room = [0.0] * len(vectors)
    for rank in set(place):
        members = [i for i, r in enumerate(place) if r == rank]
        for i, free in zip(members, crowding([vectors[i] for i in members]), strict=True):
            room[i] = free
    best = sorted(range(len(feasible)), key=lambda i: (place[i], -room[i], feasible[i]))
    rest = [i for i, sample in enumerate(history) if sample.vector is None]
    return [feasible[i] for i in best] + sorted(rest, key=lambda i: (history[i].violation, i))


# --- searches -------------------------------------------------------------------------------------


@SAMPLERS.register("random")
def uniform(space: Space, history: Sequence[Sample], rng: random.Random) -> Callable[[], Point]:
    """Every point as likely as any other: what a search has to beat."""
    return lambda: space.random_point(rng)


@SAMPLERS.register("nsga2")
def nsga2(space: Space, history: Sequence[Sample], rng: random.Random) -> Callable[[], Point]:
    """Crossover and mutation of the best points so far.

    Ref: Deb, Pratap, Agarwal, Meyarivan: A fast and elitist multiobjective genetic algorithm:
    NSGA-II, 2002. Parents are the best of all earlier points, not only of the last two generations.
    """
    if not history:
        return lambda: space.random_point(rng)
    parents = order(history)[: space.description.population]

    def tournament() -> Mapping[str, Any]:
        place = min(rng.randrange(len(parents)), rng.randrange(len(parents)))
        return history[parents[place]].point

    def child() -> Point:
        mother, father = tournament(), tournament()
        point = {}
        for name, parameter in space.parameters.items():
            value = (mother if rng.random() < 0.5 else father)[name]
            if rng.random() < 1 / len(space.parameters):
                value = _mutated(parameter, value, rng)
            point[name] = value
        return point

    return child


def _mutated(parameter: Parameter, value: Any, rng: random.Random) -> Any:
    """A value near this one; any other where values have no order."""
    if _is_range(parameter):
        near = parameter.at(parameter.share(value) + rng.gauss(0, 0.15))
        return near if near != value else parameter.at(rng.random())
    others = [v for v in parameter.values if v is not value and v != value]
    if not others:
        return value
    if all(isinstance(v, int | float) for v in parameter.values) and rng.random() < 0.7:
        others.sort(key=lambda v: abs(v - value))
        return rng.choice(others[:2])
    return rng.choice(others)


@SAMPLERS.register("tpe")
def tpe(space: Space, history: Sequence[Sample], rng: random.Random) -> Callable[[], Point]:
    """Candidates drawn from densities of the good points, the least typical of the rest taken.

    Ref: Bergstra et al. 2011 (tree-structured Parzen estimator); good is the best quarter by front
    and crowding, as in Ozaki et al. 2020 (MOTPE).
    """
    if len(history) < space.description.population:
        return lambda: space.random_point(rng)
    best = order(history)
    cut = max(2, math.ceil(_GOOD * len(best)))
    good = [history[i].point for i in best[:cut]]
    bad = [history[i].point for i in best[cut:]]
    densities = {
        name: (_density(parameter, [p[name] for p in good]),
               _density(parameter, [p[name] for p in bad]))
        for name, parameter in space.parameters.items()
    }  # fmt: skip

    def candidate() -> tuple[float, Point]:
        point, gain = {}, 0.0
        for name, (likely, other) in densities.items():
            point[name] = value = likely.draw(rng)
            gain += math.log(likely.at(value)) - math.log(other.at(value))
        return gain, point

    return lambda: max((candidate() for _ in range(_CANDIDATES)), key=lambda pair: pair[0])[1]


def _density(parameter: Parameter, values: Sequence[Any]) -> _Counted | _Smooth:
    return (_Smooth if _is_range(parameter) else _Counted)(parameter, values)


class _Counted:
    """How often each listed value occurs, once more than it did in all."""

    def __init__(self, parameter: Choices, values: Sequence[Any]) -> None:
        self._values = parameter.values
        prior = 1 / len(self._values)
        self._weights = [prior + sum(v == value for v in values) for value in self._values]
        self._total = len(values) + 1

    def draw(self, rng: random.Random) -> Any:
        return rng.choices(self._values, self._weights)[0]

    def at(self, value: Any) -> float:
        return self._weights[self._values.index(value)] / self._total


class _Smooth:
    """Normal distributions around values of a range, and a uniform one."""

    def __init__(self, parameter: Range, values: Sequence[Any]) -> None:
        self._parameter = parameter
        self._centres = [parameter.share(value) for value in values]
        self._width = max(0.02, 0.5 * (len(values) + 1) ** -0.5)

    def draw(self, rng: random.Random) -> Any:
        i = rng.randrange(len(self._centres) + 1)
        if i == len(self._centres):
            return self._parameter.at(rng.random())
        return self._parameter.at(rng.gauss(self._centres[i], self._width))

    def at(self, value: Any) -> float:
        x, width = self._parameter.share(value), self._width
        bells = sum(math.exp(-(((x - c) / width) ** 2) / 2) for c in self._centres)
        return (1 + bells / (width * math.sqrt(2 * math.pi))) / (len(self._centres) + 1)
