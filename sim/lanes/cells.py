"""C of every combinational cell. Semantics of the operands: Yosys manual, internal cell library."""

from __future__ import annotations

from collections.abc import Callable

from bankside.sim.lanes.bits import (
    Values,
    and_b,
    choose,
    masked,
    not_b,
    one_limb,
    or_b,
    values,
    xor_b,
)  # fmt: skip
from bankside.sim.lanes.netlist import Cell, Sig, Word, width_of
from bankside.sim.lanes.segment import (
    ALL,
    NONE,
    ONES,
    ZERO,
    Segment,
    constant,
    cut,
    extended,
    k,
    low_mask,
    used_width,
)
from bankside.sim.lanes.shifts import shift_left, shift_right


def compute(cell: Cell, s: Segment) -> Values:
    """Limbs of the output of `cell`; a bit where it has one bit."""
    return _CODE[cell.type](cell, s)


def _operands(cell: Cell, width: int) -> tuple[Sig, Sig]:
    p = cell.parameters
    both = bool(p["A_SIGNED"] and p["B_SIGNED"])
    return extended(cell.inputs["A"], width, both), extended(cell.inputs["B"], width, both)


def _as_output(cell: Cell, s: Segment, bit: str) -> Values:
    """A bit as the output word, which may be wider."""
    width = cell.output.width
    if width == 1:
        return [bit]
    first = k(1) if bit == ALL else ZERO if bit == NONE else s.v(f"MZ({bit}, {k(1)})")
    return [first, *[ZERO] * (cell.output.limbs - 1)]


# --- bitwise --------------------------------------------------------------------------------


def _and_v(s: Segment, a: str, b: str) -> str:
    if ZERO in (a, b):
        return ZERO
    return b if a == ONES else a if b in (ONES, a) else s.v(f"{a} & {b}")


def _or_v(s: Segment, a: str, b: str) -> str:
    return b if a == ZERO else a if b in (ZERO, a) else s.v(f"{a} | {b}")


def _xor_v(s: Segment, a: str, b: str) -> str:
    return b if a == ZERO else a if b == ZERO else s.v(f"{a} ^ {b}")


def _bitwise(
    of_bits: Callable[[Segment, str, str], str], of_limbs: Callable[[Segment, str, str], str]
) -> Callable[[Cell, Segment], Values]:
    def code(cell: Cell, s: Segment) -> Values:
        a, b = _operands(cell, cell.output.width)
        if cell.output.width == 1:
            return [of_bits(s, s.bit(a), s.bit(b))]
        if cell.type == "$and":
            for mask, value in ((a, b), (b, a)):
                if (bit := _repeated(mask)) is not None:
                    return _where(s, s.bit(bit), s.limbs(value))
        return [of_limbs(s, s.limb(a, i), s.limb(b, i)) for i in range(cell.output.limbs)]

    return code


def _repeated(sig: Sig) -> Sig | None:
    """The bit that a signal consists of, again and again."""
    first = sig[0]
    same = first.word is not None and first.width == 1 and all(part == first for part in sig)
    return (first,) if same else None


def _where(s: Segment, bit: str, limbs: Values) -> Values:
    """`limbs` in lanes where a bit is set, else zero."""
    if bit in (ALL, NONE):
        return limbs if bit == ALL else [ZERO] * len(limbs)
    return [limb if limb == ZERO else s.v(f"MZ({bit}, {limb})") for limb in limbs]


def _inverted(s: Segment, limbs: Values, width: int) -> Values:
    masks = [low_mask(min(32, width - 32 * i)) for i in range(len(limbs))]
    return [s.v(f"{limb} ^ {k(mask)}") for limb, mask in zip(limbs, masks, strict=True)]


def _not(cell: Cell, s: Segment) -> Values:
    width = cell.output.width
    a = extended(cell.inputs["A"], width, bool(cell.parameters["A_SIGNED"]))
    return [not_b(s, s.bit(a))] if width == 1 else _inverted(s, s.limbs(a), width)


def _xnor(cell: Cell, s: Segment) -> Values:
    found, width = _CODE["$xor"](cell, s), cell.output.width
    return [not_b(s, found[0])] if width == 1 else _inverted(s, found, width)


def _pos(cell: Cell, s: Segment) -> Values:
    a = extended(cell.inputs["A"], cell.output.width, bool(cell.parameters["A_SIGNED"]))
    return [s.bit(a)] if cell.output.width == 1 else s.limbs(a)


# --- reductions --------------------------------------------------------------------------------
def any_of(s: Segment, sig: Sig) -> str:
    """Whether a signal is not zero."""
    if width_of(sig) == 1:
        return s.bit(sig)
    whole = ZERO
    for limb in s.limbs(sig):
        whole = _or_v(s, whole, limb)
    value = constant(whole)
    if value is not None:
        return ALL if value else NONE
    return s.b(f"TST({whole}, {whole})")


def _reduce_or(cell: Cell, s: Segment) -> Values:
    return _as_output(cell, s, any_of(s, cell.inputs["A"]))


