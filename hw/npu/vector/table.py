"""Table of the vector unit: 256 bytes (lut) or 256 int32 (softmax). Ref: docs/npu.md section 2."""

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from bankside.isa.npu_machine import WORD_BYTES

__all__ = ["Table"]

_ROWS = 32
_ENTRY_BITS = 32


class Table(wiring.Component):
    """32 words of the shared buffer, read entry by entry in the same cycle.

    Members
    -------
    write : In(1), row : In(5), word : In(256)
        Written at the end of the cycle.
    bytes : Out(ArrayLayout(8, V)), indices : In(ArrayLayout(8, V))
        Byte `indices[k]` of the table.
    use : In(1)
        The indices count; else the bytes are those of row 0.
    index : In(8), entry : Out(signed(32))
        32-bit entry of the table.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        lanes = data.ArrayLayout(8, rate)
        super().__init__(
            {
                "write": In(1),
                "row": In(range(_ROWS)),
                "word": In(8 * WORD_BYTES),
                "use": In(1),
                "indices": In(lanes),
                "bytes": Out(lanes),
                "index": In(8),
                "entry": Out(signed(_ENTRY_BITS)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.rows = rows = memory.Memory(shape=8 * WORD_BYTES, depth=_ROWS, init=[])
        write = rows.write_port()
        m.d.comb += [write.en.eq(self.write), write.addr.eq(self.row), write.data.eq(self.word)]
        for lane in range(self._rate):
            read, index = rows.read_port(domain="comb"), Signal(8, name=f"index{lane}")
            with m.If(self.use):
                m.d.comb += index.eq(self.indices[lane])
            m.d.comb += [
                read.addr.eq(index[5:]),
                self.bytes[lane].eq(read.data.word_select(index[:5], 8)),
            ]
        entries = rows.read_port(domain="comb")
        m.d.comb += [
            entries.addr.eq(self.index[3:]),
            self.entry.eq(entries.data.word_select(self.index[:3], _ENTRY_BITS)),
        ]
        return m
