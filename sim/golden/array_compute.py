"""Compute engine of the `array` golden model: schedule, PEs and lanes, in bits and without time.

The blocks of an iteration take effect in the order of their slots, iterations one after the other:
a legal schedule gives the same bits however its iterations overlap. So a block may also run over
many tiles at once, before the next block does, where no tile can see the difference
(`separable`). Ref: docs/array.md sections 2 and 3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.spec import Instruction
from bankside.sim.golden.array_blocks import Blocks, Tiles
from bankside.sim.golden.array_schedule import Run, Schedule

U16 = NDArray[np.uint16]
I64 = NDArray[np.int64]

_BATCH_ELEMENTS = 1 << 18
_S_BANK = ("drain", "passx", "passd", "fill")


class Compute:
    """Schedule, tiles that wait for execution and the blocks that execute them.

    row, column: uint16 [R, row_words * n] and [C, column_words * n], shared with the load and
    store engines, which call `flush` before they touch a column bank.
    """

    def __init__(self, machine: ArrayMachine, row: U16, column: U16) -> None:
        self.machine, self.row = machine, row
        self.blocks = Blocks(machine, column)
        self.schedule = Schedule()
        self._iterations = 0
        self._run: Run | None = None
        self._waiting: list[tuple[I64, U16, U16]] = []

    # --- commands -----------------------------------------------------------------------------
    def kernel(self, ins: Instruction) -> None:
        """A new schedule."""
        self.schedule = Schedule(ins.format, ins.chunked, ins.correct)
        self._iterations = 0

    def start(self, run: Run) -> None:
        """The next RUN. Raises ProgramError when its schedule cannot end or it lacks a register."""
        self._run = run
        done = sum(b.done for b in self.schedule.blocks.values())
        if done != 1:
            raise ProgramError(
                f"command {run.pc}: RUN with {done} blocks marked `done`; mark the last block of "
                f"the schedule, and only that"
            )
        self._need(run, "kv_ring", "qk", "slnv")
        self._need(run, "s_ring", *_S_BANK)
        if run.registers["causal"] or run.registers["window"]:
            self._need(run, "group", "lm", "exp", "drain")

    def _need(self, run: Run, register: str, *ops: str) -> None:
        if run.registers[register] == 0 and self.schedule.length(*ops):
            raise ProgramError(
                f"command {run.pc}: RUN with {register} = 0; SET it to at least 1 before the RUN"
            )

    # --- tiles --------------------------------------------------------------------------------
    def take(self, first: int, count: int) -> None:
        """Tiles `first` .. of the RUN: their rows are read now, so that they may be freed."""
        limit = self._limit()
        while count:
            if sum(len(tiles) for tiles, _, _ in self._waiting) >= limit:
                self.flush()
            room = limit - sum(len(tiles) for tiles, _, _ in self._waiting)
            tiles = np.arange(first, first + min(count, room))
            keys = self._rows("k", tiles, self.schedule.length("qk"))
            values = self._rows("v", tiles, self.schedule.length("slnv"))
            self._waiting.append((tiles, keys, values))
            first, count = first + len(tiles), count - len(tiles)

    def _limit(self) -> int:
        """Tiles that may wait together."""
        run, schedule = self._run, self.schedule
        if not schedule.separable:
            return 1
        widest = max(self.machine.rows, schedule.length("qk", "slnv"))
        limit = max(1, _BATCH_ELEMENTS // (widest * self.machine.columns))
        if not schedule.length(*_S_BANK):
            return limit
        apart = run.registers["s_step"] >= self.machine.words(self.machine.rows)
        return min(limit, run.registers["s_ring"]) if apart else 1

    def _rows(self, register: str, tiles: I64, length: int) -> U16:
        """Row bank elements of the tiles, [T, R, length]."""
        run = self._run
        at = (run.registers["kv_phase"] + tiles) % max(run.registers["kv_ring"], 1)
        words = run.registers[register] + at * run.registers["kv_step"]
        elements = words[:, None] * self.machine.bus_elements + np.arange(length)
        if length and elements.max() >= self.row.shape[1]:
            raise ProgramError(
                f"command {run.pc}: RUN reads bus word "
                f"{elements.max() // self.machine.bus_elements} of the row banks (register "
                f"{register}), which have {self.machine.config.array.row_words}; SET {register}, "
                f"kv_step and kv_ring to fit"
            )
        return self.row[:, elements].transpose(1, 0, 2)

    def forget(self) -> None:
        """Drop tiles that wait: a program that failed may have left them."""
        self._waiting = []

    def flush(self) -> None:
        """Execute the tiles that wait."""
        if not self._waiting:
            return
        parts = [np.concatenate(part) for part in zip(*self._waiting, strict=True)]
        self._waiting = []
        tiles, keys, values = parts
        tags = (self._iterations + np.arange(len(tiles))) % self.machine.tags
        self._iterations += len(tiles)
        self.blocks.execute(
            self.schedule.in_order(), Tiles(self._run, self.schedule, tiles, tags, keys, values)
        )