def _logic_not(cell: Cell, s: Segment) -> Values:
    return _as_output(cell, s, not_b(s, any_of(s, cell.inputs["A"])))


def _reduce_and(cell: Cell, s: Segment) -> Values:
    sig, bit = cell.inputs["A"], ALL
    width = width_of(sig)
    if width == 1:
        return _as_output(cell, s, s.bit(sig))
    for i, limb in enumerate(s.limbs(sig)):
        mask = low_mask(min(32, width - 32 * i))
        bit = and_b(s, bit, s.b(f"EQ({limb}, {k(mask)})"))
    return _as_output(cell, s, bit)


def _reduce_xor(cell: Cell, s: Segment) -> Values:
    sig = cell.inputs["A"]
    if width_of(sig) == 1:
        return _as_output(cell, s, s.bit(sig))
    whole = ZERO
    for limb in s.limbs(sig):
        whole = _xor_v(s, whole, limb)
    parity = s.v(f"PARITY({whole})")
    return _as_output(cell, s, s.b(f"TST({parity}, {k(1)})"))


def _reduce_xnor(cell: Cell, s: Segment) -> Values:
    narrow = Cell(cell.type, cell.name, cell.parameters, cell.inputs, _one_bit(cell))
    return _as_output(cell, s, not_b(s, _reduce_xor(narrow, s)[0]))


def _one_bit(cell: Cell) -> Word:
    return type(cell.output)(cell.output.name, 1, "cell", -1)


def _logic(of_bits: Callable[[Segment, str, str], str]) -> Callable[[Cell, Segment], Values]:
    def code(cell: Cell, s: Segment) -> Values:
        a, b = (any_of(s, cell.inputs[port]) for port in "AB")
        return _as_output(cell, s, of_bits(s, a, b))

    return code


# --- comparisons --------------------------------------------------------------------------------
def _equal(cell: Cell, s: Segment) -> str:
    width = max(width_of(cell.inputs["A"]), width_of(cell.inputs["B"]))
    a, b = _operands(cell, width)
    if width == 1:
        return not_b(s, xor_b(s, s.bit(a), s.bit(b)))
    bit = ALL
    for x, y in zip(s.limbs(a), s.limbs(b), strict=True):
        if x == y:
            continue
        if constant(x) is not None and constant(y) is not None:
            return NONE
        bit = and_b(s, bit, s.b(f"EQ({x}, {y})"))
    return bit


def _eq(cell: Cell, s: Segment) -> Values:
    return _as_output(cell, s, _equal(cell, s))


def _ne(cell: Cell, s: Segment) -> Values:
    return _as_output(cell, s, not_b(s, _equal(cell, s)))


