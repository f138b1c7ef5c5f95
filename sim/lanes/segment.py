"""Expressions of one C function: limbs and bits of signals, each computed once.

A word of one bit is a `B` (a mask over the lanes), any other one `V` per 32 bits, bits above its
width zero (sim/lanes/lanes.h). Constants are folded where that is cheap to see.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from bankside.sim.lanes.netlist import Memory, Part, Sig, Word, joined, width_of

#: Machines of a group; bytes of a limb, and of a bit, of all of them (lanes.h).
LANES = 16
LIMB, BIT = 4 * LANES, LANES // 8
ZERO, ONES = "K(0x0u)", "K(0xffffffffu)"
NONE, ALL = "0u", "ALL"


def k(value: int) -> str:
    """A constant limb."""
    return f"K({value & 0xFFFFFFFF:#x}u)"


def low_mask(width: int) -> int:
    return (1 << width) - 1


def constant(expression: str) -> int | None:
    """Value of a constant limb."""
    simple = expression.startswith("K(") and expression.find(")") == len(expression) - 1
    return int(expression[2:-2], 16) if simple else None


def extended(sig: Sig, width: int, signed: bool) -> Sig:
    """`sig` cut or extended to `width` bits."""
    missing = width - width_of(sig)
    if missing <= 0:
        return cut(sig, 0, width)
    if not signed or not sig:
        return joined([*sig, Part(None, 0, missing)])
    last = sig[-1]
    if last.word is None:
        return joined([*sig, Part(None, low_mask(missing) * (last.low >> last.width - 1), missing)])
    top = Part(last.word, last.low + last.width - 1, 1)
    return (*sig, *[top] * missing)


def cut(sig: Sig, low: int, width: int) -> Sig:
    """Bits [low, low + width) of a signal."""
    out, at = [], 0
    for part in sig:
        first, last = max(low - at, 0), min(low + width - at, part.width)
        if first < last:
            start = (
                part.low >> first & low_mask(last - first)
                if part.word is None
                else part.low + first
            )
            out.append(Part(part.word, start, last - first))
        at += part.width
    return joined(out)


def used_width(sig: Sig) -> int:
    """Bits that can be one: without constant zeros at the top."""
    width = width_of(sig)
    for part in reversed(sig):
        if part.word is not None:
            return width
        if part.low:
            return width - part.width + part.low.bit_length()
        width -= part.width
    return width


class Segment:
    """Lines of one function.

    Args:
        place: address of a word that an earlier function has computed, None: there is none.
        read: beginning of the call that reads a memory, up to its size.
    """

    def __init__(self, place: Callable[[Word], str | None], read: Callable[[Memory], str]) -> None:
        self.lines: list[str] = []
        self.read = read
        self._place = place
        self._arrays: ChainMap[str, str] = ChainMap()
        self._limbs: ChainMap[Word, list[str]] = ChainMap()
        self._bits: ChainMap[Word, str] = ChainMap()
        self._known: ChainMap[str, str] = ChainMap()
        self._count = 0
        #: Variable -> bits of it that can be one, of those that are loaded.
        self.widths: dict[str, int] = {}

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """What follows is done where a bit is set in some lane; it knows what is known outside."""
        names = ("_arrays", "_limbs", "_bits", "_known")
        self.lines.append(f"if ({condition}) {{")
        for name in names:
            setattr(self, name, getattr(self, name).new_child())
        yield
        for name in names:
            setattr(self, name, getattr(self, name).parents)
        self.lines.append("}")

    def variables(self, kind: str, values: Sequence[str]) -> list[str]:
        """Variables that may be changed, with their first values."""
        self._count += 1
        names = [f"x{self._count}_{i}" for i in range(len(values))]
        self.lines += [f"{kind} {n} = {v};" for n, v in zip(names, values, strict=True)]
        return names

    def assign(self, names: Sequence[str], values: Sequence[str]) -> None:
        self.lines += [f"{n} = {v};" for n, v in zip(names, values, strict=True) if n != v]

    # --- variables --------------------------------------------------------------------------------
    def _name(self, kind: str, expression: str) -> str:
        if expression not in self._known:
            self._count += 1
            name = f"{kind.lower()}{self._count}"
            self.lines.append(f"const {kind} {name} = {expression};")
            self._known[expression] = name
        return self._known[expression]

    def v(self, expression: str) -> str:
        """A limb in a variable; a constant as it is."""
        return expression if constant(expression) is not None else self._name("V", expression)

    def b(self, expression: str) -> str:
        return expression if expression in (NONE, ALL) else self._name("B", expression)

    def array(self, limbs: Sequence[str]) -> str:
        """An array of limbs, for functions that take one."""
        content = "{" + ", ".join(limbs) + "}"
        if content not in self._arrays:
            self._count += 1
            self._arrays[content] = f"a{self._count}"
            self.lines.append(f"const V a{self._count}[{len(limbs)}] = {content};")
        return self._arrays[content]

    def result(self, size: int) -> str:
        """An array that a function fills."""
        self._count += 1
        self.lines.append(f"V r{self._count}[{size}];")
        return f"r{self._count}"

    def define(self, word: Word, limbs: Sequence[str]) -> None:
        """The word's limbs; for a word of one bit the only one is a bit."""
        if word.width == 1:
            self._bits[word] = limbs[0]
        else:
            self._limbs[word] = list(limbs)

    def has(self, word: Word) -> bool:
        return word in self._bits or word in self._limbs

    def word_bit(self, word: Word) -> str:
        if word not in self._bits:
            self._bits[word] = self.b(f"LDB({self._at(word)})")
        return self._bits[word]

    def word_limb(self, word: Word, limb: int) -> str:
        found = self._limbs.get(word)
        if found is None or not found[limb]:
            # What is loaded under a condition is known there only.
            found = list(found) if found else [""] * word.limbs
            found[limb] = self.v(f"LDV({self._at(word)} + {LIMB * limb})")
            self.widths[found[limb]] = min(32, word.width - 32 * limb)
            self._limbs[word] = found
        return found[limb]

    def _at(self, word: Word) -> str:
        place = self._place(word)
        assert place is not None, f"{word.name} is read before it is computed"
        return place

    # --- bits -------------------------------------------------------------------------------------
    def bit(self, sig: Sig) -> str:
        """A signal of one bit."""
        (part,) = sig
        if part.word is None:
            return ALL if part.low else NONE
        if part.word.width == 1:
            return self.word_bit(part.word)
        limb = self.word_limb(part.word, part.low // 32)
        value = constant(limb)
        if value is not None:
            return ALL if value >> part.low % 32 & 1 else NONE
        return self.b(f"TST({limb}, {k(1 << part.low % 32)})")

    def limbs(self, sig: Sig) -> list[str]:
        return [self.limb(sig, i) for i in range(-(-width_of(sig) // 32))]

    def limb(self, sig: Sig, number: int) -> str:
        """Bits [32 number, 32 number + 32) of a signal."""
        pieces = list(_runs(cut(sig, 32 * number, 32)))
        if len(pieces) == 2 and (extended_piece := self._extension(pieces)):
            return extended_piece
        value, terms = 0, []
        for at, part, times in pieces:
            if part.word is None:
                value |= part.low << at
            elif part.width == 1 and (times > 1 or part.word.width == 1):
                terms.append(("m", self.bit((part,)), low_mask(times) << at))
            else:
                terms += [("v", term, 0) for term in self._slices(part, at)]
        return self._or(value, terms)

    def _or(self, value: int, terms: list[tuple[str, str, int]]) -> str:
        words = [t for kind, t, _ in terms if kind == "v"]
        masks: dict[str, int] = {}
        for kind, bit, pattern in terms:
            if kind == "m" and bit == ALL:
                value |= pattern
            elif kind == "m" and bit != NONE:
                masks[bit] = masks.get(bit, 0) | pattern
        out = words[0] if words else None
        for other in words[1:]:
            out = self.v(f"{out} | {other}")
        if value or (out is None and not masks):
            out = k(value) if out is None else self.v(f"{out} | {k(value)}")
        for bit, pattern in masks.items():
            if out is None:
                out = self.v(f"MZ({bit}, {k(pattern)})")
            else:
                out = self.v(f"ORM({out}, {bit}, {k(pattern)})")
        assert out is not None
        return out

    def _slices(self, part: Part, at: int) -> Iterator[str]:
        """A part of a word, shifted to bit `at`, of one limb or across two."""
        word, low, left = part.word, part.low, part.width
        assert word is not None
        while left:
            shift = low % 32
            take = min(left, 32 - shift)
            limb = self.word_limb(word, low // 32)
            # Bits of the limb above those that are taken.
            above = min(32, word.width - low // 32 * 32) - shift - take
            yield self._slice(limb, shift, take, at, above > 0)
            low, left, at = low + take, left - take, at + take

    def _slice(self, limb: str, shift: int, take: int, at: int, above: bool) -> str:
        value = constant(limb)
        if value is not None:
            return k((value >> shift & low_mask(take)) << at)
        out = limb
        if above and at + take < 32:
            out = self.v(f"{out} & {k(low_mask(take) << shift)}")
            if at > shift:
                return self.v(f"{out} << {at - shift}")
            return self.v(f"{out} >> {shift - at}") if shift > at else out
        if shift and at:
            out = self.v(f"{out} >> {shift}")
            return self.v(f"{out} << {at}")
        if shift:
            return self.v(f"{out} >> {shift}")
        return self.v(f"{out} << {at}") if at else out

    def _extension(self, pieces: list[tuple[int, Part, int]]) -> str | None:
        """A part of a limb with its top bit repeated above it, in two shifts."""
        (at, part, times), (_, sign, repeats) = pieces
        word = part.word
        if (
            at or times > 1 or word is None or word.width == 1 or sign.word is not word
            or sign.width > 1 or sign.low != part.low + part.width - 1
            or part.low // 32 != sign.low // 32
        ):  # fmt: skip
            return None
        limb = self.word_limb(word, part.low // 32)
        up = 31 - sign.low % 32
        out = self.v(f"{limb} << {up}") if up else limb
        out = self.v(f"SRA({out}, {up + part.low % 32})") if up + part.low % 32 else out
        width = part.width + repeats
        return out if width == 32 else self.v(f"{out} & {k(low_mask(width))}")


def _runs(sig: Sig) -> Iterator[tuple[int, Part, int]]:
    """(position, part, times): equal single bits one after the other as one."""
    at, index = 0, 0
    while index < len(sig):
        part, times = sig[index], 1
        while part.width == 1 and part.word is not None and (
            index + times < len(sig) and sig[index + times] == part):  # fmt: skip
            times += 1
        yield at, part, times
        at, index = at + part.width * times, index + times
