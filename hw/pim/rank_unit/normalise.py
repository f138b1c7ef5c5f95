"""NORM: context sums divided by the softmax denominators, as FP16 into the output staging."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.normalise import Normalise
from bankside.hw.arith.recip import Reciprocal
from bankside.hw.lib.unit import Unit
from bankside.hw.pim.rank_unit.permute import slices
from bankside.hw.pim.rank_unit.ports import LANE_BITS, field_width, geometry_layout, rank_layout
from bankside.hw.pim.rank_unit.select import per_chip
from bankside.isa.machine import Machine
from bankside.isa.numerics import DENOM_BITS, RECIP_BITS


class NormaliseSequence(wiring.Component):
    """Steps of NORM: load, 26 of division, 2*count reading, two more, for every lane.

    Members
    -------
    geometry, start, command, busy, done : as RankUnit's
    tick : Out(1)
        Last cycle of a step while busy.
    lane : Out(3)
    load : Out(1)
        In the step in which the denominators are loaded.
    reading, half, score : Out(1), Out(1), Out(10)
        In a reading step: score word to read, and which half of a result word it is.
    out : Out(12)
        Output staging address of the result word that is read.
    """

    geometry: Signal
    start: Signal
    command: Signal
    busy: Signal
    done: Signal
    tick: Signal
    lane: Signal
    load: Signal
    reading: Signal
    half: Signal
    score: Signal
    out: Signal

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        super().__init__(
            {
                "geometry": In(geometry_layout(machine)),
                "start": In(1),
                "command": In(rank_layout(machine)),
                "busy": Out(1),
                "done": Out(1),
                "tick": Out(1),
                "lane": Out(LANE_BITS),
                "load": Out(1),
                "reading": Out(1),
                "half": Out(1),
                "score": Out(field_width("NORM", "score")),
                "out": Out(field_width("NORM", "out")),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        phase, spent = Signal(range(self.machine.step)), Signal(range(RECIP_BITS))
        count, word = Signal.like(self.command.count), Signal.like(self.command.count)
        last_lane = self.lane + 1 == self.geometry.lanes
        drained = Signal()
        m.d.comb += self.tick.eq(self.busy & (phase == self.machine.step - 1))
        with m.If(self.busy):
            m.d.sync += phase.eq(Mux(self.tick, 0, phase + 1))
        with m.FSM():
            with m.State("idle"), m.If(self.start):
                m.d.sync += [self.busy.eq(1), self.lane.eq(0), count.eq(self.command.count)]
                m.d.sync += [self.score.eq(self.command.score), self.out.eq(self.command.out)]
                m.next = "load"
            with m.State("load"):
                m.d.comb += self.load.eq(1)
                with m.If(self.tick):
                    m.next = "divide"
            with m.State("divide"), m.If(self.tick):
                m.d.sync += spent.eq(spent + 1)
                with m.If(spent == RECIP_BITS - 1):
                    m.d.sync += [spent.eq(0), word.eq(0), self.half.eq(0)]
                    m.next = "read"
            with m.State("read"):
                m.d.comb += self.reading.eq(1)
                with m.If(self.tick):
                    # Words and results of all lanes lie in the order of reading.
                    m.d.sync += [self.half.eq(~self.half), self.score.eq(self.score + 1)]
                with m.If(self.tick & self.half):
                    m.d.sync += [word.eq(word + 1), self.out.eq(self.out + 1)]
                    with m.If(word + 1 == count):
                        m.next = "drain"
            with m.State("drain"), m.If(self.tick):
                m.d.sync += drained.eq(~drained)
                with m.If(drained):
                    m.d.comb += self.done.eq(last_lane)
                    m.d.sync += [self.busy.eq(~last_lane), self.lane.eq(self.lane + 1)]
                    m.next = "load"
                with m.If(self.done):
                    m.next = "idle"
        return m


class NormaliseUnit(wiring.Component):
    """NORM: C dividers of one quotient bit per STEP, C*S multipliers with rounding.

    Members
    -------
    geometry, start, command, busy, done
        As RankUnit's rank_* (`start` only with command.norm = 1).
    lane, denominators : Out(3), In(C*48)
        Denominators of a lane per head, combinational.
    score_en, score_address, score_data : Out(1), Out(10), In(C*NE*16)
        Read port of the score memory.
    out_en, out_address, out_data : Out(1), Out(12), Out(C*NE*16)
        Write port of the output staging; a word is written at the end of a step.

    Ref: docs/pim.md section 6.
    """

    geometry: Signal
    start: Signal
    command: Signal
    busy: Signal
    done: Signal
    lane: Signal
    denominators: Signal
    score_en: Signal
    score_address: Signal
    score_data: Signal
    out_en: Signal
    out_address: Signal
    out_data: Signal

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        burst = machine.chips * machine.slice_bits
        super().__init__(
            {
                "geometry": In(geometry_layout(machine)),
                "start": In(1),
                "command": In(rank_layout(machine)),
                "busy": Out(1),
                "done": Out(1),
                "lane": Out(LANE_BITS),
                "denominators": In(machine.chips * DENOM_BITS),
                "score_en": Out(1),
                "score_address": Out(field_width("NORM", "score")),
                "score_data": In(burst),
                "out_en": Out(1),
                "out_address": Out(field_width("NORM", "out")),
                "out_data": Out(burst),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.sequence = sequence = NormaliseSequence(self.machine)
        # The word read in a step is in the score memory's output during the next one, its results
        # in `results` from then on; the second half completes a word of the output staging.
        live, half, multiplied = Signal(), Signal(), Signal()
        address = Signal.like(self.out_address)
        with m.If(sequence.tick):
            m.d.sync += [live.eq(sequence.reading), half.eq(sequence.half)]
            m.d.sync += [multiplied.eq(live & half), address.eq(sequence.out)]
            m.d.sync += self.out_address.eq(address)
        m.d.comb += [
            sequence.geometry.eq(self.geometry),
            sequence.start.eq(self.start),
            sequence.command.eq(self.command),
            self.busy.eq(sequence.busy),
            self.done.eq(sequence.done),
            self.lane.eq(sequence.lane),
            self.score_en.eq(sequence.tick & sequence.reading),
            self.score_address.eq(sequence.score),
            self.out_en.eq(sequence.tick & multiplied),
        ]
        heads = slices(self.denominators, DENOM_BITS)
        for k, denominator in enumerate(per_chip(self.machine, heads, self.geometry.nhc_log2)):
            m.submodules[f"divide{k}"] = divide = Unit(Reciprocal(), "bankside_reciprocal")
            m.d.comb += [
                divide.denom.eq(denominator),
                divide.start.eq(sequence.tick & sequence.load),
                divide.ce.eq(sequence.tick),
            ]
            self._multiply(m, k, divide, sequence.tick & live, half)
        return m

    def _multiply(self, m: Module, k: int, divide, en, half: Signal) -> None:
        """S products of chip k, into the positions of their half."""
        slots, width = self.machine.slots_per_burst, self.machine.slice_bits
        sums = slices(self.score_data[k * width : (k + 1) * width], 32)
        products = []
        for u, value in enumerate(sums):
            m.submodules[f"product{k}_{u}"] = unit = Unit(Normalise(), "bankside_normalise")
            m.d.comb += [unit.acc.eq(value), unit.q.eq(divide.q), unit.e.eq(divide.e)]
            products.append(unit.y)
        low = Signal(16 * slots, name=f"low{k}")
        high = Signal(16 * slots, name=f"high{k}")
        with m.If(en & ~half):
            m.d.sync += low.eq(Cat(products))
        with m.If(en & half):
            m.d.sync += high.eq(Cat(products))
        m.d.comb += self.out_data[k * width : (k + 1) * width].eq(Cat(low, high))
