"""The steps of SFM."""

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

from bankside.hw.pim.rank_unit.ports import LANE_BITS, field_width, geometry_layout, rank_layout
from bankside.hw.pim.rank_unit.reduce import valid_slots
from bankside.isa.machine import Machine


def word_layout(machine: Machine) -> StructLayout:
    """A score word under way: where its slot 0 goes, which bank it is of, which slots exist."""
    return StructLayout(
        {
            "live": unsigned(1),
            "address": unsigned(field_width("SFM", "prob")),
            "position": unsigned(machine.elements.bit_length() - 1),
            "exists": unsigned(machine.slots_per_burst),
        }
    )


class SoftmaxSequence(wiring.Component):
    """Steps of SFM: step 0, W = groups*B reading steps, four more, for every lane.

    Members
    -------
    geometry, start, command, busy, done : as RankUnit's
    tick : Out(1)
        Last cycle of a step while busy.
    phase : Out
        Cycle within the step.
    lane, held : Out(3), Out(rank_layout)
        Lane and command under way.
    header, finish : Out(1)
        In step 0, in the last step of a lane.
    prob : Out(10)
        In step 0: address of the header.
    reading, score : Out(1), Out(10)
        In a reading step: score word to read.
    word : Out(word_layout)
        The word that is read in this step (`live` = `reading`).
    """

    geometry: Signal
    start: Signal
    command: Signal
    busy: Signal
    done: Signal
    tick: Signal
    phase: Signal
    lane: Signal
    held: Signal
    header: Signal
    finish: Signal
    prob: Signal
    reading: Signal
    score: Signal
    word: Signal

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
                "phase": Out(range(machine.step)),
                "lane": Out(LANE_BITS),
                "held": Out(rank_layout(machine)),
                "header": Out(1),
                "finish": Out(1),
                "prob": Out(field_width("SFM", "prob")),
                "reading": Out(1),
                "score": Out(field_width("SFM", "score")),
                "word": Out(word_layout(machine)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        drain = Signal(2)
        last_word = self._words(m)
        last_lane = self.lane + 1 == self.geometry.lanes
        m.d.comb += [
            self.tick.eq(self.busy & (self.phase == self.machine.step - 1)),
            self.done.eq(self.tick & self.finish & last_lane),
        ]
        with m.If(self.busy):
            m.d.sync += self.phase.eq(Mux(self.tick, 0, self.phase + 1))
        with m.FSM():
            with m.State("idle"), m.If(self.start):
                m.d.sync += [self.busy.eq(1), self.lane.eq(0), self.held.eq(self.command)]
                m.next = "header"
            with m.State("header"):
                m.d.comb += self.header.eq(self.busy)
                with m.If(self.tick):
                    m.next = "read"
            with m.State("read"):
                m.d.comb += self.reading.eq(1)
                with m.If(self.tick & last_word):
                    m.next = "drain"
            with m.State("drain"):
                m.d.comb += self.finish.eq(drain == 3)
                with m.If(self.tick):
                    m.d.sync += drain.eq(drain + 1)
                with m.If(self.tick & self.finish):
                    m.d.sync += [self.busy.eq(~last_lane), self.lane.eq(self.lane + 1)]
                    m.next = "header"
                with m.If(self.done):
                    m.next = "idle"
        return m

    def _words(self, m: Module) -> Signal:
        """Walk the words of a lane in visiting order; returns whether this is the last one."""
        machine = self.machine
        group = Signal.like(self.held.groups)
        bank_group = Signal(range(machine.groups))
        bank_in_group = Signal(range(machine.banks_per_group))
        bank, last_word = Signal(range(machine.banks)), Signal()
        last_bank_group = bank_group == machine.groups - 1
        last_bank = last_bank_group & (bank_in_group == machine.banks_per_group - 1)
        exists = valid_slots(machine, group, bank, self.held.valid)
        m.d.comb += [
            bank.eq(bank_group * machine.banks_per_group + bank_in_group),
            last_word.eq(last_bank & (group + 1 == self.held.groups)),
            self.word.live.eq(self.reading),
            self.word.address.eq(self.prob + bank // machine.elements),
            self.word.position.eq(bank),
            self.word.exists.eq(exists),
        ]
        with m.If(self.tick & self.header):
            m.d.sync += self.prob.eq(self.prob + 1)
        with m.If(self.tick & self.reading):
            # Score words lie in the order of reading, over all lanes.
            m.d.sync += self.score.eq(self.score + 1)
            m.d.sync += bank_group.eq(Mux(last_bank_group, 0, bank_group + 1))
            with m.If(last_bank_group):
                m.d.sync += bank_in_group.eq(Mux(last_bank, 0, bank_in_group + 1))
            with m.If(last_bank):
                m.d.sync += group.eq(Mux(last_word, 0, group + 1))
                slots = machine.slots_per_burst * machine.subbanks
                m.d.sync += self.prob.eq(self.prob + slots)
        with m.If(self.start):
            m.d.sync += [self.score.eq(self.command.score), self.prob.eq(self.command.prob)]
        return last_word
