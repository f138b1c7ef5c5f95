"""Activations on their way from the shared buffer to the lanes, and the lanes' control."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.npu.mac.lanes import OPERAND_BITS
from bankside.hw.npu.mac.steps import work_layout
from bankside.isa.npu_machine import DEPTH, WORD_BYTES, NpuMachine

__all__ = ["ActivationFeed"]

_PARTS = WORD_BYTES // DEPTH
_INT8_MIN = -128


class ActivationFeed(wiring.Component):
    """Gathers the words of a microblock and hands them out 8 channels at a time.

    Reads of cycle t bring data in t + 1. With the last word of a microblock there, the first part
    of all positions becomes the lanes' operands (at the end of that cycle); the other parts follow
    one per cycle while the next microblock is being read.

    Members
    -------
    work_valid : In(1), work : In(work_layout), word : In(256)
        Cycle of a read; `word` is the data port.
    load : Out(1), slot, part, single, pool, offset, w4, zero2 : Out
        Operands are taken at the end of this cycle.
    multiply, accumulate : Out(1), first, maximum : Out(1), address : Out
        One and two cycles after that.
    averages : Out(1), counts : Out(U)
        With `accumulate`: POOL average, and positions whose input exists.
    x : Out(U of 8 of signed(9))
        Operands, without zero point; 0 (POOL max: the smallest value) where there is no input.

    Ref: docs/npu.md section 5.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self.machine = machine
        shapes = {name: field.shape for name, field in work_layout(machine)}
        flags = ("load", "single", "pool", "multiply", "accumulate", "first", "maximum", "averages")
        operands = data.ArrayLayout(signed(OPERAND_BITS), DEPTH)
        super().__init__(
            {
                "work_valid": In(1),
                "work": In(work_layout(machine)),
                "word": In(8 * WORD_BYTES),
                **dict.fromkeys(flags, Out(1)),
                **dict.fromkeys(("slot", "w4"), Out(1)),
                "zero2": Out(signed(8)),
                "part": Out(range(_PARTS)),
                "offset": Out(shapes["offset"]),
                "address": Out(shapes["address"]),
                "counts": Out(machine.positions),
                "x": Out(data.ArrayLayout(operands, machine.positions)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        arrived, begins = Signal(), Signal()
        layout = work_layout(self.machine)
        fresh, held, now = (Signal(layout, name=n) for n in ("fresh", "held", "now"))
        part, left = Signal(range(_PARTS)), Signal(range(_PARTS))
        m.d.sync += arrived.eq(self.work_valid)
        with m.If(self.work_valid):
            m.d.sync += fresh.eq(self.work)
        m.d.comb += [
            begins.eq(arrived & fresh.last),
            now.eq(Mux(begins, fresh, held)),
            self.load.eq(begins | (left != 0)),
            self.part.eq(Mux(begins, 0, part)),
            *(
                getattr(self, n).eq(now[n])
                for n in ("slot", "single", "pool", "offset", "w4", "zero2")
            ),
        ]
        with m.If(begins):
            m.d.sync += [held.eq(fresh), left.eq(fresh.parts - 1), part.eq(1)]
        with m.Elif(left != 0):
            m.d.sync += [left.eq(left - 1), part.eq(part + 1)]
        words, inside = self._gather(m, arrived, begins, fresh)
        for u in range(self.machine.positions):
            self._operands(m, u, words[u], inside[u], now)
        self._follow(m, now, Cat(inside))
        return m

    def _gather(
        self, m: Module, arrived: Signal, begins: Signal, fresh: data.View
    ) -> tuple[list[Value], list[Value]]:
        """Word and existence of each position, in the cycle of `begins` and after it."""
        words, insides = [], []
        for u in range(self.machine.positions):
            early, here = self.word, fresh.inside
            if u + 1 < self.machine.positions:
                waiting = Signal(8 * WORD_BYTES, name=f"waiting{u}", reset_less=True)
                exists = Signal(name=f"exists{u}", reset_less=True)
                with m.If(arrived & (fresh.position == u)):
                    m.d.sync += [waiting.eq(self.word), exists.eq(fresh.inside)]
                early = Mux(fresh.row, self.word, waiting)
                here = Mux(fresh.row, fresh.inside, exists)
            held = Signal(8 * WORD_BYTES, name=f"held{u}", reset_less=True)
            kept = Signal(name=f"kept{u}", reset_less=True)
            with m.If(begins):
                m.d.sync += [held.eq(early), kept.eq(here)]
            words.append(Mux(begins, early, held))
            insides.append(Mux(begins, here, kept))
        return words, insides

    def _operands(self, m: Module, u: int, word: Value, inside: Value, now: data.View) -> None:
        """8 channels without their zero point."""
        own = Mux(now.row, u, 0)
        part, eight = Signal(range(_PARTS), name=f"part{u}"), Signal(8 * DEPTH, name=f"eight{u}")
        m.d.comb += [
            part.eq(Mux(now.single, now.offset[3:] + own, self.part)),
            eight.eq(word.word_select(part, 8 * DEPTH)),
        ]
        for j in range(DEPTH):
            exists = inside & (now.single | (Cat(Const(j, 3), part) < now.channels))
            value = eight.word_select(j, 8).as_signed() - now.zero
            nothing = Mux(now.maximum, _INT8_MIN, 0)
            with m.If(self.load):
                m.d.sync += self.x[u][j].eq(Mux(exists, value, nothing))

    def _follow(self, m: Module, now: data.View, inside: Value) -> None:
        """Control of the two stages behind the operands."""
        first, maximum, averages = Signal(), Signal(), Signal()
        there = Signal(self.machine.positions)
        address = Signal.like(self.address)
        m.d.sync += [self.multiply.eq(self.load), self.accumulate.eq(self.multiply)]
        with m.If(self.load):
            m.d.sync += [
                first.eq(now.first & (self.part == 0)),
                maximum.eq(now.maximum),
                averages.eq(now.pool & ~now.maximum),
                address.eq(now.address),
                there.eq(inside),
            ]
        with m.If(self.multiply):
            m.d.sync += [
                self.first.eq(first),
                self.maximum.eq(maximum),
                self.averages.eq(averages),
                self.address.eq(address),
                self.counts.eq(there),
            ]
