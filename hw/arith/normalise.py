"""Division of an attention accumulator by the softmax denominator, rounded to FP16."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.bits import round_even
from bankside.isa.numerics import FP16_MAX, RECIP_BITS


class Normalise(wiring.Component):
    """`y = acc * Q * 2^(-1-e)` as FP16: exact product, one rounding; combinational.

    Members
    -------
    acc : In(32)
        FP32 accumulator.
    q : In(26)
        Reciprocal significand, 2^24..2^25.
    e : In(6)
        Its exponent, 0..47.
    y : Out(16)
        FP16, ties to even, subnormals exact, saturated to +-65504; zero is +0.

    Ref: `bankside.isa.numerics.normalise`.
    """

    acc: Signal
    q: Signal
    e: Signal
    y: Signal

    def __init__(self) -> None:
        super().__init__({"acc": In(32), "q": In(RECIP_BITS), "e": In(6), "y": Out(16)})

    def elaborate(self, platform) -> Module:
        m = Module()
        exponent = self.acc[23:31]
        product, aligned, wide = Signal(49), Signal(49), Signal(61)
        biased, extra = Signal(signed(10)), Signal(4)
        field, kept = Signal(5), Signal(12)
        packed, magnitude = Signal(16), Signal(15)
        m.d.comb += [
            # Both factors have their leading one at the top, so it is at bit 47 or 48 here.
            product.eq(Cat(self.acc[:23], 1) * self.q),
            aligned.eq(Mux(product[48], product, Cat(C(0, 1), product))),
            biased.eq(exponent - self.e - Mux(product[48], 88, 89)),
            # A subnormal result is shifted down first; twelve spare bits keep that exact (any
            # larger shift leaves less than half a step and rounds to zero alike).
            extra.eq(Mux(biased > 0, 0, Mux(biased < -11, 12, 1 - biased))),
            wide.eq(Cat(C(0, 12), aligned) >> extra),
            kept.eq(round_even(wide, 50)),
            field.eq(Mux(biased > 31, 31, Mux(biased > 0, biased - 1, 0))),
            packed.eq(Cat(C(0, 10), field) + kept),
            magnitude.eq(Mux(exponent == 0, 0, Mux(packed > FP16_MAX, FP16_MAX, packed))),
            self.y.eq(Cat(magnitude, self.acc[31] & (magnitude != 0))),
        ]
        return m
