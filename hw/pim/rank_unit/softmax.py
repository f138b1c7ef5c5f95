"""SFM: softmax of a chunk with an online integer maximum."""

from amaranth.hdl import C, Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.lib.unit import Unit
from bankside.hw.pim.rank_unit.ports import LANE_BITS, field_width, geometry_layout, rank_layout
from bankside.hw.pim.rank_unit.softmax_head import ExponentialTerm, HeadState
from bankside.hw.pim.rank_unit.softmax_sequence import SoftmaxSequence, word_layout
from bankside.isa.machine import Machine
from bankside.isa.numerics import DENOM_BITS


class Softmax(wiring.Component):
    """SFM: C*S exponential units, maximum and denominator per head and lane.

    Members
    -------
    geometry, start, command, busy, done
        As RankUnit's rank_* (`start` only with command.norm = 0).
    max_buf, max_lane, keys : Out(1), Out(3), In(C*32)
        Order keys of the chunk maxima, combinational.
    score_en, score_address, score_data : Out(1), Out(10), In(C*NE*16)
        Read port of the score memory.
    prob_en, prob_address, prob_header, prob_data : Out(NE), Out(10), Out(1), Out(C*16)
        Write port of the probability memory.
    norm_lane, denominators : In(3), Out(C*48)
        Denominators of a lane per head, combinational.

    Ref: docs/pim.md section 6.
    """

    geometry: Signal
    start: Signal
    command: Signal
    busy: Signal
    done: Signal
    max_buf: Signal
    max_lane: Signal
    keys: Signal
    score_en: Signal
    score_address: Signal
    score_data: Signal
    prob_en: Signal
    prob_address: Signal
    prob_header: Signal
    prob_data: Signal
    norm_lane: Signal
    denominators: Signal

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        super().__init__(
            {
                "geometry": In(geometry_layout(machine)),
                "start": In(1),
                "command": In(rank_layout(machine)),
                "busy": Out(1),
                "done": Out(1),
                "max_buf": Out(1),
                "max_lane": Out(LANE_BITS),
                "keys": In(machine.chips * 32),
                "score_en": Out(1),
                "score_address": Out(field_width("SFM", "score")),
                "score_data": In(machine.chips * machine.slice_bits),
                "prob_en": Out(machine.elements),
                "prob_address": Out(field_width("SFM", "prob")),
                "prob_header": Out(1),
                "prob_data": Out(machine.chips * 16),
                "norm_lane": In(LANE_BITS),
                "denominators": Out(machine.chips * DENOM_BITS),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.sequence = sequence = SoftmaxSequence(self.machine)
        # The word read in a step is in the score memory's output during the next one (scored),
        # its distance during the one after (distant), its probabilities in the third (written).
        scored, distant, written = (
            Signal(word_layout(self.machine), name=n) for n in ("scored", "distant", "written")
        )
        with m.If(sequence.tick):
            m.d.sync += [scored.eq(sequence.word), distant.eq(scored), written.eq(distant)]
        m.d.comb += [
            sequence.geometry.eq(self.geometry),
            sequence.start.eq(self.start),
            sequence.command.eq(self.command),
            self.busy.eq(sequence.busy),
            self.done.eq(sequence.done),
            self.max_buf.eq(sequence.held.buf),
            self.max_lane.eq(sequence.lane),
            self.score_en.eq(sequence.tick & sequence.reading),
            self.score_address.eq(sequence.score),
        ]
        heads = [
            self._head(m, h, sequence, scored, distant, written) for h in range(self.machine.chips)
        ]
        self._write(m, sequence, written, heads)
        return m

    def _head(self, m: Module, h: int, sequence, scored, distant, written):
        """One head: its state and S exponential units. Returns (scale, probabilities)."""
        machine = self.machine
        m.submodules[f"head{h}"] = head = Unit(HeadState(machine), "bankside_pim_softmax_head")
        m.d.comb += [
            head.lane.eq(sequence.lane),
            head.first.eq(sequence.held.first),
            head.order_key.eq(self.keys.word_select(h, 32)),
            head.begin.eq(sequence.tick & sequence.header),
            head.add.eq(sequence.tick & written.live),
            head.finish.eq(sequence.tick & sequence.finish),
            head.norm_lane.eq(self.norm_lane),
            self.denominators.word_select(h, DENOM_BITS).eq(head.denominator),
        ]
        probabilities = []
        for u in range(machine.slots_per_burst):
            term = Unit(ExponentialTerm(), "bankside_pim_exponential")
            m.submodules[f"term{h}_{u}"] = term
            m.d.comb += [
                term.take_score.eq(sequence.tick & scored.live),
                term.take_distance.eq(sequence.tick & distant.live),
                term.maximum.eq(head.maximum),
                term.score.eq(self.score_data.word_select(h * machine.slots_per_burst + u, 32)),
                term.exists.eq(distant.exists[u]),
                head.terms.word_select(u, 25).eq(term.p24),
            ]
            probabilities.append(term.p)
        return head.k, probabilities

    def _write(self, m: Module, sequence, written, heads) -> None:
        """Header at the end of step 0; slot u of a word in cycle u of its writing step."""
        machine = self.machine
        with m.If(sequence.header):
            m.d.comb += [
                self.prob_en.eq(sequence.tick.replicate(machine.elements)),
                self.prob_header.eq(1),
                self.prob_address.eq(sequence.prob),
                self.prob_data.eq(Cat(Cat(k, C(0, 8)) for k, _ in heads)),
            ]
        with m.Elif(written.live), m.Switch(sequence.phase):
            for u in range(machine.slots_per_burst):
                with m.Case(u):
                    m.d.comb += [
                        self.prob_en.eq(1 << written.position),
                        self.prob_address.eq(written.address + u * machine.subbanks),
                        self.prob_data.eq(Cat(p[u] for _, p in heads)),
                    ]
