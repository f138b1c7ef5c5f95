"""Parts of a lane: running maximum, sums, division."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.compare import above
from bankside.hw.arith.fp32 import Fp32Add, ScaleDown
from bankside.hw.arith.lane_units import Ceil32, Denominator, Mulq, Step
from bankside.hw.arith.recip import Reciprocal
from bankside.hw.array.words import LaneOp, lane_layout, mode_layout
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.numerics import DENOM_FRAC_BITS, RECIP_BITS
from bankside.isa.numerics_array import MARKER


def _larger(a: Value, b: Value) -> Value:
    return Mux(above(a, b), a, b)


class LaneMaximum(wiring.Component):
    """Running maximum m, its copies per tag and per chunk, and the rescale steps.

    Members
    -------
    control : In(lane_layout), mode : In(mode_layout)
    x : In(32)
        MAX: the partial sum; SCORE: the decoded score.
    m : Out(32)
        MAX: the maximum from the end of this cycle on.
    reference : Out(32)
        EXP: the maximum from which scores are counted.
    k : Out(8)
        Rescale step of the tag.

    Ref: docs/array.md section 3.
    """

    x: Signal
    m: Signal
    reference: Signal
    k: Signal

    def __init__(self, machine: ArrayMachine) -> None:
        self.tags, self.chunks = machine.tags, machine.config.array.chunk_words
        super().__init__(
            {
                "control": In(lane_layout(machine)),
                "mode": In(mode_layout()),
                "x": In(32),
                "m": Out(32),
                "reference": Out(32),
                "k": Out(8),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.add, m.submodules.step = add, step = Fp32Add(), Step()
        m.submodules.chunks = chunks = Memory(shape=32, depth=self.chunks, init=[])
        read, write = chunks.read_port(domain="comb"), chunks.write_port()
        control, mode = self.control, self.mode
        maximum = Signal(32)
        snapshots = Array(Signal(32, name=f"msnap{i}") for i in range(self.tags))
        steps = Array(Signal(8, name=f"k{i}") for i in range(self.tags))
        old, new, ends = self._merge(m, maximum)
        minus = Signal(32)
        m.d.comb += [
            read.addr.eq(control.chunk),
            write.addr.eq(control.chunk),
            write.data.eq(new),
            self.m.eq(new),
            self.k.eq(steps[control.tag]),
            self.reference.eq(Mux(mode.chunked, snapshots[control.tag], maximum)),
            add.b.eq(Cat(minus[:31], ~minus[31])),
            step.difference.eq(add.y),
        ]
        with m.Switch(control.op):
            with m.Case(LaneOp.MAX, LaneOp.SCORE):
                m.d.comb += [add.a.eq(new), minus.eq(old), step.new.eq(new), step.old.eq(old)]
                m.d.sync += maximum.eq(new)
            with m.Case(LaneOp.STEP):
                m.d.comb += [add.a.eq(maximum), minus.eq(read.data)]
                m.d.comb += [step.new.eq(maximum), step.old.eq(read.data)]
                with m.If(mode.correct | ~mode.chunked):
                    m.d.sync += steps[control.tag].eq(Mux(mode.correct, step.k, 0))
        with m.If(ends):
            m.d.sync += steps[control.tag].eq(step.k)
        with m.If(ends & (control.op == LaneOp.SCORE)):
            m.d.comb += write.en.eq(1)
            m.d.sync += snapshots[control.tag].eq(new)
        return m

    def _merge(self, m: Module, maximum: Signal) -> tuple[Signal, Signal, Signal]:
        """(Maximum before, maximum after, whether a tile ends) for MAX and SCORE."""
        m.submodules.ceil = ceil = Ceil32()
        control = self.control
        tile = Signal(32, reset_less=True)
        old, new, ends = Signal(32), Signal(32), Signal()
        highest = Signal(32)
        m.d.comb += [ceil.x.eq(MARKER), old.eq(maximum), highest.eq(ceil.y), new.eq(maximum)]
        with m.If((control.op == LaneOp.MAX) | (control.op == LaneOp.SCORE)):
            m.d.comb += [ceil.x.eq(self.x), new.eq(_larger(old, highest))]
        with m.If(control.op == LaneOp.MAX):
            m.d.comb += [ends.eq(1), old.eq(Mux(control.first, MARKER, maximum))]
        with m.Elif((control.op == LaneOp.SCORE) & self.mode.chunked):
            m.d.comb += [ends.eq(control.end), old.eq(Mux(control.first, MARKER, maximum))]
            m.d.comb += highest.eq(Mux(control.begin, ceil.y, _larger(ceil.y, tile)))
            m.d.sync += tile.eq(highest)
            with m.If(~control.end):
                m.d.comb += new.eq(maximum)
        with m.Elif(control.op == LaneOp.SCORE):
            m.d.comb += old.eq(Mux(control.first & control.begin, MARKER, maximum))
        return old, new, ends


class LaneSums(wiring.Component):
    """Denominator l and two sets of accumulators behind one scaling unit and one adder.

    Members
    -------
    control : In(lane_layout), mode : In(mode_layout)
    psum : In(32)
        DENOMINATOR and ACCUMULATE: what is added.
    p : In(32)
        EXP: what is added.
    k : In(8)
        Rescale step of the tag.
    l : Out(32)
        Denominator.
    numerator : Out(32)
        Accumulator that `control` names.

    Ref: docs/array.md section 3.
    """

    psum: Signal
    p: Signal
    k: Signal
    l: Signal  # noqa: E741
    numerator: Signal

    def __init__(self, machine: ArrayMachine) -> None:
        self.words = machine.config.array.lane_words
        super().__init__(
            {
                "control": In(lane_layout(machine)),
                "mode": In(mode_layout()),
                "psum": In(32),
                "p": In(32),
                "k": In(8),
                "l": Out(32),
                "numerator": Out(32),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.scale, m.submodules.add = scale, add = ScaleDown(), Fp32Add()
        control = self.control
        # The second set begins at a power of two, so that its address needs no adder.
        depth = (1 << len(control.index)) + self.words
        m.submodules.numerators = cells = Memory(shape=32, depth=depth, init=[])
        read, write = cells.read_port(domain="comb"), cells.write_port()
        place = Cat(control.index, control.set)
        kept = Signal(32)
        m.d.comb += [
            read.addr.eq(place),
            write.addr.eq(place),
            write.data.eq(add.y),
            self.numerator.eq(read.data),
            scale.k.eq(self.k),
            add.a.eq(Mux(control.first, 0, kept)),
        ]
        with m.Switch(control.op):
            with m.Case(LaneOp.DENOMINATOR):
                m.d.comb += [scale.a.eq(self.l), kept.eq(scale.y), add.b.eq(self.psum)]
                m.d.sync += self.l.eq(add.y)
            with m.Case(LaneOp.EXP):
                rescale = control.begin & self.mode.chunked
                m.d.comb += [scale.a.eq(self.l), kept.eq(Mux(rescale, scale.y, self.l))]
                m.d.comb += add.b.eq(self.p)
                with m.If(~control.begin):
                    m.d.comb += add.a.eq(self.l)
                m.d.sync += self.l.eq(add.y)
            with m.Case(LaneOp.ACCUMULATE):
                m.d.comb += write.en.eq(1)
                with m.If(self.mode.correct):
                    m.d.comb += [scale.a.eq(self.psum), add.b.eq(scale.y), kept.eq(read.data)]
                with m.Else():
                    m.d.comb += [scale.a.eq(read.data), kept.eq(scale.y), add.b.eq(self.psum)]
        return m


class LaneDivider(wiring.Component):
    """Multiplies by the reciprocal of a denominator, which a divider finds bit by bit.

    Members
    -------
    control : In(lane_layout)
        RECIPROCAL starts the divider, ONE sets the divisor 1.
    l : In(32)
        Denominator, read in the cycle of RECIPROCAL.
    x : In(32), y : Out(32)
        Dividend and quotient, FP32.

    Ref: docs/array.md section 3.
    """

    l: Signal  # noqa: E741
    x: Signal
    y: Signal

    def __init__(self, machine: ArrayMachine) -> None:
        self.bits = machine.config.array.divider_bits
        super().__init__(
            {"control": In(lane_layout(machine)), "l": In(32), "x": In(32), "y": Out(32)}
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.denominator = denominator = Denominator()
        m.submodules.divider = divider = Reciprocal(self.bits)
        m.submodules.mulq = mulq = Mulq()
        one = Signal()
        m.d.comb += [
            denominator.x.eq(self.l),
            divider.denom.eq(denominator.y),
            divider.ce.eq(1),
            mulq.x.eq(self.x),
            mulq.q.eq(Mux(one, 1 << RECIP_BITS - 1, divider.q)),
            mulq.e.eq(Mux(one, DENOM_FRAC_BITS, divider.e)),
            self.y.eq(mulq.y),
        ]
        with m.If(self.control.op == LaneOp.RECIPROCAL):
            m.d.comb += divider.start.eq(1)
            m.d.sync += one.eq(0)
        with m.Elif(self.control.op == LaneOp.ONE):
            m.d.sync += one.eq(1)
        return m
