"""DMA engine: one transfer at a time between main memory and a buffer.

Ref: docs/npu.md sections 6 and 9.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.axi.reader import BurstReader
from bankside.hw.axi.signatures import AxiReadSignature, AxiWriteSignature
from bankside.hw.axi.writer import BurstWriter
from bankside.hw.npu.control.layouts import ADDRESS_BITS, dma_layout
from bankside.hw.npu.dma.walk import RowWalk
from bankside.isa.npu_commands import TO_MEMORY, TO_WEIGHTS
from bankside.isa.npu_machine import NpuMachine

__all__ = ["DmaEngine"]

_EVENTS = ("begin", "last", "complete")


class DmaEngine(wiring.Component):
    """Executes the head of the queue of transfers.

    Members
    -------
    transfers : In(stream of dma_layout)
        Taken with the last address (read) or the last beat (write). When `halted` takes its `valid`
        away, the payload must stay.
    halted : In(1)
        No further burst begins, beats are not written: reads are dropped, write bursts that have
        begun end with strobes 0. Until reset.
    read, write : Out(AXI signatures)
        Port m0.
    to_shared, to_weights : Out(1)
        Beat `data` is to be written at the end of this cycle into that buffer at `beat`.
    fetch : Out(1)
        Read of the shared buffer at `beat`.
    beat : Out
        Place in the buffer, in beats (bytes of the buffer / width of the port).
    data : Out
    fetched : In
        What was fetched, from the next cycle until another fetch.
    quiet : Out(1)
        No burst is under way or offered.
    bus_error : Out(1)
        A beat or a response came with an error (pulse).
    position : Out(32)
        Position of the command whose transfer is under way; of the first address on.
    begin, last, complete : Out(1)
        First address accepted; last address (read) accepted or last beat (write) taken; last beat
        (read) or response (write), the cycle before the transfer is complete.
    """

    transfers: stream.Interface

    def __init__(self, machine: NpuMachine) -> None:
        layout, bits = dma_layout(machine), 8 * machine.bus_bytes
        widths = {"data_bits": bits, "address_bits": ADDRESS_BITS}
        self._read, self._write = AxiReadSignature(**widths), AxiWriteSignature(**widths)
        self._walk, outstanding = RowWalk(machine), machine.config.memory.outstanding
        beat = len(self._walk.beat)
        tag = data.StructLayout({"beat": beat, "to_weights": 1, "final": 1})
        self._reader = BurstReader(self._read, tag=tag, outstanding=outstanding)
        self._writer = BurstWriter(
            self._write,
            place=data.StructLayout({"beat": beat, "final": 1}),
            note=data.StructLayout({"final": 1}),
            outstanding=outstanding,
        )
        flags = ("to_shared", "to_weights", "fetch", "quiet", "bus_error", *_EVENTS)
        super().__init__(
            {
                "transfers": In(stream.Signature(layout)),
                "halted": In(1),
                "read": Out(self._read),
                "write": Out(self._write),
                **dict.fromkeys(flags, Out(1)),
                "beat": Out(beat),
                "data": Out(bits),
                "fetched": In(bits),
                "position": Out(layout["position"].shape),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.walk = self._walk
        m.submodules.reader = reader = self._reader
        m.submodules.writer = writer = self._writer
        wiring.connect(m, reader.axi, wiring.flipped(self.read))
        wiring.connect(m, writer.axi, wiring.flipped(self.write))
        m.d.comb += [
            reader.stop.eq(self.halted),
            writer.stop.eq(self.halted),
            writer.mute.eq(self.halted),
            writer.data.eq(self.fetched),
            self.bus_error.eq(reader.error | writer.error),
            self.quiet.eq(~(reader.busy | writer.busy | reader.axi.arvalid | writer.axi.awvalid)),
        ]
        self._bursts(m)
        self._progress(m)
        self._buffers(m)
        return m

    def _bursts(self, m: Module) -> None:
        """From the walk to the port."""
        walk, transfer = self._walk, self.transfers.payload
        m.d.comb += walk.transfer.eq(transfer)
        for port in (self._reader.burst, self._writer.burst):
            m.d.comb += [port.payload.address.eq(walk.address), port.payload.beats.eq(walk.length)]
        tag, place = self._reader.burst.payload.tag, self._writer.burst.payload.place
        m.d.comb += [
            tag.beat.eq(walk.beat),
            tag.to_weights.eq(transfer.direction == TO_WEIGHTS),
            tag.final.eq(walk.last),
            place.beat.eq(walk.beat),
            place.final.eq(walk.last),
            self._writer.burst.payload.note.final.eq(walk.last),
        ]

    def _progress(self, m: Module) -> None:
        """`drains`: every address of the transfer is out; `rests`: the cycle after the last beat
        or response.
        """
        walk, reader, writer = self._walk, self._reader, self._writer
        drains, rests, writes, offers = Signal(), Signal(), Signal(), Signal()
        position = Signal.like(self.position)
        m.d.comb += [
            writes.eq(self.transfers.payload.direction == TO_MEMORY),
            offers.eq(self.transfers.valid & ~drains & ~rests),
            reader.burst.valid.eq(offers & ~writes),
            writer.burst.valid.eq(offers & writes),
            walk.next.eq(reader.burst.ready | writer.burst.ready),
            self.begin.eq(walk.next & walk.first),
            self.last.eq((reader.burst.ready & walk.last) | (writer.last & writer.place.final)),
            self.complete.eq(
                (reader.beat & reader.last & reader.tag.final)
                | (writer.response & writer.note.final)
            ),
            self.transfers.ready.eq(self.last),
            self.position.eq(Mux(self.begin, self.transfers.payload.position, position)),
        ]
        m.d.sync += [position.eq(self.position), rests.eq(self.complete)]
        with m.If(walk.next & walk.last):
            m.d.sync += drains.eq(1)
        with m.If(self.complete):
            m.d.sync += drains.eq(0)

    def _buffers(self, m: Module) -> None:
        reader, writer = self._reader, self._writer
        received = Signal()
        m.d.comb += [
            received.eq(reader.beat & ~reader.error & ~self.halted),
            self.to_shared.eq(received & ~reader.tag.to_weights),
            self.to_weights.eq(received & reader.tag.to_weights),
            self.data.eq(reader.data),
            self.fetch.eq(writer.fetch),
            self.beat.eq(
                Mux(
                    writer.fetch,
                    writer.place.beat + writer.index,
                    reader.tag.beat + reader.index,
                )
            ),
        ]
