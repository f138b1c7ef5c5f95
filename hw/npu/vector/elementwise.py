"""Arithmetic of ELEMENTWISE. Ref: docs/npu.md section 2."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.requantise import Mbqm, Rounding
from bankside.hw.lib.unit import Unit
from bankside.hw.npu.operation import operation_layout
from bankside.hw.npu.vector.sequencer import is_lut
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.spec import load_spec

__all__ = ["LATENCY", "ElementLane", "ElementLanes", "lane_layout"]

_OPS = load_spec("npu").enums["elementwise"]
_STAGES = 3
LATENCY = 2 * _STAGES
"""Cycles from operands to result."""
_HALF_SHIFT = 30
"""With this shift a multiplication by 2 changes nothing."""


def lane_layout() -> data.StructLayout:
    """Parameters of the lanes: x = a << left, y = mbqm(x * mult or b) +/- mbqm(b << left)."""
    return data.StructLayout(
        {
            "product": 1,
            "subtract": 1,
            "left": 5,
            **dict.fromkeys(("a_mult", "b_mult", "o_mult"), signed(32)),
            **dict.fromkeys(("a_shift", "b_shift", "o_shift"), signed(8)),
            "inner": Rounding,
            "outer": Rounding,
        }
    )


class ElementLane(wiring.Component):
    """One result per cycle, `LATENCY` cycles after its operands.

    Members
    -------
    p : In(lane_layout)
    valid : In(1)
    a, b : In(signed(17))
        Without their zero points.
    y : Out(signed(32))
    """

    p: In(lane_layout())
    valid: In(1)
    a: In(signed(17))
    b: In(signed(17))
    y: Out(signed(32))

    def elaborate(self, platform) -> Module:
        m = Module()
        p = self.p
        m.submodules.left, m.submodules.right = left, right = Mbqm(_STAGES), Mbqm(_STAGES)
        m.submodules.result = result = Mbqm(_STAGES)
        m.d.comb += [
            left.i_valid.eq(self.valid),
            left.x.eq(self.a << p.left),
            left.mult.eq(Mux(p.product, self.b, p.a_mult)),
            left.shift.eq(p.a_shift),
            left.rounding.eq(p.inner),
            right.i_valid.eq(self.valid & ~p.product),
            right.x.eq(self.b << p.left),
            right.mult.eq(p.b_mult),
            right.shift.eq(p.b_shift),
            right.rounding.eq(p.inner),
            result.i_valid.eq(left.o_valid),
            result.mult.eq(p.o_mult),
            result.shift.eq(p.o_shift),
            result.rounding.eq(p.outer),
            self.y.eq(result.y),
        ]
        with m.If(p.product):
            m.d.comb += result.x.eq(left.y)
        with m.Elif(p.subtract):
            m.d.comb += result.x.eq(left.y - right.y)
        with m.Else():
            m.d.comb += result.x.eq(left.y + right.y)
        return m


class ElementLanes(wiring.Component):
    """V lanes and what the operation means for them.

    Members
    -------
    operation : In(operation_layout)
    lanes : In(V)
        Which lanes have operands in this cycle.
    a, b : In(ArrayLayout(signed(16), V))
    y : Out(ArrayLayout(signed(32), V))
        `LATENCY` cycles later: the result before its zero point; of lut: `a` itself.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self._rate = machine.vector_rate
        values = data.ArrayLayout(signed(16), self._rate)
        super().__init__(
            {
                "operation": In(operation_layout(machine)),
                "lanes": In(self._rate),
                "a": In(values),
                "b": In(values),
                "y": Out(data.ArrayLayout(signed(32), self._rate)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        operation, p = self.operation, Signal(lane_layout())
        lut = Signal()
        m.d.comb += lut.eq(is_lut(operation))
        self._parameters(m, p, lut)
        for index in range(self._rate):
            lane = Unit(ElementLane(), "bankside_npu_element_lane")
            m.submodules[f"lane{index}"] = lane
            a, b = self.a[index], self.b[index]
            m.d.comb += [
                lane.p.eq(p),
                lane.valid.eq(self.lanes[index]),
                lane.a.eq(Mux(lut, a, a - operation.ifm_zero)),
                lane.b.eq(Mux(lut, 1, b - operation.ifm2_zero)),
                self.y[index].eq(lane.y),
            ]
        return m

    def _parameters(self, m: Module, p: data.View, lut: Signal) -> None:
        o = self.operation
        rounding = Rounding(o.rounding)
        for name in ("a_mult", "a_shift", "b_mult", "b_shift", "o_mult", "o_shift"):
            m.d.comb += p[name].eq(o[name])
        m.d.comb += [
            p.left.eq(o.left_shift),
            p.subtract.eq(o.mode == _OPS["sub"]),
            p.product.eq((o.mode == _OPS["mul"]) | lut),
            p.inner.eq(rounding),
            p.outer.eq(rounding),
        ]
        # (2 a * b) >> 1: the exact product through the same multiplier; lut: times one, twice.
        with m.If(p.product):
            m.d.comb += [p.left.eq(1), p.a_shift.eq(_HALF_SHIFT), p.inner.eq(Rounding.TRUNC)]
        with m.If(lut):
            m.d.comb += [p.o_mult.eq(2), p.o_shift.eq(_HALF_SHIFT), p.outer.eq(Rounding.TRUNC)]
