"""Collects the trace of one run."""

from __future__ import annotations

from collections import deque

from bankside.sim.timing.decode import ARRAY, Decoder, Op


class Log:
    """Trace of one run: DRAM commands and macro-commands in the order of the result's dtypes."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.rows: deque[int] = deque()  # row operands of the queued array commands
        self.row = 0
        self.loaded = [0] * 4
        self.commands: list[tuple[int, int, int, int, int]] = []
        self.macros: list[tuple[int, int, int, int, int]] = []
        self._columns: dict[int, list[int]] = {}

    def load(self, engine: int, now: int) -> None:
        self.loaded[engine] = now
        if engine == ARRAY:
            self.row = self.rows.popleft()

    def finish(self, engine: int, op: Op, last: int, complete: int) -> None:
        self.macros.append((engine, op.opcode, self.loaded[engine], last, complete))

    def command(self, op: Op, code: int, instance: int, now: int, done: int) -> None:
        if code != op.code:  # a refresh before an OPEN
            self.commands.append((now, code, 0, 0, 0))
            return
        columns = self._columns.get(op.index)
        if columns is None:
            columns = self._columns[op.index] = self.decoder.columns_of(op)
        row = self.row if op.name == "OPEN" else 0
        self.commands.append((now, code, instance, row, columns[done]))
