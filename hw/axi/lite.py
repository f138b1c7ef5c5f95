"""AXI4-Lite slave in front of a register map."""

from amaranth.hdl import Cat, Module, Mux, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from bankside.hw.axi.signatures import AxiLiteSignature, Resp
from bankside.hw.lib.queue import Queue


class AxiLiteSlave(wiring.Component):
    """Turns AXI4-Lite into one register write and one register read per cycle.

    No path leads from an input of the bus to an output within a cycle.

    Members
    -------
    axi : In(AxiLiteSignature)
        Byte addresses; the bits below a register are ignored.
    write_en, write_address, write_data : Out
        Write of a whole register (address in registers) in this cycle.
    write_error : In
        There is no such register: answered with SLVERR. So is a write of some bytes only, which
        `write_en` does not show.
    read_en, read_address : Out
        Read in this cycle.
    read_data, read_error : In
        Register of this cycle's read, given in the same cycle.
    """

    def __init__(self, *, data_bits: int = 64, address_bits: int) -> None:
        self._low = exact_log2(data_bits // 8)
        words = address_bits - self._low
        super().__init__(
            {
                "axi": In(AxiLiteSignature(data_bits=data_bits, address_bits=address_bits)),
                "write_en": Out(1),
                "write_address": Out(words),
                "write_data": Out(data_bits),
                "write_error": In(1),
                "read_en": Out(1),
                "read_address": Out(words),
                "read_data": In(data_bits),
                "read_error": In(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        axi = self.axi
        beat = data.StructLayout({"data": len(axi.wdata), "strobe": len(axi.wstrb)})
        answer = data.StructLayout({"data": len(axi.rdata), "resp": Resp})
        m.submodules.aw = aw = Queue(len(axi.awaddr), 2)
        m.submodules.w = w = Queue(beat, 2)
        m.submodules.b = b = Queue(Resp, 2)
        m.submodules.ar = ar = Queue(len(axi.araddr), 2)
        m.submodules.r = r = Queue(answer, 2)
        m.d.comb += [
            *_into(aw, axi.awvalid, axi.awready, axi.awaddr),
            *_into(w, axi.wvalid, axi.wready, Cat(axi.wdata, axi.wstrb)),
            *_into(ar, axi.arvalid, axi.arready, axi.araddr),
            *_out_of(b, axi.bvalid, axi.bready, axi.bresp),
            *_out_of(r, axi.rvalid, axi.rready, Cat(axi.rdata, axi.rresp)),
        ]
        self._writes(m, aw, w, b)
        m.d.comb += [
            self.read_en.eq(ar.o.valid & r.i.ready),
            self.read_address.eq(ar.o.payload[self._low :]),
            ar.o.ready.eq(self.read_en),
            r.i.valid.eq(self.read_en),
            r.i.payload.data.eq(self.read_data),
            Value.cast(r.i.payload.resp).eq(_resp(self.read_error)),
        ]
        return m

    def _writes(self, m: Module, aw: Queue, w: Queue, b: Queue) -> None:
        whole = w.o.payload.strobe.all()
        go = aw.o.valid & w.o.valid & b.i.ready
        m.d.comb += [
            self.write_en.eq(go & whole),
            self.write_address.eq(aw.o.payload[self._low :]),
            self.write_data.eq(w.o.payload.data),
            aw.o.ready.eq(go),
            w.o.ready.eq(go),
            b.i.valid.eq(go),
            Value.cast(b.i.payload).eq(_resp(self.write_error | ~whole)),
        ]


def _resp(error: Value) -> Value:
    return Mux(error, Resp.SLVERR, Resp.OKAY)


def _into(queue: Queue, valid: Value, ready: Value, payload: Value) -> list:
    """Bus channel into a queue."""
    return [
        queue.i.valid.eq(valid),
        ready.eq(queue.i.ready),
        Value.cast(queue.i.payload).eq(payload),
    ]


def _out_of(queue: Queue, valid: Value, ready: Value, payload: Value) -> list:
    """Queue into a bus channel."""
    return [
        valid.eq(queue.o.valid),
        queue.o.ready.eq(ready),
        Value.cast(payload).eq(Value.cast(queue.o.payload)),
    ]
