"""Expressions that cells are made of: bits of all lanes, selections."""

from __future__ import annotations

from bankside.sim.lanes.netlist import Sig, width_of
from bankside.sim.lanes.segment import ALL, NONE, ZERO, Segment, k, low_mask

Values = list[str]


def masked(s: Segment, limbs: Values, width: int) -> Values:
    """Bits above `width` of the last limb cleared."""
    if width % 32:
        limbs[-1] = s.v(f"{limbs[-1]} & {k(low_mask(width % 32))}")
    return limbs


def not_b(s: Segment, bit: str) -> str:
    return NONE if bit == ALL else ALL if bit == NONE else s.b(f"{bit} ^ ALL")


def and_b(s: Segment, a: str, b: str) -> str:
    if NONE in (a, b):
        return NONE
    return b if a == ALL else a if b in (ALL, a) else s.b(f"{a} & {b}")


def or_b(s: Segment, a: str, b: str) -> str:
    if ALL in (a, b):
        return ALL
    return b if a == NONE else a if b in (NONE, a) else s.b(f"{a} | {b}")


def xor_b(s: Segment, a: str, b: str) -> str:
    if a == ALL:
        return not_b(s, b)
    if b == ALL:
        return not_b(s, a)
    return b if a == NONE else a if b == NONE else s.b(f"{a} ^ {b}")


def one_limb(s: Segment, sig: Sig) -> str:
    if width_of(sig) == 1:
        bit = s.bit(sig)
        return k(1) if bit == ALL else ZERO if bit == NONE else s.v(f"MZ({bit}, {k(1)})")
    return s.limb(sig, 0)


def choose(s: Segment, bit: str, yes: Values, no: Values, width: int) -> Values:
    """`yes` in lanes where `bit` is set."""
    if bit in (ALL, NONE):
        return yes if bit == ALL else no
    if width == 1:
        (a,), (b,) = yes, no
        if a == b:
            return [a]
        if NONE in (a, b) or ALL in (a, b):
            if b == NONE:
                return [and_b(s, bit, a)]
            if a == NONE:
                return [and_b(s, not_b(s, bit), b)]
            return [or_b(s, bit, b)] if a == ALL else [or_b(s, not_b(s, bit), a)]
        return [s.b(f"({bit} & ({a} ^ {b})) ^ {b}")]
    return [
        x if x == y else s.v(f"MZ({bit}, {x})") if y == ZERO else s.v(f"SEL({bit}, {x}, {y})")
        for x, y in zip(yes, no, strict=True)
    ]


def chosen(bit: str, yes: Values, no: Values, width: int) -> Values:
    """`choose` for variables that change: nothing of it may be remembered."""
    if bit == NONE:
        return no
    if bit == ALL:
        return yes
    if width == 1:
        return [f"({bit} & ({a} ^ {b})) ^ {b}" for a, b in zip(yes, no, strict=True)]
    return [f"SEL({bit}, {a}, {b})" for a, b in zip(yes, no, strict=True)]


def values(s: Segment, sig: Sig) -> Values:
    return [s.bit(sig)] if width_of(sig) == 1 else s.limbs(sig)
