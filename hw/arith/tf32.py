"""TF32, what the multipliers of the `array` engine take: FP32 whose low 13 bits are zero."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.bits import normalise_left, round_even
from bankside.isa.numerics import FP32_MAX
from bankside.isa.numerics_array import TF32_DROP, TF32_MAX

TF32_BITS = 32 - TF32_DROP
"""Bits of a TF32 that a register has to hold: the upper ones of the FP32 pattern."""


class Decode(wiring.Component):
    """16 bits of a number format as TF32, combinational.

    FP16: every exponent is finite, subnormals are exact. bf16: subnormals become +0, infinities
    and NaN the largest finite TF32 of their sign. Zero is +0.

    Members
    -------
    bits : In(16)
    format : In(1)
        0 FP16, 1 bf16.
    y : Out(32)
        FP32 pattern, low 13 bits zero.

    Ref: `bankside.isa.numerics_array.decode`.
    """

    bits: Signal
    format: Signal
    y: Signal

    def __init__(self) -> None:
        super().__init__({"bits": In(16), "format": In(1), "y": Out(32)})

    def elaborate(self, platform) -> Module:
        m = Module()
        sign, small, large = self.bits[15], Signal(32), Signal(32)
        field, fraction = self.bits[10:15], self.bits[:10]
        shifted, zeros = normalise_left(m, fraction, "subnormal")
        tail = self.bits[:15]
        m.d.comb += [
            small.eq(Cat(C(0, 13), fraction, (field + 112)[:8], sign)),
            large.eq(Cat(C(0, 16), tail, sign)),
        ]
        with m.If(field == 0):
            # fraction * 2^-24, its leading one at bit 9 - zeros.
            m.d.comb += small.eq(Cat(C(0, 14), shifted[:9], (112 - zeros)[:8], sign))
            with m.If(fraction == 0):
                m.d.comb += small.eq(0)
        with m.If(tail[7:] == 255):
            m.d.comb += large.eq(Cat(C(TF32_MAX, 31), sign))
        with m.Elif(tail[7:] == 0):
            m.d.comb += large.eq(0)
        m.d.comb += self.y.eq(Mux(self.format, large, small))
        return m


class ToTf32(wiring.Component):
    """FP32 to TF32, round to nearest even, saturated to the largest finite one; combinational.

    Members
    -------
    x : In(32)
        FP32 bit pattern.
    y : Out(32)
        FP32 pattern, low 13 bits zero.

    Ref: `bankside.isa.numerics_array.to_tf32`.
    """

    x: Signal
    y: Signal

    def __init__(self) -> None:
        super().__init__({"x": In(32), "y": Out(32)})

    def elaborate(self, platform) -> Module:
        m = Module()
        kept = Signal(18)
        m.d.comb += [
            kept.eq(round_even(self.x[:31], TF32_DROP)),
            self.y.eq(
                Cat(
                    C(0, TF32_DROP),
                    Mux(kept[10:] == 255, TF32_MAX >> TF32_DROP, kept),
                    self.x[31],
                )
            ),
        ]
        return m


class Tf32Mul(wiring.Component):
    """`y = a * b`: TF32 operands, exact FP32 product, combinational.

    Below 2^-126 the product is +0, above the largest finite FP32 it is that number.

    Members
    -------
    a, b : In(32)
        FP32 patterns whose low 13 bits are not looked at.
    y : Out(32)
        FP32 bit pattern.

    Ref: `bankside.isa.numerics_array.tf32_mul`.
    """

    a: Signal
    b: Signal
    y: Signal

    def __init__(self) -> None:
        super().__init__({"a": In(32), "b": In(32), "y": Out(32)})

    def elaborate(self, platform) -> Module:
        m = Module()
        product, field = Signal(22), Signal(signed(10))
        fraction, magnitude = Signal(23), Signal(31)
        ea, eb = self.a[23:31], self.b[23:31]
        behind = Cat(C(0, 2), product[:21])
        m.d.comb += [
            product.eq(Cat(self.a[13:23], 1) * Cat(self.b[13:23], 1)),
            # Both factors have their leading one at the top, so it is at bit 20 or 21 here.
            fraction.eq(behind + (behind & (~product[21]).replicate(len(behind)))),
            field.eq(ea + eb - 127 + product[21]),
            magnitude.eq(Mux(field > 254, FP32_MAX, Cat(fraction, field[:8]))),
        ]
        with m.If((ea != 0) & (eb != 0) & (field > 0)):
            m.d.comb += self.y.eq(Cat(magnitude, self.a[31] ^ self.b[31]))
        return m
