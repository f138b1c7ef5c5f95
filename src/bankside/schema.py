"""Strict, frozen descriptions read from YAML; messages name file, line, key and what is valid."""

import typing
from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from bankside.errors import ConfigError
from bankside.registry import nearest
from bankside.strict_yaml import Locations

_TYPE_WORDS: dict[object, str] = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
}


class Section(BaseModel):
    """Base of every description: no conversion of types, no unknown keys, no later changes."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


M = TypeVar("M", bound=BaseModel)


def key_problem(key: str, message: str) -> PydanticCustomError:
    """Return the exception by which a model validator blames a key (dotted, in its model)."""
    # The message travels as an argument: braces in it must not be taken for placeholders.
    return PydanticCustomError("bankside", "{message}", {"message": message, "key": key})


def validate(model: type[M], data: object, locations: Locations) -> M:
    """Check YAML data against a model.

    Args:
        model: class to build.
        data: as returned by `load_yaml`.
        locations: as returned by `load_yaml`, for file and line of each problem.

    Raises:
        ConfigError: one line per problem.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{locations.where()}: expected `key: value` lines, found {_shown(data)}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = sorted(error.errors(), key=lambda problem: locations.line(_path(problem)))
        problems = [_describe(model, problem, locations) for problem in found]
        raise ConfigError("\n".join(problems)) from error


def _path(problem: typing.Any) -> tuple:
    """Return the key path that a problem is about."""
    blamed = problem["ctx"]["key"].split(".") if problem["type"] == "bankside" else ()
    return (*problem["loc"], *blamed)


def _describe(model: type[BaseModel], problem: typing.Any, locations: Locations) -> str:
    """Return "file:line: key: what is wrong; what is valid" for one pydantic problem."""
    path = _path(problem)
    where, key = locations.where(path), ".".join(map(str, path)) or "(top)"
    owner, info = _lookup(model, path)
    kind = problem["type"]
    if kind == "bankside":
        text = problem["ctx"]["message"]
    elif kind == "extra_forbidden":
        valid = list(owner.model_fields) if owner else []
        text = f"unknown key{nearest(str(path[-1]), valid)}; valid keys: {', '.join(valid)}"
    elif kind == "missing":
        text = f"is missing; expected {_expected(info)}"
    elif info is not None and (kind.endswith("_type") or kind.endswith("_error") or "than" in kind):
        value = problem["input"]
        choices = [str(choice) for choice in _choices(info)]
        text = f"is {_shown(value)}{nearest(str(value), choices)}; expected {_expected(info)}"
    elif kind == "string_type":
        text = f"is {_shown(problem['input'])}; expected text, in quotes"
    else:
        text = f"is {_shown(problem['input'])}; {problem['msg']}"
    return f"{where}: {key}: {text}"


def _lookup(
    model: type[BaseModel], path: Sequence[object]
) -> tuple[type[BaseModel] | None, FieldInfo | None]:
    """Return the model that owns the last key of the path, and the field of that key if any."""
    owner: type[BaseModel] | None = model
    info: FieldInfo | None = None
    for position, step in enumerate(path):
        if isinstance(step, int):  # an element of a list of sections keeps the section found last
            continue
        if owner is None or step not in owner.model_fields:
            return (owner if position == len(path) - 1 else None), None
        info = owner.model_fields[str(step)]
        if position < len(path) - 1:
            owner = _section_in(info.annotation)
    return owner, info


def _section_in(annotation: object) -> type[BaseModel] | None:
    """Return the model class inside an annotation such as `X`, `X | None` or `list[X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_section_in(part) for part in typing.get_args(annotation))
    return next((section for section in found if section), None)


def _choices(info: FieldInfo) -> tuple:
    if typing.get_origin(info.annotation) is typing.Literal:
        return typing.get_args(info.annotation)
    return ()


def _expected(info: FieldInfo | None) -> str:
    """Describe the valid values of a field: type and range, or the choices."""
    if info is None:
        return "a value"
    if choices := _choices(info):
        return "one of: " + ", ".join(map(str, choices))
    annotation = info.annotation
    if section := _section_in(annotation):
        return f"a section with the keys {', '.join(section.model_fields)}"
    words = _TYPE_WORDS.get(annotation, str(annotation))
    bounds = {
        name: getattr(mark, name)
        for mark in info.metadata
        for name in ("ge", "le", "gt", "lt")
        if hasattr(mark, name)
    }
    if "ge" in bounds and "le" in bounds:
        return f"{words} from {bounds['ge']} to {bounds['le']}"
    signs = {"ge": ">=", "le": "<=", "gt": ">", "lt": "<"}
    limits = " and ".join(f"{signs[name]} {value}" for name, value in bounds.items())
    return f"{words} {limits}".rstrip()


def _shown(value: object) -> str:
    """Show a value with its YAML type, since 64 and "64" look alike in a message."""
    if value is None:
        return "empty (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"{value!r} (text)"
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list):
        return "a list"
    return f"{value} (a real number)" if isinstance(value, float) else str(value)
