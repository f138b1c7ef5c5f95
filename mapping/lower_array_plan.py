"""Where everything of one `array` program lies: main memory, row banks, column banks.

Row banks hold a ring of key tiles (`stream`), all tiles of one or two key heads (`resident`), or
ranges of tiles (scores in main memory). Column banks hold a ring of queries, one of results, and
the scores of the tiles in between. Ref: docs/array.md sections 1, 3 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bankside.errors import ConfigError
from bankside.isa.array_machine import ELEMENT_BYTES, ArrayMachine
from bankside.isa.array_schedule import Schedule
from bankside.mapping.binding.loader import Binding
from bankside.mapping.lower_array_shape import AttentionShape, RowBlock

RESIDENCIES = ("auto", "resident", "stream")
_PAGE = 4096
#: More tiles than this ahead of their use hide nothing more.
_RING_SLACK = 2
_LARGEST_RING = 8


@dataclass(frozen=True)
class Piece:
    """One RUN: tiles [start, start + count) of a block of queries, counted from its first tile."""

    start: int
    count: int


@dataclass(frozen=True)
class Places:
    """Bus words in the banks, and the rings.

    Attributes:
        queries, results: buffers of the rings of queries and results.
        result_base, score_base: first column word of results and scores.
        score_ring: tiles of scores in one area. areas: score areas.
        resident: whole heads that the row banks hold; 0: the tiles are a ring of `tiles`.
        head_tiles: tiles of a resident head.
    """

    queries: int
    results: int
    result_base: int
    score_base: int
    score_ring: int
    areas: int
    resident: int
    tiles: int
    head_tiles: int


@dataclass
class Memory:
    """Byte addresses in main memory; everything is allocated upwards from 0."""

    bus_bytes: int
    end: int = 0
    heads: dict[int, int] = field(default_factory=dict)
    queries: list[int] = field(default_factory=list)
    results: list[int] = field(default_factory=list)
    scores: int = 0

    def take(self, words: int) -> int:
        """Address of that many bus words, at the start of a page."""
        address = self.end
        size = words * self.bus_bytes
        self.end = -(-(address + size) // _PAGE) * _PAGE
        return address


class Sizes:
    """Bus words of one key, value, tile and so on."""

    def __init__(self, machine: ArrayMachine, shape: AttentionShape) -> None:
        self.key, self.value = machine.words(shape.e), machine.words(shape.f)
        self.row = self.key + self.value
        self.scores = machine.words(machine.rows)
        self.tiles = -(-shape.keys // machine.rows)


def refuse(machine: ArrayMachine, key: str, needed: int, what: str, advice: str) -> ConfigError:
    """The error for a buffer that is too small."""
    there = getattr(machine.config.array, key)
    return ConfigError(
        f"{machine.config.name}: array.{key} is {there}, {what} needs {needed}; {advice} or raise "
        f"array.{key}"
    )


class Planner:
    """Chooses the places for a sequence of blocks under a binding."""

    def __init__(
        self,
        machine: ArrayMachine,
        shape: AttentionShape,
        binding: Binding,
        schedules: Sequence[Schedule],
    ) -> None:
        self.machine, self.shape, self.binding = machine, shape, binding
        self.schedules, self.sizes = tuple(schedules), Sizes(machine, shape)
        self.flows = len(self.schedules) == 1
        self.room = machine.config.array.column_words

    # --- runs -------------------------------------------------------------------------------------
    @property
    def run_limit(self) -> int:
        """Tiles that one RUN can have."""
        chunked = any(s.chunked and s.block("drain") for s in self.schedules)
        corrected = any(s.correct for s in self.schedules)
        chunks = self.machine.config.array.chunk_words
        if corrected and self.sizes.tiles > chunks:
            raise refuse(
                self.machine, "chunk_words", self.sizes.tiles,
                f"a maximum per tile of {self.shape.keys} keys",
                "use a one-pass binding (interleaved, cascade)",
            )  # fmt: skip
        return chunks if chunked else (1 << 16) - 1

    def pieces(self, block: RowBlock, schedule: Schedule | None = None) -> list[Piece]:
        """RUNs of a block of queries (one in most cases), under one of the schedules."""
        if schedule and all(b.on_lanes for b in schedule.blocks):
            return [Piece(0, 1)]
        limit = self.run_limit
        if self.binding.scores == "memory":
            limit = min(limit, self.range_tiles)
        return [
            Piece(start, min(limit, block.tiles - start))
            for start in range(0, block.tiles, limit)
        ]  # fmt: skip

    @property
    def range_tiles(self) -> int:
        """Tiles of a range whose scores travel through the column banks (two ranges at once)."""
        sizes, array = self.sizes, self.machine.config.array
        left = self.room - sizes.key - sizes.value
        columns = left // (2 * sizes.scores)
        if columns < 1:
            raise refuse(
                self.machine, "column_words", sizes.key + sizes.value + 2 * sizes.scores,
                "a query, a result and the scores of two tiles", "use shorter heads",
            )  # fmt: skip
        widest = max(sizes.key, sizes.value)
        rows = array.row_words // (2 * widest)
        if rows < 1:
            raise refuse(
                self.machine, "row_words", 2 * widest, "two tiles of keys", "use shorter heads"
            )
        return min(columns, rows)

    # --- places -----------------------------------------------------------------------------------
    def places(self, blocks: Sequence[RowBlock], residency: str) -> Places:
        """Rings and areas for these blocks. Raises ConfigError when a buffer is too small."""
        if self.binding.scores == "memory":
            return self._ranges()
        score_ring, areas = self._score_areas(blocks)
        scores = score_ring * areas * self.sizes.scores
        left = self.room - scores
        sizes = self.sizes
        if left < 2 * sizes.row and not scores:
            raise refuse(
                self.machine, "column_words", 2 * sizes.row,
                "two queries and two results in each column", "use shorter heads",
            )  # fmt: skip
        if left < 2 * sizes.row:
            raise self._too_many_scores(score_ring, areas)
        results = min(self._result_ring(blocks), (left - 2 * sizes.key) // sizes.value)
        most = min((left - results * sizes.value) // sizes.key, _LARGEST_RING)
        resident = self._resident(blocks, residency)
        if resident:
            queries, tiles = self._resident_queries(blocks, resident, most), 0
        else:
            queries, tiles = self._ring(blocks, most)
        base = queries * sizes.key
        return Places(
            queries, results, base, base + results * sizes.value, score_ring, areas, resident,
            tiles, sizes.tiles,
        )  # fmt: skip

    def _ranges(self) -> Places:
        sizes, tiles = self.sizes, self.range_tiles
        base = sizes.key
        return Places(1, 1, base, base + sizes.value, tiles, 2, 0, 2 * tiles, sizes.tiles)

    def _too_many_scores(self, ring: int, areas: int) -> ConfigError:
        sizes = self.sizes
        fits = max(0, (self.room - 2 * sizes.row) // sizes.scores // areas)
        return refuse(
            self.machine, "column_words", 2 * sizes.row + ring * areas * sizes.scores,
            f"two queries, two results and the scores of {ring * areas} tiles in each column",
            f"use at most {fits * self.machine.rows} keys, the binding unfused or interleaved,",
        )  # fmt: skip

    def _score_areas(self, blocks: Sequence[RowBlock]) -> tuple[int, int]:
        """Tiles of scores per area, and areas, of which the RUNs take turns."""
        if self.binding.scores == "array":
            return 0, 0
        if not self.flows:
            return max(block.tiles for block in blocks), 1
        needed = self.schedules[0].score_ring(self.machine)
        shortest = min(piece.count for block in blocks for piece in self.pieces(block))
        longest = max(piece.count for block in blocks for piece in self.pieces(block))
        return min(needed, longest), -(-(needed - 1) // shortest) + 1

    def _run_slots(self, blocks: Sequence[RowBlock]) -> int:
        """Slots of the shortest block's RUNs."""
        shortest = min(block.tiles for block in blocks)
        return shortest * sum(schedule.ii for schedule in self.schedules)

    def _late(self, blocks: Sequence[RowBlock], words: int) -> int:
        """Buffers of a ring whose next use waits for a RUN's completion and a transfer."""
        config, last = self.machine.config.memory, self.schedules[-1]
        transfer = words * config.beat_cycles + config.read_latency_cycles
        transfer += config.write_latency_cycles + self.machine.columns
        run = self._run_slots(blocks)
        tail = last.span - last.ii + self.machine.settle + transfer
        return min(max(2, -(-(run + tail) // run)), _LARGEST_RING)

    def _result_ring(self, blocks: Sequence[RowBlock]) -> int:
        return self._late(blocks, self.machine.columns * self.sizes.value)

    def _resident(self, blocks: Sequence[RowBlock], residency: str) -> int:
        """Heads whose keys and values stay in the row banks; 0: stream."""
        rows, needed = self.machine.config.array.row_words, self.sizes.tiles * self.sizes.row
        heads = len({block.head for block in blocks})
        fitting = min(heads, 2, rows // needed)
        if residency == "resident" and fitting < 1:
            raise refuse(
                self.machine, "row_words", needed, f"keeping {self.shape.keys} keys",
                "use residency stream",
            )  # fmt: skip
        if residency == "auto" and (len(blocks) == heads or fitting < min(heads, 2)):
            # Nothing is read twice, or the next head would have to wait for the one before.
            return 0
        return 0 if residency == "stream" else fitting

    def _resident_queries(self, blocks: Sequence[RowBlock], resident: int, most: int) -> int:
        wanted = self._late(blocks, self.machine.columns * self.sizes.key)
        heads = [block.head for block in blocks]
        if len(set(heads)) > resident > 1:
            # Queries of a head are loaded only after the RUNs of the head whose place it takes.
            wanted = min(wanted, min(heads.count(head) for head in set(heads)) + 1)
        return max(2, min(wanted, most))

    def _ring(self, blocks: Sequence[RowBlock], most: int) -> tuple[int, int]:
        """Query buffers and tiles of the ring when keys and values stream through the row banks."""
        machine, sizes = self.machine, self.sizes
        step = sizes.row if self.flows else max(sizes.key, sizes.value)
        capacity = machine.config.array.row_words // step
        if capacity < 1:
            raise refuse(machine, "row_words", step, "one tile", "use shorter heads")
        memory, schedule = machine.config.memory, self.schedules[0]
        load = machine.rows * step * memory.beat_cycles + memory.read_latency_cycles
        wanted = _RING_SLACK - (-(schedule.span + machine.free_latency + load) // schedule.ii)
        uses = [block.tiles * (1 if self.flows else 2) for block in blocks]
        for tiles in range(min(capacity, wanted), 0, -1):
            for queries in range(2, most + 1):
                if _queries_are_free(uses, queries, tiles):
                    return queries, tiles
        raise AssertionError("a ring of one tile needs two query buffers")

    # --- main memory ------------------------------------------------------------------------------
    def memory(self, blocks: Sequence[RowBlock]) -> Memory:
        """Addresses of the blocks' keys, values, queries, results and, if unfused, scores."""
        machine, sizes = self.machine, self.sizes
        memory = Memory(machine.bus_elements * ELEMENT_BYTES)
        for head in sorted({block.head for block in blocks}):
            memory.heads[head] = memory.take(sizes.tiles * machine.rows * sizes.row)
        for _ in blocks:
            memory.queries.append(memory.take(machine.columns * sizes.key))
        for block in blocks:
            memory.results.append(memory.take(block.used * sizes.value))
        if self.binding.scores == "memory":
            memory.scores = memory.take(machine.columns * sizes.tiles * sizes.scores)
        return memory


def _queries_are_free(uses: Sequence[int], queries: int, tiles: int) -> bool:
    """Whether a block's queries may be loaded as soon as the tiles of the block before are.

    By then all tiles but the last `tiles` are free, so the RUN that used the buffer before must not
    own one of those. uses: tiles that each block loads.
    """
    return all(
        sum(uses[index - queries + 1 : index]) >= tiles for index in range(queries, len(uses))
    )
