"""Faults of one DRAM chip as errors in what the accesses of a sequence read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bankside.fault_injection.llm.codes import ON_DIE, SECDED, SymbolCode
from bankside.fault_injection.llm.placement import ACCESS_BYTES, PINS, Placement

I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
Model = Literal["cell", "burst", "row", "column", "pin", "chip"]
TRANSIENT = ("cell", "burst")
"""Models that hit what is stored at that moment; the others also hit what is written later."""


@dataclass(frozen=True)
class Site:
    """A bit of a chip: `access` (bank, row and column for all chips) and `bit` 0..127 in it."""

    chip: int
    access: int
    bit: int


@dataclass(frozen=True, eq=False)
class Errors:
    """Inverted bits of accesses [n]: `bits` [n, chips, 16 bytes].

    outside: between the chip and the channel, where on-die codes do not reach.
    """

    access: I64
    bits: U8
    outside: bool = False


@dataclass(frozen=True, eq=False)
class Seen:
    """What a reader gets: wrong elements with their inverted bits, and what ECC had to say.

    raw: elements whose stored bits were hit. flagged: code words reported as uncorrectable.
    """

    element: I64
    xor: NDArray[np.uint16]
    raw: int
    flagged: int


def site_of(placement: Placement, element: int, bit: int) -> Site:
    """The cell of bit 0..15 of an element."""
    cells, machine = placement.cells, placement.machine
    place = cells.column[element] % placement.columns * machine.elements + cells.position[element]
    access = placement.access(cells)[element]
    return Site(int(cells.chip[element]), int(access), int(16 * place + bit))


def _one(bit: int, count: int = 1) -> U8:
    """Access of one chip with `count` bits from `bit` on inverted, as far as it goes."""
    bits = np.zeros(8 * ACCESS_BYTES, np.uint8)
    bits[bit : bit + count] = 1
    return np.packbits(bits, bitorder="little")


def _same(placement: Placement, live: I64, site: Site, names: str) -> I64:
    """Live accesses that share bank ("b"), row ("r"), place in the row ("c") with the site."""
    mine = placement.coordinates(np.array([site.access]))
    theirs = placement.coordinates(live)
    keep = np.ones(len(live), bool)
    for letter, one, all_of in zip("brc", mine, theirs, strict=True):
        if letter in names:
            keep &= all_of == one
    return live[keep]


def errors_of(
    model: Model,
    placement: Placement,
    site: Site,
    live: I64,
    random: np.random.Generator,
    *,
    burst_bits: int = 2,
) -> Errors:
    """Errors that a fault of a chip at `site` makes in the accesses `live`.

    cell: the bit is inverted. burst: `burst_bits` neighbouring bits are (what lies beyond the
    access is another code word and is left out). row, column, chip: cells of a row of the bank, of
    a bit line (one bit in every row of the bank), of the whole chip return values that have nothing
    to do with what was stored, so each bit is inverted with probability 1/2, the same at every
    read. pin: the same for all that crosses a data pin, written or read.
    """
    same = {"cell": "brc", "burst": "brc", "row": "br", "column": "bc", "pin": "", "chip": ""}
    access = _same(placement, live, site, same[model])
    part = {
        "cell": lambda: _one(site.bit),
        "burst": lambda: _one(site.bit, burst_bits),
        "row": lambda: np.full(ACCESS_BYTES, 255, np.uint8),
        "column": lambda: _one(site.bit),
        "pin": lambda: np.full(ACCESS_BYTES, 1 << site.bit % PINS, np.uint8),
        "chip": lambda: np.full(ACCESS_BYTES, 255, np.uint8),
    }[model]()
    bits = np.zeros((len(access), placement.machine.chips, ACCESS_BYTES), np.uint8)
    bits[:, site.chip] = part
    if model not in TRANSIENT:
        bits[:, site.chip] &= random.integers(0, 256, (len(access), ACCESS_BYTES), np.uint8)
    return Errors(access, bits, outside=model == "pin")


Rank = Literal["none", "secded", "sddc"]


def read(placement: Placement, errors: Errors, tokens: range, *, on_die: bool, rank: Rank) -> Seen:
    """What a reader of the given tokens gets behind the given codes.

    on_die: each chip corrects one bit of an access. rank: `secded` corrects one bit of 64 (eight
    chips' bytes of a beat), `sddc` one chip's byte of a beat. Words that hold nothing of these
    tokens are not read.
    """
    element = placement.elements(errors.access)
    token = placement.tokens(element)
    wanted = (element >= 0) & (token >= tokens.start) & (token < tokens.stop)
    stored = errors.bits
    raw = int((_elements(stored) != 0)[wanted].sum())
    if on_die and not errors.outside:
        stored = ON_DIE.decode(stored.reshape(-1, ACCESS_BYTES))[0].reshape(stored.shape)
    flagged = 0
    if rank != "none":
        stored, flags = _rank_decode(stored, rank)
        flagged = int((flags & _words_read(wanted, flags.shape[1], placement.columns)).sum())
    xor = np.where(wanted, _elements(stored), np.uint16(0))
    hit = np.nonzero(xor)
    return Seen(element[hit], xor[hit], raw, flagged)


def _elements(bits: U8) -> NDArray[np.uint16]:
    """[n, chips, 16 bytes] -> [n, chips, 8 elements]."""
    return np.ascontiguousarray(bits).view("<u2").astype(np.uint16)


def _rank_decode(stored: U8, rank: Rank) -> tuple[U8, NDArray[np.bool_]]:
    """Bits after the code of the rank, and flags [n, words of the access]."""
    count, chips = stored.shape[:2]
    beats = stored.transpose(0, 2, 1)
    code = SECDED if rank == "secded" else SymbolCode(chips)
    left, flags = code.decode(beats.reshape(-1, code.symbols))
    return left.reshape(beats.shape).transpose(0, 2, 1), flags.reshape(count, -1)


def _words_read(wanted: NDArray[np.bool_], words: int, columns: int) -> NDArray[np.bool_]:
    """[n, words]: columns of an access that hold something wanted are read, all of their words."""
    read_columns = wanted.any(axis=1).reshape(len(wanted), columns, -1).any(axis=2)
    return np.repeat(read_columns, words // columns, axis=1)
