"""Integer expressions in specification files: a small, safe subset of Python.

Allowed: integers, names, `+ - * // %`, comparisons, `and`/`or`, `a if c else b`, and the functions `ceil`, `min`, `max`.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from types import CodeType

from bankside.errors import SpecError

_NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.IfExp, ast.Call, ast.Name, ast.Load,
    ast.Constant, ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Div, ast.Mod, ast.USub, ast.And, ast.Or, ast.Eq, ast.NotEq,
    ast.Lt, ast.LtE, ast.Gt, ast.GtE,
)
_FUNCTIONS = {"ceil": lambda x: -int(-x // 1), "min": min, "max": max}


@functools.lru_cache(maxsize=4096)
def _compile(text: str) -> CodeType:
    try:
        tree = ast.parse(str(text), mode="eval")
    except SyntaxError as error:
        raise SpecError(f"expression {text!r} is not an integer expression: {error.msg}") from error
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            raise SpecError(f"expression {text!r} uses {type(node).__name__}, which is not allowed; use + - * // % if/else")
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS):
            raise SpecError(f"expression {text!r} calls an unknown function; allowed: {', '.join(sorted(_FUNCTIONS))}")
    return compile(tree, "<specification>", "eval")


def evaluate(text: str, names: Mapping[str, int]) -> int:
    """Value of `text` with `names`. Raises SpecError that lists the known names when one is unknown."""
    try:
        value = eval(_compile(text), {"__builtins__": {}}, {**_FUNCTIONS, **names})  # noqa: S307 - checked node by node
    except NameError as error:
        raise SpecError(f"expression {text!r}: {error}; known names: {', '.join(sorted(names))}") from error
    if value != int(value):
        raise SpecError(f"expression {text!r} gives {value}, expected an integer; use // or ceil()")
    return int(value)
