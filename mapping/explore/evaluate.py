"""What a point is worth: evaluators, their metrics, and results that are no number.

To add an evaluator: a class with `metrics` and `run`, and a line below `EVALUATORS`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import bankside
from bankside.cache import content_hash, file_hash
from bankside.errors import BanksideError, ConfigError
from bankside.provenance import package_version
from bankside.registry import Lazy, Registry
from bankside.schema import M, validate
from bankside.strict_yaml import Locations

#: How an evaluation can end.
OK, INFEASIBLE, FAILED = "ok", "infeasible", "failed"
WORKLOAD = "workload."
_PACKAGE = Path(bankside.__file__).parent
_FOLDERS = ("isa", "sim/timing", "mapping")


@dataclass(frozen=True)
class Outcome:
    """Of one point.

    Attributes:
        status: `ok`; `infeasible`: the description is refused (a result like any other); `failed`:
            the evaluator broke.
        metrics: name -> number, where it is ok.
        reason: of the others, one line.
    """

    status: str
    metrics: dict[str, float]
    reason: str = ""


class Evaluator(Protocol):
    """Evaluates points on machines like the base.

    Attributes:
        metrics: names of what `run` gives.
    """

    metrics: tuple[str, ...]

    def load(self, source: str) -> dict[str, Any]:
        """The base as plain data. Raises ConfigError."""
        ...

    def run(self, base: dict[str, Any], workload: dict[str, Any]) -> Mapping[str, float]:
        """Metrics of one machine. Raises BanksideError where the point is not possible."""
        ...

    def check_workload(self, workload: Mapping[str, Any]) -> None:
        """Raises ConfigError for a key or a type that is wrong."""
        ...


EVALUATORS: Registry[Evaluator] = Registry("evaluator")
EVALUATORS.add("attention_timing", Lazy("bankside.mapping.explore.engines:ATTENTION_TIMING"))
EVALUATORS.add("map", Lazy("bankside.mapping.explore.systems:MAP"))


@dataclass(frozen=True)
class Task:
    """How points are evaluated; plain data, so that any process can do it.

    Attributes:
        evaluator: name or `module:function`.
        base: the machine, None for functions.
        workload: the same for all points, apart from parameters that begin with `workload.`.
        folder: where modules of functions are looked for first.
        code: hash of a function's file, or of the files that an evaluator's results depend on.
    """

    evaluator: str
    base: dict[str, Any] | None
    workload: dict[str, Any]
    folder: str
    code: str = ""

    @cached_property
    def digest(self) -> str:
        """64 hexadecimal digits of everything but the point."""
        return content_hash(
            {"evaluator": self.evaluator, "base": self.base, "workload": self.workload,
             "code": self.code, "bankside": package_version("bankside")}
        )  # fmt: skip

    def check_path(self, name: str, value: Any) -> None:
        """Raises ConfigError for a parameter that is neither in the base nor of the workload."""
        if self.base is None:
            return
        base, workload = self._changed({name: value})
        if name.startswith(WORKLOAD):
            EVALUATORS.get(self.evaluator).check_workload(workload)

    def evaluate(self, point: Mapping[str, Any]) -> Outcome:
        """Never raises an Exception of an evaluator: it becomes the outcome."""
        try:
            if self.base is None:
                given = load_function(self.evaluator, self.folder)[0](
                    dict(point), dict(self.workload)
                )
            else:
                given = EVALUATORS.get(self.evaluator).run(*self._changed(point))
            return Outcome(OK, _numbers(given))
        except BanksideError as error:
            return Outcome(INFEASIBLE, {}, " ".join(str(error).split()))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            told = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
            return Outcome(FAILED, {}, " ".join(told.split()))

    def _changed(self, point: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Base and workload with the values of a point."""
        base, workload = _copied(self.base), dict(self.workload)
        for name, value in point.items():
            if name.startswith(WORKLOAD):
                workload[name.removeprefix(WORKLOAD)] = value
            else:
                _put(base, name, value)
        return base, workload


def _copied(data: Any) -> Any:
    return {key: _copied(value) for key, value in data.items()} if isinstance(data, dict) else data


def _put(base: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    inside: Any = base
    for key in parents:
        inside = inside.get(key) if isinstance(inside, dict) else None
    if not isinstance(inside, dict) or last not in inside:
        raise ConfigError(
            f"the base has no such key; keys: {', '.join(_paths(base))}, or workload.KEY"
        )
    inside[last] = value


def _paths(base: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Keys of sections; the words of a source are none."""
    found = []
    for key, value in base.items():
        if isinstance(value, dict):
            found += _paths(value, f"{prefix}{key}.") if key != "source" else []
        else:
            found.append(f"{prefix}{key}")
    return found


def _numbers(given: Any) -> dict[str, float]:
    if not isinstance(given, Mapping):
        raise TypeError(f"the evaluator gives {type(given).__name__}; expected name -> number")
    return {str(key): value if isinstance(value, int) and not isinstance(value, bool)
            else float(value) for key, value in given.items()}  # fmt: skip


def make_task(
    evaluator: str, base: str | None, workload: dict[str, Any], folder: Path, locations: Locations
) -> Task:
    """Raises ConfigError with file and line."""
    if ":" in evaluator:
        if base is not None:
            raise ConfigError(f"{locations.where(('base',))}: base: a function has none; remove it")
        file = load_function(evaluator, str(folder))[1]
        return Task(evaluator, None, workload, str(folder), file_hash(file))
    kind = EVALUATORS.get(evaluator)
    try:
        kind.check_workload(workload)
    except ConfigError as error:
        raise ConfigError(f"{locations.where(('workload',))}: workload: {error}") from error
    if base is None:
        raise ConfigError(f"{locations.where()}: base: is missing; {evaluator} changes a machine")
    near = folder / base
    try:
        data = kind.load(str(near) if near.is_file() else base)
    except ConfigError as error:
        raise ConfigError(f"{locations.where(('base',))}: base: {error}") from error
    return Task(evaluator, data, workload, str(folder), _code())


@lru_cache(maxsize=1)
def _code() -> str:
    """Of the models: results of another state of them are not reused."""
    files = (path for name in _FOLDERS for path in sorted((_PACKAGE / name).rglob("*.[py][ya]*"))
             if path.suffix in (".py", ".yaml"))  # fmt: skip
    return content_hash({str(path.relative_to(_PACKAGE)): file_hash(path) for path in files})


def checked(model: type[M], data: Mapping[str, Any], what: str) -> M:
    """A description that stands in no file. Raises ConfigError."""
    try:
        return validate(model, dict(data), Locations(Path(what)))
    except ConfigError as error:
        raise ConfigError(str(error).replace(f"{what}:1: ", "")) from error


def load_function(target: str, folder: str) -> tuple[Callable[..., Any], Path]:
    """A user's function and its file. Raises ConfigError."""
    name, _, attribute = target.partition(":")
    try:
        module = _module(name, folder)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{target}: no module {error.name!r} beside the description or installed"
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function) or not getattr(module, "__file__", None):
        raise ConfigError(f"{target}: module {name} has no function {attribute!r}")
    return function, Path(str(module.__file__))


def _module(name: str, folder: str) -> ModuleType:
    """A module beside the description before installed ones, loaded once per folder."""
    file = Path(folder) / f"{name}.py"
    if not file.is_file():
        return importlib.import_module(name)
    known = f"_bankside_explore_{content_hash({'file': str(file.resolve())})[:16]}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, file)
        if spec is None or spec.loader is None:
            raise ConfigError(f"{file}: cannot be imported")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[known] = module
    return sys.modules[known]
