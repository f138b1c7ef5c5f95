"""Average of POOL: a pipelined division by the number of inputs."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.requantise import MBQM_LATENCY

__all__ = ["COUNT_BITS", "Average"]

COUNT_BITS = 16
_SUM_BITS = 25
_QUOTIENT_BITS = 8
_PER_STAGE = _QUOTIENT_BITS // MBQM_LATENCY


class Average(wiring.Component):
    """y = total / count, nearest, ties away from zero, as many cycles later as `Mbqm` takes.

    Members
    -------
    i_valid : In(1)
    total : In(signed(25))
        Sum of `count` int8 values.
    count : In(16)
        0: y is 0.
    y : Out(signed(9))

    Ref: `bankside.isa.numerics_npu.average`.
    """

    i_valid: Signal
    total: Signal
    count: Signal
    y: Signal

    def __init__(self) -> None:
        super().__init__(
            {
                "i_valid": In(1),
                "total": In(signed(_SUM_BITS)),
                "count": In(COUNT_BITS),
                "y": Out(signed(_QUOTIENT_BITS + 1)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        rest = Signal(_SUM_BITS)
        m.d.comb += rest.eq(Mux(self.total < 0, -self.total, self.total) + (self.count >> 1))
        valid, count, negative, quotient = self.i_valid, self.count, self.total < 0, None
        for stage in range(MBQM_LATENCY):
            bits = []
            for i in range(_PER_STAGE):
                weight = _QUOTIENT_BITS - 1 - stage * _PER_STAGE - i
                fits = Signal(name=f"fits{weight}")
                after = Signal(_SUM_BITS, name=f"after{weight}")
                m.d.comb += [
                    # A count of 0 divides to 0.
                    fits.eq((rest >= (count << weight)) & (count != 0)),
                    after.eq(Mux(fits, rest - (count << weight), rest)),
                ]
                bits.append(fits)
                rest = after
            found = Cat(*reversed(bits))
            quotient = found if quotient is None else Cat(found, quotient)
            now = [
                Signal(len(value), name=f"{name}{stage}", reset_less=True)
                for name, value in (
                    ("rest", rest),
                    ("count", count),
                    ("negative", negative),
                    ("quotient", quotient),
                )
            ]
            there = Signal(name=f"valid{stage}")
            m.d.sync += there.eq(valid)
            with m.If(valid):
                values = (rest, count, negative, quotient)
                m.d.sync += [a.eq(b) for a, b in zip(now, values, strict=True)]
            valid, (rest, count, negative, quotient) = there, now
        m.d.comb += self.y.eq(Mux(negative, -quotient, quotient))
        return m
