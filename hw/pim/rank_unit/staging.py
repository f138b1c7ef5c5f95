"""Input and output staging: C column memories between host bursts and chip slices."""

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

from bankside.hw.pim.rank_unit.permute import Relayout, Rotate, chip_bits, skew, slices
from bankside.hw.pim.rank_unit.ports import field_width, geometry_layout
from bankside.isa.machine import Machine
from bankside.isa.relayout import BIT, HEAD, RAW


def place_layout(machine: Machine) -> StructLayout:
    """Where a host burst lies: address of its first piece, its head h (layout head), layout."""
    return StructLayout(
        {
            "address": unsigned(field_width("HWR", "stage")),
            "head": unsigned(chip_bits(machine)),
            "layout": unsigned(field_width("HWR", "layout")),
        }
    )


class Locate(wiring.Component):
    """Columns, addresses and element order of a host burst, combinational.

    Members
    -------
    place : In(place_layout), nhc_log2 : In(3)
    group, amount : Out(3), Out(log2 C)
        Operands of Relayout.
    addresses : Out(C*12)
        Address per column.

    Ref: docs/pim.md section 3.
    """

    place: Signal
    nhc_log2: Signal
    group: Signal
    amount: Signal
    addresses: Signal

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        super().__init__(
            {
                "place": In(place_layout(machine)),
                "nhc_log2": In(field_width("GEOM", "nhc_log2")),
                "group": Out(3),
                "amount": Out(chip_bits(machine)),
                "addresses": Out(machine.chips * field_width("HWR", "stage")),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        bits = chip_bits(self.machine)
        address = self.place.address
        m.d.comb += [
            self.amount.eq(skew(self.machine, address + self.place.head, self.nhc_log2)),
            self.addresses.eq(address.replicate(self.machine.chips)),
        ]
        with m.Switch(self.place.layout):
            with m.Case(RAW):
                m.d.comb += self.group.eq(0)
            with m.Case(BIT):
                m.d.comb += self.group.eq(bits)
            with m.Case(HEAD):
                m.d.comb += self.group.eq(self.nhc_log2)
                for column, target in enumerate(slices(self.addresses, len(address))):
                    # Column m holds piece (m - amount) mod C, and N_hc pieces share an address.
                    piece = Signal(bits, name=f"piece{column}")
                    m.d.comb += [
                        piece.eq(column - self.amount),
                        target.eq(address + (piece >> self.nhc_log2)),
                    ]
        return m


class Columns(wiring.Component):
    """C memories of `staging_words` slices, each with an address of its own on both sides.

    Members
    -------
    write_en : In(1), write_address : In(C*12), write_data : In(C*NE*16)
    read_en : In(1), read_address : In(C*12), read_data : Out(C*NE*16)
        Data of cycle x+1 for en in cycle x; it stays while en is low.
    """

    write_en: Signal
    write_address: Signal
    write_data: Signal
    read_en: Signal
    read_address: Signal
    read_data: Signal

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        burst = machine.chips * machine.slice_bits
        addresses = machine.chips * field_width("HWR", "stage")
        super().__init__(
            {
                "write_en": In(1),
                "write_address": In(addresses),
                "write_data": In(burst),
                "read_en": In(1),
                "read_address": In(addresses),
                "read_data": Out(burst),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        width, depth = self.machine.slice_bits, self.machine.config.pim.staging_words
        bits = field_width("HWR", "stage")
        parts = zip(
            slices(self.write_address, bits),
            slices(self.write_data, width),
            slices(self.read_address, bits),
            slices(self.read_data, width),
            strict=True,
        )
        for column, (write_address, write_data, read_address, read_data) in enumerate(parts):
            cells = memory.Memory(shape=unsigned(width), depth=depth, init=[])
            m.submodules[f"column{column}"] = cells
            write, read = cells.write_port(), cells.read_port()
            m.d.comb += [
                write.en.eq(self.write_en),
                write.addr.eq(write_address),
                write.data.eq(write_data),
                read.en.eq(self.read_en),
                read.addr.eq(read_address),
                read_data.eq(read.data),
            ]
        return m


class Staging(wiring.Component):
    """Input staging: host bursts in, the slices of an address out to the chips.

    Members
    -------
    geometry : In(geometry_layout)
    host_en : In(1), host_place : In(place_layout), host_data : In(C*NE*16)
        Write a host burst; readable from the next cycle.
    chip_en : In(1), chip_address : In(12), chip_data : Out(C*NE*16)
        Read one address: data in the next cycle, kept while en is low.
    """

    geometry: Signal
    host_en: Signal
    host_place: Signal
    host_data: Signal
    chip_en: Signal
    chip_address: Signal
    chip_data: Signal

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        burst = machine.chips * machine.slice_bits
        super().__init__(
            {
                "geometry": In(geometry_layout(machine)),
                "host_en": In(1),
                "host_place": In(place_layout(machine)),
                "host_data": In(burst),
                "chip_en": In(1),
                "chip_address": In(field_width("WR", "stage")),
                "chip_data": Out(burst),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        machine, nhc = self.machine, self.geometry.nhc_log2
        m.submodules.columns = columns = Columns(machine)
        m.submodules.locate = locate = Locate(machine)
        m.submodules.relayout = relayout = Relayout(machine)
        m.submodules.rotate = rotate = Rotate(machine, back=True)
        m.d.comb += [
            locate.place.eq(self.host_place),
            locate.nhc_log2.eq(nhc),
            relayout.i.eq(self.host_data),
            relayout.group.eq(locate.group),
            relayout.amount.eq(locate.amount),
            columns.write_en.eq(self.host_en),
            columns.write_data.eq(relayout.o),
            columns.write_address.eq(locate.addresses),
            columns.read_en.eq(self.chip_en),
            columns.read_address.eq(self.chip_address.replicate(machine.chips)),
            rotate.i.eq(columns.read_data),
            self.chip_data.eq(rotate.o),
        ]
        turned = Signal.like(rotate.amount)
        m.d.comb += rotate.amount.eq(turned)
        with m.If(self.chip_en):
            m.d.sync += turned.eq(skew(machine, self.chip_address, nhc))
        return m


class OutputStaging(wiring.Component):
    """Output staging: the slices of an address in from the chips or NORM, host bursts out.

    Members
    -------
    geometry : In(geometry_layout)
    chip_en : In(1), chip_address : In(12), chip_data : In(C*NE*16)
        Write one address; readable from the next cycle.
    host_en : In(1), host_place : In(place_layout), host_data : Out(C*NE*16)
        Read a host burst: data in the next cycle, kept while en is low.
    """

    geometry: Signal
    chip_en: Signal
    chip_address: Signal
    chip_data: Signal
    host_en: Signal
    host_place: Signal
    host_data: Signal

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        burst = machine.chips * machine.slice_bits
        super().__init__(
            {
                "geometry": In(geometry_layout(machine)),
                "chip_en": In(1),
                "chip_address": In(field_width("RD", "out")),
                "chip_data": In(burst),
                "host_en": In(1),
                "host_place": In(place_layout(machine)),
                "host_data": Out(burst),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        machine, nhc = self.machine, self.geometry.nhc_log2
        m.submodules.columns = columns = Columns(machine)
        m.submodules.locate = locate = Locate(machine)
        m.submodules.rotate = rotate = Rotate(machine)
        m.submodules.relayout = relayout = Relayout(machine, inverse=True)
        # The place may change in the cycle of the data, which is one later than its addresses.
        group, amount = Signal.like(locate.group), Signal.like(locate.amount)
        with m.If(self.host_en):
            m.d.sync += [group.eq(locate.group), amount.eq(locate.amount)]
        m.d.comb += [
            locate.place.eq(self.host_place),
            locate.nhc_log2.eq(nhc),
            rotate.i.eq(self.chip_data),
            rotate.amount.eq(skew(machine, self.chip_address, nhc)),
            columns.write_en.eq(self.chip_en),
            columns.write_address.eq(self.chip_address.replicate(machine.chips)),
            columns.write_data.eq(rotate.o),
            columns.read_en.eq(self.host_en),
            columns.read_address.eq(locate.addresses),
            relayout.i.eq(columns.read_data),
            relayout.group.eq(group),
            relayout.amount.eq(amount),
            self.host_data.eq(relayout.o),
        ]
        return m
