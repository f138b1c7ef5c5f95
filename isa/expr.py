"""Integer expressions in specification files: a small, safe subset of Python.

Allowed: integers, names, `+ - * / // %`, comparisons, `and`/`or`, `a if c else b` and the functions
`ceil`, `min` and `max`. `/` is exact and its result must be made whole with `ceil` or `//`.
"""

from __future__ import annotations

import ast
import functools
import math
from collections.abc import Mapping
from fractions import Fraction
from types import CodeType

from bankside.errors import SpecError

_NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.IfExp, ast.Call, ast.Name,
    ast.Load, ast.Constant, ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Div, ast.Mod, ast.USub,
    ast.And, ast.Or, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE,
)  # fmt: skip
_ALLOWED = "integers, names, + - * / // %, comparisons, if/else, ceil, max and min"
# Exact, so that ceil(20 / 4) is 5 on every machine.
_DIVIDE = "_exact_quotient"


def _largest(*values: int) -> int:
    """`max` that takes one number, too; Python would try to iterate over it."""
    return max(values)


def _smallest(*values: int) -> int:
    return min(values)


_FUNCTIONS = {"ceil": math.ceil, "max": _largest, "min": _smallest}
_GLOBALS = {"__builtins__": {}, _DIVIDE: Fraction, **_FUNCTIONS}


class _ExactDivision(ast.NodeTransformer):
    """Replaces `a / b` by a call that gives a fraction."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        if not isinstance(node.op, ast.Div):
            return node
        divide = ast.Name(_DIVIDE, ast.Load())
        return ast.copy_location(ast.Call(divide, [node.left, node.right], []), node)


def _refusal(node: ast.AST) -> str:
    """Why `node` may not stand in an expression, or an empty text."""
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in _FUNCTIONS or node.keywords or not node.args:
            return f"uses something other than {_ALLOWED}; write it with those"
        if name == "ceil" and len(node.args) > 1:
            return "gives ceil more than one argument; write ceil(a / b)"
    if not isinstance(node, _NODES) or (isinstance(node, ast.Name) and node.id.startswith("_")):
        return f"uses something other than {_ALLOWED}; write it with those"
    if isinstance(node, ast.Constant) and type(node.value) is not int:
        return f"holds {node.value!r}, which is not an integer; write it with integers"
    return ""


@functools.lru_cache(maxsize=4096)
def _compile(text: str) -> tuple[CodeType | None, str]:
    """(code, "") or (None, what is wrong); parsed and checked once per text."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return None, (
            "is not an expression; expected an integer or an expression like "
            "'nCWL + nBL + nWR'; correct it"
        )
    for node in ast.walk(tree):
        if refusal := _refusal(node):
            return None, refusal
    tree = ast.fix_missing_locations(_ExactDivision().visit(tree))
    return compile(tree, "<specification>", "eval"), ""


def evaluate(text: int | str, names: Mapping[str, int], where: str = "expression") -> int:
    """The integer value of `text`, an integer or an expression over `names`.

    `where` opens every message. Errors: SpecError for bad syntax, an unknown name or function, a
    division by zero, or a value that is not an integer.
    """
    if type(text) is int:
        return text
    code, refusal = _compile(str(text))
    if code is None:
        raise SpecError(f"{where}: {text!r} {refusal}")
    try:
        value = eval(code, _GLOBALS, names)  # noqa: S307 - checked node by node
    except NameError as error:
        known = ", ".join(sorted(names)) or "none"
        raise SpecError(
            f"{where}: unknown name {error.name!r} in {text!r}; known are {known}; define it or "
            f"correct the spelling"
        ) from None
    except ZeroDivisionError:
        raise SpecError(f"{where}: {text!r} divides by zero; correct the divisor") from None
    if value.denominator != 1:
        raise SpecError(
            f"{where}: {text!r} is {value}, not a whole number; put ceil(...) around it"
        )
    return int(value)


def names_in(text: int | str) -> set[str]:
    """Every name that an expression uses, function names left out."""
    found = {n.id for n in ast.walk(ast.parse(str(text), mode="eval")) if isinstance(n, ast.Name)}
    return found - set(_FUNCTIONS)
