"""Where cells of DRAM lie: banks of the `pim` engine, and the main memory of the others.

A bank of `pim` is a memory site of one chip: word = row * columns + column, a word is what the chip
gives in one burst. Main memory (site `store`) has no DRAM behind it in this model; its bytes are
laid out as in a rank of `chips` x8 chips: byte i of the rank's word is in chip i, rows follow one
another over the banks.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import Field, model_validator

from bankside.errors import ConfigError
from bankside.fault_injection.fault import Fault
from bankside.fault_injection.models.base import Options, bits_from, pattern
from bankside.fault_injection.sites import is_dram
from bankside.schema import key_problem
from bankside.sim.faults import Action, Site

__all__ = ["KINDS", "Cells", "Dram", "Wide", "damaged", "depth_of"]

KINDS = ("memory", "store")
_BANK = re.compile(r"^(?P<chip>.*)\.bank(?P<bank>\d+)\.array\.cells$")


class Dram(Options):
    """Geometry.

    Attributes:
        columns: words of a row in a bank of `pim`; by default those of the machine.
        chips, banks, row_bytes: of the rank that main memory is laid out in; `row_bytes` of all
            chips together.
        store_bytes: of main memory that can be hit, from its beginning; by default what the program
            brings (its data and its results).
    """

    columns: int | None = Field(default=None, ge=1)
    chips: int = Field(default=8, ge=1, le=64)
    banks: int = Field(default=16, ge=1, le=1024)
    row_bytes: int = Field(default=8192, ge=1)
    store_bytes: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.row_bytes % self.chips:
            raise key_problem("row_bytes", f"is {self.row_bytes}; expected a multiple of the "
                              f"{self.chips} chips")  # fmt: skip
        return self


class Wide(Dram):
    """Faults of many cells.

    Attributes:
        hold: the cells return values that have nothing to do with what was written, to the end of
            the run; otherwise what they hold at that moment is lost, and later writes are kept.
    """

    hold: bool = True


def depth_of(site: Site, given: Mapping[str, Any]) -> int:
    """Words of a site that can be hit; `given`: geometry, as plain data."""
    limit = given.get("store_bytes")
    return min(site.depth, limit) if site.kind == "store" and limit else site.depth


@dataclass(frozen=True)
class Cells:
    """Cells of one site: a bank of one chip, or the main memory in all its chips.

    depth: words of the site that count (`depth_of`).
    """

    site: Site
    depth: int
    columns: int
    chips: int
    banks: int
    row_bytes: int

    @classmethod
    def of(cls, site: Site, given: Dram | Mapping[str, int]) -> Self:
        """Raises ConfigError where the words of a row are not known."""
        values = given if isinstance(given, Mapping) else given.model_dump()
        columns = values.get("columns")
        if site.kind == "memory" and not columns:
            raise ConfigError(
                f"{site.path}: columns is missing: words of a row of the bank; give models: "
                f"dram_...: columns"
            )
        default = Dram()
        rest = (
            values.get(name, getattr(default, name)) for name in ("chips", "banks", "row_bytes")
        )
        return cls(site, depth_of(site, values), columns or 1, *rest)

    @property
    def is_store(self) -> bool:
        return self.site.kind == "store"

    @property
    def rows(self) -> int:
        """Rows of the bank; of main memory those of all banks, as far as it goes."""
        row = self.row_bytes if self.is_store else self.columns
        return -(-self.depth // row)

    @property
    def used_banks(self) -> int:
        return min(self.banks, self.rows) if self.is_store else 1

    @property
    def lines(self) -> int:
        """Bit lines of a bank of one chip: places in a row."""
        if self.is_store:
            return self.row_bytes // self.chips * 8
        return self.columns * self.site.width

    def row(self, number: int, chip: int) -> Iterator[int]:
        """Words of a row in one chip."""
        if self.is_store:
            first = number * self.row_bytes
            words = range(first + chip, first + self.row_bytes, self.chips)
        else:
            words = range(number * self.columns, (number + 1) * self.columns)
        return (word for word in words if word < self.depth)

    def line(self, word: int) -> Iterator[int]:
        """Words of all rows of the bank that share the place of `word` in its row."""
        if not self.is_store:
            return iter(range(word % self.columns, self.depth, self.columns))
        page, offset = divmod(word, self.row_bytes)
        step = self.banks * self.row_bytes
        return iter(range(page % self.banks * self.row_bytes + offset, self.depth, step))

    def chip(self, number: int) -> Iterator[int]:
        """All words of a chip (of a bank: all of it)."""
        return iter(range(number, self.depth, self.chips) if self.is_store
                    else range(self.depth))  # fmt: skip


def is_cells(site: Site) -> bool:
    """Whether a site is DRAM: a bank of `pim` or the main memory."""
    return site.kind == "store" or is_dram(site)


def chip_of(site: Site) -> tuple[str, int]:
    """(path of the chip, number of the bank) of a bank's cells."""
    match = _BANK.match(site.path)
    if match is None:
        raise ConfigError(f"{site.path} is no bank of DRAM cells; expected NAME.bankN.array.cells")
    return match["chip"], int(match["bank"])


def banks_of(site: Site, sites: Mapping[str, Site]) -> list[Site]:
    """All banks of the chip that a bank is in."""
    chip, _ = chip_of(site)
    return [s for s in sites.values() if is_dram(s) and chip_of(s)[0] == chip]


def kept(options: Dram) -> dict[str, int]:
    """What a fault has to remember of the geometry."""
    values = options.model_dump(include=set(Dram.model_fields) - {"sites"})
    return {name: value for name, value in values.items() if value is not None}


def damaged(
    fault: Fault, words: Iterator[int], site: Site, mask: int | None = None
) -> Iterator[Action]:
    """Actions on `words`: values that have nothing to do with what was stored, held for the fault's
    duration; or, with duration 0, inversions of half of the bits, once. mask: of the bits that are
    hit, by default all.
    """
    full = bits_from(0, site.width) if mask is None else mask
    seed = zlib.crc32(f"{site.path}:{fault.site}:{fault.word}:{fault.bit}".encode())
    last = None if fault.duration is None else fault.cycle + fault.duration - 1
    for word in words:
        random = pattern(seed, word, site.width) & full
        if fault.duration != 0:
            yield Action("hold", site.path, word, full, random, fault.cycle, last)
        elif random:
            yield Action("flip", site.path, word, random, None, fault.cycle)
