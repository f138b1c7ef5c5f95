"""Address maps: which bits of a byte address choose channel, rank, bank, row and column.

A map is written from the most significant field to the least, each with its width in bits:
`row16 bank2 bankgroup2 column7 offset6`. A width may be left out where the geometry tells it. A
field may be split (`row16 bank2 column4 bankgroup2 column3 offset6`), and `bank2^row0` is a bank
number that is exclusive-ored with row bits from bit 0 on, which spreads rows over banks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bankside.errors import ConfigError, ProgramError
from bankside.isa.dram.standard import Geometry
from bankside.registry import nearest

__all__ = ["FIELDS", "MAPS", "AddressMap", "Part"]

FIELDS = ("channel", "rank", "bankgroup", "bank", "row", "column", "offset")

#: Maps by name; widths come from the geometry.
#: `row_bank_group_column` is DRAMsim3's rochrababgco and Ramulator 2's RoBaRaCoCh (one channel): a
#: stream stays in one bank group. `group_interleave` rotates the bank groups burst by burst.
#: `hashed` also spreads rows over banks.
MAPS = {
    "row_bank_group_column": "row rank bank bankgroup column channel offset",
    "group_interleave": "row rank bank column bankgroup channel offset",
    "hashed": "row rank bank^row2 column bankgroup^row0 channel offset",
}

_TOKEN = re.compile(r"([a-z]+)(\d+)?(?:\^([a-z]+)(\d+)?)?$")


@dataclass(frozen=True)
class Part:
    """`width` bits of `field`; `mixed` names the field whose bits from `start` on are xor-ed in."""

    field: str
    width: int
    mixed: str | None = None
    start: int = 0

    def __str__(self) -> str:
        return f"{self.field}{self.width}" + (f"^{self.mixed}{self.start}" if self.mixed else "")


@dataclass(frozen=True)
class AddressMap:
    """A map of `bits` address bits; `parts` from the most significant to the least."""

    parts: tuple[Part, ...]

    @classmethod
    def parse(
        cls, text: str, geometry: Geometry, *, channels: int, ranks: int, burst_bytes: int
    ) -> AddressMap:
        """The map called or written `text`.

        Raises
        ------
        ConfigError: an unknown field, or widths that do not fit the geometry.
        """
        widths = {
            "channel": channels, "rank": ranks, "bankgroup": geometry.bank_groups,
            "bank": geometry.banks_per_group, "row": geometry.rows, "column": geometry.columns,
            "offset": burst_bytes,
        }  # fmt: skip
        bits = {name: _bits(name, size) for name, size in widths.items()}
        tokens = MAPS.get(text, text).split()
        parts = tuple(_part(token, text, bits, tokens) for token in tokens)
        found: Counter[str] = Counter()
        for part in parts:
            found[part.field] += part.width
        for name, expected in bits.items():
            if found[name] != expected:
                raise ConfigError(
                    f"address map {text!r}: {found[name]} bits of {name}; expected {expected} "
                    f"for {widths[name]}; correct the width of {name!r}"
                )
        if any(part.field == "offset" for part in parts[:-1]) or not parts:
            raise ConfigError(
                f"address map {text!r}: offset is not one field at the end; a burst is "
                f"contiguous; move it there"
            )
        return cls(tuple(part for part in parts if part.width))

    @property
    def bits(self) -> int:
        """Address bits: the map covers 2 ** bits bytes."""
        return sum(part.width for part in self.parts)

    def __str__(self) -> str:
        return " ".join(map(str, self.parts))

    def decode(self, addresses: ArrayLike) -> dict[str, NDArray]:
        """Every field but `offset` of byte addresses (any shape), as int64.

        Raises
        ------
        ProgramError: an address outside the memory.
        """
        rest = np.asarray(addresses, np.int64)
        if rest.size and (rest.min() < 0 or rest.max() >> self.bits):
            worst = int(rest.min() if rest.min() < 0 else rest.max())
            raise ProgramError(
                f"address {worst:#x} lies outside of the memory; expected 0..{2**self.bits - 1:#x} "
                f"({self}); add ranks or channels, or correct the request"
            )
        fields = {name: np.zeros(rest.shape, np.int64) for name in FIELDS}
        filled: Counter[str] = Counter()
        for part in reversed(self.parts):
            value = rest & (1 << part.width) - 1
            fields[part.field] |= value << filled[part.field]
            filled[part.field] += part.width
            rest = rest >> part.width
        self._mix(fields)
        del fields["offset"]
        return fields

    def encode(self, fields: Mapping[str, ArrayLike]) -> NDArray:
        """Byte addresses of coordinates; fields that are not given are 0."""
        values = {name: np.asarray(fields.get(name, 0), np.int64) for name in FIELDS}
        self._mix(values)
        shape = np.broadcast_shapes(*(value.shape for value in values.values()))
        address, position = np.zeros(shape, np.int64), 0
        used: Counter[str] = Counter()
        for part in reversed(self.parts):
            value = values[part.field] >> used[part.field] & (1 << part.width) - 1
            address = address | value << position
            used[part.field] += part.width
            position += part.width
        return address

    def _mix(self, fields: dict[str, NDArray]) -> None:
        """Mixing twice gives the original back, so decoding and encoding share it."""
        for part in self.parts:
            if part.mixed:
                other = fields[part.mixed] >> part.start & (1 << part.width) - 1
                fields[part.field] = fields[part.field] ^ other


def _bits(name: str, size: int) -> int:
    if size < 1 or size & (size - 1):
        raise ConfigError(
            f"{name}: {size} of them; expected a power of two (address bits); choose another number"
        )
    return size.bit_length() - 1


def _part(token: str, text: str, bits: dict[str, int], tokens: list[str]) -> Part:
    match = _TOKEN.match(token)
    where = f"address map {text!r}: {token!r}"
    if match is None:
        raise ConfigError(f"{where}: expected FIELD, FIELD<bits> or FIELD<bits>^row<bit>")
    field, width, mixed, start = match.groups()
    for name in filter(None, (field, mixed)):
        if name not in bits:
            raise ConfigError(
                f"{where}: unknown field{nearest(name, FIELDS)}; expected one of "
                f"{', '.join(FIELDS)}, or a map called {', '.join(MAPS)}"
            )
    alone = sum(bool(re.match(rf"{field}(\d|\^|$)", other)) for other in tokens) == 1
    if (width is None or mixed) and not alone:
        raise ConfigError(f"{where}: the field is split; give each part a width and mix none")
    size = bits[field] if width is None else int(width)
    if mixed and (mixed != "row" or field not in ("channel", "rank", "bankgroup", "bank")):
        raise ConfigError(
            f"{where}: only row bits can be mixed, into channel, rank, bank, bankgroup"
        )
    return Part(field, size, mixed, int(start or 0))
