"""Inverse square root and the mean for the norms of the `npu` engine, digit by digit.

Ref: docs/npu.md section 2; bankside.isa.numerics_npu (`inverse_sqrt`, `norm`).
"""

from amaranth.hdl import C, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["FloorDivide", "InverseSqrt"]

_ARGUMENT_BITS = 62
_ROOT_BITS = 17
_SCALE = 92


class InverseSqrt(wiring.Component):
    """1 / sqrt(s) = r * 2^(e/2 - 46); one bit of r per cycle.

    r is the largest integer with r^2 * S' <= 2^92, S' = s << e: no division comes before the root.
    The results are there `STEPS` + 1 cycles after the cycle of `start`, and hold until the next.

    Members
    -------
    start : In(1)
        Loads `s`; may restart a calculation.
    s : In(62)
        At least 1.
    r : Out(17)
    half_e : Out(6)
        e / 2, 0..30.

    Ref: `bankside.isa.numerics_npu.inverse_sqrt`.
    """

    STEPS = _ROOT_BITS

    start: In(1)
    s: In(_ARGUMENT_BITS)
    r: Out(_ROOT_BITS)
    half_e: Out(6)

    def elaborate(self, platform) -> Module:
        m = Module()
        width = _SCALE + 2
        # Before the step of bit k: rest = 2^92 - r^2 S', double = r S' 2^(k+1), square = S' 2^2k,
        # so that the bit adds double + square to r^2 S'.
        rest, double, square = (Signal(width, name=n) for n in ("rest", "double", "square"))
        left = Signal(range(_ROOT_BITS + 1))
        trial, fits = Signal(width), Signal()
        aligned, pairs = self._align(m)
        m.d.comb += [trial.eq(double + square), fits.eq(rest >= trial)]
        with m.If(self.start):
            m.d.sync += [
                rest.eq(1 << _SCALE),
                double.eq(0),
                square.eq(aligned << 2 * (_ROOT_BITS - 1)),
                self.half_e.eq(pairs),
                self.r.eq(0),
                left.eq(_ROOT_BITS),
            ]
        with m.Elif(left != 0):
            m.d.sync += [
                rest.eq(Mux(fits, rest - trial, rest)),
                double.eq(double[1:] + Mux(fits, square, 0)),
                square.eq(square[2:]),
                self.r.eq(Cat(fits, self.r)),
                left.eq(left - 1),
            ]
        return m

    def _align(self, m: Module) -> tuple[Signal, Cat]:
        """`s` shifted left by pairs of bits until one of its two top bits is set; the pairs."""
        word, count = self.s, []
        for step in (32, 16, 8, 4, 2):
            empty = Signal(name=f"empty{step}")
            moved = Signal(_ARGUMENT_BITS, name=f"by{step}")
            m.d.comb += [
                empty.eq(word[_ARGUMENT_BITS - step :] == 0),
                moved.eq(Mux(empty, Cat(C(0, step), word[: _ARGUMENT_BITS - step]), word)),
            ]
            count.append(empty)
            word = moved
        return word, Cat(*reversed(count))


class FloorDivide(wiring.Component):
    """q = floor(a / b) of unsigned numbers by restoring division; one bit per cycle.

    The result is there `quotient_bits` + 1 cycles after the cycle of `start` and holds until the
    next.

    Parameters
    ----------
    divisor_bits, quotient_bits : `a` must be below b * 2^quotient_bits.

    Members
    -------
    start : In(1)
    a : In(divisor_bits + quotient_bits)
    b : In(divisor_bits)
        Not 0; must not change until the result is there.
    q : Out(quotient_bits)
    """

    def __init__(self, divisor_bits: int, quotient_bits: int) -> None:
        self._bits = quotient_bits
        super().__init__(
            {
                "start": In(1),
                "a": In(divisor_bits + quotient_bits),
                "b": In(divisor_bits),
                "q": Out(quotient_bits),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        rest, left = Signal(len(self.b)), Signal(range(self._bits + 1))
        doubled, fits = Signal(len(self.b) + 1), Signal()
        m.d.comb += [doubled.eq(Cat(self.q[-1], rest)), fits.eq(doubled >= self.b)]
        with m.If(self.start):
            # The dividend leaves `q` at the top while the quotient comes in at the bottom.
            m.d.sync += [Cat(self.q, rest).eq(self.a), left.eq(self._bits)]
        with m.Elif(left != 0):
            m.d.sync += [
                rest.eq(Mux(fits, doubled - self.b, doubled)),
                self.q.eq(Cat(fits, self.q)),
                left.eq(left - 1),
            ]
        return m
