"""Reciprocal of a softmax denominator by restoring division."""

from amaranth.hdl import C, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.bits import normalise_left
from bankside.isa.numerics import DENOM_BITS, RECIP_BITS, RECIP_SHIFT


class Reciprocal(wiring.Component):
    """`Q = floor(2^72 / L')`, `L' = denom << (47 - e)`: 1/l = Q * 2^(-1-e); sequential.

    `start` loads `denom` at a clock edge, whatever `ce` is; it may also restart a running
    division.  Each later edge with `ce` set finds `bits_per_step` quotient bits; after `steps`
    such edges `done` rises and `q`, `e` hold until the next start.  With `ce` always set, `done`
    is seen `steps + 1` cycles after the cycle of `start`.

    Parameters
    ----------
    bits_per_step : int
        1..26.  `steps` is 26 / bits_per_step, rounded up.

    Members
    -------
    start, ce : In(1)
    denom : In(48)
        At least 1, read in the cycle of `start`.
    done : Out(1)
    q : Out(26)
    e : Out(6)

    Raises
    ------
    ValueError
        `bits_per_step` is out of range.

    Ref: `bankside.isa.numerics.reciprocal`.
    """

    start: Signal
    ce: Signal
    denom: Signal
    done: Signal
    q: Signal
    e: Signal

    def __init__(self, bits_per_step: int = 1) -> None:
        if not 1 <= bits_per_step <= RECIP_BITS:
            raise ValueError(
                f"Reciprocal: bits_per_step = {bits_per_step!r}, expected 1..{RECIP_BITS}"
            )
        self.bits_per_step = bits_per_step
        self.steps = -(-RECIP_BITS // bits_per_step)
        super().__init__(
            {
                "start": In(1),
                "ce": In(1),
                "denom": In(DENOM_BITS),
                "done": Out(1),
                "q": Out(RECIP_BITS),
                "e": Out(6),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        # When the steps yield more than 26 bits, the dividend starts lower by the surplus, and
        # the surplus bits come out as leading zeros.
        surplus = self.steps * self.bits_per_step - RECIP_BITS
        first = 1 << (RECIP_SHIFT - RECIP_BITS - surplus)
        divisor, rest = Signal(DENOM_BITS), Signal(DENOM_BITS)
        left = Signal(range(self.steps + 1))
        aligned, zeros = normalise_left(m, self.denom, "denom")
        quotient, remainder = self.q, rest
        for i in range(self.bits_per_step):
            doubled = Cat(C(0, 1), remainder)
            fits = Signal(name=f"fits{i}")
            remainder = Signal(DENOM_BITS, name=f"rest{i}")
            m.d.comb += [
                fits.eq(doubled >= divisor),
                remainder.eq(Mux(fits, doubled - divisor, doubled)),
            ]
            quotient = Cat(fits, quotient)
        with m.If(self.start):
            m.d.sync += [
                divisor.eq(aligned),
                self.e.eq(DENOM_BITS - 1 - zeros),
                rest.eq(first),
                left.eq(self.steps),
                self.q.eq(0),
                self.done.eq(0),
            ]
        with m.Elif(self.ce & (left != 0)):
            m.d.sync += [
                rest.eq(remainder),
                self.q.eq(quotient),
                left.eq(left - 1),
                self.done.eq(left == 1),
            ]
        return m
