"""Numpy expressions of every combinational cell, from Yosys' definitions alone: `cells.py`, which
has the same cells in C, is checked against this file, so neither may use the other.

A word of one bit is an array of bools over the lanes, one of up to 64 bits of uint64, a wider one
of Python integers. Constants are arrays of one element, which numpy spreads over the lanes.

Ref: Yosys, kernel/calc.cc (`const_add`, `const_shr`, ...), and its manual, word-level cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ToolError
from bankside.sim.lanes.netlist import Cell, Part, Sig, Word, width_of

BIT, WORD, WIDE = "B", "U", "O"
_DTYPES = {BIT: np.bool_, WORD: np.uint64, WIDE: np.object_}


def kind_of(width: int) -> str:
    return BIT if width == 1 else WORD if width <= 64 else WIDE


def ones(width: int) -> int:
    return (1 << width) - 1


class Source:
    """Lines of one Python function, in which every expression is computed once.

    Args:
        load: expression of a word that is not computed in this function.
        names: what the function finds as globals; constants are added.
    """

    def __init__(self, load: Callable[[Word], str], names: dict[str, Any]) -> None:
        self.lines: list[str] = []
        self._load, self._names = load, names
        self._words: dict[Word, str] = {}
        self._known: dict[str, str] = {}

    def let(self, expression: str) -> str:
        """A variable with the value of an expression."""
        if expression.isidentifier():
            return expression
        if expression not in self._known:
            self._known[expression] = f"x{len(self._known)}"
            self.lines.append(f"{self._known[expression]} = {expression}")
        return self._known[expression]

    def define(self, word: Word, expression: str) -> str:
        self._words[word] = self.let(expression)
        return self._words[word]

    def word(self, word: Word) -> str:
        if word not in self._words:
            self._words[word] = self.let(self._load(word))
        return self._words[word]

    def constant(self, value: int, width: int) -> str:
        kind = kind_of(width)
        name = f"k{kind}{value:x}"
        self._names[name] = np.array([value], _DTYPES[kind])
        return name

    # --- signals ----------------------------------------------------------------------------------
    def value(self, sig: Sig) -> str:
        """A signal, in the kind of its width."""
        width = width_of(sig)
        if width == 1:
            return self._bit(sig[0])
        terms, fixed, at = [], 0, 0
        for part, times in _runs(sig):
            if part.word is None:
                fixed |= part.low << at
            else:
                terms.append(self._term(part, times, at, kind_of(width)))
            at += part.width * times
        if fixed or not terms:
            terms.append(self.constant(fixed, width))
        return self.let(" | ".join(terms))

    def _bit(self, part: Part) -> str:
        if part.word is None:
            return self.constant(part.low, 1)
        value = self.word(part.word)
        return value if part.word.width == 1 else self.let(f"({value} & {1 << part.low}) != 0")

    def _term(self, part: Part, times: int, at: int, kind: str) -> str:
        """A part of a word moved to bit `at` and repeated; a repeated part has one bit."""
        word = part.word
        assert word is not None
        out, have = self.word(word), word.width
        if part.low:
            out = self.let(f"{out} >> {part.low}")
        if part.low + part.width < have:
            out = self.let(f"{out} & {ones(part.width)}")
        out = self.converted(out, kind_of(have), kind)
        if times > 1:
            out = self.let(f"{out} * {ones(times)}")
        return self.let(f"{out} << {at}") if at else out

    def converted(self, value: str, old: str, new: str) -> str:
        """Another kind of a value that fits into it; bits come from `!= 0`."""
        if old == new:
            return value
        # Bools as objects are Python's, whose `~` and `*` are not those of bits.
        path = ".astype(U).astype(O)" if (old, new) == (BIT, WIDE) else f".astype({new})"
        return self.let(value + path)

    def resized(self, value: str, have: int, width: int, signed: bool) -> str:
        """A value of `have` bits cut or extended to `width`."""
        old, new = kind_of(have), kind_of(width)
        if width < have:
            if new == BIT:
                return self.let(f"({value} & 1) != 0")
            return self.converted(self.let(f"{value} & {ones(width)}"), old, new)
        out = self.converted(value, old, new)
        if not signed or width == have or not have:
            return out
        sign = 1 << have - 1
        return self.let(f"(({out} ^ {sign}) - {sign}) & {ones(width)}")

    def extended(self, sig: Sig, width: int, signed: bool) -> str:
        return self.resized(self.value(sig), width_of(sig), width, signed)

    def true(self, sig: Sig) -> str:
        """Whether a signal is not zero."""
        value = self.value(sig)
        return value if width_of(sig) == 1 else self.let(f"{value} != 0")

    def number(self, sig: Sig, most: int) -> str:
        """A count or an address as uint64, at most `most`, a power of two."""
        width, value = width_of(sig), self.value(sig)
        if width >= most.bit_length():
            value = self.let(f"minimum({value}, {most})")
        return self.converted(value, kind_of(width), WORD)


def _runs(sig: Sig) -> Iterator[tuple[Part, int]]:
    """(part, times): equal single bits one after the other as one."""
    index = 0
    while index < len(sig):
        part, first = sig[index], index
        index += 1
        while part.width == 1 and part.word is not None and sig[index : index + 1] == (part,):
            index += 1
        yield part, index - first


def sliced(sig: Sig, low: int, width: int) -> Sig:
    """Bits [low, low + width) of a signal."""
    out: list[Part] = []
    for word, first, size in sig:
        begin, end = max(low, 0), min(low + width, size)
        if begin < end:
            bits = end - begin
            start = first >> begin & ones(bits) if word is None else first + begin
            out.append(Part(word, start, bits))
        low -= size
    return tuple(out)


def compute(cell: Cell, s: Source) -> str:
    """Expression of the output of a cell, in the kind of its width."""
    return _CODE[cell.type](cell, s)


def parity(value: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether the number of ones is odd."""
    if value.dtype == np.object_:
        return np.array([bin(v).count("1") & 1 for v in value], np.bool_)
    for shift in (32, 16, 8, 4, 2, 1):
        value = value ^ (value >> shift)
    return (value & 1) != 0


