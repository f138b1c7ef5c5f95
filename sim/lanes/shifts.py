"""C of the shifting cells."""

from __future__ import annotations

from bankside.errors import ToolError
from bankside.sim.lanes.bits import Values, choose, masked, one_limb
from bankside.sim.lanes.netlist import Cell, width_of
from bankside.sim.lanes.segment import ALL, NONE, ONES, ZERO, Segment, cut, extended, k

#: Selections up to which a shift of several limbs is written out.
_WRITTEN_OUT = 12


def _amount(cell: Cell, s: Segment) -> str:
    """How far, as one limb; whatever does not fit into it counts as very far."""
    b = cell.inputs["B"]
    if width_of(b) == 1:
        bit = s.bit(b)
        return k(1) if bit == ALL else ZERO if bit == NONE else s.v(f"MZ({bit}, {k(1)})")
    low, *high = s.limbs(b)
    for limb in high:
        if limb != ZERO:
            far = s.b(f"TST({limb}, {limb})")
            low = s.v(f"SEL({far}, {ONES}, {low})")
    return low


def _finish(cell: Cell, s: Segment, limbs: Values) -> Values:
    """Limbs cut to the output's width, as a bit where it has one."""
    width = cell.output.width
    if width == 1:
        return [s.b(f"TST({limbs[0]}, {k(1)})")]
    return masked(s, limbs[: cell.output.limbs], width)


def _levels(cell: Cell, limbs: int) -> int | None:
    """Bits of the amount that choose a limb, where that is worth writing out."""
    levels = max(width_of(cell.inputs["B"]) - 5, 0)
    return levels if levels * limbs <= _WRITTEN_OUT else None


def _barrel(cell: Cell, s: Segment, limbs: Values, levels: int, fill: str, step: int) -> Values:
    """Limbs shifted as the amount says: first whole limbs, then bits. step: 1 right, -1 left."""
    amount_sig = cell.inputs["B"]
    for level in range(levels):
        bit = s.bit(cut(amount_sig, 5 + level, 1))
        far = step << level
        moved = [limbs[i + far] if 0 <= i + far < len(limbs) else fill for i in range(len(limbs))]
        limbs = choose(s, bit, moved, limbs, 32 * len(limbs))
    low = one_limb(s, cut(amount_sig, 0, min(width_of(amount_sig), 5)))
    if low == ZERO:
        return limbs
    rest = s.v(f"{k(32)} - {low}")
    here, there = ("SRLV", "SLLV") if step > 0 else ("SLLV", "SRLV")
    out = []
    for i, limb in enumerate(limbs):
        other = limbs[i + step] if 0 <= i + step < len(limbs) else fill
        parts = [
            f"{f}({v}, {n})" for f, v, n in ((here, limb, low), (there, other, rest)) if v != ZERO
        ]
        out.append(s.v(" | ".join(parts)) if parts else ZERO)
    return out


def shift_left(cell: Cell, s: Segment) -> Values:
    width = cell.output.width
    a = extended(cell.inputs["A"], width, bool(cell.parameters["A_SIGNED"]))
    amount = _amount(cell, s)
    if width <= 32:
        return _finish(cell, s, [s.v(f"SLLV({one_limb(s, a)}, {amount})")])
    limbs = s.limbs(a)
    if (levels := _levels(cell, len(limbs))) is not None:
        return _finish(cell, s, _barrel(cell, s, limbs, levels, ZERO, -1))
    out = s.result(cell.output.limbs)
    while len(limbs) > 1 and limbs[-1] == ZERO:
        limbs.pop()
    s.lines.append(
        f"SHIFT_LEFT({s.array(limbs)}, {len(limbs)}, {amount}, {out}, {cell.output.limbs});"
    )
    return _finish(cell, s, [f"{out}[{i}]" for i in range(cell.output.limbs)])


def shift_right(cell: Cell, s: Segment) -> Values:
    """Also `$shift` and `$shiftx` of a count that has no sign."""
    p = cell.parameters
    if cell.type in ("$shift", "$shiftx") and p["B_SIGNED"]:
        raise ToolError(f"{cell.name}: a shift by an amount with a sign; the lane engine has none")
    arithmetic = cell.type == "$sshr" and bool(p["A_SIGNED"])
    width = max(width_of(cell.inputs["A"]), cell.output.width)
    signed = bool(p["A_SIGNED"])
    if arithmetic:
        width = -(-width // 32) * 32
    a = extended(cell.inputs["A"], width, signed)
    amount = _amount(cell, s)
    if width <= 32:
        name = "SRAV" if arithmetic else "SRLV"
        return _finish(cell, s, [s.v(f"{name}({one_limb(s, a)}, {amount})")])
    limbs, count = s.limbs(a), cell.output.limbs
    if (levels := _levels(cell, len(limbs))) is not None:
        fill = s.v(f"SRA({limbs[-1]}, 31)") if arithmetic else ZERO
        return _finish(cell, s, _barrel(cell, s, limbs, levels, fill, 1))
    if arithmetic:
        # Beyond the last limb there is nothing but copies of the sign.
        limbs += [s.v(f"SRA({limbs[-1]}, 31)")] * (count + 1)
        most = k(width)
        amount = s.v(f"SEL(LTU({amount}, {most}), {amount}, {most})")
    while len(limbs) > 1 and limbs[-1] == ZERO:
        limbs.pop()
    out = s.result(count)
    s.lines.append(f"SHIFT_RIGHT({s.array(limbs)}, {len(limbs)}, {amount}, {out}, {count});")
    return _finish(cell, s, [f"{out}[{i}]" for i in range(count)])
