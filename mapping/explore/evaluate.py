"""What a point is worth: evaluators, their metrics, and results that are no number.

To add an evaluator: a subclass of `Evaluator`, and a line below `EVALUATORS`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import bankside
from bankside.cache import content_hash, file_hash
from bankside.errors import BanksideError, ConfigError, ToolError
from bankside.provenance import package_version
from bankside.registry import Lazy, Registry
from bankside.schema import M, validate
from bankside.strict_yaml import Locations

#: How an evaluation can end.
OK, INFEASIBLE, FAILED = "ok", "infeasible", "failed"
WORKLOAD = "workload."
_PACKAGE = Path(bankside.__file__).parent
_SOURCES = ("isa", "sim/timing", "sim/memory", "sim/full_machine.py", "mapping", "hw/presets",
            "config.py", "config_array.py", "config_npu.py")  # fmt: skip


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


class Evaluator(ABC):
    """Evaluates points on machines like the base.

    Attributes:
        metrics: names of what `run` gives.
        bounds: constraints that hold where a description has none on that metric.
    """

    metrics: tuple[str, ...]
    bounds: Mapping[str, Mapping[str, float]] = {}

    @abstractmethod
    def load(self, source: str) -> dict[str, Any]:
        """The base as plain data. Raises ConfigError."""

    @abstractmethod
    def run(
        self, base: dict[str, Any], workload: dict[str, Any], folder: Path
    ) -> Mapping[str, float]:
        """Metrics of one machine. Raises BanksideError where the point is not possible.

        Args:
            folder: that of the description, where files which the workload names are looked for.
        """

    @abstractmethod
    def check_base(self, base: dict[str, Any]) -> None:
        """Raises ConfigError for a base that describes no machine."""

    @abstractmethod
    def check_workload(self, workload: Mapping[str, Any], folder: Path) -> None:
        """Raises ConfigError for a key or a type that is wrong."""

    def followers(self, base: Mapping[str, Any]) -> Mapping[str, tuple[str, ...]]:
        """Key -> keys whose values follow from it in this base, and do so when it changes."""
        return {}

    def files(self, workload: Mapping[str, Any], folder: Path) -> Sequence[Path]:
        """Files that a workload names: results depend on what they hold."""
        return ()


EVALUATORS: Registry[Evaluator] = Registry("evaluator")
EVALUATORS.add("attention_timing", Lazy("bankside.mapping.explore.engines:ATTENTION_TIMING"))
EVALUATORS.add("map", Lazy("bankside.mapping.explore.systems:MAP"))
EVALUATORS.add("serve", Lazy("bankside.mapping.explore.serve:SERVE"))


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
        kind = EVALUATORS.get(self.evaluator)
        base, workload = self._changed({name: value})
        if name.startswith(WORKLOAD):
            kind.check_workload(workload, Path(self.folder))
        elif not _has(self.base, name):  # a table of free names may not have it yet
            try:
                kind.check_base(base)
            except ConfigError:
                raise ConfigError(_no_key(self.base)) from None

    def key(self, point: Mapping[str, Any]) -> str:
        """64 hexadecimal digits of a point and of all that its result depends on."""
        content = {"task": self.digest, "point": dict(point)}
        if self.base is not None:
            _, workload = self._changed(point)
            files = EVALUATORS.get(self.evaluator).files(workload, Path(self.folder))
            content |= {"files": [_file_hash(file) for file in files]} if files else {}
        return content_hash(content)

    def evaluate(self, point: Mapping[str, Any]) -> Outcome:
        """Never raises an Exception of an evaluator: it becomes the outcome.

        Raises ToolError in a process whose code is not that of the process which made the task.
        """
        self._check_code()
        try:
            if self.base is None:
                given = load_function(self.evaluator, self.folder)[0](
                    dict(point), dict(self.workload)
                )
            else:
                kind = EVALUATORS.get(self.evaluator)
                given = kind.run(*self._changed(point), Path(self.folder))
            return Outcome(OK, _numbers(given))
        except BanksideError as error:
            return Outcome(INFEASIBLE, {}, " ".join(str(error).split()))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            told = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
            return Outcome(FAILED, {}, " ".join(told.split()))

    def _check_code(self) -> None:
        """Results are kept under the hash of the code: no other code may make them."""
        if not self.code:
            return
        if self.base is None:
            here = _file_hash(load_function(self.evaluator, self.folder)[1])
        else:
            here = _code()
        if here != self.code:
            raise ToolError(
                f"{self.evaluator}: this worker's files are not those that the exploration was "
                f"started with; give all workers the same ones (restart those of a cluster), and "
                f"call again: what is finished is kept"
            )

    def _changed(self, point: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Base and workload with the values of a point."""
        base, workload = _copied(self.base), _copied(self.workload)
        for source, keys in self.followers.items():
            for key in keys if source in point else ():
                _drop(base, key)
        for name, value in point.items():
            if name.startswith(WORKLOAD):
                _put_work(workload, name.removeprefix(WORKLOAD), value)
            else:
                _put(base, name, value)
        return base, workload

    @cached_property
    def followers(self) -> Mapping[str, tuple[str, ...]]:
        """See `Evaluator.followers`."""
        return EVALUATORS.get(self.evaluator).followers(self.base or {})


def _copied(data: Any) -> Any:
    return {key: _copied(value) for key, value in data.items()} if isinstance(data, dict) else data


def _parent(data: Any, path: str) -> tuple[dict[str, Any] | None, str]:
    """Section of a dotted path, None without; last key."""
    *parents, last = path.split(".")
    for key in parents:
        data = data.get(key) if isinstance(data, dict) else None
    return (data if isinstance(data, dict) else None), last


def _has(data: Any, path: str) -> bool:
    inside, last = _parent(data, path)
    return inside is not None and last in inside


def _put(base: dict[str, Any], path: str, value: Any) -> None:
    inside, last = _parent(base, path)
    if inside is None:
        raise ConfigError(_no_key(base))
    inside[last] = value


def _put_work(workload: dict[str, Any], path: str, value: Any) -> None:
    """Sections that are not there are made: the workload's own check knows which may be."""
    *parents, last = path.split(".")
    inside: Any = workload
    for key in parents:
        inside = inside.setdefault(key, {})
        if not isinstance(inside, dict):
            raise ConfigError(f"workload.{key} is no section; it has no key {last!r}")
    inside[last] = value


def _drop(base: dict[str, Any], path: str) -> None:
    inside, last = _parent(base, path)
    if inside is not None:
        inside.pop(last, None)


def _no_key(base: Mapping[str, Any]) -> str:
    return f"the base has no such key; keys: {', '.join(_paths(base))}, or workload.KEY"


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
        kind.check_workload(workload, folder)
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
    found = [_PACKAGE / name for name in _SOURCES]
    files = (path for source in found for path in sorted((source, *source.rglob("*")))
             if path.suffix in (".py", ".yaml", ".cpp"))  # fmt: skip
    return content_hash({str(path.relative_to(_PACKAGE)): file_hash(path) for path in files})


@lru_cache(maxsize=64)
def _file_hash(path: Path) -> str:
    return file_hash(path)


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