# --- cells ----------------------------------------------------------------------------------------
def _both(cell: Cell, s: Source, width: int) -> tuple[str, str]:
    """Both operands; they have signs only together."""
    signed = bool(cell.parameters["A_SIGNED"] and cell.parameters["B_SIGNED"])
    a, b = (s.extended(cell.inputs[port], width, signed) for port in "AB")
    return a, b


def _one(cell: Cell, s: Source) -> str:
    return s.extended(cell.inputs["A"], cell.output.width, bool(cell.parameters["A_SIGNED"]))


def _bit_out(cell: Cell, s: Source, bit: str) -> str:
    """A bit as the output, zeros above it."""
    return s.converted(s.let(bit), BIT, kind_of(cell.output.width))


def _inverted(value: str, width: int) -> str:
    return f"~{value}" if width == 1 else f"{value} ^ {ones(width)}"


def _not(cell: Cell, s: Source) -> str:
    return _inverted(_one(cell, s), cell.output.width)


def _xnor(cell: Cell, s: Source) -> str:
    a, b = _both(cell, s, cell.output.width)
    return _inverted(s.let(f"{a} ^ {b}"), cell.output.width)


def _bitwise(operator: str) -> Callable[[Cell, Source], str]:
    def code(cell: Cell, s: Source) -> str:
        a, b = _both(cell, s, cell.output.width)
        return f"{a} {operator} {b}"

    return code


def _arithmetic(operator: str, of_bits: str) -> Callable[[Cell, Source], str]:
    """Modulo 2^width, where uint64 wraps and Python's integers do not."""

    def code(cell: Cell, s: Source) -> str:
        width = cell.output.width
        a, b = _both(cell, s, width)
        if width == 1:
            return f"{a} {of_bits} {b}"
        return f"({a} {operator} {b}) & {ones(width)}"

    return code


def _neg(cell: Cell, s: Source) -> str:
    width = cell.output.width
    return _one(cell, s) if width == 1 else f"(0 - {_one(cell, s)}) & {ones(width)}"


def _reduce(of_word: str, inverted: bool = False) -> Callable[[Cell, Source], str]:
    """`of_word` with the operand {a} and its ones {m}; a single bit is itself."""

    def code(cell: Cell, s: Source) -> str:
        sig = cell.inputs["A"]
        bit, width = s.value(sig), width_of(sig)
        if width != 1:
            bit = s.let(of_word.format(a=bit, m=ones(width)))
        return _bit_out(cell, s, f"~{bit}" if inverted else bit)

    return code


def _logic(operator: str) -> Callable[[Cell, Source], str]:
    def code(cell: Cell, s: Source) -> str:
        a, b = (s.true(cell.inputs[port]) for port in "AB")
        return _bit_out(cell, s, f"{a} {operator} {b}")

    return code


