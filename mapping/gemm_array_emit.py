"""Commands and memory image of one matrix product program. Ref: docs/array.md section 4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bankside.isa.array_machine import ELEMENT_BYTES
from bankside.isa.program import Builder
from bankside.mapping.lower_array_emit import Registers, names
from bankside.mapping.lower_array_plan import refuse
from bankside.mapping.lower_array_shape import U16

if TYPE_CHECKING:
    from bankside.mapping.gemm_array import GemmKernels

_PAGE = 4096
#: Areas of the column banks that are worked on, loaded and stored in turns.
_AREAS = 2
_LARGEST_RING = 8


@dataclass(frozen=True)
class Part:
    """One program: a stripe of rows of C (`ws`), and some blocks of columns."""

    stripe: int
    first: int
    blocks: int


class _Emitter:
    """What both modes share. `end`: bytes of main memory. `result_words`: (first, count)."""

    def __init__(self, kernels: GemmKernels, part: Part) -> None:
        self.kernels, self.part, self.machine = kernels, part, kernels.machine
        self.shape, self.rows, self.columns = (
            kernels.shape,
            kernels.machine.rows,
            kernels.machine.columns,
        )
        self.b = Builder("array", self.machine.bus_elements)
        self.registers = Registers(self.b)
        self.bus = self.machine.bus_elements * ELEMENT_BYTES
        self.score = self.machine.words(self.rows)  # bus words of a tile's column
        self.end = 0
        self.result_words = (0, 0)

    def take_memory(self, words: int) -> int:
        """Byte address of that many bus words."""
        address = self.end
        self.end += -(-words * self.bus // _PAGE) * _PAGE
        return address

    def transfer(self, mem: int, rows: int, stride: int, beats: int, buf: int) -> None:
        """Registers of a transfer of one row of bus words per bank."""
        self.registers.set(
            mem=mem, outer=1, inner=rows, inner_bytes=stride * self.bus, beats=beats, buf=buf,
            ring=1, ring_phase=0, bank=0,
        )  # fmt: skip

    def pieces(self, tiles: int, limit: int) -> list[tuple[int, int]]:
        """(first, count) of the RUNs over the tiles."""
        return [(first, min(limit, tiles - first)) for first in range(0, tiles, limit)]


class OutputStationary(_Emitter):
    """A streams through a ring of tiles, once for every block of columns of B."""

    def __init__(self, kernels: GemmKernels, part: Part) -> None:
        super().__init__(kernels, part)
        self.key = self.machine.words(self.shape.k)
        self.tiles = kernels.row_tiles
        self._plan()
        self.a = self.take_memory(self.tiles * self.rows * self.key)
        self.bs = self.take_memory(part.blocks * self.columns * self.key)
        words = part.blocks * self.columns * self.tiles * self.score
        self.c = self.take_memory(words)
        self.result_words = (self.c // self.bus, words)

    def _plan(self) -> None:
        """Ring of tiles, ring of column blocks, tiles per area of results."""
        array, schedule = self.machine.config.array, self.kernels.schedules[0]
        memory = self.machine.config.memory
        load = self.rows * self.key * memory.beat_cycles + memory.read_latency_cycles
        wanted = 2 - (-(schedule.span + self.machine.free_latency + load) // schedule.ii)
        ring = min(array.row_words // self.key, wanted)
        room = array.column_words - _AREAS * self.score
        if room < 2 * self.key:
            raise refuse(
                self.machine, "column_words", 2 * self.key + _AREAS * self.score,
                f"two columns of {self.shape.k} elements and the results of {_AREAS} tiles",
                "split k into parts",
            )  # fmt: skip
        self.buffers = min(max(2, -(-ring // self.tiles) + 1), room // self.key, _LARGEST_RING)
        # The columns of a block are loaded when all but `ring` tiles before them are free.
        self.ring = min(ring, (self.buffers - 1) * self.tiles)
        self.base = self.buffers * self.key
        left = array.column_words - self.base
        self.limit = min(self.tiles, left // (_AREAS * self.score))

    def emit(self) -> None:
        """All commands."""
        self.registers.set(keys=self.tiles * self.rows, group=1)
        schedule = self.kernels.schedules[0]
        schedule.emit(self.b)
        self.early = schedule.read_before_free(schedule.block("qk"), self.columns, self.machine)
        self.loaded = self.run = 0
        pieces = self.pieces(self.tiles, self.limit)
        total = self.part.blocks * len(pieces)
        for block in range(self.part.blocks):
            buf = block % self.buffers * self.key
            if block >= self.buffers and not self.early:
                self.b.BARRIER()  # a token of a tile does not tell that its columns have been read
            self.transfer(
                self.bs + block * self.columns * self.key * self.bus, self.columns, self.key,
                self.key, buf,
            )  # fmt: skip
            self.b.LOAD(side="column")
            phase = self._load_tiles()
            self.registers.set(q=buf)
            for first, count in pieces:
                self._run(block, first, count, (phase + first) % self.ring, total)

    def _load_tiles(self) -> int:
        """A, tile by tile; the ring's place of the first one."""
        start = self.loaded
        free = max(0, min(self.tiles, self.ring - start))
        row = self.rows * self.key * self.bus
        for first, count, wait in ((0, free, False), (free, self.tiles - free, True)):
            if count:
                self.registers.set(
                    mem=self.a + first * row, outer=count, outer_bytes=row, inner=self.rows,
                    inner_bytes=self.key * self.bus, beats=self.key, buf=0, buf_step=self.key,
                    ring=self.ring, ring_phase=(start + first) % self.ring, bank_step=0,
                )  # fmt: skip
                self.b.LOAD(side="row", each=1, wait=names(wait and "compute"), signal="compute")
        self.loaded += self.tiles
        return start % self.ring

    def _run(self, block: int, first: int, count: int, phase: int, total: int) -> None:
        area = self.base + self.run % _AREAS * self.limit * self.score
        self.registers.set(
            k=0, kv_step=self.key, kv_ring=self.ring, kv_phase=phase, s=area, s_step=self.score,
            s_ring=self.limit,
        )  # fmt: skip
        self.b.RUN(
            tiles=count, each=1, free=1, first=1, last=1, signal="store",
            wait=names(self.run >= _AREAS and "store"),
        )  # fmt: skip
        stride = self.tiles * self.score
        self.transfer(
            self.c + (block * self.columns * stride + first * self.score) * self.bus, self.columns,
            stride, count * self.score, area,
        )  # fmt: skip
        self.b.STORE(wait="compute", signal=names(self.run + _AREAS < total and "compute"))
        self.run += 1

    def place(self, image: U16, a: U16, b: U16) -> None:
        """Rows of A, columns of B, each from the start of a bus word."""
        n, first = self.machine.bus_elements, self.part.first * self.columns
        left = _padded(a, self.tiles * self.rows, self.key * n)
        right = b[:, first : first + self.part.blocks * self.columns].T
        right = _padded(right, self.part.blocks * self.columns, self.key * n)
        for address, data in ((self.a, left), (self.bs, right)):
            words = data.reshape(-1, n)
            image[address // self.bus : address // self.bus + len(words)] = words

    def take(self, memory: U16, out: U16) -> None:
        """Write this program's columns of C."""
        first, count = self.result_words
        n, column = self.machine.bus_elements, self.part.first * self.columns
        tiles = memory[first : first + count].reshape(-1, self.tiles, self.score * n)
        columns = tiles[:, :, : self.rows].reshape(len(tiles), -1)
        stop = min(column + len(columns), self.shape.n)
        out[:, column:stop] = columns[: stop - column, : self.shape.m].T


class WeightStationary(_Emitter):
    """Tiles of B are filled into the PEs, a stripe of rows of A flows through each."""

    def __init__(self, kernels: GemmKernels, part: Part) -> None:
        super().__init__(kernels, part)
        self.stripe = kernels.stripe
        self.value = self.machine.words(self.stripe)
        self.tiles = kernels.deep_tiles
        self._plan()
        self.a = self.take_memory(self.tiles * self.rows * self.value)
        self.bs = self.take_memory(part.blocks * self.columns * self.tiles * self.score)
        words = part.blocks * self.columns * self.value
        self.c = self.take_memory(words)
        self.result_words = (self.c // self.bus, words)

    def _plan(self) -> None:
        array = self.machine.config.array
        room = array.column_words - _AREAS * self.value
        self.limit = min(
            self.tiles, room // (_AREAS * self.score), array.row_words // (_AREAS * self.value)
        )
        if self.limit < 1:
            small = room < _AREAS * self.score
            key = "column_words" if small else "row_words"
            needed = _AREAS * (self.value + self.score if small else self.value)
            raise refuse(
                self.machine, key, needed, f"{_AREAS} stripes of {self.stripe} rows",
                "use fewer rows, lower array.lane_words",
            )  # fmt: skip
        self.base = _AREAS * self.value

    def emit(self) -> None:
        """All commands."""
        self.registers.set(group=1, s_step=self.score, s_ring=self.limit, kv_step=self.value,
                           kv_ring=self.limit, kv_phase=0)  # fmt: skip
        pieces = self.pieces(self.tiles, self.limit)
        total = self.part.blocks * len(pieces)
        self.run = 0
        for block in range(self.part.blocks):
            self.kernels.schedules[0].emit(self.b)
            for first, count in pieces:
                self._piece(block, first, count, total)
            self.kernels.schedules[1].emit(self.b)
            self._results(block)

    def _piece(self, block: int, first: int, count: int, total: int) -> None:
        area = self.run % _AREAS
        scores = self.base + area * self.limit * self.score
        stride = self.tiles * self.score
        self.transfer(
            self.bs + (block * self.columns * stride + first * self.score) * self.bus,
            self.columns, stride, count * self.score, scores,
        )  # fmt: skip
        self.b.LOAD(side="column", wait=names(self.run >= _AREAS and "compute"))
        row, values = self.rows * self.value * self.bus, area * self.limit * self.value
        self.registers.set(
            mem=self.a + first * row, outer=count, outer_bytes=row, inner=self.rows,
            inner_bytes=self.value * self.bus, beats=self.value, buf=values, buf_step=self.value,
            ring=self.limit, bank_step=0,
        )  # fmt: skip
        self.b.LOAD(side="row", signal="compute")
        self.registers.set(v=values, s=scores)
        again = self.run + _AREAS < total
        self.b.RUN(
            tiles=count, first=int(first == 0), last=int(first + count == self.tiles),
            set=block % 2, wait="load", signal=names(again and "load"),
        )  # fmt: skip
        self.run += 1

    def _results(self, block: int) -> None:
        out = block % _AREAS * self.value
        self.registers.set(out=out)
        self.b.RUN(
            tiles=1, first=1, last=1, set=block % 2, signal="store",
            wait=names(block >= _AREAS and "store"),
        )  # fmt: skip
        address = self.c + block * self.columns * self.value * self.bus
        self.transfer(address, self.columns, self.value, self.value, out)
        again = block + _AREAS < self.part.blocks
        self.b.STORE(wait="compute", signal=names(again and "compute"))

    def place(self, image: U16, a: U16, b: U16) -> None:
        """Columns of A as rows of values, columns of B as columns of tiles."""
        n, deep = self.machine.bus_elements, self.tiles * self.rows
        rows = a[self.part.stripe * self.stripe : (self.part.stripe + 1) * self.stripe].T
        left = _padded(rows, deep, self.value * n)
        first, count = self.part.first * self.columns, self.part.blocks * self.columns
        columns = _padded(b[:, first : first + count].T, count, deep)
        tiles = columns.reshape(count, self.tiles, self.rows)
        right = np.zeros((count, self.tiles, self.score * n), np.uint16)
        right[:, :, : self.rows] = tiles
        for address, data in ((self.a, left), (self.bs, right)):
            words = data.reshape(-1, n)
            image[address // self.bus : address // self.bus + len(words)] = words

    def take(self, memory: U16, out: U16) -> None:
        """Write this program's part of C."""
        first, count = self.result_words
        columns = memory[first : first + count].reshape(self.part.blocks * self.columns, -1)
        row, column = self.part.stripe * self.stripe, self.part.first * self.columns
        part = out[row : row + self.stripe, column : column + len(columns)]
        part[:] = columns[: part.shape[1], : part.shape[0]].T


def _padded(data: U16, rows: int, width: int) -> U16:
    out = np.zeros((rows, width), np.uint16)
    out[: data.shape[0], : data.shape[1]] = data
    return out
