"""What is explored: parameters, constraints, objectives, read from YAML. Ref: docs/explore.md."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from bankside.cache import content_hash
from bankside.errors import ConfigError
from bankside.mapping.explore.evaluate import EVALUATORS, Task, make_task
from bankside.mapping.explore.search import SAMPLERS
from bankside.registry import nearest
from bankside.schema import Section, key_problem, validate
from bankside.strict_yaml import Locations, load_yaml

Value = int | float | str | bool
Point = dict[str, Value]


class Range(Section):
    """Numbers from `low` to `high`, both included.

    Attributes:
        step: distance of values; by default 1 between integers, none between real numbers.
        log: search proportionally rather than by difference.
    """

    low: int | float
    high: int | float
    step: int | float | None = Field(default=None, gt=0)
    log: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.high <= self.low:
            raise key_problem("high", f"is {self.high}; expected more than low ({self.low})")
        if self.log and self.low <= 0:
            raise key_problem("low", f"is {self.low}; expected more than 0, since log is true")
        if not math.isfinite(self.low) or not math.isfinite(self.high):
            raise key_problem("high", "expected finite limits")
        return self

    @property
    def whole(self) -> bool:
        """Whether the values are integers."""
        return all(isinstance(x, int) for x in (self.low, self.high, self.step or 1))

    @property
    def grid(self) -> float | None:
        """Distance of values, None: any number."""
        return self.step or (1 if self.whole else None)

    @property
    def count(self) -> float:
        """How many values there are."""
        return math.inf if self.grid is None else int((self.high - self.low) / self.grid + 1e-9) + 1

    def at(self, share: float) -> int | float:
        """Value at a share from 0 to 1 of the way from `low` to `high`."""
        share = min(max(share, 0.0), 1.0)
        if self.log:
            value = self.low * (self.high / self.low) ** share
        else:
            value = self.low + (self.high - self.low) * share
        if self.grid is None:
            return min(max(value, self.low), self.high)
        steps = min(max(round((value - self.low) / self.grid), 0), int(self.count) - 1)
        exact = self.low + steps * self.grid
        return int(exact) if self.whole else exact

    def share(self, value: Any) -> float:
        """The inverse of `at`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Choices:
    """Listed values. In order if they are numbers."""

    values: tuple[Value, ...]

    @property
    def count(self) -> float:
        """How many values there are."""
        return len(self.values)


Parameter = Range | Choices


class Bound(Section):
    """What a metric or a parameter must keep to.

    Attributes:
        soft: a point that misses it stays feasible, but loses to every point that misses less and
            is not worse in any objective.
    """

    at_least: int | float | None = None
    at_most: int | float | None = None
    soft: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise key_problem("at_most", "is missing, and so is at_least; expected one or both")
        return self

    def violation(self, value: float) -> float:
        """By how much a value misses the bounds, relative to them; 0: not at all."""
        low = 0.0 if self.at_least is None else (self.at_least - value) / (abs(self.at_least) or 1)
        high = 0.0 if self.at_most is None else (value - self.at_most) / (abs(self.at_most) or 1)
        return max(low, high, 0.0)


class Description(Section):
    """A space to explore.

    Attributes:
        base: preset or file of the machine, which parameters change.
        evaluator: name in `EVALUATORS`, or `module:function` (modules beside the file are found).
        workload: what the evaluator wants to know of the work.
        parameters: dotted path in the base, or `workload.KEY` -> list of values or a `Range`.
        constraints: metric or parameter -> bounds.
        objectives: metric or parameter -> minimise or maximise.
        samplers: searches that run; `random` is always among them. seeds: of each search.
        budget: points of one search. population: points asked for at once.
        scale: of objectives in the hypervolume; `log` where ratios matter.
        target: share of the hypervolume of everything found that counts as reached.
    """

    base: str | None = None
    evaluator: str
    workload: dict[str, Any] = Field(default_factory=dict)
    parameters: dict[str, Any] = Field(min_length=1)
    constraints: dict[str, Bound] = Field(default_factory=dict)
    objectives: dict[str, Literal["minimise", "maximise"]] = Field(min_length=1, max_length=4)
    samplers: list[str] = Field(default_factory=lambda: ["random", "nsga2", "tpe"])
    seeds: list[int] = Field(default_factory=lambda: [0, 1, 2], min_length=1)
    budget: int = Field(default=64, ge=1, le=1_000_000)
    population: int = Field(default=16, ge=2, le=10_000)
    scale: Literal["linear", "log"] = "linear"
    target: float = Field(default=0.95, gt=0, le=1)


