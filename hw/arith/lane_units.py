"""What the lanes of the `array` engine do besides adding: rounding, integers, division."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.bits import round_even
from bankside.isa.numerics import DENOM_BITS, FP16_MAX, FP32_MAX, RECIP_BITS, SCALE_CLEAR
from bankside.isa.numerics_array import BF16_MAX, MARKER, ONE


class Ceil32(wiring.Component):
    """Smallest integer not below `x`, as FP32; the marker stays, zero is +0; combinational.

    Members
    -------
    x : In(32), y : Out(32)
        FP32 bit patterns.

    Ref: `bankside.isa.numerics_array.ceil32`.
    """

    x: Signal
    y: Signal

    def __init__(self) -> None:
        super().__init__({"x": In(32), "y": Out(32)})

    def elaborate(self, platform) -> Module:
        m = Module()
        field, sign = self.x[23:31], self.x[31]
        places, unit = Signal(5), Signal(24)
        below, magnitude = Signal(23), Signal(31)
        m.d.comb += [places.eq(150 - field), unit.eq(1 << places), below.eq(unit - 1)]
        # Adding one unit to the pattern carries into the exponent where it has to.
        up = Mux(~sign & ((self.x[:23] & below) != 0), unit, 0)
        m.d.comb += magnitude.eq(Cat(self.x[:23] & ~below, field) + up)
        with m.If(field >= 150):
            m.d.comb += self.y.eq(self.x)
        with m.Elif(field >= 127):
            m.d.comb += self.y.eq(Cat(magnitude, sign))
        with m.Elif((field != 0) & ~sign):
            m.d.comb += self.y.eq(ONE)
        return m


class Round16(wiring.Component):
    """FP32 to 16 bits, nearest even, saturated to the largest finite; zero is +0; combinational.

    Members
    -------
    x : In(32)
        FP32 bit pattern, not the marker.
    format : In(1)
        0 FP16 (subnormals exact, up to 65504), 1 bf16.
    y : Out(16)

    Ref: `bankside.isa.numerics_array.round16`.
    """

    x: Signal
    format: Signal
    y: Signal

    def __init__(self) -> None:
        super().__init__({"x": In(32), "format": In(1), "y": Out(16)})

    def elaborate(self, platform) -> Module:
        m = Module()
        exponent = self.x[23:31]
        biased, extra = Signal(signed(10)), Signal(4)
        wide, kept, field = Signal(36), Signal(12), Signal(5)
        half, brain, magnitude = Signal(16), Signal(16), Signal(15)
        m.d.comb += [
            biased.eq(exponent - 112),
            # A subnormal result is shifted down first; twelve spare bits keep that exact (any
            # larger shift leaves less than half a step and rounds to zero alike).
            extra.eq(Mux(biased > 0, 0, Mux(biased < -11, 12, 1 - biased))),
            wide.eq(Cat(C(0, 12), self.x[:23], 1) >> extra),
            kept.eq(round_even(wide, 25)),
            field.eq(Mux(biased > 31, 31, Mux(biased > 0, biased - 1, 0))),
            half.eq(Cat(C(0, 10), field) + kept),
            brain.eq(round_even(self.x[:31], 16)),
        ]
        with m.If(self.format):
            m.d.comb += magnitude.eq(Mux(brain > BF16_MAX, BF16_MAX, brain))
        with m.Else():
            m.d.comb += magnitude.eq(Mux(half > FP16_MAX, FP16_MAX, half))
        with m.If((exponent != 0) & (magnitude != 0)):
            m.d.comb += self.y.eq(Cat(magnitude, self.x[31]))
        return m


class Step(wiring.Component):
    """Rescale step from the maximum `old` to `new`, combinational.

    Members
    -------
    new, old : In(32)
        Integers as FP32, or the marker; `new` is not below `old`.
    difference : In(32)
        FP32 sum of `new` and -`old`, from an adder that has other uses too.
    k : Out(8)
        0 if equal, 255 if `old` is the marker, else the difference up to 255.

    Ref: `bankside.isa.numerics_array.step`.
    """

    new: Signal
    old: Signal
    difference: Signal
    k: Signal

    def __init__(self) -> None:
        super().__init__({"new": In(32), "old": In(32), "difference": In(32), "k": Out(8)})

    def elaborate(self, platform) -> Module:
        m = Module()
        field = self.difference[23:31]
        down = Signal(3)
        # A difference below 256 is at most 2^7 times its significand in [1, 2).
        m.d.comb += down.eq(134 - field)
        with m.If(self.new == self.old):
            m.d.comb += self.k.eq(0)
        with m.Elif((self.old == MARKER) | (field > 134)):
            m.d.comb += self.k.eq(SCALE_CLEAR)
        with m.Elif(field >= 127):
            m.d.comb += self.k.eq(Cat(self.difference[16:23], 1) >> down)
        return m


class Denominator(wiring.Component):
    """FP32 denominator as fixed point with 24 fraction bits, 1..2^48-1; combinational.

    Members
    -------
    x : In(32)
        FP32 bit pattern, not negative.
    y : Out(48)
        Argument of `Reciprocal`.

    Ref: `bankside.isa.numerics_array.denominator`.
    """

    x: Signal
    y: Signal

    def __init__(self) -> None:
        super().__init__({"x": In(32), "y": Out(DENOM_BITS)})

    def elaborate(self, platform) -> Module:
        m = Module()
        field, down = self.x[23:31], Signal(6)
        m.d.comb += down.eq(150 - field)
        with m.If(field > 150):
            m.d.comb += self.y.eq((1 << DENOM_BITS) - 1)
        with m.Elif(field > 102):
            m.d.comb += self.y.eq(Cat(C(0, 24), self.x[:23], 1) >> down)
        with m.Else():
            m.d.comb += self.y.eq(1)
        return m


class Mulq(wiring.Component):
    """`y = x * q * 2^(-1-e)`: exact product, one rounding to nearest even; combinational.

    Members
    -------
    x : In(32)
        FP32 bit pattern.
    q : In(26)
        Reciprocal significand, 2^24..2^25.
    e : In(6)
        Its exponent, 0..47.
    y : Out(32)
        FP32 bit pattern; below 2^-126 it is +0, above the largest finite number it is that.

    Ref: `bankside.isa.numerics_array.mulq`.
    """

    x: Signal
    q: Signal
    e: Signal
    y: Signal

    def __init__(self) -> None:
        super().__init__({"x": In(32), "q": In(RECIP_BITS), "e": In(6), "y": Out(32)})

    def elaborate(self, platform) -> Module:
        m = Module()
        product, aligned = Signal(49), Signal(49)
        lead, packed, magnitude = Signal(signed(10)), Signal(signed(34)), Signal(31)
        m.d.comb += [
            # Both factors have their leading one at the top, so it is at bit 47 or 48 here.
            product.eq(Cat(self.x[:23], 1) * self.q),
            aligned.eq(Mux(product[48], product, Cat(C(0, 1), product))),
            # One less than the exponent: the hidden one (or a carry) adds the rest.
            lead.eq(self.x[23:31] - self.e + 22 + product[48]),
            packed.eq(Cat(C(0, 23), lead).as_signed() + round_even(aligned, 25)),
            magnitude.eq(Mux(packed > FP32_MAX, FP32_MAX, packed)),
        ]
        with m.If((self.x[23:31] != 0) & (packed >= 1 << 23)):
            m.d.comb += self.y.eq(Cat(magnitude, self.x[31]))
        return m
