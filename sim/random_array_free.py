"""Free programs of the `array` engine: random schedules, transfers and tokens that no kernel uses,
legal and with defined data.

Everything that is read has been loaded or computed before, and two engines touch the same words
only with tokens or an idle machine between them. Ref: docs/array.md sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bankside.isa.array_machine import ArrayMachine
from bankside.isa.array_schedule import FORMATS, Schedule
from bankside.isa.program import Builder, Program
from bankside.sim.random_array_schedules import Rng, Work, random_schedule

U16 = NDArray[np.uint16]
#: Tiles of scores that a buffer holds: at least the stages of every schedule.
TILES = 8
_SCRATCH_WORDS = 6
_SCRATCH_AREAS = 3
_ONE_PASS = ("qk", "lm", "exp", "sld", "slnv", "rcp", "av")
#: What the kernels of one piece of work do, one after the other.
WORKS: tuple[tuple[Work, ...], ...] = (
    (Work(_ONE_PASS, 0, 0),),
    (Work(("qk", "lm", "exp", "slnv", "one", "av"), 0, 0),),
    (Work(("qk", "drain", "passx", "fill", "slnv", "rcp", "av"), 0, 0, chunked=True),),
    (Work(("qk", "drain"), 0, 0),),
    (Work(("fill", "slnv", "one", "av"), 0, 0),),
    (Work(("fill", "sld", "slnv", "rcp", "av"), 0, 0),),
    (
        Work(("qk", "drain"), 0, 0),
        Work(("passx", "rcp"), 0, 0),
        Work(("passd", "fill", "slnv", "one", "av"), 0, 0),
    ),
    (Work(("qk", "drain"), 0, 0), Work(("passx", "fill", "slnv", "rcp", "av"), 0, 0)),
    (
        Work(("qk", "drain", "passx", "rcp"), 0, 0, chunked=True),
        Work(("fill", "slnv", "av"), 0, 0, chunked=True, correct=True),
    ),
)


def random_elements(rng: Rng, count: int) -> U16:
    """16-bit patterns: FP16 or bf16 numbers, any bits, subnormals, equal values, one dominant value
    or large negatives.
    """
    kind, values = rng.integers(8), rng.standard_normal(count)
    if kind == 0:
        return rng.integers(0, 1 << 16, count, dtype=np.uint16)
    if kind == 1:
        signs = rng.integers(0, 2, count, dtype=np.uint16) << np.uint16(15)
        return rng.integers(0, 1 << 10, count, dtype=np.uint16) | signs
    if kind == 2:
        values = np.full(count, rng.standard_normal())
    if kind == 3:
        values = np.where(rng.random(count) < 0.05, 300.0, values)
    if kind == 4:
        values = -np.abs(values) * 1000
    if rng.random() < 0.5:
        return values.astype(np.float16).view(np.uint16)
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


class FreeProgram:
    """Builds one program.

    Column banks: two buffers each of queries, results and scores, then scratch areas; row banks: a
    ring of tiles, then scratch areas. A load fills all of them at the beginning.
    """

    def __init__(self, rng: Rng, machine: ArrayMachine) -> None:
        self.rng, self.machine = rng, machine
        self.b = Builder("array", machine.bus_elements)
        self.e, self.f = self._int(1, 20), self._int(1, 20)
        self.we, self.wf, self.wr = (machine.words(n) for n in (self.e, self.f, machine.rows))
        self.tile_words = self.we + self.wf
        self.ring = self._int(1, TILES)
        self.q = (0, self.we)
        self.out = (2 * self.we, 2 * self.we + self.wf)
        at = 2 * self.tile_words
        self.s = (at, at + TILES * self.wr)
        self.column_scratch = at + 2 * TILES * self.wr
        self.row_scratch = TILES * self.tile_words
        self.inputs = self._int(6000, 12000) // (2 * machine.bus_elements)
        self.readable = self.end = self.inputs  # bus words of memory
        self.spent: set[int] = set()  # scratch areas that a STORE may still read
        self.registers: dict[str, int] = {}
        self.accumulators = 0
        self.schedule: Schedule | None = None
        self.format = str(rng.choice(FORMATS))

    def build(self, works: int) -> Program:
        """A program of `works` pieces of work."""
        self._prologue()
        for _ in range(works):
            self._sometimes_scratch(3)
            self._work(WORKS[self._int(0, len(WORKS) - 1)])
        self._sometimes_scratch(3)
        program, n = self.b.build(), self.machine.bus_elements
        pieces = [random_elements(self.rng, 64 * n) for _ in range(-(-self.inputs // 64))]
        image = np.zeros((self.end, n), np.uint16)
        image[: self.inputs] = np.concatenate(pieces).reshape(-1, n)[: self.inputs]
        outputs = {"stored": (self.inputs, self.end - self.inputs)}
        return replace(program, host_in=image, outputs=outputs)

    def _int(self, low: int, high: int) -> int:
        """Uniform in low..high inclusive."""
        return int(self.rng.integers(low, high + 1))

    def _maybe(self, chance: float = 0.5) -> bool:
        return bool(self.rng.random() < chance)

    def _set(self, **values: int) -> None:
        for name, value in values.items():
            if self.registers.get(name) != value or self._maybe(0.05):
                self.b.SET(reg=name, value=value)
                self.registers[name] = value

    def _barrier(self) -> None:
        self.b.BARRIER()
        self.readable = self.end
        self.spent.clear()

    # --- transfers ---

    def _source(self, outer: int, inner: int, beats: int) -> None:
        """Registers of a LOAD from anywhere in what the memory holds."""
        bus, room = 2 * self.machine.bus_elements, self.readable - beats
        row = self._int(0, room // (2 * max(inner - 1, 1)))
        step = self._int(0, room // (2 * max(outer - 1, 1)))
        first = self._int(0, room - row * (inner - 1) - step * (outer - 1))
        self._set(mem=bus * first, outer=outer, outer_bytes=bus * step, inner=inner,
                  inner_bytes=bus * row, beats=beats)  # fmt: skip

    def _banks(self, bank: int, bank_step: int, buf: int, buf_step: int = 0, ring: int = 1,
               phase: int = 0) -> None:  # fmt: skip
        self._set(bank=bank, bank_step=bank_step, buf=buf, buf_step=buf_step, ring=ring,
                  ring_phase=phase)  # fmt: skip

    def _prologue(self) -> None:
        """Everything that the banks have."""
        scratch = _SCRATCH_AREAS * _SCRATCH_WORDS
        for side, banks, words in (
            ("row", self.machine.rows, self.row_scratch + scratch),
            ("column", self.machine.columns, self.column_scratch + scratch),
        ):
            self._source(1, banks, words)
            self._banks(0, 0, 0)
            self.b.LOAD(side=side)
        self._barrier()

    def _store(self, outer: int, inner: int, beats: int, **tokens: str) -> None:
        """STORE to memory that nothing else uses; the banks are set."""
        bus, gap = 2 * self.machine.bus_elements, self._int(0, 1)
        row = beats + gap
        self._set(mem=bus * self.end, outer=outer, outer_bytes=bus * row * inner, inner=inner,
                  inner_bytes=bus * row, beats=beats)  # fmt: skip
        self.b.STORE(**tokens)
        self.end += row * inner * outer

    def _sometimes_scratch(self, most: int) -> None:
        for _ in range(self._int(0, most)):
            if self._maybe(0.2):
                self._barrier()
            else:
                self._scratch()

    def _area(self, banks: int, first: int) -> tuple[int, int, int]:
        """Registers of a random transfer within a scratch area: outer steps, rows, bus words."""
        outer, beats = self._int(1, 4), self._int(1, 3)
        inner = self._int(1, banks)
        bank = self._int(0, banks - inner)
        bank_step = self._int(0, (banks - inner - bank) // max(outer - 1, 1))
        ring = self._int(1, 4)
        buf_step = self._int(0, (_SCRATCH_WORDS - beats) // max(ring - 1, 1))
        phase = self._int(0, ring - 1)
        self._banks(bank, bank_step, first, buf_step, ring, phase)
        return outer, inner, beats

    def _scratch(self) -> None:
        """A LOAD into a scratch area, sometimes a STORE of what is there then."""
        area = self._int(0, _SCRATCH_AREAS - 1)
        if self._maybe(0.3) or area in self.spent:
            row = self.row_scratch + area * _SCRATCH_WORDS
            self._source(*self._area(self.machine.rows, row))
            self.b.LOAD(side="row", each=int(self._maybe()))
            return
        column = self.column_scratch + area * _SCRATCH_WORDS
        self._source(*self._area(self.machine.columns, column))
        self.b.LOAD(side="column", signal="store")
        outer, inner, beats = self._area(self.machine.columns, column)
        self._store(outer, inner, beats, wait="load")
        self.spent.add(area)

    # --- work ---

    def _work(self, works: tuple[Work, ...]) -> None:
        self.format = str(self.rng.choice(FORMATS))
        if len(works) == 1:
            self._kernel(works[0])
            (self._streamed if works[0].reads_rows and self._maybe() else self._resident)(works[0])
        else:
            self._phases(works)
        self._barrier()

    def _kernel(self, work: Work) -> Work:
        """Begins a kernel for `work` with this program's element counts."""
        work = replace(work, e=self.e, f=self.f)
        self.schedule = random_schedule(self.rng, self.machine, work, self.format)
        self.schedule.emit(self.b)
        return work

    def _masks(self, tiles: int) -> None:
        rows = self.machine.rows
        first = self._int(0, 3 * rows)
        self._set(
            first_key=first, keys=first + self._int(1, tiles * rows + 2),
            position=first + self._int(-rows, tiles * rows) if first >= rows else first + 1,
            group=self._int(1, self.machine.columns), causal=self._int(0, 1),
            window=self._int(0, 1) * self._int(1, tiles * rows),
        )  # fmt: skip

    def _buffers(self, place: int, first_tile: int = 0, ring: int = TILES) -> None:
        self._set(q=self.q[place], out=self.out[place], s=self.s[place] + first_tile * self.wr,
                  s_step=self.wr, s_ring=ring)  # fmt: skip

    def _tiles(self, phase: int) -> None:
        self._set(k=0, v=self.we, kv_step=self.tile_words, kv_ring=self.ring, kv_phase=phase)

    def _query(self, place: int, wait: str) -> None:
        """LOAD of queries; everything loaded before is there when its token is."""
        self._source(1, self.machine.columns, self.we)
        self._banks(0, 0, self.q[place])
        self.b.LOAD(side="column", wait=wait, signal="compute")

    def _result(self, work: Work, place: int, signal: str | tuple[str, ...]) -> None:
        """STORE of what a RUN has left in its buffers."""
        if "av" in work.ops:
            self._banks(0, 0, self.out[place])
            self._store(1, self.machine.columns, self.wf, wait="compute", signal=signal)
        else:
            self._banks(0, 0, self.s[place], self.wr, TILES)
            self._store(TILES, self.machine.columns, self.wr, wait="compute", signal=signal)

    def _blocks(self, work: Work, load: Callable[[int], None], each: int) -> int:
        """RUNs of several row blocks in one or two sets of buffers; load(tiles) loads their tiles.

        A block waits for the STORE of the last block in its buffers; its queries do so where the
        tiles give tokens of their own (`each`), else they wait for the RUN. Returns the tiles of
        all blocks.
        """
        blocks, sets, total = self._int(1, 4), self._int(1, 2), 0
        ring, ended = self.schedule.score_ring(self.machine), {}
        for block in range(blocks):
            place, again, followed = block % sets, block >= sets, block + sets < blocks
            # `verify` counts iterations between uses of the same scores, whatever the tokens say.
            if again and total - ended[place] + 1 < ring:
                self._barrier()
            self._query(place, ("store" if each else "compute") if again else "none")
            tiles = self._int(1, TILES)
            if self._maybe(0.3):
                self._scratch()
            # Between a load that waits for tiles and the RUN that frees them comes no other load:
            # it might find the queue full.
            load(tiles)
            self._masks(tiles)
            self._buffers(place, ring=self._int(max(ring, 1), TILES))
            waits = ["load"] + ["store"] * again
            parts = [tiles]
            if tiles > 1 and not work.uses_scores and self._maybe(0.4):
                cut = self._int(1, tiles - 1)
                parts = [cut, tiles - cut]
            signals = ("store", "load") if followed and not each else ("store",)
            self._parts(parts, each, total if each else 0, tuple(waits), signals)
            total += tiles
            ended[place] = total
            given = ("load", "compute") if each else ("compute",)
            self._result(work, place, given if followed else ())
        return total

    def _parts(
        self, parts: list[int], each: int, loaded: int, waits: tuple[str, ...],
        signals: tuple[str, ...],
    ) -> None:  # fmt: skip
        """One RUN per part of a row block; `loaded` tiles came before."""
        done, first_key = 0, self.registers["first_key"]
        for index, tiles in enumerate(parts):
            last = index == len(parts) - 1
            self._tiles((loaded + done) % self.ring)
            self._set(first_key=first_key + done * self.machine.rows)
            self.b.RUN(
                tiles=tiles, each=each, free=each, first=int(index == 0), last=int(last),
                set=self.accumulators, wait=waits if index == 0 else "none",
                signal=signals if last else "none",
            )  # fmt: skip
            done += tiles
        self.accumulators ^= 1

    def _resident(self, work: Work) -> None:
        """Keys and values are loaded once; tiles go round in them."""
        self._source(self.ring, self.machine.rows, self.tile_words)
        self._banks(0, 0, 0, self.tile_words, self.ring)
        self.b.LOAD(side="row")
        self._blocks(work, lambda tiles: None, 0)

    def _streamed(self, work: Work) -> None:
        """Tiles come through a ring: a step of a LOAD waits until a tile before it is used up."""
        loaded = 0

        def load(tiles: int) -> None:
            nonlocal loaded
            fresh = min(tiles, max(self.ring - loaded, 0))
            for steps, wait in ((fresh, "none"), (tiles - fresh, "compute")):
                if steps:
                    self._source(steps, self.machine.rows, self.tile_words)
                    self._banks(0, 0, 0, self.tile_words, self.ring, loaded % self.ring)
                    self.b.LOAD(side="row", each=1, wait=wait, signal="compute")
                    loaded += steps

        total = self._blocks(work, load, 1)
        self._source(min(self.ring, total), self.machine.rows, 1)
        self._banks(0, 0, self.row_scratch)
        self.b.LOAD(side="row", each=1, wait="compute")

    def _phases(self, works: tuple[Work, ...]) -> None:
        """One row block, kernel after kernel, with its scores in the column banks."""
        tiles, place = self._int(1, TILES), self._int(0, 1)
        self._source(self.ring, self.machine.rows, self.tile_words)
        self._banks(0, 0, 0, self.tile_words, self.ring)
        self.b.LOAD(side="row")
        self._query(place, "none")
        self._masks(tiles)
        first_key = self.registers["first_key"]
        for index, phase in enumerate(works):
            work = self._kernel(phase)
            cut = self._int(1, tiles) if not phase.chunked else tiles
            last = index == len(works) - 1
            for begin, end in ((0, cut), (cut, tiles)):
                if begin == end:
                    continue
                self._tiles(begin % self.ring)
                self._buffers(place, begin)
                self._set(first_key=first_key + begin * self.machine.rows)
                self.b.RUN(
                    tiles=end - begin, first=int(begin == 0), last=int(end == tiles),
                    set=self.accumulators, wait="none" if index or begin else "load",
                    signal="store" if last and end == tiles else "none",
                )  # fmt: skip
        self.accumulators ^= 1
        self._result(work, place, ())


def free_program(rng: Rng, machine: ArrayMachine) -> Program:
    """A free program of a few pieces of work."""
    return FreeProgram(rng, machine).build(int(rng.integers(1, 4)))
