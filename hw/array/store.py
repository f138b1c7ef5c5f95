"""Store engine: column banks to main memory. Ref: docs/array.md section 4."""

from amaranth.hdl import Module, Mux
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.array.control.layouts import ENGINES, TokenSignature, store_layout
from bankside.hw.array.walk import BurstWalk
from bankside.hw.axi.signatures import AxiWriteSignature
from bankside.hw.axi.writer import BurstWriter
from bankside.isa.array_machine import ELEMENT_BYTES, ArrayMachine


class StoreEngine(wiring.Component):
    """Writes one burst after the other; responses may be awaited meanwhile.

    Members
    -------
    commands : In(stream of store_layout)
        Head of the queue of STORE commands; taken with the last address of the command.
    tokens : Out(TokenSignature)
    axi : Out(AxiWriteSignature)
    en, bank, address : Out
        Bus word of a column bank that is read in this cycle.
    data : In
        It, from the next cycle on until another one is read.
    stop : In
        No further burst begins.
    busy : Out
        Responses are awaited (registered).
    bus_error : Out
        A burst was answered with an error (one cycle per burst).
    begin, last, complete : Out
        First address accepted, last beat taken, last response of a command in this cycle.
    """

    commands: stream.Interface

    def __init__(self, machine: ArrayMachine) -> None:
        self._machine, self._layout = machine, store_layout(machine)
        self._beat_bytes = machine.bus_elements * ELEMENT_BYTES
        mem = self._layout["mem"].width
        super().__init__(
            {
                "commands": In(stream.Signature(self._layout)),
                "tokens": Out(TokenSignature()),
                "axi": Out(AxiWriteSignature(data_bits=8 * self._beat_bytes, address_bits=mem)),
                "en": Out(1),
                "bank": Out(self._layout["bank"].shape),
                "address": Out(self._layout["buf"].shape),
                "data": In(8 * self._beat_bytes),
                "stop": In(1),
                **dict.fromkeys(("busy", "bus_error"), Out(1)),
                **dict.fromkeys(("begin", "last", "complete"), Out(1)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.walk = walk = BurstWalk(self._machine, self._layout)
        place = {"bank": len(self.bank), "address": len(self.address), "final": 1}
        m.submodules.writer = writer = BurstWriter(
            self.axi.signature,
            place=data.StructLayout(place),
            note=data.StructLayout({"give": ENGINES, "final": 1}),
            outstanding=self._machine.config.memory.outstanding,
        )
        wiring.connect(m, wiring.flipped(self.commands), walk.i)
        wiring.connect(m, writer.axi, wiring.flipped(self.axi))
        self._bursts(m, walk, writer)
        m.d.comb += [
            self.en.eq(writer.fetch),
            self.bank.eq(writer.place.bank),
            self.address.eq(writer.place.address + writer.index),
            writer.data.eq(self.data),
            self.last.eq(writer.last & writer.place.final),
            self.tokens.give.eq(Mux(writer.response, writer.note.give, 0)),
            self.complete.eq(writer.response & writer.note.final),
            self.bus_error.eq(writer.error),
            self.busy.eq(writer.busy),
        ]
        return m

    def _bursts(self, m: Module, walk: BurstWalk, writer: BurstWriter) -> None:
        command, tokens, burst = self.commands.payload, self.tokens, writer.burst.payload
        m.d.comb += [
            writer.stop.eq(self.stop),
            writer.burst.valid.eq(
                self.commands.valid & (~walk.first | ((command.wait & ~tokens.present) == 0))
            ),
            burst.address.eq(walk.address),
            burst.beats.eq(walk.length),
            burst.place.bank.eq(walk.bank),
            burst.place.address.eq(walk.word),
            burst.place.final.eq(walk.last),
            burst.note.give.eq(Mux(walk.last, command.signal, 0)),
            burst.note.final.eq(walk.last),
            walk.next.eq(writer.burst.ready),
            tokens.take.eq(Mux(walk.next & walk.first, command.wait, 0)),
            self.begin.eq(walk.next & walk.first),
        ]
