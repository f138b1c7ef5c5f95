"""Attention of whole shapes on the `array` engine in closed form: cycles by term, beats of memory.

Blocks of queries and key tiles are counted exactly. Time is what the busiest resource needs, and
the latencies that nothing hides: exact where the 2D array is never kept waiting, an estimate
elsewhere (tests/sim/test_timing_array_closed.py measures how good). All sizes of a shape may be
NumPy arrays.

Ref: docs/array.md sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm
from typing import NamedTuple

from bankside.errors import ConfigError
from bankside.isa.array_machine import ELEMENT_BYTES, ArrayMachine
from bankside.isa.array_schedule import SCORE_READERS, SCORE_WRITERS, Schedule
from bankside.sim.timing.array_closed import Kernel, Size, choose, larger, smaller
from bankside.sim.timing.array_closed_work import Work, count, up

_PAGE = 4096
_LARGEST_RING = 8
_RING_SLACK = 2
#: SETs in front of everything, of the first LOAD, of a LOAD of tiles after one of queries, of the
#: place of the tiles, of a RUN.
_SETS, _QUERY_SETS, _TILE_SETS, _PLACE_SETS, _RUN_SETS = 5, 8, 7, 5, 5
#: Commands of a block by itself apart from KERNEL and BLOCKs; more if scores lie in the banks, and
#: if tiles pass through a ring.
_BLOCK_COMMANDS, _SCORE_COMMANDS, _STREAM_COMMANDS = 41, 3, 3
#: Commands of a block behind another one if its keys are in the row banks, and if not.
_NEXT_RESIDENT, _NEXT_STREAM = 9, 20
#: Commands of STORE and of the LOAD of queries between two blocks.
_BETWEEN = 14


class Estimate(NamedTuple):
    """Cycles of attention; `total` is the sum of the six terms after it.

    Attributes:
        compute: passes that start an iteration.
        fill: passes that start none, while iterations end.
        settle: the arrays drain.
        load, store: waiting for main memory, beyond the rest.
        front_end: commands and decisions that nothing hides.
        blocks, tiles, programs: how many.
        read_beats, write_beats: bus words of main memory.
    """

    total: Size
    compute: Size
    fill: Size
    settle: Size
    load: Size
    store: Size
    front_end: Size
    blocks: Size
    tiles: Size
    programs: Size
    read_beats: Size
    write_beats: Size


class ClosedAttention:
    """Estimates for one machine under the schedules of one binding (and one head size).

    Args:
        schedules: kernels, one after the other for each block of queries.
        scores: where the scores of a tile stay: `array`, `banks` or `memory`.
        residency: `resident`, `stream` or `auto`, as for programs. `resident` counts no barriers
            between heads of which the row banks hold only one.

    Raises:
        ConfigError: the schedules have no `qk`, `slnv` or `av`, so that they are no attention.
    """

    def __init__(
        self,
        machine: ArrayMachine,
        schedules: Sequence[Schedule],
        scores: str = "array",
        residency: str = "auto",
    ) -> None:
        self.machine, self.scores, self.residency = machine, scores, residency
        lengths = {b.op: b.length for schedule in schedules for b in schedule.blocks}
        for op in ("qk", "slnv", "av"):
            if op not in lengths:
                raise ConfigError(
                    f"attention: no schedule has a block {op}; give the schedules of a binding for "
                    f"attention"
                )
        self.kernels = [Kernel.of(schedule) for schedule in schedules]
        self.ops = [{b.op for b in schedule.blocks} for schedule in schedules]
        self.once = [all(b.on_lanes for b in schedule.blocks) for schedule in schedules]
        self.key, self.value = machine.words(lengths["qk"]), machine.words(lengths["slnv"])
        self.row, self.flows = self.key + self.value, len(self.kernels) == 1
        self._transfers()
        self._start()
        self._rings()

    def _transfers(self) -> None:
        """Cycles of rows on the memory port: queries, a tile (keys, values), a result."""
        machine, memory = self.machine, self.machine.config.memory
        self.latency = memory.read_latency_cycles
        self.query = self._reads(machine.columns, self.key)
        self.rows = self._reads(machine.rows, self.row)
        parts = [self.row] if self.flows else [self.key, self.value]
        self.tile = [self._reads(machine.rows, words) for words in parts]
        self.write = self._writes(self.value)
        page = min(_PAGE // (machine.bus_elements * ELEMENT_BYTES), 256)
        self.pages = page, lcm(page, self.value)

    def _reads(self, *bursts: Size) -> Size:
        """Cycles of bursts behind others, as (rows, words of a row), (rows, words) and so on.

        The port moves a word at a time and has so many bursts under way.
        """
        memory = self.machine.config.memory
        beat, words, turns = memory.beat_cycles, 0, 0
        for rows, size in zip(bursts[::2], bursts[1::2], strict=True):
            words = words + rows * size
            turns = turns + rows * (memory.read_latency_cycles + 1 + (size - 1) * beat)
        return larger(words * beat, up(turns, memory.outstanding))

    def _writes(self, words: Size) -> Size:
        """Cycles of a row that is stored behind others."""
        memory = self.machine.config.memory
        beats = (words - 1) * memory.beat_cycles
        turn = beats + 2 + memory.write_latency_cycles
        return larger(beats + max(2, memory.beat_cycles), up(turn, memory.outstanding))

    def _start(self) -> None:
        """Cycles until the first RUN is dispatched, until its first tile is there."""
        machine, kernel = self.machine, self.kernels[0]
        other = machine.rows != machine.columns
        scores = 0 if self.scores == "array" else _SCORE_COMMANDS
        query = _SETS + _QUERY_SETS + (kernel.commands if self.flows else 0)
        tile = query + 1 + _TILE_SETS + other
        self.first_run = tile + 1 + _PLACE_SETS + _RUN_SETS + scores
        self.first_run += 0 if self.flows else kernel.commands
        # The tile's addresses follow those of the queries, or its LOAD.
        self.arrival = [
            max(query + self.query, tile) + self.latency + first
            for first in (self.tile[0], self.rows)
        ]
        self.commands = sum(k.commands for k in self.kernels) + len(self.kernels) - 1
        self.commands += _BLOCK_COMMANDS + scores + 2 * other

    def _rings(self) -> None:
        """Tiles of the ring of row buffers; room for queries and results in the column banks."""
        machine, first = self.machine, self.kernels[0]
        array = machine.config.array
        step = max(self.key, self.value) if len(self.tile) > 1 else self.row
        load = machine.rows * step * machine.config.memory.beat_cycles + self.latency
        wanted = _RING_SLACK + up(first.span + machine.free_latency + load, first.ii)
        self.ring = max(1, min(array.row_words // step, wanted))
        # A place is free, its next tile is asked for, and has come.
        self.turns = [
            up(kernel.free + machine.free_latency + 2 + self.latency + tile, self.ring)
            for kernel, tile in zip(self._readers(), self.tile, strict=True)
        ]
        self.room = array.column_words

    def _readers(self) -> list[Kernel]:
        """Kernels that read keys, and those that read values if they are others."""
        ops = ("qk",) if len(self.tile) == 1 else ("qk", "slnv")
        return [next(k for k, o in zip(self.kernels, self.ops, strict=True) if op in o)
                for op in ops]  # fmt: skip

    # --- shapes -----------------------------------------------------------------------------------
    def estimate(
        self, queries: Size, keys: Size, heads: Size = 1, kv_heads: Size = 1, batch: Size = 1,
        causal: Size = False, window: Size = 0, first_position: Size | None = None,
    ) -> Estimate:  # fmt: skip
        """Cycles and beats of attention over a shape; sizes as in `count`, numbers or arrays."""
        machine = self.machine
        work = count(
            machine.rows, machine.columns, queries, keys, heads, kv_heads, batch, causal, window,
            first_position,
        )  # fmt: skip
        tiles = up(keys, machine.rows)
        resident = self._resident(work, tiles)
        programs = self._programs(work, tiles, resident)
        if self.scores == "memory":
            return self._ranges(work, tiles, programs)
        return (self._flow if self.flows else self._phases)(work, programs, resident)

    def _resident(self, work: Work, tiles: Size) -> Size:
        """Whether keys and values of a head stay in the row banks."""
        if self.residency != "auto" or self.scores == "memory":
            return choose(work.blocks > 0, self.residency == "resident", False)
        held = smaller(2, work.heads) * tiles * self.row
        return (work.blocks > work.heads) & (held <= self.machine.config.array.row_words)

    def _programs(self, work: Work, tiles: Size, resident: Size) -> Size:
        """Programs that the shape takes: the program memory and the main memory end."""
        machine, memory = self.machine, self.machine.config.memory
        bus, page = machine.bus_elements * ELEMENT_BYTES, _PAGE
        stream = _STREAM_COMMANDS if self.flows else 8
        fits = machine.config.array.program_words // (self.commands + choose(resident, 0, stream))
        head = up(tiles * machine.rows * self.row * bus, page) * page
        block = sum(up(machine.columns * n * bus, page) * page for n in (self.key, self.value))
        scores = 0
        if self.scores == "memory":
            scores = up(machine.columns * tiles * machine.words(machine.rows) * bus, page) * page
        each, room = work.blocks // work.heads, memory.bytes - scores
        whole = room // (head + each * block)
        left = room - whole * (head + each * block) - head
        room = larger(1, whole * each + larger(0, left // block))
        return up(work.blocks, smaller(fits, room))

    def _beats(self, work: Work, programs: Size, resident: Size) -> tuple[Size, Size]:
        """Bus words of queries, keys and values read, of results written."""
        once = work.reach * smaller(work.heads + programs - 1, work.blocks)
        loaded = choose(resident, smaller(once, work.tiles), work.tiles)
        queries = work.blocks * self.machine.columns * self.key
        return queries + loaded * self.machine.rows * self.row, work.used * self.value

    def _store_tail(self, work: Work) -> Size:
        """Cycles from the first address of the last STORE to its last response."""
        memory, (page, whole) = self.machine.config.memory, self.pages
        words = work.last * self.value
        cuts = up(words, page) - 1 - (words - 1) // whole  # rows that cross a page
        last = 2 + (self.value - 1) * memory.beat_cycles + memory.write_latency_cycles
        cut = max(0, 2 - memory.beat_cycles)
        return (work.last - 1) * self.write + cuts * cut + last

    # --- one kernel -------------------------------------------------------------------------------
    def _flow(self, work: Work, programs: Size, resident: Size) -> Estimate:
        """All blocks follow each other without a gap where nothing else needs more time."""
        machine, kernel = self.machine, self.kernels[0]
        front_end, load = self._first(programs, resident)
        busy = (work.tiles - programs) * kernel.period
        needs = [
            choose(resident, self._load_heads(work, programs), self._load_all(work, programs)),
            choose(resident, self._query_turns(work), 0),
        ]
        waits = larger(0, larger(*needs) - busy)
        stores = larger(0, (work.used - programs * work.last) * self.write - busy - waits)
        commands = choose(resident, _NEXT_RESIDENT, _NEXT_STREAM) * (work.blocks - programs)
        commands = larger(0, commands - busy - waits - stores)
        return self._sum(
            work, programs, resident,
            compute=busy + programs * min(kernel.period, kernel.span),
            fill=programs * max(0, kernel.span - kernel.period),
            settle=programs * machine.settle,
            load=load + waits,
            store=stores + programs * self._store_tail(work),
            front_end=front_end + commands,
        )  # fmt: skip

    def _first(self, programs: Size, resident: Size) -> tuple[Size, Size]:
        """Front end and load until the first decisions, and the commands at the end."""
        late = larger(0, choose(resident, self.arrival[1], self.arrival[0]) - self.first_run)
        return programs * (self.first_run + 3), programs * late

    def _load_all(self, work: Work, programs: Size) -> Size:
        """Cycles from the first tile to the last one when every block loads its own."""
        machine, tiles, blocks = self.machine, work.tiles - programs, work.blocks - programs
        port = self._reads(
            tiles * machine.rows, self.row, blocks * machine.columns, self.key
        )  # fmt: skip
        return larger(port, tiles * self.turns[0])

    def _load_heads(self, work: Work, programs: Size) -> Size:
        """The same when a head is loaded once; its first block takes tiles as they come."""
        kernel = self.kernels[0]
        block = larger(1, work.tiles // work.blocks) * kernel.period
        slow = max(0, self.tile[0] - kernel.period)
        some = smaller(work.reach, larger(1, work.tiles // work.blocks))
        first = (work.tiles - programs) * kernel.period + programs * (some - 1) * slow
        # A later head is asked for when its first query buffer is free.
        ring = self._buffers(work, self.machine.columns * self.key, self.value, self.key)
        lead = (ring - 1) * block - self._tail()
        tiles = self.latency + self.query + work.reach * self.tile[0]
        late = larger(0, tiles - lead - (work.reach - 1) * kernel.period)
        first = first + larger(0, work.heads - programs) * late
        loaded = work.reach * work.heads - programs
        port = self._reads(
            loaded * self.machine.rows, self.row,
            (work.blocks - work.blocks // work.heads) * self.machine.columns, self.key,
        )  # fmt: skip
        return larger(first, port + (work.tiles // work.heads - work.reach) * kernel.period)

    def _tail(self) -> int:
        """Cycles from the last pass that a RUN starts to its tokens."""
        return self.kernels[0].span - self.kernels[0].period + self.machine.settle

    def _buffers(self, work: Work, words: int, other: int, own: int) -> Size:
        """Buffers for queries (or results) that a program has: as many as hide their transfers.

        words: of one buffer in all columns. own, other: words of one and of the others in a column.
        """
        machine, kernel, memory = self.machine, self.kernels[0], self.machine.config.memory
        run = larger(1, work.tiles // work.blocks) * kernel.ii
        tail = kernel.span - kernel.ii + machine.settle + words * memory.beat_cycles
        tail += self.latency + memory.write_latency_cycles + machine.columns
        wanted = smaller(_LARGEST_RING, larger(2, up(run + tail, run)))
        return larger(2, smaller(wanted, (self.room - 2 * other) // own))

    def _query_turns(self, work: Work) -> Size:
        """Cycles if blocks wait for what earlier ones occupy: buffers, places in the queues."""
        machine, kernel = self.machine, self.kernels[0]
        block = larger(1, work.tiles // work.blocks) * kernel.period + self._tail()
        load = self.latency + self.query + 4
        store = machine.columns * self.write
        columns, depth = machine.columns, machine.config.array.queue_depth
        needs = (
            (block + load, self._buffers(work, columns * self.key, self.value, self.key)),
            (block + store + machine.config.memory.write_latency_cycles + 4,
             self._buffers(work, columns * self.value, self.key, self.value)),
            # The front end waits at a STORE.
            (block + store + _NEXT_RESIDENT + load, depth + 1),
        )  # fmt: skip
        found: Size = 0
        for cycles, n in needs:
            # Passes begin one period after the other.
            cycles = up(cycles, kernel.period) * kernel.period
            last = (work.blocks - 1) % n * (work.tiles * kernel.period // work.blocks)
            found = larger(found, (work.blocks - 1) // n * cycles + last)
        return found

    def _sum(
        self, work: Work, programs: Size, resident: Size, *, compute: Size, fill: Size,
        settle: Size, load: Size, store: Size, front_end: Size,
        moved: Size = 0,
    ) -> Estimate:  # fmt: skip
        """moved: bus words of scores, written and read back."""
        reads, writes = self._beats(work, programs, resident)
        total = compute + fill + settle + load + store + front_end
        return Estimate(
            total, compute, fill, settle, load, store, front_end, work.blocks, work.tiles,
            programs, reads + moved, writes + moved,
        )  # fmt: skip

    # --- several kernels --------------------------------------------------------------------------
    def _phases(self, work: Work, programs: Size, resident: Size) -> Estimate:
        """Kernels take turns; each begins when the arrays have settled."""
        machine, last = self.machine, self.kernels[-1]
        front_end, load = self._first(programs, resident)
        # A later block: behind the last RUN of the one before come its LOADs, and its first RUN
        # comes after the first KERNEL.
        later = work.blocks - programs
        begin = last.span + machine.settle + self.kernels[0].commands + 3
        arrival = _BETWEEN + self.latency + self.query
        heads = larger(0, work.heads - programs)
        first = arrival + _TILE_SETS + choose(resident, self.rows, self.tile[0])
        exposed = larger(0, first - begin) * choose(resident, heads, later)
        exposed = exposed + choose(resident, max(0, arrival - begin), 0) * (later - heads)
        slow = max(0, self.rows - self.kernels[0].period) * (work.reach - 1) * work.heads
        compute, fill = self._passes(work)
        behind = sum(kernel.commands for kernel in self.kernels[1:])
        each = len(self.kernels)
        front_end = front_end + behind * work.blocks + 3 * (each - 1) * work.blocks
        front_end = front_end + later * (self.kernels[0].commands + 5)
        return self._sum(
            work, programs, resident,
            compute=compute,
            fill=fill,
            settle=work.blocks * each * machine.settle,
            load=load + exposed + choose(resident, slow, self._late_tiles(work)),
            store=programs * self._store_tail(work),
            front_end=front_end,
        )  # fmt: skip

    def _passes(self, work: Work) -> tuple[Size, Size]:
        """Passes that start an iteration, and the others, of all kernels."""
        compute, fill = 0, 0
        for kernel, once in zip(self.kernels, self.once, strict=True):
            tiles = work.blocks if once else work.tiles
            compute = compute + (tiles - work.blocks) * kernel.period
            compute = compute + work.blocks * min(kernel.period, kernel.span)
            fill = fill + work.blocks * max(0, kernel.span - kernel.period)
        return compute, fill

    def _late_tiles(self, work: Work) -> Size:
        """Tiles that come later than the kernel could take them."""
        (key, value), (turn, refill) = self.tile, self.turns
        reader, user = (kernel.period for kernel in self._readers())
        late = (work.tiles - work.blocks) * max(0, key - reader)
        beyond = larger(0, work.tiles - work.blocks * self.ring)
        late = late + beyond * max(0, turn - max(key, reader))
        # Of the values, a ring is there before the kernel that reads them begins.
        late = late + beyond * max(0, max(value, refill) - user)
        before = [
            k.period for k, ops in zip(self.kernels, self.ops, strict=True) if "av" not in ops
        ]
        return larger(late, (work.tiles - work.blocks) * (key + value - sum(before)))

    # --- scores in main memory --------------------------------------------------------------------
    def _ranges(self, work: Work, tiles: Size, programs: Size) -> Estimate:
        """Kernels with barriers between them; each works on ranges of tiles, two at a time."""
        machine, scores = self.machine, self.machine.words(self.machine.rows)
        widest = max(self.key, self.value)
        fits = (self.room - self.row) // (2 * scores)
        fits = max(1, min(fits, machine.config.array.row_words // (2 * widest)))
        mean = larger(1, work.tiles // work.blocks)
        pieces = up(mean, fits)
        load, store, front_end, moved = self.query, 0, 4, 0
        for kernel, ops, once in zip(self.kernels, self.ops, self.once, strict=True):
            reads, writes = bool(ops & set(SCORE_READERS)), bool(ops & set(SCORE_WRITERS))
            front_end += kernel.commands + 12
            if once:
                store = store + self._store_tail(work)
                continue
            turns = self._turns(kernel, ops, mean // pieces + (mean % pieces > 0), reads, writes)
            load = load + turns[0] + self.latency
            store = store + turns[2] + writes * machine.config.memory.write_latency_cycles
            slowest = larger(larger(turns[0], turns[2]), up(sum(turns), 2))
            load = load + (pieces - 1) * larger(0, slowest - turns[1])
            moved = moved + (reads + writes) * work.tiles * machine.columns * scores
        compute, fill = self._passes(work)
        blocks = work.blocks
        return self._sum(
            work, programs, False, compute=compute, fill=fill,
            settle=blocks * len(self.kernels) * machine.settle, load=blocks * load,
            store=blocks * store, front_end=blocks * front_end + programs * (_SETS + 9),
            moved=moved // 2,
        )  # fmt: skip

    def _turns(
        self, kernel: Kernel, ops: set[str], tiles: Size, reads: bool, writes: bool
    ) -> tuple[Size, Size, Size]:
        """Cycles to load a range of tiles, to work on it, to store its scores."""
        machine = self.machine
        scores = tiles * machine.words(machine.rows)
        words = self.key if "qk" in ops else self.value if "slnv" in ops else 0
        load = self._reads(
            machine.rows * tiles * (words > 0), words, machine.columns * reads, scores
        )
        store = machine.columns * self._writes(scores) if writes else 0
        return load, tiles * kernel.period, store
