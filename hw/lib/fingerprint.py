"""A text that tells components with different parameters apart without elaborating them."""

import dataclasses
import enum
import types
from collections.abc import Iterator
from typing import Any

from amaranth.hdl import Elaboratable, Shape, ShapeCastable, Value, ValueCastable
from amaranth.lib import wiring

from bankside.errors import ConfigError

__all__ = ["fingerprint"]

_PLAIN = (int, float, complex, str, bytes, bool, type(None), range, enum.Enum)


def fingerprint(component: wiring.Component) -> str:
    """Class, ports and constructor state of `component`.

    Two components of equal fingerprint elaborate to the same body, because `elaborate` can only
    depend on its class and on what the constructor left in the instance. Raises `ConfigError` for
    an attribute whose contents cannot be seen (its repr would be a memory address).
    """
    return _describe(component, ())


def _describe(item: Any, seen: tuple[int, ...]) -> str:
    if isinstance(item, _PLAIN):
        return repr(item)
    if id(item) in seen:
        return "<itself>"
    seen = (*seen, id(item))
    if isinstance(item, dict):
        pairs = (f"{_describe(k, seen)}: {_describe(v, seen)}" for k, v in item.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(item, (list, tuple)):
        return f"{type(item).__name__}({', '.join(_describe(part, seen) for part in item)})"
    if isinstance(item, (set, frozenset)):
        return "{" + ", ".join(sorted(_describe(part, seen) for part in item)) + "}"
    if isinstance(item, (type, types.FunctionType)):
        return _callable_name(item, seen)
    if isinstance(item, (Value, ValueCastable)):
        value = Value.cast(item)
        return f"{value!r}:{value.shape()!r}:{getattr(value, 'init', '')}"
    if isinstance(item, (Shape, ShapeCastable, wiring.Signature)):
        return repr(item)
    return _describe_object(item, seen)


def _callable_name(item: Any, seen: tuple[int, ...]) -> str:
    # A closure's captured values are parameters too.
    cells = [_describe(c.cell_contents, seen) for c in getattr(item, "__closure__", None) or ()]
    code = getattr(item, "__code__", None)
    where = f"@{code.co_firstlineno}" if code else ""
    return f"{item.__module__}.{item.__qualname__}{where}({', '.join(cells)})"


def _describe_object(item: Any, seen: tuple[int, ...]) -> str:
    if isinstance(item, Elaboratable):
        # The body of an equal component may be used in its place; Amaranth would warn about this
        # one (and its own parts) never having been elaborated.
        item._MustUse__used = True
    name = f"{type(item).__module__}.{type(item).__qualname__}"
    if dataclasses.is_dataclass(item) or hasattr(item, "__dict__"):
        state = ", ".join(f"{k}={_describe(v, seen)}" for k, v in _state(item))
        return f"{name}({state})"
    text = repr(item)
    if " at 0x" in text:
        raise ConfigError(
            f"cannot tell two {name} objects apart (it has no contents to compare); "
            f"pass Unit(..., key=) with a text made of the parameters that matter"
        )
    return text


def _state(item: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(item, wiring.Component):
        yield "signature", item.signature
    members = item.signature.members if isinstance(item, wiring.Component) else ()
    names = (
        [f.name for f in dataclasses.fields(item)]
        if dataclasses.is_dataclass(item)
        else sorted(vars(item))
    )
    for name in names:
        hidden = name in members or name.startswith(("_MustUse__", "_Component__"))
        if not hidden:
            yield name, getattr(item, name) if dataclasses.is_dataclass(item) else vars(item)[name]
