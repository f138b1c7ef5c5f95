"""Integer expressions of the DRAM tables: `+ - * / //`, `ceil`, `max`, `min` and names."""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction

from bankside.errors import SpecError

_BINARY: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    # Exact, so that ceil(20 / 4) is 5 on every machine.
    ast.Div: Fraction,
}
_CALLS: dict[str, Callable] = {"ceil": math.ceil, "max": max, "min": min}


def evaluate(text: int | str, names: Mapping[str, int], where: str) -> int:
    """The integer value of `text`, an integer or an expression over `names`.

    Errors: SpecError for bad syntax, an unknown name or function, or a value that is not an
    integer.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    try:
        tree = ast.parse(str(text), mode="eval")
    except SyntaxError:
        raise SpecError(
            f"{where}: cannot read the expression {text!r}; expected an integer or an "
            f"expression like 'nCWL + nBL + nWR'; correct it"
        ) from None
    value = _value(tree.body, names, where, str(text))
    if Fraction(value).denominator != 1:
        raise SpecError(
            f"{where}: {text!r} is {value}, not a whole number of cycles; put ceil(...) around it"
        )
    return int(value)


def names_in(text: int | str) -> set[str]:
    """Every name that an expression uses, function names left out."""
    found = {n.id for n in ast.walk(ast.parse(str(text), mode="eval")) if isinstance(n, ast.Name)}
    return found - set(_CALLS)


def _value(node: ast.expr, names: Mapping[str, int], where: str, text: str) -> int | Fraction:
    match node:
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            return number
        case ast.Name(id=name):
            if name not in names:
                raise SpecError(
                    f"{where}: unknown name {name!r} in {text!r}; known are "
                    f"{', '.join(sorted(names))}; define it or correct the spelling"
                )
            return names[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, names, where, text)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            left_value = _value(left, names, where, text)
            right_value = _value(right, names, where, text)
            if right_value == 0 and isinstance(op, ast.Div | ast.FloorDiv):
                raise SpecError(f"{where}: {text!r} divides by zero; correct the divisor")
            return _BINARY[type(op)](left_value, right_value)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _CALLS and args:
            values = [_value(arg, names, where, text) for arg in args]
            if name == "ceil" and len(values) > 1:
                raise SpecError(f"{where}: ceil takes one argument in {text!r}; write ceil(a / b)")
            # max and min of one number are that number; Python would try to iterate over it.
            return values[0] if len(values) == 1 and name != "ceil" else _CALLS[name](*values)
    raise SpecError(
        f"{where}: {text!r} uses something other than integers, names, + - * / //, ceil, max "
        f"and min; write it with those"
    )
