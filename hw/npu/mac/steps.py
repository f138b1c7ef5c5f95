"""Sequencer of the steps: which word is read in which cycle, and what the lanes do with it.

Ref: docs/npu.md sections 2, 3 and 5.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.npu.mac.job import geometry_layout, step_job_layout
from bankside.hw.npu.mac.lanes import accumulator_index_bits
from bankside.hw.npu.mac.nest import StepNest
from bankside.hw.npu.mac.tiles import TileRoom
from bankside.hw.npu.ports import shared_read
from bankside.isa.npu_machine import DEPTH, WORD_BYTES, NpuMachine

__all__ = ["Steps", "work_layout"]

_PLACE_BITS = 26
"""Row or column of the input, signed: 65535 * 255 plus a window and a padding."""


def work_layout(machine: NpuMachine) -> data.StructLayout:
    """What goes with a read.

    position, last: place in the microblock; the lanes begin with the data of the last one.
    inside: the position exists and does not lie in the padding.
    parts: 8 channels each that the lanes take in turn; channels: input channels that exist.
    offset: first channel of the group modulo 32 (single).
    slot: tile; address: of the accumulators (buffer on top); first: step of its unit.
    """
    flags = ("last", "inside", "single", "pool", "maximum", "row", "slot", "first")
    return data.StructLayout(
        {
            "position": range(machine.positions),
            **dict.fromkeys(flags, 1),
            "parts": range(WORD_BYTES // DEPTH + 1),
            "channels": range(WORD_BYTES + 1),
            "offset": range(WORD_BYTES),
            "address": accumulator_index_bits(machine) + 1,
            **dict.fromkeys(("zero", "zero2"), signed(8)),
            "w4": 1,
        }
    )


def _place_layout(machine: NpuMachine) -> data.StructLayout:
    """A position of the output: row, column, those of the input under tap 0, and their words."""
    word = shared_read(machine).members["address"].shape
    return data.StructLayout(
        {
            **dict.fromkeys(("y", "x"), 16),
            **dict.fromkeys(("row", "column"), signed(_PLACE_BITS)),
            **dict.fromkeys(("row_word", "word"), word),
        }
    )


class Steps(wiring.Component):
    """Walks blocks, groups, steps, microblocks and positions.

    Members
    -------
    job, geometry, load : In
        From `Setup`.
    tile_ready : In(1)
        The tile of the step shown is there.
    unit_done : In(1)
        Last cycle in which accumulators of a unit are read.
    pending, active : Out(1)
        Steps are left; one is under way.
    lacks_tile : Out(1)
        A step waits for its tile.
    step_end, unit_end, end : Out(1)
        Last cycle of a step, of the last step of a unit, of the operation. `tile_end`: of a step
        that used a tile.
    read : Out(shared_read)
    work_valid : Out(1), work : Out(work_layout)
        Of the read of this cycle.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self.machine = machine
        outs = ("pending", "active", "lacks_tile", "step_end", "tile_end", "unit_end", "end")
        super().__init__(
            {
                "job": In(step_job_layout(machine)),
                "geometry": In(geometry_layout(machine)),
                **dict.fromkeys(("load", "tile_ready", "unit_done"), In(1)),
                **dict.fromkeys((*outs, "work_valid"), Out(1)),
                "read": Out(shared_read(machine)),
                "work": Out(work_layout(machine)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        job = self.job
        m.submodules.nest = nest = StepNest(self.machine)
        m.submodules.room = room = TileRoom()
        inside, cycle, spent = Signal(), Signal(range(DEPTH)), Signal()
        per_block, parts = Signal(4), Signal(range(WORD_BYTES // DEPTH + 1))
        positions = Mux(job.row, 1, self.machine.positions)
        tile_there = job.pool | self.tile_ready
        block_spent, final, reads, round_end = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            parts.eq(Mux(job.single | (nest.channels > 24), 4, (nest.channels + 7) >> 3)),
            per_block.eq(Mux(job.single | (parts < positions), positions, parts)),
            self.pending.eq(nest.pending),
            self.active.eq(inside | (nest.pending & tile_there & (~nest.first | room.free))),
            self.lacks_tile.eq(nest.pending & ~inside & ~tile_there),
            self.work_valid.eq(self.active & (cycle < positions)),
            reads.eq(self.work_valid & ~spent),
            round_end.eq(self.active & (cycle + 1 == per_block)),
            self.step_end.eq(round_end & block_spent),
            self.tile_end.eq(self.step_end & ~job.pool),
            self.unit_end.eq(self.step_end & nest.last),
            self.end.eq(self.step_end & nest.end),
            nest.job.eq(job),
            nest.load.eq(self.load),
            nest.advance.eq(self.step_end),
            nest.last_block.eq(final),
            room.take.eq(self.unit_end),
            room.give.eq(self.unit_done),
        ]
        m.d.sync += inside.eq(self.active & ~self.step_end)
        with m.If(self.active):
            m.d.sync += cycle.eq(Mux(round_end, 0, cycle + 1))
        now = self._walk(m, reads, nest, spent, block_spent, final)
        m.d.sync += spent.eq(block_spent & ~self.step_end)
        self._address(m, reads, nest, now)
        self._work(m, reads, nest, cycle, parts, positions, round_end)
        return m

    def _walk(
        self,
        m: Module,
        reads: Signal,
        nest: StepNest,
        spent: Signal,
        block_spent: Signal,
        final: Signal,
    ) -> data.View:
        """Positions of the block, once per step. `final`: the last position is behind."""
        job, geometry = self.job, self.geometry
        layout = _place_layout(self.machine)
        now, start, after = (Signal(layout, name=n) for n in ("now", "start", "after"))
        count = Signal(16)
        column_end, row_end, was_final = Signal(), Signal(), Signal()
        m.d.comb += [
            column_end.eq(now.x + 1 == job.ofm_w),
            row_end.eq(now.y + 1 == job.ofm_h),
            final.eq(was_final | (reads & column_end & row_end)),
            block_spent.eq(spent | (reads & ((column_end & row_end) | (count + 1 == job.block)))),
            after.eq(now),
        ]
        with m.If(reads):
            self._next_place(m, now, after, column_end)
            m.d.sync += [now.eq(after), count.eq(count + 1)]
        m.d.sync += was_final.eq(final & ~self.step_end)
        with m.If(self.step_end):
            m.d.sync += count.eq(0)
            with m.If(nest.block_last):
                m.d.sync += [start.eq(after), now.eq(after)]
            with m.Else():
                m.d.sync += now.eq(start)
        with m.If(self.load):
            for place in (now, start):
                m.d.sync += [
                    *(place[name].eq(0) for name in ("y", "x", "row", "column")),
                    place.row_word.eq(geometry.origin),
                    place.word.eq(geometry.origin),
                ]
            m.d.sync += count.eq(0)
        return now

    def _next_place(self, m: Module, now: data.View, after: data.View, column_end: Value) -> None:
        job, geometry = self.job, self.geometry
        with m.If(column_end):
            row_word = now.row_word + geometry.step_y
            m.d.comb += [
                after.x.eq(0),
                after.column.eq(0),
                after.y.eq(now.y + 1),
                after.row.eq(now.row + job.stride_y),
                after.row_word.eq(row_word),
                after.word.eq(row_word),
            ]
        with m.Else():
            m.d.comb += [
                after.x.eq(now.x + 1),
                after.column.eq(now.column + job.stride_x),
                after.word.eq(now.word + geometry.step_x),
            ]

    def _address(self, m: Module, reads: Signal, nest: StepNest, now: data.View) -> None:
        """The tap's distance is added to the position; padding is not read."""
        job, geometry = self.job, self.geometry
        tap_row, tap = (Signal.like(geometry.origin, name=n) for n in ("tap_row", "tap"))
        row, column = (Signal(signed(_PLACE_BITS), name=n) for n in ("tap_y", "tap_x"))
        with m.If(self.load | (self.step_end & nest.last)):
            m.d.sync += [
                *(signal.eq(0) for signal in (tap_row, tap)),
                row.eq(-job.pad_top),
                column.eq(-job.pad_left),
            ]
        with m.Elif(self.step_end & nest.last_channels):
            with m.If(nest.last_column):
                tap_next = tap_row + geometry.tap_y
                m.d.sync += [
                    tap_row.eq(tap_next),
                    tap.eq(tap_next),
                    row.eq(row + job.dilation_y),
                    column.eq(-job.pad_left),
                ]
            with m.Else():
                m.d.sync += [
                    tap.eq(tap + geometry.tap_x),
                    column.eq(column + job.dilation_x),
                ]
        y, x = (Signal(signed(_PLACE_BITS), name=n) for n in ("y", "x"))
        word = Mux(job.single, nest.output[5:], nest.channel_word)
        outside = y[-1] | x[-1] | (y >= job.ifm_h) | (x >= job.ifm_w)
        m.d.comb += [
            y.eq(now.row + row),
            x.eq(now.column + column),
            self.work.inside.eq(reads & (job.matmul | ~outside)),
            self.read.en.eq(self.work.inside),
            self.read.address.eq(now.word + tap + word),
        ]

    def _work(
        self,
        m: Module,
        reads: Signal,
        nest: StepNest,
        cycle: Signal,
        parts: Signal,
        positions: Value,
        round_end: Signal,
    ) -> None:
        job, work = self.job, self.work
        index = Signal(accumulator_index_bits(self.machine))
        slot, buffer = Signal(), Signal()
        m.d.sync += [slot.eq(slot ^ self.tile_end), buffer.eq(buffer ^ self.unit_end)]
        with m.If(round_end):
            m.d.sync += index.eq(Mux(self.step_end, 0, index + 1))
        m.d.comb += [
            *(
                work[name].eq(job[name])
                for name in ("single", "pool", "maximum", "row", "w4", "zero", "zero2")
            ),
            work.position.eq(cycle),
            work.last.eq(cycle + 1 == positions),
            work.slot.eq(slot),
            work.first.eq(nest.first),
            work.parts.eq(Mux(job.single, 1, parts)),
            work.channels.eq(Mux(nest.channels > WORD_BYTES, WORD_BYTES, nest.channels)),
            work.offset.eq(nest.output),
            work.address.eq(Cat(index, buffer)),
        ]
