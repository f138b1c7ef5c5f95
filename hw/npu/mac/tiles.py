"""Weight unit of the wide profile: raw8, w4 and rows of MATMUL into the tiles of the lanes."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from bankside.hw.npu.mac.job import geometry_layout, step_job_layout
from bankside.hw.npu.mac.lanes import OPERAND_BITS, SCALE_BITS
from bankside.hw.npu.mac.nest import StepNest
from bankside.hw.npu.ports import shared_read, weight_read
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine

__all__ = ["BlockLoop", "TileFeed", "TileRoom", "wide_tile_words"]

_SETS = 2
"""Rows of lanes with weights of their own that one word of the weight port fills (w4)."""


def wide_tile_words(machine: NpuMachine, *, w4: bool, row: bool) -> int:
    """Words of the weight port of a CONV tile."""
    group = machine.group(row)
    size = group * WORD_BYTES // 2 + group if w4 else group * WORD_BYTES
    return -(-size // machine.weight_port_bytes)


class TileRoom(wiring.Component):
    """Counts what is claimed of two places.

    Members
    -------
    take : In(1)
        One is claimed from the next cycle on.
    give : In(1)
        One is free again from the cycle after the next on.
    free : Out(1)
    """

    def __init__(self) -> None:
        super().__init__({"take": In(1), "give": In(1), "free": Out(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        claimed, given = Signal(2), Signal()
        m.d.sync += [given.eq(self.give), claimed.eq(claimed + self.take - given)]
        m.d.comb += self.free.eq(~claimed[1])
        return m


class BlockLoop(wiring.Component):
    """The steps of an operation in the order in which their tiles are fetched.

    Members
    -------
    job, geometry, load, advance : In
        As in `StepNest`, which gives the outputs too.
    restart : Out(1)
        The step shown is the first one of a block: its tile is the first one again.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self.machine = machine
        super().__init__(
            {
                "job": In(step_job_layout(machine)),
                "geometry": In(geometry_layout(machine)),
                **dict.fromkeys(("load", "advance"), In(1)),
                **dict.fromkeys(("pending", "restart", "last", "block_last"), Out(1)),
                "channel_word": Out(11),
                "outputs": Out(16),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.nest = nest = StepNest(self.machine)
        job = self.job
        positions = Signal(32)
        m.d.comb += [
            nest.job.eq(job),
            nest.load.eq(self.load & ~job.pool),
            nest.advance.eq(self.advance),
            nest.last_block.eq(positions <= job.block),
            self.pending.eq(nest.pending),
            self.last.eq(nest.last),
            self.block_last.eq(nest.block_last),
            self.channel_word.eq(nest.channel_word),
            self.outputs.eq(nest.outputs),
        ]
        with m.If(self.advance):
            m.d.sync += self.restart.eq(nest.block_last)
            with m.If(nest.block_last):
                m.d.sync += positions.eq(positions - job.block)
        with m.If(self.load):
            m.d.sync += [self.restart.eq(1), positions.eq(self.geometry.positions)]
        return m


class TileFeed(wiring.Component):
    """Fetches one word (MATMUL: row) per cycle, two tiles ahead of the steps.

    Members
    -------
    job, geometry, load : In
        From `Setup`.
    step_end : In(1)
        Last cycle of a step that used a tile.
    ready : Out(1)
        The tile of the next step is there (from F_end + 1 on).
    weights : Out(weight_read), rows : Out(shared_read)
    w_en, s_en : Out(N), w_slot : Out(1), w_data : Out(N of 32 weights), s_data : Out(N of 6)
        Writes of the lanes' tiles.

    Ref: docs/npu.md sections 3 and 5.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self.machine = machine
        lanes = machine.lanes
        # Up to `positions` cycles pass between a step's reads and their last use, so the first
        # overwriting word comes later by what two cycles of latency do not cover.
        self.delay = max(0, machine.positions - 3)
        super().__init__(
            {
                "job": In(step_job_layout(machine)),
                "geometry": In(geometry_layout(machine)),
                **dict.fromkeys(("load", "step_end"), In(1)),
                "ready": Out(1),
                "weights": Out(weight_read(machine)),
                "rows": Out(shared_read(machine)),
                **dict.fromkeys(("w_en", "s_en"), Out(lanes)),
                "w_slot": Out(1),
                "w_data": Out(data.ArrayLayout(WORD_BYTES * OPERAND_BITS, lanes)),
                "s_data": Out(data.ArrayLayout(SCALE_BITS, lanes)),
            }
        )

    def _tag(self) -> data.StructLayout:
        """What goes with a read: place in the tile, whether the row exists, modes."""
        machine = self.machine
        address = max(bits_for(machine.shared_words - 1), bits_for(machine.weight_words - 1))
        return data.StructLayout(
            {
                "address": address,
                "word": range(machine.lanes),
                **dict.fromkeys(("slot", "exists", "matmul", "single", "row", "w4"), 1),
                "zero2": signed(8),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.loop = loop = BlockLoop(self.machine)
        m.submodules.room = room = TileRoom()
        job = self.job
        inside, word, count = Signal(), Signal(range(self.machine.lanes)), Signal(8)
        active, last = Signal(), Signal()
        self._count_words(m, count)
        m.d.comb += [
            loop.job.eq(job),
            loop.geometry.eq(self.geometry),
            loop.load.eq(self.load),
            loop.advance.eq(last),
            active.eq(inside | (loop.pending & room.free)),
            last.eq(active & (word + 1 == count)),
            room.take.eq(last),
            room.give.eq(self.step_end),
        ]
        m.d.sync += inside.eq(active & ~last)
        with m.If(active):
            m.d.sync += word.eq(Mux(last, 0, word + 1))
        self._count_ready(m, last)
        tag = Signal(self._tag())
        slot = Signal()
        m.d.sync += slot.eq(slot ^ last)
        m.d.comb += [
            *(tag[name].eq(job[name]) for name in ("matmul", "single", "row", "w4", "zero2")),
            tag.word.eq(word),
            tag.slot.eq(slot),
            tag.exists.eq(word < loop.outputs),
            tag.address.eq(
                Mux(
                    job.matmul,
                    self._row(m, loop, word, active, last),
                    self._weight(m, loop, inside, active),
                )
            ),
        ]
        self._read(m, active, tag)
        return m

    def _count_words(self, m: Module, count: Signal) -> None:
        """Cycles of a tile."""
        job, machine = self.job, self.machine
        with m.If(job.matmul):
            m.d.comb += count.eq(Mux(job.row, machine.lanes, machine.channels))
        with m.Elif(job.single):
            m.d.comb += count.eq(1)
        for w4 in (False, True):
            for row in (False, True):
                with m.Elif((job.w4 == w4) & (job.row == row)):
                    m.d.comb += count.eq(wide_tile_words(machine, w4=w4, row=row))

    def _count_ready(self, m: Module, last: Signal) -> None:
        """Whole tiles that no step has used; F_end + 1 is two cycles after the last word."""
        held, ended = Signal(2), Signal()
        m.d.sync += [ended.eq(last), held.eq(held + ended - self.step_end)]
        m.d.comb += self.ready.eq(held != 0)

    def _weight(self, m: Module, loop: BlockLoop, inside: Signal, active: Signal) -> Value:
        """Tiles follow each other; a block begins with the first one again."""
        following, now = Signal.like(self.job.weights), Signal.like(self.job.weights)
        m.d.comb += now.eq(Mux(loop.restart & ~inside, self.job.weights, following))
        with m.If(active):
            m.d.sync += following.eq(now + 1)
        return now

    def _row(self, m: Module, loop: BlockLoop, word: Signal, active: Signal, last: Signal) -> Value:
        """Word of the row `word` of the group, at the step's channels."""
        job = self.job
        group, row, now = (
            Signal.like(job.ifm2, name=f"{name}_row") for name in ("group", "row", "now")
        )
        m.d.comb += now.eq(Mux(word == 0, group, row))
        with m.If(active):
            m.d.sync += row.eq(now + job.ifm2_sx)
        with m.If(last & loop.last):
            m.d.sync += group.eq(Mux(loop.block_last, job.ifm2, now + job.ifm2_sx))
        with m.If(self.load):
            m.d.sync += group.eq(job.ifm2)
        return now + loop.channel_word

    def _read(self, m: Module, active: Signal, tag: data.View) -> None:
        """Issue the read `delay` cycles later, write the lanes with the data."""
        valid, now = active, tag
        for i in range(self.delay + 1):
            if i == self.delay:
                m.d.comb += [
                    self.weights.en.eq(valid & ~now.matmul),
                    self.weights.address.eq(now.address),
                    self.rows.en.eq(valid & now.matmul & now.exists),
                    self.rows.address.eq(now.address),
                ]
            after = Signal(self._tag(), name=f"tag{i}", reset_less=True)
            there = Signal(name=f"valid{i}")
            m.d.sync += there.eq(valid)
            with m.If(valid):
                m.d.sync += after.eq(now)
            valid, now = there, after
        self._write(m, valid, now)

    def _write(self, m: Module, valid: Signal, tag: data.View) -> None:
        machine = self.machine
        sets = self._sets(m, tag)
        word = self.weights.data
        m.d.comb += self.w_slot.eq(tag.slot)
        for n in range(machine.lanes):
            u, lane = divmod(n, machine.channels)
            takes = Signal(name=f"takes{n}")
            weights = sets[u % _SETS][lane]
            alone = Mux(tag.row, word.word_select(n, 8), word.word_select(lane, 8)).as_signed()
            first = Signal(signed(OPERAND_BITS), name=f"first{n}")
            m.d.comb += [
                takes.eq(self._takes(tag, u, lane)),
                self.w_en[n].eq(valid & takes),
                first.eq(Mux(tag.single, alone, weights[:OPERAND_BITS].as_signed())),
                self.w_data[n].eq(Cat(first, weights[OPERAND_BITS:])),
                self.s_data[n].eq(1),
                self.s_en[n].eq(valid & takes),
            ]
            with m.If(tag.w4):
                self._scale(m, n, valid, tag)

    def _takes(self, tag: data.View, u: int, lane: int) -> Value:
        """Whether the word holds weights of lane (u, lane)."""
        n = u * self.machine.channels + lane
        own_row = Mux(tag.row, tag.word == n, tag.word == lane)
        conv = ~tag.row | (tag.word == Mux(tag.w4, u // _SETS, u))
        return Mux(tag.matmul, own_row, tag.single | conv)

    def _scale(self, m: Module, n: int, valid: Signal, tag: data.View) -> None:
        """The scale bytes follow the numbers of the whole group."""
        machine, word = self.machine, self.weights.data
        lane = n % machine.channels
        place, grid = machine.lanes * WORD_BYTES // 2 + n, machine.channels * WORD_BYTES // 2
        at, byte = divmod(place, machine.weight_port_bytes)
        row_scale = word.word_select(byte, 8)[:SCALE_BITS]
        grid_scale = word.word_select(grid + lane, 8)[:SCALE_BITS]
        m.d.comb += [
            self.s_data[n].eq(Mux(tag.row, row_scale, grid_scale)),
            self.s_en[n].eq(valid & (~tag.row | (tag.word == at))),
        ]

    def _sets(self, m: Module, tag: data.View) -> list[list[Signal]]:
        """32 weights for each lane of a row, for even and odd rows of lanes."""
        machine, word = self.machine, self.weights.data
        row = Signal(WORD_BYTES * OPERAND_BITS)
        m.d.comb += row.eq(
            Cat(
                (self.rows.data.word_select(j, 8).as_signed() - tag.zero2)[:OPERAND_BITS]
                for j in range(WORD_BYTES)
            )
        )
        sets = []
        for parity in range(min(_SETS, machine.positions)):
            lanes = []
            for lane in range(machine.channels):
                weights = Signal(WORD_BYTES * OPERAND_BITS, name=f"weights{parity}_{lane}")
                raw = word.word_select(lane, 8 * WORD_BYTES)
                low = word.word_select(lane, 4 * WORD_BYTES)
                high = word.word_select(machine.channels * parity + lane, 4 * WORD_BYTES)
                numbers = Mux(tag.row, high, low)
                with m.If(tag.matmul):
                    m.d.comb += weights.eq(row)
                with m.Elif(tag.w4):
                    m.d.comb += weights.eq(_extended(numbers, 4))
                with m.Else():
                    m.d.comb += weights.eq(_extended(raw, 8))
                lanes.append(weights)
            sets.append(lanes)
        return sets * (_SETS // len(sets))


def _extended(numbers: Value, bits: int) -> Value:
    """32 signed numbers of `bits` bits, each to the width of an operand."""
    fields = (numbers.word_select(j, bits) for j in range(WORD_BYTES))
    return Cat(Cat(field, *[field[-1]] * (OPERAND_BITS - bits)) for field in fields)