def _less(cell: Cell, s: Segment, *, swap: bool, equal: bool) -> str:
    """a < b (`equal`: or equal); `swap`: of b and a."""
    width = max(width_of(cell.inputs["A"]), width_of(cell.inputs["B"]))
    signed = bool(cell.parameters["A_SIGNED"] and cell.parameters["B_SIGNED"])
    whole = -(-width // 32) * 32 if signed else width
    x, y = _operands(cell, whole)
    if swap:
        x, y = y, x
    if width == 1 and not signed:
        a, b = s.bit(x), s.bit(y)
        strict = and_b(s, not_b(s, a), b)
        return or_b(s, strict, not_b(s, xor_b(s, a, b))) if equal else strict
    a_limbs, b_limbs = s.limbs(x), s.limbs(y)
    name = ("LE" if equal else "LT") + "U"
    bit = s.b(f"{_sign(name, signed and len(a_limbs) == 1)}({a_limbs[0]}, {b_limbs[0]})")
    for i in range(1, len(a_limbs)):
        top = signed and i == len(a_limbs) - 1
        less = s.b(f"{_sign('LTU', top)}({a_limbs[i]}, {b_limbs[i]})")
        same = s.b(f"EQ({a_limbs[i]}, {b_limbs[i]})")
        bit = or_b(s, less, and_b(s, same, bit))
    return bit


def _sign(name: str, signed: bool) -> str:
    return name[:-1] + "S" if signed else name


def _comparison(*, swap: bool, equal: bool) -> Callable[[Cell, Segment], Values]:
    return lambda cell, s: _as_output(cell, s, _less(cell, s, swap=swap, equal=equal))


# --- arithmetic --------------------------------------------------------------------------------
def _sum(s: Segment, a: Values, b: Values) -> Values:
    out: Values = []
    carry = NONE
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        last = i == len(a) - 1
        part = x if y == ZERO else y if x == ZERO else s.v(f"{x} + {y}")
        overflow = NONE if last or ZERO in (x, y) else s.b(f"LTU({part}, {x})")
        if carry == NONE:
            out.append(part)
        else:
            whole = s.v(f"ADDM({part}, {carry}, {k(1)})")
            if not last:
                overflow = or_b(s, overflow, and_b(s, carry, s.b(f"EQ({whole}, {ZERO})")))
            out.append(whole)
        carry = overflow
    return out


def _difference(s: Segment, a: Values, b: Values) -> Values:
    out: Values = []
    borrow = NONE
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        last = i == len(a) - 1
        part = x if y == ZERO else s.v(f"{x} - {y}")
        under = NONE if last or y == ZERO else s.b(f"LTU({x}, {y})")
        if borrow == NONE:
            out.append(part)
        else:
            whole = s.v(f"SUBM({part}, {borrow}, {k(1)})")
            if not last:
                under = or_b(s, under, and_b(s, borrow, s.b(f"EQ({part}, {ZERO})")))
            out.append(whole)
        borrow = under
    return out


def _add(cell: Cell, s: Segment) -> Values:
    width = cell.output.width
    a, b = _operands(cell, width)
    if width == 1:
        return [xor_b(s, s.bit(a), s.bit(b))]
    out = _sum(s, s.limbs(a), s.limbs(b))
    fits = max(used_width(a), used_width(b)) < width
    return out if fits else masked(s, out, width)


def _sub(cell: Cell, s: Segment) -> Values:
    width = cell.output.width
    a, b = _operands(cell, width)
    if width == 1:
        return [xor_b(s, s.bit(a), s.bit(b))]
    return masked(s, _difference(s, s.limbs(a), s.limbs(b)), width)


def _neg(cell: Cell, s: Segment) -> Values:
    width = cell.output.width
    a = extended(cell.inputs["A"], width, bool(cell.parameters["A_SIGNED"]))
    if width == 1:
        return [s.bit(a)]
    limbs = s.limbs(a)
    return masked(s, _difference(s, [ZERO] * len(limbs), limbs), width)


def _mul(cell: Cell, s: Segment) -> Values:
    width = cell.output.width
    a, b = _operands(cell, width)
    if width == 1:
        return [and_b(s, s.bit(a), s.bit(b))]
    x, y = s.limbs(a), s.limbs(b)
    out = [ZERO] * len(x)
    for i, first in enumerate(x):
        for j, second in enumerate(y[: len(x) - i]):
            if ZERO in (first, second):
                continue
            at = i + j
            row = [ZERO] * len(x)
            row[at] = s.v(f"{first} * {second}")
            narrow = used_width(cut(a, 32 * i, 32)) + used_width(cut(b, 32 * j, 32)) <= 32
            if at + 1 < len(x) and not narrow:
                row[at + 1] = s.v(f"MULHI({first}, {second})")
            out = [*out[:at], *_sum(s, out[at:], row[at:])]
    fits = used_width(a) + used_width(b) <= width
    return out if fits else masked(s, out, width)


def _mux(cell: Cell, s: Segment) -> Values:
    bit = s.bit(cell.inputs["S"])
    a, b = (values(s, cell.inputs[port]) for port in "AB")
    return choose(s, bit, b, a, cell.output.width)


def _pmux(cell: Cell, s: Segment) -> Values:
    """The first select line that is set wins, as in the `case` that it came from."""
    width = cell.output.width
    out = values(s, cell.inputs["A"])
    for i in reversed(range(width_of(cell.inputs["S"]))):
        bit = s.bit(cut(cell.inputs["S"], i, 1))
        out = choose(s, bit, values(s, cut(cell.inputs["B"], i * width, width)), out, width)
    return out


def _read(cell: Cell, s: Segment) -> Values:
    """An asynchronous read port."""
    memory = cell.memory
    assert memory is not None
    out = s.result(memory.limbs)
    s.lines.append(f"{s.read(memory)}, {one_limb(s, cell.inputs['A'])}, {out});")
    if memory.width == 1:
        return [s.b(f"TST({out}[0], {k(1)})")]
    return [f"{out}[{i}]" for i in range(memory.limbs)]


_CODE: dict[str, Callable[[Cell, Segment], Values]] = {
    "$not": _not, "$pos": _pos, "$neg": _neg, "$xnor": _xnor,
    "$and": _bitwise(and_b, _and_v), "$or": _bitwise(or_b, _or_v), "$xor": _bitwise(xor_b, _xor_v),
    "$reduce_and": _reduce_and, "$reduce_or": _reduce_or, "$reduce_bool": _reduce_or,
    "$reduce_xor": _reduce_xor, "$reduce_xnor": _reduce_xnor,
    "$logic_not": _logic_not, "$logic_and": _logic(and_b), "$logic_or": _logic(or_b),
    "$eq": _eq, "$eqx": _eq, "$ne": _ne, "$nex": _ne,
    "$lt": _comparison(swap=False, equal=False), "$le": _comparison(swap=False, equal=True),
    "$gt": _comparison(swap=True, equal=False), "$ge": _comparison(swap=True, equal=True),
    "$add": _add, "$sub": _sub, "$mul": _mul,
    "$shl": shift_left, "$sshl": shift_left, "$shr": shift_right, "$sshr": shift_right,
    "$shift": shift_right, "$shiftx": shift_right,
    "$mux": _mux, "$pmux": _pmux, "read": _read,
}  # fmt: skip
