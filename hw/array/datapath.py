"""Everything of the `array` engine that a word passes through: banks, 2D array, lanes."""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.array.banks import bank_read_layout, bank_write_layout
from bankside.hw.array.edge import Edge
from bankside.hw.array.feeder import Feeder
from bankside.hw.array.lanes import Lanes
from bankside.hw.array.mesh import Mesh
from bankside.hw.array.words import mode_layout, word_layout
from bankside.hw.lib.unit import Unit
from bankside.isa.array_machine import ArrayMachine


class Datapath(wiring.Component):
    """Row feeders, top edges, the 2D array, the lanes and the return path of one machine.

    Members
    -------
    word : In(word_layout)
        Word register: the word issued in cycle t is here in cycle t + 1. Without a word all
        operations are NOP or NONE and nothing is read.
    mode : In(mode_layout)
        Constant while words are under way.
    row_write, column_write : In(bank_write_layout)
        Writes of the load engine, {en, bank, address, data}: done at the end of the cycle.
    column_read : In(bank_read_layout), column_data : Out(n*16)
        Reads of the store engine, {en, bank, address}; the bus word is there in the next cycle
        and stays until the next read.

    Ref: docs/array.md sections 1 and 3.
    """

    def __init__(self, machine: ArrayMachine) -> None:
        self.machine = machine
        config = machine.config.array
        super().__init__(
            {
                "word": In(word_layout(machine)),
                "mode": In(mode_layout()),
                "row_write": In(bank_write_layout(machine, machine.rows, config.row_words)),
                "column_write": In(
                    bank_write_layout(machine, machine.columns, config.column_words)
                ),
                "column_read": In(bank_read_layout(machine)),
                "column_data": Out(16 * machine.bus_elements),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.mesh = mesh = Mesh(self.machine)
        m.submodules.lanes = lanes = Lanes(self.machine)
        m.d.comb += [
            lanes.control.eq(self.word.lane),
            lanes.mode.eq(self.mode),
            lanes.sums.eq(mesh.sums),
        ]
        self._feeders(m, mesh)
        self._edges(m, mesh, lanes)
        return m

    def _feeders(self, m: Module, mesh: Mesh) -> None:
        control, write = self.word.row, self.row_write
        for r in range(self.machine.rows):
            feeder = Unit(Feeder(self.machine), "bankside_array_feeder")
            m.submodules[f"feeder{r}"] = feeder
            m.d.comb += [
                feeder.control.eq(control),
                feeder.format.eq(self.mode.format),
                feeder.write.eq(write.en & (write.bank == r)),
                feeder.write_address.eq(write.address),
                feeder.write_data.eq(write.data),
                mesh.a[r].eq(feeder.a),
            ]
            control = feeder.control_out

    def _edges(self, m: Module, mesh: Mesh, lanes: Lanes) -> None:
        top, pe, write, read = self.word.top, self.word.pe, self.column_write, self.column_read
        found = []
        for c in range(self.machine.columns):
            edge = m.submodules[f"edge{c}"] = Unit(Edge(self.machine), "bankside_array_edge")
            m.d.comb += [
                edge.top.eq(top),
                edge.pe.eq(pe),
                edge.format.eq(self.mode.format),
                edge.write.eq(write.en & (write.bank == c)),
                edge.write_address.eq(write.address),
                edge.write_data.eq(write.data),
                edge.fetch.eq(read.en & (read.bank == c)),
                edge.fetch_address.eq(read.address),
                edge.back_valid.eq(lanes.back_valid[c]),
                edge.back.eq(lanes.back[c]),
                mesh.t[c].eq(edge.t),
                mesh.p[c].eq(edge.p),
                mesh.control[c].eq(edge.control),
            ]
            top, pe = edge.top_out, edge.pe_out
            found.append(edge.fetch_word)
        bank = Signal(range(self.machine.columns))
        with m.If(read.en):
            m.d.sync += bank.eq(read.bank)
        m.d.comb += self.column_data.eq(Array(found)[bank])
