"""Expressions in specification files: values, and everything that is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bankside.errors import SpecError
from bankside.isa.expr import evaluate, names_in

NAMES = {"a": 10, "b": 4}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (7, 7),
        ("a + 2 * b - -1", 19),
        ("ceil(a / b) + a // b + max(a, b) - min(a, b, 1)", 14),
        ("max(a)", 10),
        ("a % b", 2),
        ("a if b == 4 and a > 3 or a < 0 else c", 10),
        ("(a / b) * 2", 5),
        ("ceil(3000000000000000001 / 3)", 1000000000000000001),
        ("a != b", 1),
        (" a ", 10),
    ],
)
def test_values(text, value):
    found = evaluate(text, NAMES, "w")
    assert found == value and type(found) is int


@pytest.mark.parametrize(
    "text",
    ["c + 1", "a +", "a ** 2", "a.real", "__import__('os')", "a / 0", "a // 0", "a % 0", "1.5",
     "a / 3", "'x'", "True", "abs(a)", "ceil()", "ceil(a, b)", "max(key=a)", "[1]", "a if b",
     "lambda: 1", "(a := 3)", "a\0", "_exact_quotient(a, b)", "__builtins__", "max(*a)"],
)  # fmt: skip
def test_refused(text):
    with pytest.raises(SpecError, match="^here: "):
        evaluate(text, NAMES, "here")


MESSAGES = {
    "c + 1": "unknown name 'c' in 'c + 1'; known are a, b; define it or correct the spelling",
    "a / 3": "'a / 3' is 10/3, not a whole number; put ceil(...) around it",
    "a // 0": "'a // 0' divides by zero; correct the divisor",
    "a +": "'a +' is not an expression; expected an integer or an expression like "
    "'nCWL + nBL + nWR'; correct it",
    "ceil(a, b)": "'ceil(a, b)' gives ceil more than one argument; write ceil(a / b)",
    "a ** 2": "'a ** 2' uses something other than integers, names, + - * / // %, comparisons, "
    "if/else, ceil, max and min; write it with those",
    "True": "'True' holds True, which is not an integer; write it with integers",
}


@pytest.mark.parametrize(("text", "message"), MESSAGES.items())
def test_messages(text, message):
    with pytest.raises(SpecError) as error:
        evaluate(text, NAMES, "here")
    assert str(error.value) == f"here: {message}"


def test_names_in():
    assert names_in("ceil(a / b) + max(c, 1) if d else 3") == {"a", "b", "c", "d"}
    assert names_in(3) == set()


@given(a=st.integers(-(10**20), 10**20), b=st.integers(1, 10**18))
def test_division_is_exact(a, b):
    assert evaluate("ceil(a / b)", {"a": a, "b": b}) == -(-a // b)
    assert evaluate("a // b * b + a % b", {"a": a, "b": b}) == a
