"""Probability memory: C x NE FP16 per word, one memory per element position."""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.pim.rank_unit.permute import slices
from bankside.hw.pim.rank_unit.ports import field_width
from bankside.hw.pim.rank_unit.select import per_chip
from bankside.isa.machine import Machine


class ProbabilityMemory(wiring.Component):
    """Header words and single positions in, words expanded to the chips out.

    Members
    -------
    nhc_log2 : In(3)
    write_en : In(NE)
        Positions that are written at the end of this cycle.
    write_address : In(10)
    header : In(1)
        `write_data` goes to position 0, zero to all others.
    write_data : In(C*16)
        One FP16 (or k) per head.
    read_en, read_address, read_data : In(1), In(10), Out(C*NE*16)
        Data in the next cycle, kept while en is low; chip k has the elements of its head.

    Ref: docs/pim.md section 2.
    """

    nhc_log2: Signal
    write_en: Signal
    write_address: Signal
    header: Signal
    write_data: Signal
    read_en: Signal
    read_address: Signal
    read_data: Signal

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        address = field_width("SFM", "prob")
        super().__init__(
            {
                "nhc_log2": In(field_width("GEOM", "nhc_log2")),
                "write_en": In(machine.elements),
                "write_address": In(address),
                "header": In(1),
                "write_data": In(machine.chips * 16),
                "read_en": In(1),
                "read_address": In(address),
                "read_data": Out(machine.chips * machine.slice_bits),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        machine = self.machine
        depth, width = machine.config.pim.probability_words, machine.chips * 16
        # A probability touches one position of its word; one memory per position needs no masks.
        positions = []
        for position in range(machine.elements):
            cells = memory.Memory(shape=unsigned(width), depth=depth, init=[])
            m.submodules[f"position{position}"] = cells
            write, read = cells.write_port(), cells.read_port()
            m.d.comb += [
                write.en.eq(self.write_en[position]),
                write.addr.eq(self.write_address),
                write.data.eq(Mux(self.header & (position > 0), 0, self.write_data)),
                read.en.eq(self.read_en),
                read.addr.eq(self.read_address),
            ]
            positions.append(slices(read.data, 16))
        heads = [Cat(elements) for elements in zip(*positions, strict=True)]
        m.d.comb += self.read_data.eq(Cat(per_chip(machine, heads, self.nhc_log2)))
        return m
