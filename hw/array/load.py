"""Load engine: main memory to the buffer banks. Ref: docs/array.md section 4."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.array.control.layouts import ENGINES, TokenSignature, load_layout
from bankside.hw.array.walk import BurstWalk
from bankside.hw.axi.signatures import BURST_INCR, AxiReadSignature
from bankside.hw.lib.queue import Queue
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
        burst = data.StructLayout(
            {
                "side": 1,
                "bank": len(self.bank),
                "address": len(self.address),
                "give": ENGINES,
                "final": 1,
            }
        )
        outstanding = self._machine.config.memory.outstanding
        m.submodules.bursts = bursts = Queue(burst, outstanding)
        wiring.connect(m, wiring.flipped(self.commands), walk.i)
        self._addresses(m, walk, bursts)
        self._beats(m, bursts)
        m.d.comb += self.busy.eq(bursts.o.valid)
        return m

    def _addresses(self, m: Module, walk: BurstWalk, bursts: Queue) -> None:
        axi, command, tokens = self.axi, self.commands.payload, self.tokens
        offered, needed = Signal(), Signal()
        m.d.comb += [
            needed.eq(Mux(command.each, walk.step_first, walk.first)),
            # Once offered, an address stays, even when the engine is stopped.
            axi.arvalid.eq(
                self.commands.valid
                & bursts.i.ready
                & (~needed | ((command.wait & ~tokens.present) == 0))
                & (~self.stop | offered)
            ),
            axi.araddr.eq(walk.address),
            axi.arlen.eq(walk.length - 1),
            axi.arsize.eq(axi.signature.size),
            axi.arburst.eq(BURST_INCR),
            walk.next.eq(axi.arvalid & axi.arready),
            tokens.take.eq(Mux(walk.next & needed, command.wait, 0)),
            bursts.i.valid.eq(walk.next),
            bursts.i.payload.side.eq(command.side),
            bursts.i.payload.bank.eq(walk.bank),
            bursts.i.payload.address.eq(walk.word),
            bursts.i.payload.final.eq(walk.last),
            self.begin.eq(walk.next & walk.first),
            self.last.eq(walk.next & walk.last),
        ]
        with m.If(Mux(command.each, walk.step_last, walk.last)):
            m.d.comb += bursts.i.payload.give.eq(command.signal)
        m.d.sync += offered.eq(axi.arvalid & ~axi.arready)

    def _beats(self, m: Module, bursts: Queue) -> None:
        axi, burst, taken = self.axi, bursts.o.payload, Signal()
        done, offset = Signal(), Signal.like(self.address)
        m.d.comb += [
            axi.rready.eq(bursts.o.valid),
            taken.eq(axi.rvalid & axi.rready),
            done.eq(taken & axi.rlast),
            bursts.o.ready.eq(done),
            self.row_en.eq(taken & ~burst.side),
            self.column_en.eq(taken & burst.side),
            self.bank.eq(burst.bank),
            self.address.eq(burst.address + offset),
            self.data.eq(axi.rdata),
            self.bus_error.eq(taken & axi.rresp.as_value()[1]),
            self.tokens.give.eq(Mux(done, burst.give, 0)),
            self.complete.eq(done & burst.final),
        ]
        with m.If(taken):
            m.d.sync += offset.eq(Mux(axi.rlast, 0, offset + 1))
