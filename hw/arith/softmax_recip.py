"""Reciprocal of the sum of a quantised softmax.

Ref: bankside.isa.numerics_npu (`softmax`, `one_over_one_plus_x`); docs/npu.md section 2.
"""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.bits import normalise_left
from bankside.hw.arith.requantise import Srdhm

__all__ = ["SoftmaxReciprocal"]

_INT32_MAX = (1 << 31) - 1
# 48/17 and -32/17 with 29 fraction bits: the linear start of Newton's iteration.
_START, _SLOPE = 1515870810, -1010580540
_ONE = 1 << 29
_ITERATIONS = 3


class SoftmaxReciprocal(wiring.Component):
    """r = 1 / (1 + q) as Q0.31 of sum = (1 + q) * 2^(31 - h), with one multiplier.

    The results are there `STEPS` + 1 cycles after the cycle of `start` and hold until the next.

    Members
    -------
    start : In(1)
        Loads `sum`; may restart a calculation.
    sum : In(32)
        Not 0 (0 gives no meaningful result).
    r : Out(signed(32))
    headroom : Out(5)
        h: leading zeros of the sum.
    e : In(signed(32)), product : Out(signed(32))
        srdhm(r, e), in the same cycle, while no calculation is under way.

    Ref: gemmlowp, one_over_one_plus_x_for_x_in_0_1.
    """

    STEPS = 1 + 2 * _ITERATIONS

    start: In(1)
    sum: In(32)
    r: Out(signed(32))
    headroom: Out(5)
    e: In(signed(32))
    product: Out(signed(32))

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.product = product = Srdhm()
        denominator = Signal(31)  # (1 + q) / 2
        x, rest = Signal(signed(32)), Signal(signed(32))
        step = Signal(range(self.STEPS + 1), init=self.STEPS)
        aligned, zeros = normalise_left(m, self.sum, "sum")
        with m.If(self.start):
            m.d.sync += [denominator.eq(aligned[1:]), self.headroom.eq(zeros), step.eq(0)]
        with m.Elif(step != self.STEPS):
            m.d.sync += step.eq(step + 1)
            m.d.comb += [product.a.eq(denominator), product.b.eq(x)]
            with m.If(step == 0):
                m.d.comb += product.b.eq(_SLOPE)
                m.d.sync += x.eq(product.y + _START)
            with m.Elif(step[0]):
                m.d.sync += rest.eq(_ONE - product.y)
            with m.Else():
                m.d.comb += product.a.eq(rest)
                m.d.sync += x.eq(x + _times(product.y, 2))
        with m.Else():
            m.d.comb += [product.a.eq(self.r), product.b.eq(self.e)]
        m.d.comb += [self.r.eq(_times(x, 1)), self.product.eq(product.y)]
        return m


def _times(value: Signal, shift: int) -> Mux:
    """int32 `value` * 2^shift, saturated."""
    top = value[31 - shift :]
    fits = top.all() | ~top.any()
    limit = Mux(value[31], ~_INT32_MAX, _INT32_MAX)
    return Mux(fits, Cat(C(0, shift), value[: 32 - shift]).as_signed(), limit)
