"""FP32 adder and exact scaling by powers of two."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.bits import normalise_left, round_even, select
from bankside.isa.numerics import FP32_MAX

ALIGN = 26
"""Largest alignment shift that matters.

The smaller operand shifted by 26 lies below a quarter unit of the larger one, which is half a unit
even after a cancellation by one place; any larger shift rounds the same way.  The sum of both is
therefore exact in 24 + 26 + 1 bits, without guard, round and sticky bits.
"""


class Fp32Add(wiring.Component):
    """`y = a + b` in FP32, round to nearest even, combinational.

    Operands are normal numbers or +0 (a zero exponent field reads as zero).  Exact zero is +0,
    results below 2^-126 become +0, results above the largest finite number become it.

    Members
    -------
    a, b : In(32)
        FP32 bit patterns.
    y : Out(32)
        FP32 bit pattern.

    Ref: `bankside.isa.numerics.fp32_add`.
    """

    a: Signal
    b: Signal
    y: Signal

    def __init__(self) -> None:
        super().__init__({"a": In(32), "b": In(32), "y": Out(32)})

    def elaborate(self, platform) -> Module:
        m = Module()
        swap = Signal()
        big, small = Signal(32), Signal(32)
        distance, shift = Signal(8), Signal(range(ALIGN + 1))
        live, zero, opposite = Signal(), Signal(), Signal()
        large, tail = Signal(24 + ALIGN), Signal(24 + ALIGN)
        total = Signal(24 + ALIGN + 1)
        exponent, packed, limited = Signal(9), Signal(32), Signal(31)
        m.d.comb += [
            swap.eq(self.a[:31] < self.b[:31]),
            big.eq(select(swap, self.b, self.a)),
            small.eq(select(swap, self.a, self.b)),
            distance.eq(big[23:31] - small[23:31]),
            live.eq(small[23:31] != 0),
            shift.eq(Mux(distance > ALIGN, ALIGN, distance)),
            large.eq(Cat(C(0, ALIGN), big[:23], 1)),
            tail.eq(Cat(C(0, ALIGN), small[:23] & live.replicate(23), live) >> shift),
            opposite.eq(big[31] ^ small[31]),
            # Minus `tail` in two's complement.
            total.eq(large + (Cat(tail, 0) ^ opposite.replicate(len(total))) + opposite),
        ]
        shifted, zeros = normalise_left(m, total, "total")
        m.d.comb += [
            # As in the multiplier, one less than the exponent: the hidden one adds the rest.
            exponent.eq(big[23:31] - zeros),
            packed.eq(Cat(C(0, 23), exponent) + round_even(shifted, ALIGN + 1)),
            zero.eq((big[23:31] == 0) | (total == 0) | exponent[8]),
            limited.eq(Mux(packed[23:31] == 255, FP32_MAX, packed[:31])),
            self.y.eq(Mux(zero, 0, Cat(limited, big[31]))),
        ]
        return m


class ScaleDown(wiring.Component):
    """`y = a * 2^-k`: exact, or +0 where the exponent would fall below 1; combinational.

    Members
    -------
    a : In(32)
        FP32 bit pattern.
    k : In(8)
        Exponent step; 255 always gives +0.
    y : Out(32)
        FP32 bit pattern.

    Ref: `bankside.isa.numerics.fp32_scale_down`.
    """

    a: Signal
    k: Signal
    y: Signal

    def __init__(self) -> None:
        super().__init__({"a": In(32), "k": In(8), "y": Out(32)})

    def elaborate(self, platform) -> Module:
        m = Module()
        field = self.a[23:31]
        scaled = Cat(self.a[:23], (field - self.k)[:8], self.a[31])
        m.d.comb += self.y.eq(Mux(field > self.k, scaled, 0))
        return m


def order_key(bits: Value) -> Value:
    """FP32 bits -> 32-bit key; unsigned order of keys is the order of the numbers.

    Ref: `bankside.isa.numerics.order_key`.
    """
    return Cat(bits[:31] ^ bits[31].replicate(31), ~bits[31])


def order_unkey(key: Value) -> Value:
    """Inverse of `order_key`.

    Ref: `bankside.isa.numerics.order_unkey`.
    """
    return Cat(key[:31] ^ (~key[31]).replicate(31), ~key[31])
