"""FP16 multiplier with an exact FP32 product."""

from amaranth.hdl import C, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.bits import normalise_left


class Fp16Mul(wiring.Component):
    """`y = a * b`: FP16 operands, exact FP32 product, combinational.

    All exponents are finite and subnormal operands are exact; zero is always +0.

    Members
    -------
    a, b : In(16)
        FP16 bit patterns.
    y : Out(32)
        FP32 bit pattern.

    Ref: `bankside.isa.numerics.fp16_mul`.
    """

    a: Signal
    b: Signal
    y: Signal

    def __init__(self) -> None:
        super().__init__({"a": In(16), "b": In(16), "y": Out(32)})

    def elaborate(self, platform) -> Module:
        m = Module()
        product = Signal(22)
        exponent = Signal(8)
        parts = []
        for bits in (self.a, self.b):
            field = bits[10:15]
            normal = field != 0
            parts.append((Cat(bits[:10], normal), Mux(normal, field, 1)))
        (ma, ea), (mb, eb) = parts
        m.d.comb += product.eq(ma * mb)
        shifted, zeros = normalise_left(m, product, "product")
        # value = product * 2^(ea + eb - 50), its leading one at bit 21 - zeros.  One less than
        # the biased exponent is packed, because the hidden one is added on top of it.
        packed = Cat(C(0, 2), shifted) + Cat(C(0, 23), exponent)
        result = Cat(packed[:31], self.a[15] ^ self.b[15])
        m.d.comb += [
            exponent.eq(ea + eb + (21 - 50 + 126) - zeros),
            self.y.eq(Mux(product == 0, 0, result)),
        ]
        return m
