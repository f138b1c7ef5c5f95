"""Load engine: main memory to the buffer banks. Ref: docs/array.md section 4."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.array.control.layouts import ENGINES, TokenSignature, load_layout
from bankside.hw.array.walk import BurstWalk
from bankside.hw.axi.reader import BurstReader
from bankside.hw.axi.signatures import AxiReadSignature
from bankside.isa.array_machine import ELEMENT_BYTES, ArrayMachine


class LoadEngine(wiring.Component):
    """Reads bursts of several commands ahead and writes their beats into the banks.

    Members
    -------
    commands : In(stream of load_layout)
        Head of the queue of LOAD commands; taken with the last address of the command.
    tokens : Out(TokenSignature)
    axi : Out(AxiReadSignature)
    row_en, column_en, bank, address, data : Out
        Bus word for a row or a column bank, to be written at the end of this cycle.
    stop : In
        No further burst begins.
    busy : Out
        Bursts are under way (registered).
    bus_error : Out
        A beat came with an error (one cycle per beat).
    begin, last, complete : Out
        First address accepted, last address accepted, last beat of a command in this cycle.
    """

    commands: stream.Interface

    def __init__(self, machine: ArrayMachine) -> None:
        self._machine, self._layout = machine, load_layout(machine)
        bits = machine.bus_elements * ELEMENT_BYTES * 8
        mem = self._layout["mem"].width
        super().__init__(
            {
                "commands": In(stream.Signature(self._layout)),
                "tokens": Out(TokenSignature()),
                "axi": Out(AxiReadSignature(data_bits=bits, address_bits=mem)),
                "bank": Out(self._layout["bank"].shape),
                "address": Out(self._layout["buf"].shape),
                "data": Out(bits),
                "stop": In(1),
                **dict.fromkeys(("row_en", "column_en", "busy", "bus_error"), Out(1)),
                **dict.fromkeys(("begin", "last", "complete"), Out(1)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.walk = walk = BurstWalk(self._machine, self._layout)
        tag = data.StructLayout(
            {
                "side": 1,
                "bank": len(self.bank),
                "address": len(self.address),
                "give": ENGINES,
                "final": 1,
            }
        )
        m.submodules.reader = reader = BurstReader(
            self.axi.signature, tag=tag, outstanding=self._machine.config.memory.outstanding
        )
        wiring.connect(m, wiring.flipped(self.commands), walk.i)
        wiring.connect(m, reader.axi, wiring.flipped(self.axi))
        self._bursts(m, walk, reader)
        self._beats(m, reader)
        return m

    def _bursts(self, m: Module, walk: BurstWalk, reader: BurstReader) -> None:
        command, tokens = self.commands.payload, self.tokens
        burst, needed = reader.burst.payload, Signal()
        m.d.comb += [
            needed.eq(Mux(command.each, walk.step_first, walk.first)),
            reader.stop.eq(self.stop),
            reader.burst.valid.eq(
                self.commands.valid & (~needed | ((command.wait & ~tokens.present) == 0))
            ),
            burst.address.eq(walk.address),
            burst.beats.eq(walk.length),
            burst.tag.side.eq(command.side),
            burst.tag.bank.eq(walk.bank),
            burst.tag.address.eq(walk.word),
            burst.tag.final.eq(walk.last),
            walk.next.eq(reader.burst.ready),
            tokens.take.eq(Mux(walk.next & needed, command.wait, 0)),
            self.begin.eq(walk.next & walk.first),
            self.last.eq(walk.next & walk.last),
        ]
        with m.If(Mux(command.each, walk.step_last, walk.last)):
            m.d.comb += burst.tag.give.eq(command.signal)

    def _beats(self, m: Module, reader: BurstReader) -> None:
        tag, done = reader.tag, Signal()
        m.d.comb += [
            done.eq(reader.beat & reader.last),
            self.row_en.eq(reader.beat & ~tag.side),
            self.column_en.eq(reader.beat & tag.side),
            self.bank.eq(tag.bank),
            self.address.eq(tag.address + reader.index),
            self.data.eq(reader.data),
            self.bus_error.eq(reader.error),
            self.tokens.give.eq(Mux(done, tag.give, 0)),
            self.complete.eq(done & tag.final),
            self.busy.eq(reader.busy),
        ]
