"""Fixed-point multiplication and rounding shifts of the `npu` engine.

Ref: bankside.isa.numerics_npu (`srdhm`, `rdbpot`, `mbqm`); docs/npu.md section 2.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from bankside.isa.spec import load_spec

__all__ = ["MBQM_LATENCY", "Mbqm", "Rdbpot", "Rounding", "Srdhm"]

MBQM_LATENCY = 4
"""Cycles from the inputs of `Mbqm` to its result."""
_INT32_MAX = (1 << 31) - 1
_ENUM = load_spec("npu").enums["rounding"]


class Rounding(enum.Enum, shape=2):
    """Value of the register `rounding`."""

    GEMMLOWP_DOUBLE = _ENUM["gemmlowp_double"]
    SINGLE_HALF_UP = _ENUM["single_half_up"]
    RNE = _ENUM["rne"]
    TRUNC = _ENUM["trunc"]


def _shift_right(m: Module, value: Value, amount: Value, name: str) -> tuple[Value, Value, Value]:
    """(value >> amount, first bit that falls off, any bit below that one); `value` signed."""
    width = len(value)
    extended = Signal(signed(width + 1), name=f"{name}_extended")
    shifted = Signal(signed(width + 1), name=f"{name}_shifted")
    # Bit i of `below` is lost when amount > i + 1.
    below = Signal(width, name=f"{name}_below")
    m.d.comb += [
        extended.eq(Cat(Const(0, 1), value)),
        shifted.eq(extended >> amount),
        below.eq(((Const(1, width + 1) << amount) - 1)[1:]),
    ]
    return shifted[1:].as_signed(), shifted[0], (value.as_unsigned() & below).any()


class Srdhm(wiring.Component):
    """y = a * b / 2^31, rounded and saturated; combinational.

    Members
    -------
    a, b : In(signed(32))
    y : Out(signed(32))

    Ref: `bankside.isa.numerics_npu.srdhm`.
    """

    a: Signal
    b: Signal
    y: Signal

    def __init__(self) -> None:
        super().__init__({"a": In(signed(32)), "b": In(signed(32)), "y": Out(signed(32))})

    def elaborate(self, platform) -> Module:
        m = Module()
        product = Signal(signed(64))
        m.d.comb += [
            product.eq(self.a * self.b),
            # Truncation toward zero of the published form is this floor. Only the product of the
            # two minima has bit 62 set and is not negative.
            self.y.eq(((product + (1 << 30)) >> 31)[:32]),
        ]
        with m.If(product[62] & ~product[63]):
            m.d.comb += self.y.eq(_INT32_MAX)
        return m


class Rdbpot(wiring.Component):
    """y = x / 2^e, nearest, ties away from zero; combinational.

    Parameters
    ----------
    exponent_bits : width of `e`.

    Members
    -------
    x : In(signed(32))
    e : In(exponent_bits)
    y : Out(signed(32))

    Ref: `bankside.isa.numerics_npu.rdbpot`.
    """

    x: Signal
    e: Signal
    y: Signal

    def __init__(self, exponent_bits: int = 5) -> None:
        super().__init__({"x": In(signed(32)), "e": In(exponent_bits), "y": Out(signed(32))})

    def elaborate(self, platform) -> Module:
        m = Module()
        floor, half, rest = _shift_right(m, self.x, self.e, "x")
        m.d.comb += self.y.eq(floor + (half & (~self.x[31] | rest)))
        return m


class Mbqm(wiring.Component):
    """y = x * mult * 2^(shift - 31), `latency` cycles later; one input per cycle.

    Registers move only with valid data.

    Parameters
    ----------
    latency : 4, or 3: both roundings in one cycle.

    Members
    -------
    i_valid : In(1)
    x, mult : In(signed(32))
    shift : In(signed(8))
        -31..30; beyond that the result has no meaning.
    rounding : In(Rounding)
    o_valid : Out(1)
    y : Out(signed(32))
        Holds its value while `o_valid` is 0.

    Ref: `bankside.isa.numerics_npu.mbqm`.
    """

    def __init__(self, latency: int = MBQM_LATENCY) -> None:
        if latency not in (MBQM_LATENCY - 1, MBQM_LATENCY):
            raise ValueError(f"Mbqm: latency = {latency!r}, expected 3 or 4")
        self._latency = latency
        super().__init__(
            {
                "i_valid": In(1),
                "x": In(signed(32)),
                "mult": In(signed(32)),
                "shift": In(signed(8)),
                "rounding": In(Rounding),
                "o_valid": Out(1),
                "y": Out(signed(32)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        valid = Signal(self._latency)
        m.d.sync += valid.eq(Cat(self.i_valid, valid)[: self._latency])
        between = m.d.sync if self._latency == MBQM_LATENCY else m.d.comb
        m.d.comb += self.o_valid.eq(valid[-1])
        double = self.rounding == Rounding.GEMMLOWP_DOUBLE
        names = ("x", "product", "scaled", "y")
        x, product, scaled = (
            Signal(signed(64 if name == "product" else 32), name=name, reset_less=True)
            for name in names[:3]
        )
        mult = Signal(signed(32), reset_less=True)
        # Stage i holds what the stages after it need.
        right = [Signal(5, name=f"right{i}", reset_less=True) for i in range(3)]
        total = [Signal(6, name=f"total{i}", reset_less=True) for i in range(2)]
        rounding = [Signal(Rounding, name=f"rounding{i}", reset_less=True) for i in range(3)]
        with m.If(self.i_valid):
            left = Mux(double & ~self.shift[7], self.shift[:5], 0)
            m.d.sync += [
                x.eq(self.x << left),
                mult.eq(self.mult),
                right[0].eq(Mux(self.shift[7], -self.shift, 0)),
                total[0].eq(Mux(double, 31, 31 - self.shift)),
                rounding[0].eq(self.rounding),
            ]
        with m.If(valid[0]):
            m.d.sync += [
                product.eq(x * mult),
                right[1].eq(right[0]),
                total[1].eq(total[0]),
                rounding[1].eq(rounding[0]),
            ]
        with m.If(valid[1]):
            between += [
                scaled.eq(self._rounded(m, product, total[1], rounding[1])),
                right[2].eq(right[1]),
                rounding[2].eq(rounding[1]),
            ]
        m.submodules.halve = halve = Rdbpot()
        m.d.comb += [halve.x.eq(scaled), halve.e.eq(right[2])]
        with m.If(valid[-2]):
            twice = rounding[2] == Rounding.GEMMLOWP_DOUBLE
            m.d.sync += self.y.eq(Mux(twice, halve.y, scaled))
        return m

    @staticmethod
    def _rounded(m: Module, product: Value, total: Value, rounding: Value) -> Value:
        """int32 of product / 2^total; doubling high multiplication is half up with total 31."""
        floor, half, rest = _shift_right(m, product, total, "product")
        up, result = Signal(), Signal(signed(32))
        with m.Switch(rounding):
            with m.Case(Rounding.GEMMLOWP_DOUBLE, Rounding.SINGLE_HALF_UP):
                m.d.comb += up.eq(half)
            with m.Case(Rounding.RNE):
                m.d.comb += up.eq(half & (rest | floor[0]))
        m.d.comb += result.eq(floor[:32] + up)
        with m.If((rounding == Rounding.GEMMLOWP_DOUBLE) & product[62] & ~product[63]):
            m.d.comb += result.eq(_INT32_MAX)
        return result
