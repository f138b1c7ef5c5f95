"""Arithmetic of SOFTMAX. Ref: docs/npu.md section 2."""

from functools import reduce

from amaranth.hdl import Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.requantise import Rdbpot
from bankside.hw.arith.softmax_recip import SoftmaxReciprocal
from bankside.hw.npu.vector.sequencer import Phase, issue_layout
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.numerics_npu import ACCUMULATION_BITS

__all__ = ["SoftmaxUnit"]

_RESULT_SHIFT = ACCUMULATION_BITS + 31 - 8
_LOWEST = -128


def _maximum(a: Value, b: Value) -> Value:
    return Mux(a > b, a, b)


class SoftmaxUnit(wiring.Component):
    """Maximum, sum and results of one position after the other.

    Members
    -------
    valid : In(1), issue : In(issue_layout)
        What was read in the cycle before.
    values, value : In
        Of `Extract`.
    index : Out(8), entry : In(signed(32))
        Port of the table.
    y : Out(signed(32))
        Six cycles after `value` in a RESULT pass: the result before its zero point.
    empty : Out(1)
        The sum is 0.

    The maximum is there 2 cycles after the issue of the last value, the reciprocal
    6 + SoftmaxReciprocal.STEPS cycles after it; a RESULT pass needs it 5 cycles after its issue.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self._rate = machine.vector_rate
        super().__init__(
            {
                "valid": In(1),
                "issue": In(issue_layout(machine)),
                "values": In(data.ArrayLayout(signed(16), self._rate)),
                "value": In(signed(16)),
                "index": Out(8),
                "entry": In(signed(32)),
                "y": Out(signed(32)),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.reciprocal = reciprocal = SoftmaxReciprocal()
        top = self._maximum(m)
        summed, last, exponential = self._exponentials(m, top)
        total = self._sum(m, summed, exponential)
        m.d.comb += [self.empty.eq(total == 0), reciprocal.sum.eq(total)]
        m.d.sync += reciprocal.start.eq(summed & last)
        m.submodules.shift = shift = Rdbpot(6)
        held, scaled = Signal(signed(32)), Signal(signed(32))
        m.d.comb += [
            reciprocal.e.eq(held),
            shift.x.eq(scaled),
            shift.e.eq(_RESULT_SHIFT - reciprocal.headroom),
        ]
        m.d.sync += [held.eq(exponential), scaled.eq(reciprocal.product), self.y.eq(shift.y)]
        return m

    def _maximum(self, m: Module) -> Signal:
        top, highest = Signal(signed(8)), Signal(signed(8))
        lanes = [
            Mux(self.issue.lanes[k], self.values[k][:8].as_signed(), Const(_LOWEST, signed(8)))
            for k in range(self._rate)
        ]
        m.d.comb += highest.eq(reduce(_maximum, lanes))
        with m.If(self.valid & (self.issue.phase == Phase.MAXIMUM)):
            m.d.sync += top.eq(Mux(self.issue.first, highest, _maximum(top, highest)))
        return top

    def _exponentials(self, m: Module, top: Signal) -> tuple[Signal, Signal, Signal]:
        """E of the value of three cycles before; belongs to a SUM pass, is its last."""
        value, distance, exponential = Signal(signed(8)), Signal(8), Signal(signed(32))
        summed, last = Signal(3), Signal(3)
        start = self.valid & (self.issue.phase == Phase.SUM)
        m.d.sync += [summed.eq(Value.cast(summed << 1)[:3] | start)]
        m.d.sync += [last.eq(Value.cast(last << 1)[:3] | self.issue.last)]
        active = self.valid & (self.issue.phase != Phase.MAXIMUM)
        with m.If(active):
            m.d.sync += value.eq(self.value)
        m.d.comb += self.index.eq(distance)
        m.d.sync += [distance.eq(top - value), exponential.eq(self.entry)]
        return summed[2], last[2], exponential

    def _sum(self, m: Module, summed: Signal, exponential: Signal) -> Signal:
        """Sum of a position; starts over with the element after the last one."""
        m.submodules.term = term = Rdbpot()
        total, fresh = Signal(32), Signal(init=1)
        m.d.comb += [term.x.eq(exponential), term.e.eq(ACCUMULATION_BITS)]
        with m.If(summed):
            m.d.sync += [total.eq(Mux(fresh, 0, total) + term.y), fresh.eq(0)]
        with m.If(self.valid & (self.issue.phase == Phase.MAXIMUM)):
            m.d.sync += fresh.eq(1)
        return total
