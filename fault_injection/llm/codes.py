"""Error-correcting codes of DRAM, on error patterns.

All codes are linear: what a decoder does depends on the errors alone, not on the data. A decoder
takes errors in the data part of each word (check bits are free of errors) and returns the errors
that are left, miscorrections included, and which words it flags as uncorrectable.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
Flags = NDArray[np.bool_]
_DETECTED, _CHECK_BIT = -2, -1
_POLYNOMIAL = 0x11D


def hsiao_columns(data_bits: int = 64) -> tuple[int, ...]:
    """Columns of the parity-check matrix for the data bits: odd weight, lightest first.

    Ref: M. Y. Hsiao, "A class of optimal minimum odd-weight-column SEC-DED codes", 1970.
    """
    odd = [c for weight in (3, 5, 7) for c in range(256) if c.bit_count() == weight]
    return tuple(odd[:data_bits])


def hamming_columns(data_bits: int = 128) -> tuple[int, ...]:
    """Columns of a shortened Hamming code with 8 check bits: no zero, no power of two."""
    return tuple([c for c in range(3, 256) if c.bit_count() > 1][:data_bits])


class BinaryCode:
    """Corrects one bit of a word; flags what it cannot correct where `detects`.

    columns: syndrome of each data bit, bit i of byte b at 8 b + i; eight check bits.
    """

    def __init__(self, columns: Sequence[int], *, detects: bool) -> None:
        self.columns, self.detects = np.array(columns, np.uint8), detects

    @property
    def symbols(self) -> int:
        """Data bytes of a word."""
        return len(self.columns) // 8

    @cached_property
    def _partial(self) -> U8:
        """[byte of the word, its errors] -> its part of the syndrome."""
        bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        terms = np.where(bits[None] == 1, self.columns.reshape(-1, 1, 8), np.uint8(0))
        return np.bitwise_xor.reduce(terms, axis=2)

    @cached_property
    def _position(self) -> NDArray[np.int64]:
        """Syndrome -> data bit to invert, or what else it stands for."""
        table = np.full(256, _DETECTED)
        table[0] = table[1 << np.arange(8)] = _CHECK_BIT
        table[self.columns] = np.arange(len(self.columns))
        return table

    def decode(self, errors: U8) -> tuple[U8, Flags]:
        """errors [words, data bytes] -> (what is left, flagged [words])."""
        parts = self._partial[np.arange(self.symbols), errors]
        where = self._position[np.bitwise_xor.reduce(parts, axis=1)]
        left, fixed = errors.copy(), np.flatnonzero(where >= 0)
        byte, bit = np.divmod(where[fixed], 8)
        left[fixed, byte] ^= (1 << bit).astype(np.uint8)
        return left, (where == _DETECTED) & self.detects


class SymbolCode:
    """Reed-Solomon with two check symbols of 8 bits: corrects all errors within one chip's byte.

    Several faulty symbols are flagged or, where the syndrome looks like that of one symbol,
    miscorrected. symbols: data symbols of a word, one per chip; at most 253.
    """

    def __init__(self, symbols: int) -> None:
        self.symbols = symbols

    @cached_property
    def _tables(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        power, log, x = np.zeros(255, np.int64), np.zeros(256, np.int64), 1
        for i in range(255):
            power[i], log[x] = x, i
            x = x << 1 ^ (_POLYNOMIAL if x & 0x80 else 0)
        return power, log

    def decode(self, errors: U8) -> tuple[U8, Flags]:
        """See `BinaryCode.decode`."""
        power, log = self._tables
        place = np.arange(self.symbols)
        scaled = np.where(errors > 0, power[(log[errors] + place) % 255], 0).astype(np.uint8)
        zero, one = (np.bitwise_xor.reduce(x, axis=1) for x in (errors, scaled))
        at = (log[one] - log[zero]) % 255
        single = (zero > 0) & (one > 0) & (at < self.symbols + 2)
        left, fixed = errors.copy(), np.flatnonzero(single & (at < self.symbols))
        left[fixed, at[fixed]] ^= zero[fixed]
        return left, ((zero > 0) | (one > 0)) & ~single


ON_DIE = BinaryCode(hamming_columns(), detects=False)
"""Inside each chip: 128 bits with 8 check bits, as in DDR5; a chip does not tell what it finds."""
SECDED = BinaryCode(hsiao_columns(), detects=True)
"""Across the chips of a rank: 64 bits with 8 check bits."""
