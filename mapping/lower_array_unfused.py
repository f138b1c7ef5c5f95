"""Commands of unfused attention: every phase by itself, scores in main memory in between.

The column banks hold the scores of two ranges of tiles, so that one is moved while the other is
worked on; a barrier separates the phases. Ref: docs/array.md section 4; docs/cascades.md.
"""

from __future__ import annotations

from bankside.isa.array_schedule import SCORE_READERS, SCORE_WRITERS, Schedule
from bankside.isa.program import Builder
from bankside.mapping.lower_array_emit import Emitter, names
from bankside.mapping.lower_array_plan import Piece
from bankside.mapping.lower_array_shape import RowBlock


class UnfusedEmitter(Emitter):
    """Emits one program whose scores and probabilities go through main memory."""

    def emit(self) -> Builder:
        """The commands of all blocks."""
        shape = self.shape
        self.registers.set(
            keys=shape.keys, window=shape.window, causal=int(shape.causal), bank=0, bank_step=0,
            q=0, k=0, v=0, out=self.places.result_base, kv_ring=self.places.score_ring,
            s_ring=self.places.score_ring, s_step=self.sizes.scores,
        )  # fmt: skip
        for index, block in enumerate(self.blocks):
            self.registers.set(position=block.position, group=block.group)
            for schedule in self.schedules:
                if schedule.block("qk"):
                    self._load_queries(index, False, False)
                schedule.emit(self.b)
                self._phase(block, schedule)
                if schedule.block("av"):
                    self._store(index, block)
                self.b.BARRIER()
        return self.b

    def _phase(self, block: RowBlock, schedule: Schedule) -> None:
        """One schedule over all ranges. Ranges take turns in two areas of both banks."""
        ops = {b.op for b in schedule.blocks}
        part = "k" if "qk" in ops else "v" if "slnv" in ops else None
        reads, writes = bool(ops & set(SCORE_READERS)), bool(ops & set(SCORE_WRITERS))
        pieces = self.planner.pieces(block, schedule)
        for number, piece in enumerate(pieces):
            later = number + 2 < len(pieces)
            # Whoever used the area last has to be done with it: the RUN, or the STORE after it.
            self._load_range(block, number, piece, part, reads, after=number >= 2, stored=writes)
            self._run_range(
                block, number, pieces,
                wait_load=bool(part or reads),
                wait_store=number >= 2 and writes and not reads,
                signal_load=later and not (reads and writes),
                signal_store=writes or ("av" in ops and number == len(pieces) - 1),
            )  # fmt: skip
            if writes:
                self._store_range(number, piece, later, "load" if reads else "compute")

    def _load_range(
        self, block: RowBlock, number: int, piece: Piece, part: str | None, reads: bool, *,
        after: bool, stored: bool,
    ) -> None:  # fmt: skip
        waits = names(after and ("store" if reads and stored else "compute"))
        if reads:
            self._score_registers(number, piece)
            self.b.LOAD(side="column", wait=waits, signal=names(part is None and "compute"))
            waits = ()
        if part:
            step = max(self.sizes.key, self.sizes.value)
            buf = number % 2 * self.places.score_ring * step
            self._range_rows(block, piece, part, buf, step, waits)

    def _range_rows(
        self, block: RowBlock, piece: Piece, part: str, buf: int, step: int, waits: tuple[str, ...]
    ) -> None:
        self._load_tiles(
            block.head, block.first_tile + piece.start, piece.count, part, buf=buf, step=step,
            ring=self.places.score_ring, phase=0, each=False, wait="compute" in waits,
        )  # fmt: skip
        self.registers.set(kv_step=step, kv_phase=0)

    def _run_range(
        self, block: RowBlock, number: int, pieces: list[Piece], *,
        wait_load: bool, wait_store: bool, signal_load: bool, signal_store: bool,
    ) -> None:  # fmt: skip
        step = max(self.sizes.key, self.sizes.value)
        rows = number % 2 * self.places.score_ring * step
        self.registers.set(
            first_key=(block.first_tile + pieces[number].start) * self.machine.rows,
            s=self._area(number), k=rows, v=rows,
        )  # fmt: skip
        self.b.RUN(
            tiles=pieces[number].count,
            first=int(number == 0),
            last=int(number == len(pieces) - 1),
            wait=names(wait_load and "load", wait_store and "store"),
            signal=names(signal_load and "load", signal_store and "store"),
        )

    def _area(self, number: int) -> int:
        return self.places.score_base + number % 2 * self.places.score_ring * self.sizes.scores

    def _score_registers(self, number: int, piece: Piece) -> None:
        """The range's scores: a row per column, the tiles one after the other."""
        words = self.sizes.tiles * self.sizes.scores
        self.registers.set(
            mem=self.memory.scores + piece.start * self.sizes.scores * self.bus, outer=1,
            inner=self.machine.columns, inner_bytes=words * self.bus,
            beats=piece.count * self.sizes.scores, buf=self._area(number), ring=1, ring_phase=0,
        )  # fmt: skip

    def _store_range(self, number: int, piece: Piece, later: bool, reader: str) -> None:
        self._score_registers(number, piece)
        self.b.STORE(wait=("compute",), signal=names(later and reader))
