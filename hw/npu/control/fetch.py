"""Command fetch through port m1. Ref: docs/npu.md section 4."""

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.axi.signatures import BURST_INCR, AxiReadSignature
from bankside.hw.lib.queue import Queue
from bankside.hw.npu.control.layouts import ADDRESS_BITS, POSITION_BITS, WORD

__all__ = ["BURST_WORDS", "FIFO_WORDS", "Fetch"]

BURST_WORDS = 16
FIFO_WORDS = 64


class Fetch(wiring.Component):
    """Reads the words of a stream, one burst at a time.

    Members
    -------
    start : In(1)
        Pulse while `quiet`; forgets what is left of the stream before.
    running : In(1)
        Further bursts may be asked for.
    base, words : In
        Byte address of the stream, a multiple of a whole burst; its words.
    axi : Out(AxiReadSignature)
    valid, word, error : Out
        The oldest word that is not taken; it came with an error response.
    take : In(1)
        The word leaves (only while `valid`).
    quiet : Out(1)
        No burst is under way or offered.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "start": In(1),
                "running": In(1),
                "base": In(ADDRESS_BITS),
                "words": In(POSITION_BITS),
                "axi": Out(AxiReadSignature(data_bits=WORD, address_bits=ADDRESS_BITS)),
                "valid": Out(1),
                "word": Out(WORD),
                "error": Out(1),
                "take": In(1),
                "quiet": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        item = data.StructLayout({"word": WORD, "error": 1})
        fifo = Queue(item, FIFO_WORDS)
        m.submodules.fifo = ResetInserter(self.start)(fifo)
        pending = Signal()
        self._address(m, fifo, pending)
        axi = self.axi
        beat = Signal()
        m.d.comb += [
            axi.rready.eq(pending),
            beat.eq(axi.rvalid & axi.rready),
            fifo.i.valid.eq(beat),
            fifo.i.payload.word.eq(axi.rdata),
            fifo.i.payload.error.eq(axi.rresp.as_value()[1]),
            self.valid.eq(fifo.o.valid),
            self.word.eq(fifo.o.payload.word),
            self.error.eq(fifo.o.payload.error),
            fifo.o.ready.eq(self.take),
            self.quiet.eq(~pending & ~axi.arvalid),
        ]
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += pending.eq(1)
        with m.Elif(beat & axi.rlast):
            m.d.sync += pending.eq(0)
        return m

    def _address(self, m: Module, fifo: Queue, pending: Signal) -> None:
        axi, asked, left = self.axi, Signal(POSITION_BITS), Signal(POSITION_BITS)
        whole, offered, room = Signal(), Signal(), Signal()
        m.d.comb += [
            left.eq(self.words - asked),
            whole.eq(left >= BURST_WORDS),
            room.eq(fifo.level <= FIFO_WORDS - BURST_WORDS),
            # Once offered, an address stays, even when the machine stops.
            axi.arvalid.eq(offered | (self.running & ~pending & room & (left != 0))),
            axi.araddr.eq(self.base + Cat(0, 0, 0, asked)),
            axi.arlen.eq(Mux(whole, BURST_WORDS, left[: BURST_WORDS.bit_length()]) - 1),
            axi.arsize.eq(axi.signature.size),
            axi.arburst.eq(BURST_INCR),
        ]
        m.d.sync += offered.eq(axi.arvalid & ~axi.arready)
        with m.If(self.start):
            m.d.sync += asked.eq(0)
        with m.Elif(axi.arvalid & axi.arready):
            m.d.sync += asked.eq(Mux(whole, asked + BURST_WORDS, self.words))
