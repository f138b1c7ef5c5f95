"""What the weight buffer of the `npu` engine holds, as far as time depends on it: packed tiles.

Ref: docs/npu.md section 3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.npu_weights import WeightLayout
from bankside.sim.timing.npu_dma import Rows

U8 = NDArray[np.uint8]


class WeightBuffer:
    """Bytes of the buffer; it is followed only where tiles are packed (profile `u55`).

    Bytes that a program has written to main memory itself are not known: they carry data.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self._port, self._followed = machine.weight_port_bytes, not machine.wide
        size = machine.weight_words * self._port
        self._data, self._known = np.zeros(size, np.uint8), np.ones(size, bool)
        self._memory, self._written = np.zeros(0, np.uint8), np.zeros(0, bool)

    def begin(self, image: NDArray[np.uint16]) -> None:
        """A program starts with this main memory; the buffer keeps what it holds."""
        if self._followed:
            self._memory = np.ascontiguousarray(image, "<u2").view(np.uint8).reshape(-1)
            self._written = np.zeros(len(self._memory), bool)

    def overwrite(self, rows: Rows) -> None:
        """The program writes rows of main memory."""
        if self._followed:
            for row in range(rows.rows):
                at = rows.address + row * rows.row_step
                self._written[at : at + rows.row_bytes] = True

    def load(self, rows: Rows, buf: int, buf_step: int) -> None:
        """Rows of main memory go to byte `buf` + row * `buf_step` of the buffer."""
        if not self._followed:
            return
        for row in range(rows.rows):
            at, to = rows.address + row * rows.row_step, buf + row * buf_step
            room = slice(to, to + rows.row_bytes)
            self._data[room], self._known[room] = 0, True  # main memory beyond its image
            piece = slice(at, at + len(self._data[room]))
            source, written = self._memory[piece], self._written[piece]
            self._data[to : to + len(source)] = source
            self._known[to : to + len(source)] = ~written

    def tile_words(self, layout: WeightLayout, word: int, where: str) -> list[int]:
        """Words of every tile of a layer that begins at `word`. Raises ProgramError when it does
        not fit, when packed tiles are none, or when their data are not known.
        """
        first = word * self._port
        words = layout.tile_words(self._data[first:], where)
        if not self._known[first : first + sum(words) * self._port].all():
            raise ProgramError(
                f"{where}: its packed weights come from memory that the program itself writes; the "
                f"execution without data does not know them, use rtl"
            )
        return words
