"""The word that the sequencer issues: what edges, feeders, PEs and lanes do with it.

Ref: docs/array.md section 3.
"""

from amaranth.hdl import signed
from amaranth.lib import data, enum

from bankside.isa.array_machine import ArrayMachine

INDEX_BITS = 12
"""Bits of a slot and of the position of a word in its block."""
KEY_BITS = 24
"""Bits of key indices and positions relative to a tile, signed."""


class PeOp(enum.Enum, shape=3):
    """What a PE does. NOP passes the partial sum on unchanged."""

    NOP = 0
    QK = 1
    LM = 2
    SUB = 3
    """exp, j = 0"""
    EXP = 4
    """exp, j = 1..6"""
    SUM = 5
    """sld, slnv"""
    DRAIN = 6
    FILL = 7


class TopOp(enum.Enum, shape=4):
    """What the top edge of a column puts on the top bus (T) and the partial-sum bus (P)."""

    NONE = 0
    """P = +0 (for SUM)"""
    QUERY = 1
    """T = decoded bank element"""
    BOUNDS = 2
    """T = first and last row that is not masked; P = marker (LM)"""
    MAXIMUM = 3
    """T = mtop[tag] (SUB)"""
    COEFFICIENT = 4
    """T = C[6 - j] (EXP, j = 1..6)"""
    UNMASKED = 5
    """T bit 0: row j is not masked (DRAIN)"""
    SCORE = 6
    """P = decoded bank element, the score marker becomes the marker (passx)"""
    NUMBER = 7
    """P = decoded bank element (passd)"""
    FILL = 8
    """T = decoded bank element (FILL)"""


class LaneOp(enum.Enum, shape=4):
    """What a lane does."""

    NOP = 0
    MAX = 1
    """lm"""
    DENOMINATOR = 2
    """sld"""
    ACCUMULATE = 3
    """slnv"""
    SCORE = 4
    """drain"""
    EXP = 5
    """passx"""
    DIVIDE = 6
    """passd"""
    STEP = 7
    """fill, j = 0"""
    RECIPROCAL = 8
    """rcp"""
    ONE = 9
    """one"""
    RESULT = 10
    """av"""


def _range_bits(n: int) -> int:
    return max(1, (n - 1).bit_length())


def tag_bits(machine: ArrayMachine) -> int:
    """Bits of a tag."""
    return _range_bits(machine.tags)


def pe_layout(machine: ArrayMachine) -> data.StructLayout:
    """Control that moves down a column, one PE per cycle.

    `select` is j at the top and one less in each row below; the PE that finds 0 is meant (DRAIN,
    FILL). `first`: j = 0 (QK, EXP with j = 1). `last`: EXP with j = 6.
    """
    return data.StructLayout(
        {
            "op": PeOp,
            "first": 1,
            "last": 1,
            "tag": tag_bits(machine),
            "select": _range_bits(machine.rows),
        }
    )


def row_layout(machine: ArrayMachine) -> data.StructLayout:
    """Control that moves down the row feeders, one row per cycle.

    read: fetch bus word `address` (j is a multiple of n); `element` selects in the word fetched
    last. one: the row bus carries 1.0 (sld).
    """
    return data.StructLayout(
        {
            "read": 1,
            "address": _range_bits(machine.config.array.row_words),
            "element": _range_bits(machine.bus_elements),
            "one": 1,
        }
    )


def top_layout(machine: ArrayMachine) -> data.StructLayout:
    """Control that moves along the top edges, one column per cycle.

    limit: keys - 1 - (index of the tile's first key). position: position of this column's query
    minus that index; `phase` counts the columns of this position, up to `group`. coefficient:
    j of EXP (1..6). row: j of DRAIN.
    """
    return data.StructLayout(
        {
            "op": TopOp,
            "read": 1,
            "address": _range_bits(machine.config.array.column_words),
            "element": _range_bits(machine.bus_elements),
            "tag": tag_bits(machine),
            "coefficient": 3,
            "row": _range_bits(machine.rows),
            "limit": signed(KEY_BITS),
            "position": signed(KEY_BITS),
            "window": KEY_BITS,
            "causal": 1,
            "group": 16,
            "phase": 16,
        }
    )


def lane_layout(machine: ArrayMachine) -> data.StructLayout:
    """Control that moves along the lanes, one column per cycle.

    begin: j = 0. end: j = R - 1 (SCORE). index: accumulator word (ACCUMULATE, RESULT). element:
    column bank element to which the lane returns (SCORE, EXP, DIVIDE, RESULT). chunk: tile.
    """
    return data.StructLayout(
        {
            "op": LaneOp,
            "tag": tag_bits(machine),
            "begin": 1,
            "end": 1,
            "first": 1,
            "set": 1,
            "index": _range_bits(machine.config.array.lane_words),
            "element": _range_bits(machine.config.array.column_words * machine.bus_elements),
            "chunk": _range_bits(machine.config.array.chunk_words),
        }
    )


def word_layout(machine: ArrayMachine) -> data.StructLayout:
    """One word. In the cycle after its issue it is at the first feeder and the first top edge."""
    return data.StructLayout(
        {
            "pe": pe_layout(machine),
            "row": row_layout(machine),
            "top": top_layout(machine),
            "lane": lane_layout(machine),
        }
    )


def mode_layout() -> data.StructLayout:
    """Operands of KERNEL that all parts need; they change only while the engine is idle."""
    return data.StructLayout({"format": 1, "chunked": 1, "correct": 1})
