"""The cells of one bank in one chip."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

__all__ = ["BankArray"]


class BankArray(wiring.Component):
    """`rows` x `columns` slices of `slice_bits` bits, all zero after power-up.

    One read and one write port, addressed by row and column (both powers of two). `read_data` shows
    the slice one cycle after `read_en` and holds it until the next read; a write in the same cycle
    to the same place is not yet seen. Reset does not touch the contents.
    """

    read_en: Signal
    read_row: Signal
    read_column: Signal
    read_data: Signal
    write_en: Signal
    write_row: Signal
    write_column: Signal
    write_data: Signal

    def __init__(self, slice_bits: int, rows: int, columns: int):
        self.slice_bits, self.rows, self.columns = slice_bits, rows, columns
        row, column = bits_for(rows - 1), bits_for(columns - 1)
        super().__init__(
            {
                "read_en": In(1),
                "read_row": In(row),
                "read_column": In(column),
                "read_data": Out(slice_bits),
                "write_en": In(1),
                "write_row": In(row),
                "write_column": In(column),
                "write_data": In(slice_bits),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        # The name is part of the interface: tools preload and dump the cells through it.
        m.submodules.cells = cells = memory.Memory(
            shape=self.slice_bits, depth=self.rows * self.columns, init=[]
        )
        read, write = cells.read_port(), cells.write_port()
        m.d.comb += [
            read.en.eq(self.read_en),
            read.addr.eq(self._address(self.read_row, self.read_column)),
            self.read_data.eq(read.data),
            write.en.eq(self.write_en),
            write.addr.eq(self._address(self.write_row, self.write_column)),
            write.data.eq(self.write_data),
        ]
        return m

    def _address(self, row: Signal, column: Signal) -> Cat:
        # A dimension of one still has a one-bit port; that bit is always zero and has no place.
        bits = (self.columns - 1).bit_length()
        return Cat(column[:bits], row[: (self.rows - 1).bit_length()])
