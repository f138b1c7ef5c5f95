"""Writing bursts: one after the other, responses awaited meanwhile."""

from amaranth.hdl import Module, Mux, ShapeLike, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.axi.burst import block_beats
from bankside.hw.axi.signatures import BURST_INCR, AxiWriteSignature
from bankside.hw.lib.queue import Queue

__all__ = ["BurstWriter"]


class BurstWriter(wiring.Component):
    """Sends the address of a burst, from the next cycle on its beats, then the next address.

    Parameters
    ----------
    signature : widths of the port.
    place : shape of what says where the data of a burst come from.
    note : shape of what its response carries.
    outstanding : responses that may be awaited.

    Members
    -------
    burst : In(stream of {address, beats, place, note})
        Taken in the cycle in which the memory accepts the address. What has been offered must stay
        until then, even if `valid` falls because of `stop`.
    axi : Out(AxiWriteSignature)
    stop : In(1)
        No further burst begins; an address that has been offered stays.
    mute : In(1)
        Beats that are offered from this cycle on write nothing: all their strobes are 0.
    fetch : Out(1)
        `data` must be beat `index` of the burst of `place` from the next cycle until another fetch.
    data : In
    last : Out(1)
        The last beat of a burst is taken; `place` is its own.
    response : Out(1)
        A response in this cycle: `error`; `note` of the burst.
    busy : Out(1)
        Responses are awaited (registered).
    """

    burst: stream.Interface

    def __init__(
        self,
        signature: AxiWriteSignature,
        *,
        place: ShapeLike,
        note: ShapeLike,
        outstanding: int,
    ) -> None:
        self._outstanding, self._note = outstanding, note
        self._most = block_beats(signature.data_bits // 8)
        layout = data.StructLayout(
            {
                "address": signature.address_bits,
                "beats": range(self._most + 1),
                "place": place,
                "note": note,
            }
        )
        super().__init__(
            {
                "burst": In(stream.Signature(layout)),
                "axi": Out(signature),
                **dict.fromkeys(("stop", "mute"), In(1)),
                **dict.fromkeys(("fetch", "last", "response", "error", "busy"), Out(1)),
                "index": Out(range(self._most)),
                "place": Out(place),
                "data": In(signature.data_bits),
                "note": Out(note),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.awaited = awaited = Queue(self._note, self._outstanding)
        left = Signal(range(self._most + 1))
        self._addresses(m, awaited, left)
        self._beats(m, left)
        axi = self.axi
        m.d.comb += [
            axi.bready.eq(awaited.o.valid),
            self.response.eq(axi.bvalid & axi.bready),
            awaited.o.ready.eq(self.response),
            self.note.eq(awaited.o.payload),
            self.error.eq(self.response & axi.bresp.as_value()[1]),
            self.busy.eq(awaited.o.valid),
        ]
        return m

    def _addresses(self, m: Module, awaited: Queue, left: Signal) -> None:
        axi, burst, offered = self.axi, self.burst.payload, Signal()
        m.d.comb += [
            axi.awvalid.eq(
                ((self.burst.valid & ~self.stop) | offered) & (left == 0) & awaited.i.ready
            ),
            axi.awaddr.eq(burst.address),
            axi.awlen.eq(burst.beats - 1),
            axi.awsize.eq(axi.signature.size),
            axi.awburst.eq(BURST_INCR),
            self.burst.ready.eq(axi.awvalid & axi.awready),
            awaited.i.valid.eq(self.burst.ready),
            awaited.i.payload.eq(burst.note),
        ]
        m.d.sync += offered.eq(axi.awvalid & ~axi.awready)

    def _beats(self, m: Module, left: Signal) -> None:
        """`left` counts the beats of the burst that the memory has not taken."""
        axi, taken, writes = self.axi, Signal(), Signal()
        place, following = Signal.like(self.place), Signal.like(self.index)
        m.d.comb += [
            axi.wvalid.eq(left != 0),
            axi.wdata.eq(self.data),
            # A beat that the memory has seen but not taken must not change.
            axi.wstrb.eq(Mux(self.mute & ~writes, 0, -1)),
            axi.wlast.eq(left == 1),
            taken.eq(axi.wvalid & axi.wready),
            self.fetch.eq(self.burst.ready | (taken & ~axi.wlast)),
            self.place.eq(Mux(axi.wvalid, place, self.burst.payload.place)),
            self.index.eq(Mux(axi.wvalid, following, 0)),
            self.last.eq(taken & axi.wlast),
        ]
        m.d.sync += writes.eq(axi.wvalid & ~axi.wready & axi.wstrb.any())
        with m.If(self.fetch):
            m.d.sync += following.eq(self.index + 1)
        with m.If(self.burst.ready):
            m.d.sync += [left.eq(self.burst.payload.beats), place.eq(self.burst.payload.place)]
        with m.If(taken):
            m.d.sync += left.eq(left - 1)
