"""Buffer engine: transfers between the chips' buffers and the rank unit. Ref: docs/pim.md sections
4 and 5.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.pim.controller.array_engine import STAGE_BITS
from bankside.hw.pim.controller.frontend import SPEC, WORD
from bankside.hw.pim.layouts import command_codes, command_layout
from bankside.hw.pim.rank_unit.ports import geometry_layout
from bankside.isa.layout import view
from bankside.isa.machine import Machine

#: Inner counter limit of the middle loop: words of a probability block, or twice the result words.
MIDDLE_BITS = 13


class BufferEngine(wiring.Component):
    """Turns WRSBQ, WRSBP, RDRBS and RDRBC into bursts: loops over lanes, a middle index and (reads)
    the banks.

    Members
    -------
    load, word, busy, want, command, issued, last, opcode, signal :
        As in the array engine.
    source : Out
        Address of the word that the candidate WRSB sends (input staging or probability memory).
    probability : Out
        `source` is in the probability memory.
    target : Out
        Score memory word of the candidate RDRB.
    middle, first_bank, last_bank : Out
        Place of the candidate RDRB in its loops.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        super().__init__(
            {
                "load": In(1),
                "word": In(WORD),
                "busy": Out(1),
                "geometry": In(geometry_layout(machine)),
                "want": Out(1),
                "command": Out(command_layout(machine)),
                "issued": In(1),
                "last": Out(1),
                "opcode": Out(6),
                "signal": Out(4),
                "source": Out(STAGE_BITS),
                "probability": Out(1),
                "target": Out(10),
                "context": Out(1),
                "middle": Out(MIDDLE_BITS),
                "first_bank": Out(1),
                "last_bank": Out(1),
                "buf": Out(1),
                "valid": Out(13),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        machine = self._machine
        word, lane = Signal(WORD), Signal(4)
        bank, last_middle, reading = (
            Signal(range(max(2, machine.banks))),
            Signal(MIDDLE_BITS),
            Signal(),
        )
        address = Signal(STAGE_BITS)
        middle_done, lane_done, advance = Signal(), Signal(), Signal()
        m.d.comb += [
            self.want.eq(self.busy),
            self.opcode.eq(view(SPEC, "RDRBS", word).opcode),
            self.signal.eq(view(SPEC, "RDRBS", word).signal),
            self.source.eq(address),
            self.target.eq(address),
            self.first_bank.eq(bank == 0),
            self.last_bank.eq(bank == machine.banks - 1),
            middle_done.eq(~reading | self.last_bank),
            lane_done.eq(middle_done & (self.middle == last_middle)),
            self.last.eq(self.issued & lane_done & (lane == self.geometry.lanes - 1)),
            # Context bursts of all banks go into one word; every other burst has a word of its own.
            advance.eq(Mux(self.context, self.last_bank, 1)),
            self.command.lane.eq(lane),
        ]
        with m.If(self.issued):
            m.d.sync += [bank.eq(Mux(middle_done, 0, bank + 1)), address.eq(address + advance)]
            with m.If(middle_done):
                m.d.sync += self.middle.eq(self.middle + 1)
            with m.If(lane_done):
                m.d.sync += [self.middle.eq(0), lane.eq(lane + 1)]
        with m.If(self.last):
            m.d.sync += self.busy.eq(0)
        self._load(m, word, [lane, self.middle, bank], address)
        with m.Switch(self.opcode):
            self._writes(m, word, last_middle)
            self._reads(m, word, last_middle, bank, reading)
        return m

    def _load(self, m: Module, word: Signal, counters: list[Signal], address: Signal) -> None:
        with m.If(self.load):
            m.d.sync += [
                word.eq(self.word),
                self.busy.eq(1),
                *(counter.eq(0) for counter in counters),
            ]
            with m.Switch(view(SPEC, "RDRBS", self.word).opcode):
                for name, field in (
                    ("WRSBQ", "stage"),
                    ("WRSBP", "prob"),
                    ("RDRBS", "score"),
                    ("RDRBC", "score"),
                ):
                    with m.Case(SPEC.commands[name].opcode):
                        m.d.sync += address.eq(view(SPEC, name, self.word)[field])

    def _writes(self, m: Module, word: Signal, last_middle: Signal) -> None:
        machine, codes = self._machine, command_codes(self._machine)
        query, block = view(SPEC, "WRSBQ", word), view(SPEC, "WRSBP", word)
        with m.Case(SPEC.commands["WRSBQ"].opcode):
            m.d.comb += [
                self.command.code.eq(codes["WRSB"]),
                self.command.sb.eq(query.sb + self.middle),
                last_middle.eq(query.count - 1),
            ]
        with m.Case(SPEC.commands["WRSBP"].opcode):
            m.d.comb += [
                self.command.code.eq(codes["WRSB"]),
                self.command.sb.eq(block.sb + self.middle - 1),
                self.command.header.eq(self.middle == 0),
                self.command.kbuf.eq(block.kbuf),
                self.probability.eq(1),
                last_middle.eq(block.groups * (machine.slots_per_burst * machine.subbanks)),
            ]

    def _reads(
        self, m: Module, word: Signal, last_middle: Signal, bank: Signal, reading: Signal
    ) -> None:
        machine, codes = self._machine, command_codes(self._machine)
        groups, per_group = (
            machine.groups.bit_length() - 1,
            machine.banks_per_group.bit_length() - 1,
        )
        scores, sums = view(SPEC, "RDRBS", word), view(SPEC, "RDRBC", word)
        for name, operands in (("RDRBS", scores), ("RDRBC", sums)):
            with m.Case(SPEC.commands[name].opcode):
                m.d.comb += [
                    reading.eq(1),
                    self.command.code.eq(codes["RDRB"]),
                    self.command.rb.eq(operands.rb + self.middle[1:]),
                    self.command.half.eq(self.middle[0]),
                    self.context.eq(name == "RDRBC"),
                    self.command.bank.eq(Cat(bank[groups : groups + per_group], bank[:groups])),
                ]
                if name == "RDRBS":
                    m.d.comb += [
                        last_middle.eq(operands.groups - 1),
                        self.buf.eq(operands.buf),
                        self.valid.eq(operands.valid),
                    ]
                else:
                    m.d.comb += last_middle.eq((operands.count << 1) - 1)