@dataclass(frozen=True)
class Space:
    """A checked description with what it names."""

    name: str
    description: Description
    parameters: dict[str, Parameter]
    task: Task

    @property
    def samplers(self) -> tuple[str, ...]:
        """Searches that run, the baseline first."""
        return tuple(dict.fromkeys(("random", *self.description.samplers)))

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self.description.seeds))

    @property
    def soft(self) -> tuple[str, ...]:
        """Names of soft constraints."""
        return tuple(name for name, b in self.description.constraints.items() if b.soft)

    @property
    def size(self) -> float:
        """Points of the space, infinite where a parameter is a real number."""
        return math.prod(p.count for p in self.parameters.values())

    @property
    def content_hash(self) -> str:
        """64 hexadecimal digits of everything that the result depends on."""
        return content_hash(
            {"task": self.task.digest, "description": self.description.model_dump(mode="json")}
        )

    def key(self, point: Mapping[str, Value]) -> str:
        """64 hexadecimal digits of a point and of how it is evaluated, not of the search."""
        return self.task.key(point)

    def random_point(self, rng: random.Random) -> Point:
        """A point, each parameter drawn by itself."""
        return {name: random_value(p, rng) for name, p in self.parameters.items()}


def random_value(parameter: Parameter, rng: random.Random) -> Value:
    """Every listed value, and every part of a range, is as likely as any other."""
    if isinstance(parameter, Choices):
        return rng.choice(parameter.values)
    if parameter.grid is not None and not parameter.log:
        exact = parameter.low + rng.randrange(int(parameter.count)) * parameter.grid
        return int(exact) if parameter.whole else exact
    return parameter.at(rng.random())


def load_space(path: Path) -> Space:
    """Raises ConfigError with file and line for whatever cannot be used."""
    data, locations = load_yaml(path)
    what = validate(Description, data, locations)
    for i, name in enumerate(what.samplers):
        _at(locations, ("samplers", i), lambda name=name: SAMPLERS.entry(name))
    parameters = {name: _parameter(name, given, locations) for name, given in
                  what.parameters.items()}  # fmt: skip
    what = _with_own_bounds(what)
    _check_names(what, parameters, locations)
    task = _at(locations, ("evaluator",), lambda: make_task(what.evaluator, what.base,
               what.workload, path.parent, locations))  # fmt: skip
    space = Space(path.stem, what, parameters, task)
    _check_paths(space, locations)
    return space


def _at(locations: Locations, keys: tuple, make: Any) -> Any:
    try:
        return make()
    except ConfigError as error:
        if str(locations.path) in str(error):
            raise
        name = ".".join(map(str, keys))
        raise ConfigError(f"{locations.where(keys)}: {name}: {error}") from error


def _parameter(name: str, given: object, locations: Locations) -> Parameter:
    where = f"{locations.where(('parameters', name))}: parameters: {name}"
    if isinstance(given, dict):
        return validate(Range, given, locations.below(("parameters", name)))
    if not isinstance(given, list) or not given:
        raise ConfigError(f"{where}: expected a list of values, or low and high")
    if bad := [v for v in given if not isinstance(v, Value)]:
        raise ConfigError(
            f"{where}: {bad[0]!r} is no value; expected numbers, text or truth values"
        )
    if len({repr(v) for v in given}) < len(given):
        raise ConfigError(f"{where}: a value is given twice; remove one")
    return Choices(tuple(given))


def _with_own_bounds(what: Description) -> Description:
    """Constraints of the evaluator, where the description has none on that metric."""
    if ":" in what.evaluator or what.evaluator not in EVALUATORS:
        return what
    bounds = EVALUATORS.get(what.evaluator).bounds
    own = {name: Bound(**bound) for name, bound in bounds.items()}
    return what.model_copy(update={"constraints": own | what.constraints})


def _check_names(
    what: Description, parameters: Mapping[str, Parameter], locations: Locations
) -> None:
    """Objectives and constraints name something that the evaluator gives, or a number."""
    if ":" in what.evaluator:
        return
    metrics = _at(locations, ("evaluator",), lambda: EVALUATORS.get(what.evaluator)).metrics
    known = (*metrics, *(name for name, p in parameters.items() if _numeric(p)))
    for section in ("objectives", "constraints"):
        for name in getattr(what, section):
            if name not in known:
                raise ConfigError(
                    f"{locations.where((section, name))}: {section}: {what.evaluator} gives no "
                    f"{name!r}{nearest(name, known)}; choose from: {', '.join(known)}"
                )


def _numeric(parameter: Parameter) -> bool:
    return isinstance(parameter, Range) or all(
        isinstance(v, int | float) and not isinstance(v, bool) for v in parameter.values
    )


def _check_paths(space: Space, locations: Locations) -> None:
    """Every parameter leads somewhere; whether all values fit is for the search to find out."""
    for name, parameter in space.parameters.items():
        where = f"{locations.where(('parameters', name))}: parameters: {name}"
        if outer := next((o for o in space.parameters if name.startswith(f"{o}.")), None):
            raise ConfigError(f"{where}: lies inside {outer}, which changes too; remove one")
        value = parameter.values[0] if isinstance(parameter, Choices) else parameter.low
        try:
            space.task.check_path(name, value)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
