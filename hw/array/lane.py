"""One lane of the 1D array, below a column of the 2D array."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.exp2 import Exp2ToFp16
from bankside.hw.arith.exp2_array import Distance
from bankside.hw.arith.fp32 import Fp32Add
from bankside.hw.arith.lane_units import Round16
from bankside.hw.arith.tf32 import Decode
from bankside.hw.array.edge import return_layout
from bankside.hw.array.lane_parts import LaneDivider, LaneMaximum, LaneSums
from bankside.hw.array.words import LaneOp, lane_layout, mode_layout
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.numerics_array import FP16, MARKER, SCORE_MARKER


class Lane(wiring.Component):
    """Running maximum, denominator and numerators of one column; every word takes one cycle.

    Members
    -------
    control : In(lane_layout), control_out : Out(lane_layout)
        Of this cycle; of the cycle before, for the lane to the right.
    mode : In(mode_layout)
    psum : In(32)
        Partial sum of the column.
    back_valid : Out(1), back : Out(return_layout)
        What goes back to the top, one cycle after `control`.

    Ref: docs/array.md sections 1 and 3.
    """

    psum: Signal
    back_valid: Signal

    def __init__(self, machine: ArrayMachine) -> None:
        self.machine = machine
        layout = lane_layout(machine)
        super().__init__(
            {
                "control": In(layout),
                "control_out": Out(layout),
                "mode": In(mode_layout()),
                "psum": In(32),
                "back_valid": Out(1),
                "back": Out(return_layout(machine)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        machine, control = self.machine, self.control
        m.submodules.maximum = maximum = LaneMaximum(machine)
        m.submodules.sums = sums = LaneSums(machine)
        m.submodules.divider = divider = LaneDivider(machine)
        m.submodules.decode = decode = Decode()
        m.d.sync += self.control_out.eq(control)
        exponential = self._exponential(m, maximum.reference)
        marked = Signal()
        m.d.comb += marked.eq(self.psum == MARKER)
        element = self._element(m, marked, exponential, divider.y)
        for part in (maximum, sums, divider):
            m.d.comb += part.control.eq(control)
        m.d.comb += [
            maximum.mode.eq(self.mode),
            sums.mode.eq(self.mode),
            sums.psum.eq(self.psum),
            sums.p.eq(decode.y),
            sums.k.eq(maximum.k),
            divider.l.eq(sums.l),
            decode.bits.eq(element),
            decode.format.eq(self.mode.format),
        ]
        with m.Switch(control.op):
            with m.Case(LaneOp.SCORE):
                m.d.comb += maximum.x.eq(Mux(marked, MARKER, decode.y))
            with m.Case(LaneOp.MAX, LaneOp.EXP):
                m.d.comb += maximum.x.eq(self.psum)
            with m.Case(LaneOp.DIVIDE):
                m.d.comb += divider.x.eq(self.psum)
            with m.Case(LaneOp.RESULT):
                m.d.comb += divider.x.eq(sums.numerator)
        self._send_back(m, maximum.m, element)
        return m

    def _exponential(self, m: Module, reference: Signal) -> Signal:
        """2^(psum - reference) as FP32, rounded to FP16; zero for a masked score."""
        # Not the adder of the rescale step, which lies behind the rounding of SCORE: sharing it
        # would close a loop.
        m.submodules.below, m.submodules.distance = below, distance = Fp32Add(), Distance()
        m.submodules.exp2, m.submodules.widen = exp2, widen = Exp2ToFp16(), Decode()
        m.d.comb += [
            distance.x.eq(MARKER),
            exp2.n.eq(distance.n),
            exp2.f.eq(distance.f),
            widen.bits.eq(exp2.p),
            widen.format.eq(FP16),
        ]
        with m.If((self.control.op == LaneOp.EXP) & (self.psum != MARKER)):
            m.d.comb += [below.a.eq(self.psum), distance.x.eq(below.y)]
            m.d.comb += below.b.eq(Cat(reference[:31], ~reference[31]))
        return widen.y

    def _element(self, m: Module, marked: Signal, exponential: Signal, quotient: Signal) -> Signal:
        """The 16 bits that this cycle yields."""
        m.submodules.round = rounding = Round16()
        op = self.control.op
        m.d.comb += rounding.format.eq(self.mode.format)
        with m.Switch(op):
            with m.Case(LaneOp.SCORE):
                m.d.comb += rounding.x.eq(self.psum)
            with m.Case(LaneOp.EXP):
                m.d.comb += rounding.x.eq(exponential)
            with m.Case(LaneOp.DIVIDE, LaneOp.RESULT):
                m.d.comb += rounding.x.eq(quotient)
        element = Signal(16)
        m.d.comb += element.eq(rounding.y)
        with m.If(marked & (op == LaneOp.SCORE)):
            m.d.comb += element.eq(Mux(self.mode.format, SCORE_MARKER[1], SCORE_MARKER[0]))
        return element

    def _send_back(self, m: Module, maximum: Signal, element: Signal) -> None:
        control, back = self.control, self.back
        m.d.sync += self.back_valid.eq(0)
        with m.Switch(control.op):
            with m.Case(LaneOp.MAX):
                m.d.sync += [self.back_valid.eq(1), back.maximum.eq(1), back.place.eq(control.tag)]
                # The sign of a zero means nothing to the adder that will see this.
                m.d.sync += back.value.eq(maximum ^ (1 << 31))
            with m.Case(LaneOp.SCORE, LaneOp.EXP, LaneOp.DIVIDE, LaneOp.RESULT):
                m.d.sync += [self.back_valid.eq(1), back.maximum.eq(0)]
                m.d.sync += [back.place.eq(control.element), back.value.eq(element)]
