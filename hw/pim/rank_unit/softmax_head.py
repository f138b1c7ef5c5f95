"""Softmax of one head: maximum, denominator, exponential terms."""

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.exp2 import INTEGER, CeilInt, Exp2ToFp16, SoftmaxDistance
from bankside.hw.arith.fp32 import order_unkey
from bankside.hw.pim.rank_unit.permute import slices
from bankside.hw.pim.rank_unit.ports import LANE_BITS
from bankside.isa.machine import Machine
from bankside.isa.numerics import DENOM_BITS, SCALE_CLEAR, SCORE_INT_BITS


class MaximumStep(wiring.Component):
    """Step 0 of a head: new integer maximum and scale, combinational.

    Members
    -------
    order_key : In(32)
        Order key of the chunk's largest score.
    first : In(1)
        Forget the old maximum.
    old, new : In, Out(signed(44))
    k : Out(8)
        min(new - old, 255); 255 when `first`.

    Ref: `bankside.isa.numerics.order_unkey`, `ceil_int`.
    """

    order_key: Signal
    first: Signal
    old: Signal
    new: Signal
    k: Signal

    def __init__(self) -> None:
        super().__init__(
            {
                "order_key": In(32),
                "first": In(1),
                "old": In(INTEGER),
                "new": Out(INTEGER),
                "k": Out(8),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.ceil = ceil = CeilInt()
        grows = Signal()
        distance = Signal(SCORE_INT_BITS)
        m.d.comb += [
            ceil.s.eq(order_unkey(self.order_key)),
            grows.eq(ceil.ceil > self.old),
            self.new.eq(Mux(self.first | grows, ceil.ceil, self.old)),
            distance.eq(Mux(grows, ceil.ceil - self.old, 0)),
            self.k.eq(Mux(self.first | (distance > SCALE_CLEAR), SCALE_CLEAR, distance)),
        ]
        return m


class ExponentialTerm(wiring.Component):
    """Two stages of one slot: distance from the maximum, then the probability.

    Members
    -------
    take_score, take_distance : In(1)
        Register the distance of `score`, the probability of the distance, at the end of the cycle.
    maximum : In(signed(44)), score : In(32)
    exists : In(1)
        With `take_distance`; the probability is 0 when it is low.
    p : Out(16), register
    p24 : Out(25), register
        The probability times 2^24.
    """

    take_score: Signal
    take_distance: Signal
    maximum: Signal
    score: Signal
    exists: Signal
    p: Signal
    p24: Signal

    def __init__(self) -> None:
        super().__init__(
            {
                "take_score": In(1),
                "take_distance": In(1),
                "maximum": In(INTEGER),
                "score": In(32),
                "exists": In(1),
                "p": Out(16),
                "p24": Out(25),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.distance = distance = SoftmaxDistance()
        m.submodules.exp2 = exp2 = Exp2ToFp16()
        m.d.comb += [distance.maximum.eq(self.maximum), distance.s.eq(self.score)]
        with m.If(self.take_score):
            m.d.sync += [exp2.n.eq(distance.n), exp2.f.eq(distance.f)]
        with m.If(self.take_distance):
            m.d.sync += [
                self.p.eq(Mux(self.exists, exp2.p, 0)),
                self.p24.eq(Mux(self.exists, exp2.p24, 0)),
            ]
        return m


class HeadState(wiring.Component):
    """Maximum and denominator of one head, for every lane.

    Members
    -------
    lane, first : In(3), In(1)
    order_key : In(32)
        Order key of the chunk's maximum, in step 0.
    begin : In(1)
        End of step 0: take maximum and scale, clear the sum.
    add, terms : In(1), In(S*25)
        Add the S probabilities (times 2^24) to the sum.
    finish : In(1)
        End of the last step: write back maximum and denominator.
    k : Out(8)
        Scale, combinational, in step 0.
    maximum : Out(signed(44)), register
    norm_lane, denominator : In(3), Out(48)
        Denominator of any lane, combinational.
    """

    lane: Signal
    first: Signal
    order_key: Signal
    begin: Signal
    add: Signal
    terms: Signal
    finish: Signal
    k: Signal
    maximum: Signal
    norm_lane: Signal
    denominator: Signal

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        super().__init__(
            {
                "lane": In(LANE_BITS),
                "first": In(1),
                "order_key": In(32),
                "begin": In(1),
                "add": In(1),
                "terms": In(machine.slots_per_burst * 25),
                "finish": In(1),
                "k": Out(8),
                "maximum": Out(INTEGER),
                "norm_lane": In(LANE_BITS),
                "denominator": Out(DENOM_BITS),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        # Two words at least: a memory of one word would have no address.
        depth = max(2, self.machine.lanes)
        m.submodules.maxima = maxima = memory.Memory(shape=INTEGER, depth=depth, init=[])
        m.submodules.sums = sums = memory.Memory(shape=unsigned(DENOM_BITS), depth=depth, init=[])
        m.submodules.step = step = MaximumStep()
        new_maximum, new_sum = maxima.write_port(), sums.write_port()
        old_maximum, old_sum = maxima.read_port(domain="comb"), sums.read_port(domain="comb")
        shown = sums.read_port(domain="comb")
        total, scale = Signal(DENOM_BITS), Signal(8)
        for port in (new_maximum, new_sum, old_maximum, old_sum):
            m.d.comb += port.addr.eq(self.lane)
        m.d.comb += [
            step.order_key.eq(self.order_key),
            step.first.eq(self.first),
            step.old.eq(old_maximum.data),
            self.k.eq(step.k),
            new_maximum.en.eq(self.finish),
            new_maximum.data.eq(self.maximum),
            new_sum.en.eq(self.finish),
            new_sum.data.eq(Mux(self.first, 0, old_sum.data >> scale) + total),
            shown.addr.eq(self.norm_lane),
            self.denominator.eq(shown.data),
        ]
        with m.If(self.begin):
            m.d.sync += [self.maximum.eq(step.new), scale.eq(step.k), total.eq(0)]
        with m.If(self.add):
            m.d.sync += total.eq(total + sum(slices(self.terms, 25)))
        return m
