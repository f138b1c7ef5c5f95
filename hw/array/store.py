"""Store engine: column banks to main memory. Ref: docs/array.md section 4."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.array.control.layouts import ENGINES, TokenSignature, store_layout
from bankside.hw.array.walk import BurstWalk
from bankside.hw.axi.burst import block_beats
from bankside.hw.axi.signatures import BURST_INCR, AxiWriteSignature
from bankside.hw.lib.queue import Queue
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
        awaited = data.StructLayout({"give": ENGINES, "final": 1})
        m.submodules.responses = responses = Queue(awaited, self._machine.config.memory.outstanding)
        wiring.connect(m, wiring.flipped(self.commands), walk.i)
        left = Signal(range(block_beats(self._beat_bytes) + 1))
        self._addresses(m, walk, responses, left)
        self._beats(m, walk, left)
        self._responses(m, responses)
        m.d.comb += self.busy.eq(responses.o.valid)
        return m

    def _addresses(self, m: Module, walk: BurstWalk, responses: Queue, left: Signal) -> None:
        axi, command, tokens, offered = self.axi, self.commands.payload, self.tokens, Signal()
        m.d.comb += [
            # Once offered, an address stays, even when the engine is stopped.
            axi.awvalid.eq(
                self.commands.valid
                & (left == 0)
                & responses.i.ready
                & (~walk.first | ((command.wait & ~tokens.present) == 0))
                & (~self.stop | offered)
            ),
            axi.awaddr.eq(walk.address),
            axi.awlen.eq(walk.length - 1),
            axi.awsize.eq(axi.signature.size),
            axi.awburst.eq(BURST_INCR),
            walk.next.eq(axi.awvalid & axi.awready),
            tokens.take.eq(Mux(walk.next & walk.first, command.wait, 0)),
            responses.i.valid.eq(walk.next),
            responses.i.payload.give.eq(Mux(walk.last, command.signal, 0)),
            responses.i.payload.final.eq(walk.last),
            self.begin.eq(walk.next & walk.first),
        ]
        m.d.sync += offered.eq(axi.awvalid & ~axi.awready)

    def _beats(self, m: Module, walk: BurstWalk, left: Signal) -> None:
        """`left` counts the beats of the burst that the memory has not taken."""
        axi, taken, final = self.axi, Signal(), Signal()
        bank, following = Signal.like(self.bank), Signal.like(self.address)
        m.d.comb += [
            axi.wvalid.eq(left != 0),
            axi.wdata.eq(self.data),
            axi.wstrb.eq(-1),
            axi.wlast.eq(left == 1),
            taken.eq(axi.wvalid & axi.wready),
            self.en.eq(walk.next | (taken & ~axi.wlast)),
            self.bank.eq(Mux(axi.wvalid, bank, walk.bank)),
            self.address.eq(Mux(axi.wvalid, following, walk.word)),
            self.last.eq(taken & axi.wlast & final),
        ]
        with m.If(self.en):
            m.d.sync += following.eq(self.address + 1)
        with m.If(walk.next):
            m.d.sync += [left.eq(walk.length), bank.eq(walk.bank), final.eq(walk.last)]
        with m.If(taken):
            m.d.sync += left.eq(left - 1)

    def _responses(self, m: Module, responses: Queue) -> None:
        axi, awaited, taken = self.axi, responses.o.payload, Signal()
        m.d.comb += [
            axi.bready.eq(responses.o.valid),
            taken.eq(axi.bvalid & axi.bready),
            responses.o.ready.eq(taken),
            self.tokens.give.eq(Mux(taken, awaited.give, 0)),
            self.complete.eq(taken & awaited.final),
            self.bus_error.eq(taken & axi.bresp.as_value()[1]),
        ]
