"""Weight unit of the wide profile: raw8, w4 and rows of MATMUL into the tiles of the lanes."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from bankside.hw.npu.mac.job import geometry_layout, step_job_layout
from bankside.hw.npu.mac.lanes import SCALE_BITS
from bankside.hw.npu.mac.nest import StepNest
from bankside.hw.npu.ports import shared_read, weight_read
from bankside.isa.npu_machine import DEPTH, WORD_BYTES, NpuMachine

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
    w_en, s_en : Out(N), w_slot : Out(1), w_alone : Out(1), s_data : Out(N of 6)
    w_data : Out(1 or 2 of L of 32 weights), w_first : Out(N of 8)
        Writes of the lanes' tiles: 32 weights for a lane of an even or odd row of lanes; with
        `w_alone` (DEPTHWISE) one for each.

    Ref: docs/npu.md sections 3 and 5.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self.machine = machine
        lanes = machine.lanes
        weights = data.ArrayLayout(8 * WORD_BYTES, machine.channels)
        super().__init__(
            {
                "job": In(step_job_layout(machine)),
                "geometry": In(geometry_layout(machine)),
                **dict.fromkeys(("load", "step_end"), In(1)),
                "ready": Out(1),
                "weights": Out(weight_read(machine)),
                "rows": Out(shared_read(machine)),
                **dict.fromkeys(("w_en", "s_en"), Out(lanes)),
                **dict.fromkeys(("w_slot", "w_alone"), Out(1)),
                "w_data": Out(data.ArrayLayout(weights, min(_SETS, machine.positions))),
                "w_first": Out(data.ArrayLayout(8, lanes)),
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
            *(tag[name].eq(job[name]) for name in ("matmul", "single", "row", "w4")),
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
        """Read now; the word is taken apart in the next cycle and goes to the lanes after it.

        A step's tile is read for the last time up to U - 1 cycles after its end, and for the first
        time two cycles after F_end: no sooner and no later may it be overwritten.
        """
        m.d.comb += [
            self.weights.en.eq(active & ~tag.matmul),
            self.weights.address.eq(tag.address),
            self.rows.en.eq(active & tag.matmul & tag.exists),
            self.rows.address.eq(tag.address),
        ]
        arrived, here = Signal(), Signal(self._tag(), reset_less=True)
        m.d.sync += arrived.eq(active)
        with m.If(active):
            m.d.sync += here.eq(tag)
        m.d.sync += [self.w_en.eq(0), self.s_en.eq(0)]
        with m.If(arrived):
            self._take_apart(m, here)

    def _take_apart(self, m: Module, tag: data.View) -> None:
        """Registers towards the lanes, where rows of the same parity share them."""
        machine, word = self.machine, self.weights.data
        m.d.sync += self.w_slot.eq(tag.slot)
        for n in range(machine.lanes):
            u, lane = divmod(n, machine.channels)
            weights = self.w_data[u % _SETS][lane]
            if u < _SETS:
                m.d.sync += weights.eq(self._set(tag, u, lane))
            first = word.word_select(lane, 8)
            takes, (scale, scaled) = Signal(name=f"takes{n}"), self._scale(n, tag)
            m.d.comb += takes.eq(self._takes(tag, u, lane))
            m.d.sync += [
                self.w_en[n].eq(takes),
                self.w_alone.eq(tag.single),
                self.w_first[n].eq(Mux(tag.row, word.word_select(n, 8), first)),
                self.s_en[n].eq(Mux(tag.w4, scaled, takes)),
                self.s_data[n].eq(Mux(tag.w4, scale, 1)),
            ]

    def _takes(self, tag: data.View, u: int, lane: int) -> Value:
        """Whether the word holds weights of lane (u, lane)."""
        n = u * self.machine.channels + lane
        own_row = Mux(tag.row, tag.word == n, tag.word == lane)
        conv = ~tag.row | (tag.word == Mux(tag.w4, u // _SETS, u))
        return Mux(tag.matmul, own_row, tag.single | conv)

    def _scale(self, n: int, tag: data.View) -> tuple[Value, Value]:
        """Scale of lane n, and whether the word holds it: behind the numbers of the group."""
        machine, word = self.machine, self.weights.data
        lane = n % machine.channels
        place, grid = machine.lanes * WORD_BYTES // 2 + n, machine.channels * WORD_BYTES // 2
        at, byte = divmod(place, machine.weight_port_bytes)
        row_scale = word.word_select(byte, 8)[:SCALE_BITS]
        grid_scale = word.word_select(grid + lane, 8)[:SCALE_BITS]
        return Mux(tag.row, row_scale, grid_scale), ~tag.row | (tag.word == at)

    def _set(self, tag: data.View, parity: int, lane: int) -> Value:
        """32 weights of a lane in an even or odd row of lanes, as they came: bytes, or (w4) in the
        lower half of each 8 bytes 8 numbers.
        """
        word = self.weights.data
        low = word.word_select(lane, 4 * WORD_BYTES)
        high = word.word_select(self.machine.channels * parity + lane, 4 * WORD_BYTES)
        numbers = Mux(tag.row, high, low)
        parts = [Cat(numbers.word_select(k, 4 * DEPTH), Const(0, 4 * DEPTH)) for k in range(4)]
        raw = word.word_select(lane, 8 * WORD_BYTES)
        return Mux(tag.matmul, self.rows.data, Mux(tag.w4, Cat(parts), raw))
