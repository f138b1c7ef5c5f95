"""Commands of one `array` program: loads, runs and stores of a sequence of query blocks.

In program order every block's loads stand before its RUNs and these before its STORE, so that the
front end never waits for a command behind it, whatever the depth of the queues. Ref: docs/array.md
section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

from bankside.isa.array_schedule import Schedule
from bankside.isa.program import Builder
from bankside.isa.spec import load_spec
from bankside.mapping.lower_array_plan import Memory, Piece, Places, Planner
from bankside.mapping.lower_array_shape import RowBlock


class Registers:
    """Emits SET for descriptor registers whose value changes."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self._values: dict[str, int] = {}

    def set(self, **values: int) -> None:
        """Bring the registers to these values."""
        for name, value in values.items():
            if self._values.get(name) != value:
                self._builder.SET(reg=name, value=value)
                self._values[name] = value


def names(*engines: str | bool) -> tuple[str, ...]:
    return tuple(engine for engine in engines if engine)


class Emitter:
    """Emits one program. `blocks` are those of the program, `places` and `memory` theirs."""

    def __init__(
        self, planner: Planner, blocks: Sequence[RowBlock], places: Places, memory: Memory
    ) -> None:
        self.planner, self.blocks, self.places, self.memory = planner, blocks, places, memory
        self.machine, self.sizes = planner.machine, planner.sizes
        self.shape, self.schedules = planner.shape, planner.schedules
        self.bus = memory.bus_bytes
        self.b = Builder("array", self.machine.bus_elements)
        self.registers = Registers(self.b)
        self.load_rows = self._resident if places.resident else self._stream
        self.heads = sorted({block.head for block in blocks})
        self.loaded_tiles = 0  # of the ring
        self.resident_tiles = 0  # of the head that is loaded at present
        self.runs = 0
        # Places in the ring of the block's first tile: of its keys, of its values.
        self.key_phase = self.value_phase = 0
        # Whether a token that frees a tile tells that its queries have been read, too.
        keys = self.schedules[0].block("qk")
        self.early = not planner.flows or self.schedules[0].read_before_free(
            keys, self.machine.columns, self.machine
        )
        # Tokens of two heads may be outstanding.
        self.token_limit = load_spec("array").token_max // 2 - 1

    def emit(self) -> Builder:
        """The commands of all blocks."""
        shape = self.shape
        self.registers.set(
            keys=shape.keys, window=shape.window, causal=int(shape.causal), bank=0, bank_step=0
        )
        if self.planner.flows:
            self.schedules[0].emit(self.b)
        for index, block in enumerate(self.blocks):
            if self.planner.flows:
                self._flow(index, block)
            else:
                self._phases(index, block)
        return self.b

    # --- one kernel -------------------------------------------------------------------------------
    def _flow(self, index: int, block: RowBlock) -> None:
        each, waits = self.load_rows(index, block, "kv")
        self._run(index, block, 0, each, waits)
        self._store(index, block)

    # --- several kernels --------------------------------------------------------------------------
    def _phases(self, index: int, block: RowBlock) -> None:
        resident = self.places.resident > 0
        each, waits = self.load_rows(index, block, "kv" if resident else "k")
        for phase, schedule in enumerate(self.schedules):
            schedule.emit(self.b)
            values = not resident and schedule.block("slnv") is not None
            if values:
                self._tile_registers("v", self.value_phase)
            final = phase == len(self.schedules) - 1
            self._run(index, block, phase, each or values, waits, final)
            if phase == 0 and not resident:
                # Values are fetched while the scores are still being worked on.
                self.value_phase = self._load_ring(block, "v")
            each = waits = False
        self._store(index, block)

    # --- runs -------------------------------------------------------------------------------------
    def _run(
        self, index: int, block: RowBlock, phase: int, each: bool, wait_load: bool,
        final: bool = True,
    ) -> None:  # fmt: skip
        """RUNs of one schedule over the tiles of a block; `final`: results are complete."""
        places, schedule, total = self.places, self.schedules[phase], len(self.blocks)
        pieces = self.planner.pieces(block, schedule)
        streaming = places.resident == 0 and each
        self.registers.set(
            q=index % places.queries * self.sizes.key,
            out=places.result_base + index % places.results * self.sizes.value,
            position=block.position,
            group=block.group,
        )
        base = self._phase_base(block, schedule)
        for number, piece in enumerate(pieces):
            begins, ends = number == 0, number == len(pieces) - 1 and final
            self._piece_registers(block, piece, base)
            self.b.RUN(
                tiles=piece.count,
                each=int(each),
                free=int(streaming),
                first=int(number == 0),
                last=int(number == len(pieces) - 1),
                set=index % 2,
                wait=names(
                    begins and wait_load and "load",
                    number == 0 and final and index >= places.results and "store",
                ),
                signal=names(
                    ends and places.resident > 0 and index + places.queries < total and "load",
                    ends and "store",
                ),
            )

    def _phase_base(self, block: RowBlock, schedule: Schedule) -> int:
        """Tile of the row ring at which the block's first tile lies."""
        if self.places.resident:
            return block.first_tile
        if schedule.block("slnv") and not schedule.block("qk"):
            return self.value_phase
        return self.key_phase

    def _piece_registers(self, block: RowBlock, piece: Piece, base: int) -> None:
        places, sizes = self.places, self.sizes
        ring = places.head_tiles if places.resident else places.tiles
        self.registers.set(
            first_key=(block.first_tile + piece.start) * self.machine.rows,
            kv_phase=(base + piece.start) % ring,
        )
        if places.areas:
            area = self.runs % places.areas * places.score_ring * sizes.scores
            self.registers.set(
                s=places.score_base + area, s_step=sizes.scores, s_ring=places.score_ring
            )
            self.runs += 1

    # --- loads ------------------------------------------------------------------------------------
    def _load_queries(self, index: int, wait: bool, signal: bool) -> None:
        key = self.sizes.key
        self.registers.set(
            mem=self.memory.queries[index], outer=1, inner=self.machine.columns,
            inner_bytes=key * self.bus, beats=key, buf=index % self.places.queries * key, ring=1,
            ring_phase=0,
        )  # fmt: skip
        self.b.LOAD(
            side="column", wait=names(wait and "compute"), signal=names(signal and "compute")
        )

    def _stream(self, index: int, block: RowBlock, part: str) -> tuple[bool, bool]:
        """Queries, then tiles through the ring; the RUN takes a token per tile."""
        if index >= self.places.queries and not self.early:
            self.b.BARRIER()
        self._load_queries(index, False, False)
        self.key_phase = self._load_ring(block, part)
        self._tile_registers(part, self.key_phase)
        return True, False

    def _tile_registers(self, part: str, phase: int) -> None:
        step = self._ring_step(part)
        self.registers.set(
            k=0, v=self.sizes.key if part == "kv" else 0, kv_step=step, kv_ring=self.places.tiles,
            kv_phase=phase,
        )  # fmt: skip

    def _ring_step(self, part: str) -> int:
        return self.sizes.row if part == "kv" else max(self.sizes.key, self.sizes.value)

    def _load_ring(self, block: RowBlock, part: str) -> int:
        """LOAD the tiles of a block; the ring's place of the first one."""
        ring, first = self.places.tiles, self.loaded_tiles
        free = max(0, min(block.tiles, ring - first))  # places that nobody has used yet
        for start, count, wait in ((0, free, False), (free, block.tiles - free, True)):
            if count:
                self._load_tiles(
                    block.head, block.first_tile + start, count, part, buf=0,
                    step=self._ring_step(part), ring=ring, phase=(first + start) % ring,
                    each=True, wait=wait,
                )  # fmt: skip
        self.loaded_tiles += block.tiles
        return first % ring

    def _load_tiles(
        self, head: int, first: int, count: int, part: str, *, buf: int, step: int, ring: int,
        phase: int, each: bool, wait: bool = False, signal: bool = True,
    ) -> None:  # fmt: skip
        """LOAD keys (`k`), values (`v`) or both (`kv`) of some tiles of a head."""
        sizes, rows = self.sizes, self.machine.rows
        row_bytes = sizes.row * self.bus
        offset = sizes.key * self.bus if part == "v" else 0
        self.registers.set(
            mem=self.memory.heads[head] + first * rows * row_bytes + offset,
            outer=count, outer_bytes=rows * row_bytes, inner=rows, inner_bytes=row_bytes,
            beats={"kv": sizes.row, "k": sizes.key, "v": sizes.value}[part],
            buf=buf, buf_step=step, ring=ring, ring_phase=phase,
        )  # fmt: skip
        self.b.LOAD(
            side="row", each=int(each), wait=names(wait and "compute"),
            signal=names(signal and "compute"),
        )  # fmt: skip

    def _resident(self, index: int, block: RowBlock, part: str) -> tuple[bool, bool]:
        """Queries, then those tiles of the head that are not there yet."""
        places, sizes = self.places, self.sizes
        number = self.heads.index(block.head)
        if index == 0 or self.blocks[index - 1].head != block.head:
            self.resident_tiles = block.first_tile
            if index and places.resident == 1:
                self.b.BARRIER()  # its place is still in use
        start = self.resident_tiles
        count = max(0, block.first_tile + block.tiles - start)
        self._load_queries(index, index >= places.queries, signal=count == 0)
        base = number % places.resident * places.head_tiles * sizes.row
        each = start == block.first_tile and count == block.tiles <= self.token_limit
        if count:
            self._load_tiles(
                block.head, start, count, part, buf=base, step=sizes.row,
                ring=places.head_tiles, phase=start, each=each,
            )  # fmt: skip
            self.resident_tiles = start + count
        self.registers.set(k=base, v=base + sizes.key, kv_step=sizes.row, kv_ring=places.head_tiles)
        return each, not each

    # --- stores -----------------------------------------------------------------------------------
    def _store(self, index: int, block: RowBlock) -> None:
        places, value = self.places, self.sizes.value
        self.registers.set(
            mem=self.memory.results[index], outer=1, inner=block.used,
            inner_bytes=value * self.bus, beats=value,
            buf=places.result_base + index % places.results * value, ring=1, ring_phase=0,
        )  # fmt: skip
        again = places.results > 1 and index + places.results < len(self.blocks)
        self.b.STORE(wait=("compute",), signal=names(again and "compute"))
