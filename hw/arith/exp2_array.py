"""Reduced arguments of exp2 in the `array` engine: of the PEs' polynomial, of the lanes' table."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.bits import normalise_left, round_even
from bankside.isa.numerics import EXP2_ZERO_N, SCORE_FRAC_BITS
from bankside.isa.numerics_array import SPLIT_MAX, SPLIT_ZERO_N

ARGUMENT_BITS = SPLIT_MAX.bit_length()


def _fixed(m: Module, x: Value) -> Value:
    """min(trunc(abs(x) * 2^16), 2^23 - 1) of FP32 bits `x`: 7 bits before, 16 after the point."""
    field, shift = x[23:31], Signal(5, name="argument_shift")
    fixed = Signal(ARGUMENT_BITS, name="argument")
    # A significand with exponent 133 begins at 2^6; any lower one is shifted down, and 24 places
    # empty it.
    m.d.comb += shift.eq(Mux(field < 134 - 24, 24, 134 - field))
    with m.If(field >= 134):
        m.d.comb += fixed.eq(SPLIT_MAX)
    with m.Else():
        m.d.comb += fixed.eq(Cat(x[:23], 1) >> shift)
    return fixed


class Exp2Split(wiring.Component):
    """Argument of exp2 as `x ~ f - n`, combinational.

    Members
    -------
    x : In(32)
        FP32 bit pattern, not above zero (the sign is not looked at), or the marker.
    n : Out(7)
        127 stands for the result zero.
    f : Out(32)
        TF32 in [-1/2, 1/2]; zero if n is 127.

    Ref: `bankside.isa.numerics_array.exp2_split`.
    """

    x: Signal
    n: Signal
    f: Signal

    def __init__(self) -> None:
        super().__init__({"x": In(32), "n": Out(7), "f": Out(32)})

    def elaborate(self, platform) -> Module:
        m = Module()
        frac = SCORE_FRAC_BITS
        a, whole = Signal(ARGUMENT_BITS), Signal(8)
        up, rest, packed = Signal(), Signal(frac), Signal(18)
        m.d.comb += [
            a.eq(_fixed(m, self.x)),
            # Rounding up leaves f = n - a above zero, of at most 2^15 units.
            up.eq(a[frac - 1]),
            whole.eq(a[frac:] + up),
            rest.eq(Mux(up, -a[:frac], a[:frac])),
        ]
        shifted, zeros = normalise_left(m, rest, "rest")
        live = (whole < SPLIT_ZERO_N) & (rest != 0)
        m.d.comb += [
            # As in the adder, one less than the exponent: the hidden one adds the rest.
            packed.eq(Cat(C(0, 10), (127 + 15 - frac - 1 - zeros)[:8]) + round_even(shifted, 5)),
            self.n.eq(Mux(whole < SPLIT_ZERO_N, whole, SPLIT_ZERO_N)),
            self.f.eq(Mux(live, Cat(C(0, 13), packed, ~up), 0)),
        ]
        return m


class Distance(wiring.Component):
    """`min(trunc(abs(x) * 2^16), 25 * 2^16)`, split at the point; combinational.

    Members
    -------
    x : In(32)
        FP32 bit pattern, not above zero (the sign is not looked at), or the marker.
    n : Out(5)
        Integer part; 25 for all larger ones and for the marker.
    f : Out(16)
        Fraction; zero if n is 25.

    Ref: `bankside.isa.numerics_array.distance`; `Exp2ToFp16` takes both.
    """

    x: Signal
    n: Signal
    f: Signal

    def __init__(self) -> None:
        super().__init__({"x": In(32), "n": Out(5), "f": Out(16)})

    def elaborate(self, platform) -> Module:
        m = Module()
        a = Signal(ARGUMENT_BITS)
        m.d.comb += [a.eq(_fixed(m, self.x)), self.n.eq(EXP2_ZERO_N)]
        with m.If(a[SCORE_FRAC_BITS:] < EXP2_ZERO_N):
            m.d.comb += [self.n.eq(a[SCORE_FRAC_BITS:]), self.f.eq(a)]
        return m
