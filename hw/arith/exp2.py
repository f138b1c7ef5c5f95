"""Softmax terms: scores to fixed point, distance from the maximum, 2^-x as FP16."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.bits import round_even
from bankside.isa import numerics

SCORE = signed(numerics.SCORE_FIXED_BITS)
INTEGER = signed(numerics.SCORE_INT_BITS)


def _floor_shift(m: Module, s: Value, negate: bool, frac_bits: int, name: str) -> Value:
    """floor(+-s * 2^frac_bits) of FP32 bits `s`, as a signed word.

    The signed significand is placed where the largest legal score (exponent 169) has it and
    shifted down arithmetically, which is a floor.  63 places empty any word, so the shift is
    clamped there.
    """
    lift = numerics.SCORE_EXP_MAX - 150 + frac_bits
    field, live = s[23:31], s[23:31] != 0
    significand = Signal(24, name=f"{name}_significand")
    placed = Signal(signed(25 + lift), name=f"{name}_placed")
    down = Signal(8, name=f"{name}_down")
    shift = Signal(6, name=f"{name}_shift")
    negative = ~s[31] if negate else s[31]
    m.d.comb += [
        significand.eq(Cat(s[:23] & live.replicate(23), live)),
        placed.eq(Cat(C(0, lift), Mux(negative, -significand, significand))),
        down.eq(numerics.SCORE_EXP_MAX - field),
        shift.eq(Mux(down > 63, 63, down)),
    ]
    return placed >> shift


class ScoreToFixed(wiring.Component):
    """`fixed = floor(s * 2^16)`, combinational.

    Members
    -------
    s : In(32)
        FP32 score, magnitude below 2^43.
    fixed : Out(signed(60))

    Ref: `bankside.isa.numerics.score_to_fixed`.
    """

    s: Signal
    fixed: Signal

    def __init__(self) -> None:
        super().__init__({"s": In(32), "fixed": Out(SCORE)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.d.comb += self.fixed.eq(_floor_shift(m, self.s, False, numerics.SCORE_FRAC_BITS, "score"))
        return m


class CeilInt(wiring.Component):
    """`ceil = ceil(s)`, combinational; it turns the running maximum into an integer.

    Members
    -------
    s : In(32)
        FP32 score, magnitude below 2^43.
    ceil : Out(signed(44))

    Ref: `bankside.isa.numerics.ceil_int`.
    """

    s: Signal
    ceil: Signal

    def __init__(self) -> None:
        super().__init__({"s": In(32), "ceil": Out(INTEGER)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.d.comb += self.ceil.eq(-_floor_shift(m, self.s, True, 0, "score"))
        return m


class SoftmaxDistance(wiring.Component):
    """First stage of a softmax term: how far the score lies below the maximum; combinational.

    Members
    -------
    maximum : In(signed(44))
        Integer maximum, at least `s`.
    s : In(32)
        FP32 score, magnitude below 2^43.
    n : Out(5)
        Integer part of `maximum - floor16(s)`, 25 standing for all larger ones.
    f : Out(16)
        Its 16 fraction bits.

    Ref: `bankside.isa.numerics.softmax_distance`.
    """

    maximum: Signal
    s: Signal
    n: Signal
    f: Signal

    def __init__(self) -> None:
        super().__init__({"maximum": In(INTEGER), "s": In(32), "n": Out(5), "f": Out(16)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.to_fixed = to_fixed = ScoreToFixed()
        frac = numerics.SCORE_FRAC_BITS
        distance = Signal(numerics.SCORE_FIXED_BITS + 1)
        whole = distance[frac:]
        m.d.comb += [
            to_fixed.s.eq(self.s),
            distance.eq(Cat(C(0, frac), self.maximum).as_signed() - to_fixed.fixed),
            self.n.eq(Mux(whole >= numerics.EXP2_ZERO_N, numerics.EXP2_ZERO_N, whole)),
            self.f.eq(distance),
        ]
        return m


class Exp2ToFp16(wiring.Component):
    """Second stage of a softmax term: `p = 2^-(n + f/65536)`; combinational.

    Members
    -------
    n : In(5)
        Integer part; from 25 on the result is zero.
    f : In(16)
        Fraction.
    p : Out(16)
        FP16, rounded to nearest even, subnormals included.
    p24 : Out(25)
        The same number times 2^24, for the denominator.

    Ref: `bankside.isa.numerics.exp2_to_fp16`, `p24`.
    """

    n: Signal
    f: Signal
    p: Signal
    p24: Signal

    def __init__(self) -> None:
        super().__init__({"n": In(5), "f": In(16), "p": Out(16), "p24": Out(25)})

    def elaborate(self, platform) -> Module:
        m = Module()
        table = numerics.EXP2_TABLE
        here, fall = Signal(21), Signal(14)
        with m.Switch(self.f[10:]):
            for i in range(numerics.EXP2_SEGMENTS):
                with m.Case(i):
                    m.d.comb += [here.eq(table[i]), fall.eq(table[i] - table[i + 1])]
        chord, wide = Signal(21), Signal(32)
        extra, field = Signal(4), Signal(4)
        kept = Signal(12)
        deep = self.n > 13
        m.d.comb += [
            chord.eq(here - ((fall * self.f[:10] + 512) >> 10)),
            # Below 2^-14 the result is subnormal and loses one more bit per step; eleven spare
            # bits keep the shift exact, so that one rounding at a fixed place serves all n.
            extra.eq(Mux(deep, self.n - 13, 0)),
            field.eq(Mux(deep, 0, 13 - self.n)),
            wide.eq(Cat(C(0, 11), chord) >> extra),
            kept.eq(Mux(self.n >= numerics.EXP2_ZERO_N, 0, round_even(wide, 20))),
            self.p24.eq(kept << field),
            # The hidden one (or a carry) in `kept` adds to the exponent field.
            self.p.eq(Mux(kept == 0, 0, Cat(C(0, 10), field) + kept)),
        ]
        return m
