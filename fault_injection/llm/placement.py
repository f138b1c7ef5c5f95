"""Which cell of which chip holds which bit of a key or value.

Keys and values lie as `mapping.lower_pim.KvLayout` places them. An access is what one chip reads
together with its on-die code word: 128 bits, one column of a DDR5 chip or two neighbouring columns
of a DDR4 chip. Byte b of an access crosses the bus in beat b, bit i of it on data pin i; an FP16
element has its low byte first. Ref: docs/pim.md section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError
from bankside.mapping.lower_pim import KvLayout

I64 = NDArray[np.int64]
ACCESS_BYTES = 16
ACCESS_ELEMENTS = ACCESS_BYTES // 2
PINS = 8
"""Data pins of a chip."""


@dataclass(frozen=True)
class Cells:
    """Cells of elements, as arrays of one shape. `position`: element within column and chip."""

    chip: I64
    bank: I64
    row: I64
    column: I64
    position: I64


class Placement:
    """The cache of one sequence of at most `layout.shape.max_tokens` tokens.

    Elements are numbered in the order of `shape`: layer, key (0) or value (1), token, head,
    dimension.
    """

    def __init__(self, layout: KvLayout) -> None:
        what, machine = layout.shape, layout.machine
        self.layout, self.machine = layout, machine
        self.shape = (what.layers, 2, what.max_tokens, what.kv_heads, what.head_dim)
        self.columns = ACCESS_ELEMENTS // machine.elements
        """Columns in an access."""
        if machine.columns % self.columns:
            raise ConfigError(
                f"{machine.config.name}: rows of {machine.columns} columns do not divide into "
                f"accesses of {ACCESS_BYTES} bytes; use a machine with an even number of columns"
            )
        self.cells = self._cells(np.arange(int(np.prod(self.shape))))
        self._element = self._inverse()

    def _cells(self, element: I64) -> Cells:
        layer, value, token, head, dim = np.unravel_index(element, self.shape)
        lay, machine = self.layout, self.machine
        turn, side = np.divmod(head, lay.heads)
        index, sub = np.divmod(dim, lay.nhc)
        row, within = np.divmod(token, lay.row_tokens)
        slot, bank = np.divmod(within, machine.banks)
        word, position = np.divmod(index, machine.elements)
        base = ((layer * lay.passes + turn) * 2 + value) * lay.rows_each
        return Cells(side * lay.nhc + sub, bank, base + row, slot * lay.cpt + word, position)

    @property
    def rows(self) -> int:
        """Rows in use, from row 0 on."""
        return 2 * self.layout.shape.layers * self.layout.passes * self.layout.rows_each

    def _inverse(self) -> NDArray[np.int64]:
        """[access, chip, element of the access] -> element, -1 where nothing lies."""
        cells, machine = self.cells, self.machine
        count = machine.banks * self.rows * machine.columns // self.columns
        table = np.full((count, machine.chips, ACCESS_ELEMENTS), -1, np.int64)
        place = cells.column % self.columns * machine.elements + cells.position
        table[self.access(cells), cells.chip, place] = np.arange(len(place))
        return table

    def access(self, cells: Cells) -> I64:
        """Number of the access that reads each cell (of all chips)."""
        per_row = self.machine.columns // self.columns
        return (cells.bank * self.rows + cells.row) * per_row + cells.column // self.columns

    def coordinates(self, access: I64) -> tuple[I64, I64, I64]:
        """Bank, row and number within the row of accesses."""
        per_row = self.machine.columns // self.columns
        rest, within = np.divmod(access, per_row)
        bank, row = np.divmod(rest, self.rows)
        return bank, row, within

    def elements(self, access: I64) -> I64:
        """Elements [accesses, chips, elements of the access], -1 where nothing lies."""
        return self._element[access]

    def tokens(self, element: I64) -> I64:
        """Token of each element; -1 stays."""
        per_token = self.shape[3] * self.shape[4]
        return np.where(element < 0, -1, element // per_token % self.shape[2])

    def live(self, tokens: int) -> I64:
        """Accesses that hold something of tokens 0..tokens-1, in ascending order."""
        mask = np.zeros(self.shape, bool)
        mask[:, :, :tokens] = True
        return np.unique(self.access(self.cells)[mask.reshape(-1)])
