"""A rank of conventional DRAM chips that holds real bits and refuses illegal commands."""

from amaranth.hdl import Array, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.dram.array import BankArray
from bankside.hw.dram.checker import TimingChecker
from bankside.hw.dram.ports import PortWidths
from bankside.hw.lib.unit import Unit
from bankside.isa.dram.standard import DramStandard

__all__ = ["DramRank"]


class DramRank(wiring.Component):
    """`chips` x8 chips behind one command bus.

    Command ports as in `TimingChecker`, with `column` (in bursts) for RD, WR, RDA and WRA. A burst
    is one word of `chips` slices. Read data is at `read_data` with `read_valid` nCL + nBL cycles
    after the command, when the last beat has arrived; write data is taken from `write_data`
    nCWL + nBL cycles after the command, with `write_take` high in that cycle. A refused command
    changes nothing. PIM commands are checked and move the rows, but compute nothing here.
    """

    valid: Signal
    command: Signal
    bank: Signal
    row: Signal
    column: Signal
    accept: Signal
    violation: Signal
    open_mask: Signal
    read_valid: Signal
    read_data: data.View
    write_take: Signal
    write_data: data.View

    def __init__(self, std: DramStandard, chips: int = 8):
        self.std = std
        self.chips = chips
        width = PortWidths.of(std)
        burst = data.ArrayLayout(std.slice_bits, chips)
        self._access = data.StructLayout(
            {"valid": 1, "bank": width.bank, "row": width.row, "column": width.column}
        )
        super().__init__(
            {
                "valid": In(1),
                "command": In(width.command),
                "bank": In(width.bank),
                "row": In(width.row),
                "column": In(width.column),
                "accept": Out(1),
                "violation": Out(width.violation),
                "open_mask": Out(std.banks),
                "read_valid": Out(1),
                "read_data": Out(burst),
                "write_take": Out(1),
                "write_data": In(burst),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.checker = checker = TimingChecker(self.std)
        for port in ("valid", "command", "bank", "row"):
            m.d.comb += getattr(checker, port).eq(getattr(self, port))
        for port in ("accept", "violation", "open_mask"):
            m.d.comb += getattr(self, port).eq(getattr(checker, port))
        params = self.std.params
        # The array answers one cycle after it is asked, so it is asked one cycle before the end.
        read = self._delayed(m, checker, ("RD", "RDA"), params["nCL"] + params["nBL"] - 1)
        write = self._delayed(m, checker, ("WR", "WRA"), params["nCWL"] + params["nBL"])
        shown = Signal.like(read.bank, name="shown_bank")
        m.d.sync += [self.read_valid.eq(read.valid), shown.eq(read.bank)]
        m.d.comb += self.write_take.eq(write.valid)
        for chip in range(self.chips):
            slices = [self._array(m, chip, bank, read, write) for bank in range(self.std.banks)]
            m.d.comb += self.read_data[chip].eq(Array(slices)[shown])
        return m

    def _delayed(self, m: Module, checker: TimingChecker, names: tuple, cycles: int) -> data.View:
        """The accesses of the commands `names`, `cycles` later."""
        wanted = [self.std.code(name) for name in names]
        access = Signal(self._access, name=f"{names[0].lower()}_access")
        m.d.comb += [
            access.valid.eq(self.accept & self.command.matches(*wanted)),
            access.bank.eq(self.bank),
            access.row.eq(checker.open_row[self.bank]),
            access.column.eq(self.column),
        ]
        for stage in range(cycles):
            later = Signal(self._access, name=f"{names[0].lower()}_access_{stage + 1}")
            m.d.sync += later.eq(access)
            access = later
        return access

    def _array(self, m: Module, chip: int, bank: int, read: data.View, write: data.View) -> Value:
        """One bank of one chip; returns its slice."""
        shape = self.std.geometry
        component = BankArray(self.std.slice_bits, shape.rows, shape.columns)
        name = f"bankside_bank_array_{self.std.slice_bits}x{shape.rows}x{shape.columns}"
        array = Unit(component, name)
        m.submodules[f"chip{chip}_bank{bank}"] = array
        for port, access in (("read", read), ("write", write)):
            m.d.comb += [
                getattr(array, f"{port}_en").eq(access.valid & (access.bank == bank)),
                getattr(array, f"{port}_row").eq(access.row),
                getattr(array, f"{port}_column").eq(access.column),
            ]
        m.d.comb += array.write_data.eq(self.write_data[chip])
        return array.read_data
