"""One processing element of the 2D array."""

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.compare import above
from bankside.hw.arith.exp2_array import Exp2Split
from bankside.hw.arith.fp32 import Fp32Add, ScaleDown
from bankside.hw.arith.tf32 import TF32_BITS, Tf32Mul, ToTf32
from bankside.hw.array.words import PeOp, pe_layout
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.numerics_array import EXP2_COEFFICIENTS, MARKER, TF32_DROP

BOUND_BITS = 16
"""BOUNDS on the top bus: the first unmasked row in the low half, the last one in the high half."""


class Pe(wiring.Component):
    """A multiplier, an adder, a comparator, NT score registers and the reduced argument of exp2.

    What arrives in a cycle takes effect at its end and is handed on in the next one.

    Members
    -------
    row : In
        Its row, a constant.
    a : In(19), a_out : Out(19)
        Row bus: TF32, upper 19 bits of the pattern; to the right.
    t : In(32), t_out : Out(32)
        Top bus: query, coefficient, maximum, bounds, ... (`words.TopOp`); downwards.
    p : In(32), p_out : Out(32)
        Partial sum, FP32; downwards.
    control : In(pe_layout), control_out : Out(pe_layout)
        What to do; downwards.

    Ref: docs/array.md sections 1 and 3.
    """

    row: Signal
    a: Signal
    a_out: Signal
    t: Signal
    t_out: Signal
    p: Signal
    p_out: Signal

    def __init__(self, machine: ArrayMachine) -> None:
        self.tags = machine.tags
        layout = pe_layout(machine)
        super().__init__(
            {
                "row": In(range(machine.rows)),
                "a": In(TF32_BITS),
                "a_out": Out(TF32_BITS),
                "t": In(32),
                "t_out": Out(32),
                "p": In(32),
                "p_out": Out(32),
                "control": In(layout),
                "control_out": Out(layout),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        control = self.control
        scores = Array(Signal(32, name=f"score{i}", reset_less=True) for i in range(self.tags))
        score, masked, here = Signal(32), Signal(), Signal()
        m.d.comb += [
            score.eq(scores[control.tag]),
            masked.eq((self.row < self.t[:BOUND_BITS]) | (self.row > self.t[BOUND_BITS:])),
            here.eq(control.select == 0),
        ]
        total, power = self._arithmetic(m, score)
        write, value, psum = Signal(), Signal(32), Signal(32)
        m.d.comb += psum.eq(self.p)
        with m.Switch(control.op):
            with m.Case(PeOp.QK):
                m.d.comb += [write.eq(1), value.eq(total)]
            with m.Case(PeOp.LM):
                found = Signal(32)
                m.d.comb += [write.eq(masked), value.eq(MARKER), found.eq(score)]
                with m.If(masked):
                    m.d.comb += found.eq(MARKER)
                m.d.comb += psum.eq(Mux(above(found, self.p), found, self.p))
            with m.Case(PeOp.EXP):
                m.d.comb += [write.eq(1), value.eq(Mux(control.last, power, total))]
            with m.Case(PeOp.SUM):
                m.d.comb += psum.eq(total)
            with m.Case(PeOp.DRAIN):
                with m.If(here):
                    m.d.comb += psum.eq(Mux(self.t[0], score, MARKER))
            with m.Case(PeOp.FILL):
                m.d.comb += [write.eq(here), value.eq(self.t)]
        with m.If(write):
            m.d.sync += scores[control.tag].eq(value)
        self._hand_on(m, psum)
        return m

    def _arithmetic(self, m: Module, score: Value) -> tuple[Value, Value]:
        """(Sum of this cycle, the same times 2^-n); keeps the reduced argument of SUB.

        Operands of the units stand at zero when nothing is to be computed.
        """
        m.submodules.mul, m.submodules.add = mul, add = Tf32Mul(), Fp32Add()
        m.submodules.narrow, m.submodules.scale = narrow, scale = ToTf32(), ScaleDown()
        m.submodules.split = split = Exp2Split()
        n = Signal(7, reset_less=True)
        f = Signal(TF32_BITS, reset_less=True)
        wide_a = Cat(C(0, TF32_DROP), self.a)
        control = self.control
        with m.Switch(control.op):
            with m.Case(PeOp.QK):
                m.d.comb += [mul.a.eq(self.t), mul.b.eq(wide_a), add.b.eq(mul.y)]
                m.d.comb += add.a.eq(Mux(control.first, 0, score))
            with m.Case(PeOp.SUB):
                m.d.comb += [add.a.eq(score), add.b.eq(self.t)]
                # The maximum may be the marker too, so that their difference means nothing.
                m.d.comb += split.x.eq(Mux(score == MARKER, MARKER, add.y))
                m.d.sync += [n.eq(split.n), f.eq(split.f[TF32_DROP:])]
            with m.Case(PeOp.EXP):
                m.d.comb += [narrow.x.eq(score), scale.a.eq(add.y), scale.k.eq(n)]
                m.d.comb += mul.a.eq(Mux(control.first, EXP2_COEFFICIENTS[6], narrow.y))
                m.d.comb += mul.b.eq(Cat(C(0, TF32_DROP), f))
                m.d.comb += [add.a.eq(self.t), add.b.eq(mul.y)]
            with m.Case(PeOp.SUM):
                m.d.comb += [narrow.x.eq(score), mul.a.eq(narrow.y), mul.b.eq(wide_a)]
                m.d.comb += [add.a.eq(self.p), add.b.eq(mul.y)]
        return add.y, scale.y

    def _hand_on(self, m: Module, psum: Value) -> None:
        """Registers to the right and downwards."""
        control, following = self.control, self.control_out
        held = {"a_out": self.a, "t_out": self.t, "p_out": psum}
        for name, value in held.items():
            # Data without a word that uses them mean nothing, so they need no reset.
            register = Signal(len(value), name=f"{name}_register", reset_less=True)
            m.d.sync += register.eq(value)
            m.d.comb += getattr(self, name).eq(register)
        m.d.sync += [
            following.op.eq(control.op),
            following.first.eq(control.first),
            following.last.eq(control.last),
            following.tag.eq(control.tag),
            following.select.eq(control.select - 1),
        ]
