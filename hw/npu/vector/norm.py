"""Arithmetic of NORM. Ref: docs/npu.md section 2."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.inverse_sqrt import FloorDivide, InverseSqrt
from bankside.hw.npu.operation import operation_layout
from bankside.hw.npu.vector.sequencer import Phase, is_layer, issue_layout
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.numerics_npu import NORM_FRAC_BITS

__all__ = ["MAX_CHANNELS", "NormUnit"]

MAX_CHANNELS = 4096
"""A longer sum of squares would leave the argument of the root."""
_COUNT_BITS = MAX_CHANNELS.bit_length()
_VALUE = signed(17)
_CENTRED = signed(17 + NORM_FRAC_BITS + 1)
_SUM_BITS = 62
# Added to every value before the division, which then is one of positive numbers.
_OFFSET_BITS = 17
_MEAN_BITS = _OFFSET_BITS + 1 + NORM_FRAC_BITS
_RESULT_BITS = 21
_STAGES = 4


class NormUnit(wiring.Component):
    """Mean, sum of squares and results of one position after the other.

    Members
    -------
    operation : In(operation_layout)
    valid : In(1), issue : In(issue_layout)
        What was read in the cycle before.
    value : In(signed(16)), gain : In(signed(16))
    y : Out(signed(21))
        Six cycles after `value` in a RESULT pass: the result before its zero point; values that
        every clamp cuts are cut here.

    The mean is there 30 cycles after the issue of the last value (needed 2 cycles after an issue),
    the root 6 + InverseSqrt.STEPS cycles (needed 4 cycles after an issue).
    """

    def __init__(self, machine: NpuMachine) -> None:
        super().__init__(
            {
                "operation": In(operation_layout(machine)),
                "valid": In(1),
                "issue": In(issue_layout(machine)),
                "value": In(signed(16)),
                "gain": In(signed(16)),
                "y": Out(signed(_RESULT_BITS)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        stages = self._stages(m)
        value, gain = Signal(_VALUE), [Signal(signed(16), name=f"gain{i}") for i in range(2)]
        with m.If(self.valid):
            m.d.sync += value.eq(self.value - self.operation.ifm_zero)
        m.d.sync += [gain[0].eq(self.gain), gain[1].eq(gain[0])]
        mean = self._mean(m, stages, value)
        centred = Signal(_CENTRED)
        m.d.sync += centred.eq(Cat(C(0, NORM_FRAC_BITS), value).as_signed() - mean)
        product = Signal(signed(2 * _CENTRED.width))
        squaring = stages[2][1].phase == Phase.SQUARES
        m.d.sync += product.eq(centred * Mux(squaring, centred, gain[1]))
        root = self._root(m, stages, product)
        self._result(m, root, product)
        return m
        return m

    def _stages(self, m: Module) -> list[tuple[Value, data.View]]:
        """(valid, what was issued), by the cycles that have passed since the data; 0 is now."""
        stages = [(self.valid, self.issue)]
        for i in range(1, _STAGES):
            stage, valid = Signal.like(self.issue, name=f"stage{i}"), Signal(name=f"valid{i}")
            before, issue = stages[-1]
            m.d.sync += valid.eq(before)
            with m.If(before):
                m.d.sync += stage.eq(issue)
            stages.append((valid, stage))
        return stages

    def _mean(self, m: Module, stages: list[tuple[Value, data.View]], value: Signal) -> Value:
        """Mean of the position with `NORM_FRAC_BITS` fraction bits, 0 for rms."""
        m.submodules.divide = divide = FloorDivide(_COUNT_BITS, _MEAN_BITS)
        total = Signal(signed(_VALUE.width + _COUNT_BITS - 1))
        count = self.operation.ofm_c[:_COUNT_BITS]
        shifted = Signal(signed(len(total) + 2))
        valid, issue = stages[1]
        summing = valid & (issue.phase == Phase.SUM)
        with m.If(summing):
            m.d.sync += total.eq(Mux(issue.first, 0, total) + value)
        m.d.sync += divide.start.eq(summing & issue.last)
        m.d.comb += [
            shifted.eq(total + Cat(C(0, _OFFSET_BITS), count)),
            divide.a.eq(Cat(C(0, NORM_FRAC_BITS), shifted)),
            divide.b.eq(count),
        ]
        mean = Signal(_CENTRED)
        with m.If(is_layer(self.operation)):
            m.d.comb += mean.eq(divide.q - (1 << _OFFSET_BITS + NORM_FRAC_BITS))
        return mean

    def _root(
        self, m: Module, stages: list[tuple[Value, data.View]], product: Signal
    ) -> InverseSqrt:
        m.submodules.root = root = InverseSqrt()
        epsilon, total = Signal(_SUM_BITS), Signal(_SUM_BITS)
        valid, issue = stages[3]
        squared = valid & (issue.phase == Phase.SQUARES)
        m.d.sync += epsilon.eq(self.operation.epsilon << self.operation.epsilon_shift)
        with m.If(squared):
            m.d.sync += total.eq(Mux(issue.first, epsilon, total) + product)
        m.d.sync += root.start.eq(squared & issue.last)
        # A sum of 0 gives a root without meaning, but then every value is 0.
        m.d.comb += root.s.eq(total)
        return root

    def _result(self, m: Module, root: InverseSqrt, product: Signal) -> None:
        """product * r, shifted; stages 3, 4 and 5."""
        factor = Signal(signed(_CENTRED.width + 16))
        scaled, shifted = Signal(signed(64)), Signal(signed(64))
        shift, left, right = Signal(signed(10)), Signal(10), Signal(6)
        doubled = Signal(signed(65))
        m.d.comb += [
            factor.eq(product),
            shift.eq(self.operation.o_shift - root.half_e),
            left.eq(-shift),
            # Beyond this nothing is left of a product of 60 bits.
            right.eq(Mux(shift > 63, 63, shift)),
            doubled.eq(Cat(C(0, 1), scaled).as_signed() >> right),
        ]
        # The squares, which are wider, also come by here, to no effect.
        m.d.sync += scaled.eq(factor * root.r)
        with m.If(shift > 0):
            m.d.sync += shifted.eq((doubled + 1) >> 1)
        with m.Elif(left < 64):
            m.d.sync += shifted.eq((scaled << left[:6])[:64])
        with m.Else():
            m.d.sync += shifted.eq(0)
        top = shifted[_RESULT_BITS - 1 :]
        limit = (1 << _RESULT_BITS - 1) - 1
        fits = top.all() | ~top.any()
        m.d.sync += self.y.eq(Mux(fits, shifted, Mux(shifted[-1], ~limit, limit)))