def _compare(operator: str) -> Callable[[Cell, Source], str]:
    def code(cell: Cell, s: Source) -> str:
        width = max(width_of(cell.inputs[port]) for port in "AB")
        a, b = _both(cell, s, width)
        if cell.parameters["A_SIGNED"] and cell.parameters["B_SIGNED"]:
            # Numbers with a sign are in the order of numbers without after a flip of the sign.
            sign = s.constant(1 << width - 1, width)
            a, b = s.let(f"{a} ^ {sign}"), s.let(f"{b} ^ {sign}")
        return _bit_out(cell, s, f"{a} {operator} {b}")

    return code


def _left(cell: Cell, s: Source) -> str:
    """Computed in two bits at least: bools cannot be shifted."""
    width = max(2, cell.output.width)
    a = s.extended(cell.inputs["A"], width, bool(cell.parameters["A_SIGNED"]))
    by = _amount(cell, s, width)
    return s.resized(s.let(f"({a} << {by}) & {ones(width)}"), width, cell.output.width, False)


def _amount(cell: Cell, s: Source, width: int) -> str:
    """Numpy shifts everything out of a word that is shifted by more than it has bits."""
    most = 1 << max(6, (width - 1).bit_length())
    return s.converted(s.number(cell.inputs["B"], most), WORD, kind_of(width))


def _right(cell: Cell, s: Source) -> str:
    p = cell.parameters
    if cell.type in ("$shift", "$shiftx") and p["B_SIGNED"]:
        raise ToolError(f"{cell.name}: a shift by an amount with a sign; the lane engine has none")
    signed = bool(p["A_SIGNED"])
    own = max(width_of(cell.inputs["A"]), cell.output.width)
    width = max(2, own)
    a = s.extended(cell.inputs["A"], own, signed)
    a = s.resized(a, own, width, signed and cell.type == "$sshr")
    by = _amount(cell, s, width)
    if cell.type == "$sshr" and signed and kind_of(width) == WIDE:
        sign = 1 << width - 1
        out = f"((({a} ^ {sign}) - {sign}) >> {by}) & {ones(width)}"
    elif cell.type == "$sshr" and signed:
        a = s.resized(a, width, 64, True)
        out = f"({a}.view(I) >> minimum({by}, 63).astype(I)).view(U) & {ones(width)}"
    else:
        out = f"{a} >> {by}"
    return s.resized(s.let(out), width, cell.output.width, False)


def _mux(cell: Cell, s: Source) -> str:
    select, a, b = (s.value(cell.inputs[port]) for port in "SAB")
    return f"where({select}, {b}, {a})"


def _pmux(cell: Cell, s: Source) -> str:
    """The first line that is set wins, as in the `case` that it came from."""
    out, width = s.value(cell.inputs["A"]), cell.output.width
    for line in reversed(range(width_of(cell.inputs["S"]))):
        select = s.value(sliced(cell.inputs["S"], line, 1))
        value = s.value(sliced(cell.inputs["B"], line * width, width))
        out = s.let(f"where({select}, {value}, {out})")
    return out


_CODE: dict[str, Callable[[Cell, Source], str]] = {
    "$not": _not, "$pos": _one, "$neg": _neg,
    "$and": _bitwise("&"), "$or": _bitwise("|"), "$xor": _bitwise("^"), "$xnor": _xnor,
    "$reduce_and": _reduce("{a} == {m}"), "$reduce_or": _reduce("{a} != 0"),
    "$reduce_bool": _reduce("{a} != 0"), "$logic_not": _reduce("{a} != 0", inverted=True),
    "$reduce_xor": _reduce("parity({a})"), "$reduce_xnor": _reduce("parity({a})", inverted=True),
    "$logic_and": _logic("&"), "$logic_or": _logic("|"),
    "$eq": _compare("=="), "$eqx": _compare("=="), "$ne": _compare("!="), "$nex": _compare("!="),
    "$lt": _compare("<"), "$le": _compare("<="), "$gt": _compare(">"), "$ge": _compare(">="),
    "$add": _arithmetic("+", "^"), "$sub": _arithmetic("-", "^"), "$mul": _arithmetic("*", "&"),
    "$shl": _left, "$sshl": _left, "$shr": _right, "$sshr": _right, "$shift": _right,
    "$shiftx": _right, "$mux": _mux, "$pmux": _pmux,
}  # fmt: skip
