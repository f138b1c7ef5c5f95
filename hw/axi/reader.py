"""Reading bursts: addresses ahead of the beats."""

from amaranth.hdl import Module, Mux, ShapeLike, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.axi.burst import block_beats
from bankside.hw.axi.signatures import BURST_INCR, AxiReadSignature
from bankside.hw.lib.queue import Queue

__all__ = ["BurstReader"]


class BurstReader(wiring.Component):
    """Asks for bursts, one address per cycle, and gives their beats with what the burst carries.

    Parameters
    ----------
    signature : widths of the port.
    tag : shape of what a burst carries.
    outstanding : bursts that may be under way.

    Members
    -------
    burst : In(stream of {address, beats, tag})
        Taken in the cycle in which the memory accepts the address. What has been offered must stay
        until then, even if `valid` falls because of `stop`.
    axi : Out(AxiReadSignature)
    stop : In(1)
        No further burst begins; an address that has been offered stays.
    beat : Out(1)
        A beat in this cycle: `data`, `error`; `last` of its burst; `tag` of the burst; `index` of
        the beat in it.
    busy : Out(1)
        Bursts are under way (registered).
    """

    burst: stream.Interface

    def __init__(self, signature: AxiReadSignature, *, tag: ShapeLike, outstanding: int) -> None:
        self._outstanding, self._tag = outstanding, tag
        most = block_beats(signature.data_bits // 8)
        layout = data.StructLayout(
            {"address": signature.address_bits, "beats": range(most + 1), "tag": tag}
        )
        super().__init__(
            {
                "burst": In(stream.Signature(layout)),
                "axi": Out(signature),
                "stop": In(1),
                **dict.fromkeys(("beat", "error", "last", "busy"), Out(1)),
                "data": Out(signature.data_bits),
                "tag": Out(tag),
                "index": Out(range(most)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        axi, burst, offered = self.axi, self.burst.payload, Signal()
        m.submodules.under_way = under_way = Queue(self._tag, self._outstanding)
        m.d.comb += [
            axi.arvalid.eq(((self.burst.valid & ~self.stop) | offered) & under_way.i.ready),
            axi.araddr.eq(burst.address),
            axi.arlen.eq(burst.beats - 1),
            axi.arsize.eq(axi.signature.size),
            axi.arburst.eq(BURST_INCR),
            self.burst.ready.eq(axi.arvalid & axi.arready),
            under_way.i.valid.eq(self.burst.ready),
            under_way.i.payload.eq(burst.tag),
            axi.rready.eq(under_way.o.valid),
            self.beat.eq(axi.rvalid & axi.rready),
            self.last.eq(axi.rlast),
            self.data.eq(axi.rdata),
            self.error.eq(self.beat & axi.rresp.as_value()[1]),
            self.tag.eq(under_way.o.payload),
            under_way.o.ready.eq(self.beat & axi.rlast),
            self.busy.eq(under_way.o.valid),
        ]
        m.d.sync += offered.eq(axi.arvalid & ~axi.arready)
        with m.If(self.beat):
            m.d.sync += self.index.eq(Mux(axi.rlast, 0, self.index + 1))
        return m
