"""Masks and sign extensions that nobody needs, out of the lines of a C function.

The netlist has words of exact widths: every sum is cut, every operand extended. Of a limb it is
known which bits can be one and from which bit on all are copies of the sign; of its readers, which
bits they look at. A mask that clears only bits that are zero anyhow, or that nobody looks at, goes,
and so does an extension of what is extended already.

Ref: H. S. Warren, "Hacker's Delight", ch. 2 (known bits); demanded bits as in compilers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_FULL = 0xFFFFFFFF
_DEFINITION = re.compile(r"const V (v\d+) = (.+);")
_NAME = re.compile(r"\bv\d+\b")
_ATOM = r"(?:v\d+|[rx]\d+(?:_\d+|\[\d+\])|K\(0x[0-9a-f]+u\))"
_BINARY = re.compile(rf"({_ATOM}) ([-&|^+*]) ({_ATOM})")
_SHIFT = re.compile(rf"({_ATOM}) (<<|>>) (\d+)")
_SRA = re.compile(rf"SRA\(({_ATOM}), (\d+)\)")
_SELECT = re.compile(rf"SEL\((\w+), ({_ATOM}), ({_ATOM})\)")
_ZERO = re.compile(rf"MZ\((\w+), ({_ATOM})\)")
_MASKED = re.compile(rf"(ORM|ADDM|SUBM)\(({_ATOM}), (\w+), ({_ATOM})\)")
_TEST = re.compile(r"const B b\d+ = TST\((v\d+), K\((0x[0-9a-f]+)u\)\);")


@dataclass(frozen=True)
class _Step:
    """An expression: operator, limbs that it reads, a number of bits."""

    op: str
    args: tuple[str, ...]
    bits: int = 0


@dataclass(frozen=True)
class _Fact:
    """possible: bits that can be one. sign: the limb is its lowest `sign` bits, extended."""

    possible: int = _FULL
    sign: int = 32


def simplify(lines: list[str], widths: Mapping[str, int]) -> list[str]:
    """The same function with fewer operations.

    Args:
        lines: of one function as `Segment` writes them.
        widths: of limbs that are loaded, where less than 32 bits can be one.
    """
    return _Function(lines, widths).lines()


def _parse(expression: str) -> _Step | None:
    if m := _BINARY.fullmatch(expression):
        return _Step(m[2], (m[1], m[3]))
    if m := _SHIFT.fullmatch(expression):
        return _Step(m[2], (m[1],), int(m[3]))
    if m := _SRA.fullmatch(expression):
        return _Step("SRA", (m[1],), int(m[2]))
    if m := _SELECT.fullmatch(expression):
        return _Step("SEL", (m[2], m[3]))
    if m := _ZERO.fullmatch(expression):
        return _Step("MZ", (m[2],))
    if m := _MASKED.fullmatch(expression):
        return _Step(m[1], (m[2], m[4]))
    return None


def _constant(atom: str) -> int | None:
    return int(atom[4:-2], 16) if atom.startswith("K(") else None


def _low(bits: int) -> int:
    """Mask of the lowest bits."""
    return (1 << min(bits, 32)) - 1


class _Function:
    def __init__(self, lines: list[str], widths: Mapping[str, int]) -> None:
        self.source, self.widths = lines, widths
        self.steps: dict[str, _Step] = {}
        self.facts: dict[str, _Fact] = {}
        self.instead: dict[str, str] = {}
        self.demanded = self._demands()

    # --- which bits are looked at -----------------------------------------------------------------
    def _demands(self) -> dict[str, int]:
        out: dict[str, int] = {}

        def demand(atom: str, bits: int) -> None:
            if atom.startswith("v"):
                out[atom] = out.get(atom, 0) | bits

        for line in reversed(self.source):
            found = _DEFINITION.fullmatch(line)
            step = _parse(found[2]) if found else None
            if found and step:
                self._pass_on(step, out.get(found[1], 0), demand)
            elif test := _TEST.fullmatch(line):
                demand(test[1], int(test[2], 16))
            else:
                for name in _NAME.findall(line[found.start(2) :] if found else line):
                    demand(name, _FULL)
        return out

    @staticmethod
    def _pass_on(step: _Step, bits: int, demand: Callable[[str, int], None]) -> None:
        """What an expression looks at, of whose value `bits` are looked at."""
        if step.op == "&":
            for one, other in (step.args, step.args[::-1]):
                mask = _constant(other)
                demand(one, bits if mask is None else bits & mask)
        elif step.op == "<<":
            demand(step.args[0], bits >> step.bits)
        elif step.op == ">>":
            demand(step.args[0], bits << step.bits & _FULL)
        elif step.op == "SRA":
            top = 1 << 31 if bits >> (32 - step.bits) else 0
            demand(step.args[0], bits << step.bits & _FULL | top)
        else:
            carries = step.op in ("+", "-", "*", "ADDM", "SUBM")
            for arg in step.args:
                demand(arg, _low(bits.bit_length()) if carries else bits)

    # --- what is known ----------------------------------------------------------------------------
    def _fact(self, atom: str) -> _Fact:
        value = _constant(atom)
        if value is None:
            return self.facts.get(atom, _Fact())
        top = value >> 31
        significant = (~value & _FULL if top else value).bit_length() + 1
        return _Fact(value, min(significant, 32))

    def _of(self, step: _Step) -> _Fact:
        facts = [self._fact(arg) for arg in step.args]
        a, b = facts[0], facts[-1]
        possible, sign = _FULL, 32
        if step.op == "&":
            possible, sign = a.possible & b.possible, max(a.sign, b.sign)
        elif step.op in ("|", "^", "SEL", "ORM"):
            possible, sign = a.possible | b.possible, max(a.sign, b.sign)
        elif step.op == "MZ":
            possible, sign = a.possible, a.sign
        elif step.op in ("+", "ADDM"):
            possible = _low(max(a.possible.bit_length(), b.possible.bit_length()) + 1)
            sign = max(a.sign, b.sign) + 1
        elif step.op in ("-", "SUBM"):
            sign = max(a.sign, b.sign) + 1
        elif step.op == "*":
            possible = _low(a.possible.bit_length() + b.possible.bit_length())
            sign = a.sign + b.sign
        elif step.op == "<<":
            possible, sign = a.possible << step.bits & _FULL, a.sign + step.bits
        elif step.op == ">>":
            possible = a.possible >> step.bits
        elif step.op == "SRA":
            copies = _FULL ^ _low(32 - step.bits) if a.possible >> 31 else 0
            possible, sign = a.possible >> step.bits | copies, max(a.sign - step.bits, 1)
        return _Fact(possible, min(sign, possible.bit_length() + 1, 32))

    # --- what goes --------------------------------------------------------------------------------
    def lines(self) -> list[str]:
        out = []
        for line in self.source:
            found = _DEFINITION.fullmatch(line)
            start = found.start(2) if found else 0
            text = line[:start] + _NAME.sub(lambda m: self.instead.get(m[0], m[0]), line[start:])
            if found and self._known(found[1], text[start:-1]):
                continue
            out.append(text)
        return out

    def _known(self, name: str, expression: str) -> bool:
        """Note what is known of a limb; whether it is the same as another one."""
        step = _parse(expression)
        if step is None:
            width = self.widths.get(name, 32)
            self.facts[name] = _Fact(_low(width), min(width + 1, 32))
            return False
        same = self._same(name, step)
        if same is not None:
            self.instead[name] = same
            return True
        self.steps[name] = step
        self.facts[name] = self._of(step)
        return False

    def _same(self, name: str, step: _Step) -> str | None:
        """A limb that agrees with this one in all bits that are looked at."""
        looked_at = self.demanded.get(name, 0)
        if step.op == "&":
            for one, other in (step.args, step.args[::-1]):
                mask = _constant(other)
                if mask is not None and not self._fact(one).possible & ~mask & looked_at:
                    return one
        if step.op == "SRA":
            before = self.steps.get(step.args[0])
            if before and before.op == "<<" and before.bits == step.bits:
                kept = 32 - step.bits
                if self._fact(before.args[0]).sign <= kept or not looked_at & ~_low(kept):
                    return before.args[0]
        return None
