"""Buffer banks: one per row for keys and values, one per column for everything of its query."""

from amaranth.hdl import Array, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from bankside.isa.array_machine import ArrayMachine


def bank_write_layout(machine: ArrayMachine, banks: int, words: int) -> data.StructLayout:
    """Write of the load engine: {en, bank, address, data (one bus word)}."""
    return data.StructLayout(
        {
            "en": 1,
            "bank": range(banks),
            "address": range(words),
            "data": 16 * machine.bus_elements,
        }
    )


def bank_read_layout(machine: ArrayMachine) -> data.StructLayout:
    """Read of the store engine: {en, bank, address} of a column bank."""
    return data.StructLayout(
        {
            "en": 1,
            "bank": range(machine.columns),
            "address": range(machine.config.array.column_words),
        }
    )


def pick(word: Value, element: Value) -> Value:
    """16-bit element of a bus word, by a selection rather than a shift of a wide word."""
    return Array(word[i : i + 16] for i in range(0, len(word), 16))[element]


class RowBank(wiring.Component):
    """Keys and values of one row: a write port and a read port.

    Members
    -------
    write : In(1), write_address : In, write_data : In(n*16)
        Written at the end of the cycle.
    read : In(1), address : In, word : Out(n*16)
        `word` changes in the cycle after a read, to the contents before a write of the same cycle.
    """

    def __init__(self, machine: ArrayMachine) -> None:
        self.width = 16 * machine.bus_elements
        self.depth = machine.config.array.row_words
        super().__init__(
            {
                "write": In(1),
                "write_address": In(range(self.depth)),
                "write_data": In(self.width),
                "read": In(1),
                "address": In(range(self.depth)),
                "word": Out(self.width),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.cells = cells = Memory(shape=self.width, depth=self.depth, init=[])
        write, read = cells.write_port(), cells.read_port()
        m.d.comb += [
            write.en.eq(self.write),
            write.addr.eq(self.write_address),
            write.data.eq(self.write_data),
            read.en.eq(self.read),
            read.addr.eq(self.address),
            self.word.eq(read.data),
        ]
        return m


class ColumnBank(wiring.Component):
    """Query, scores, probabilities and results of one column: two write and two read ports.

    Members
    -------
    write : In(1), write_address : In, write_data : In(n*16)
        A bus word, written at the end of the cycle.
    put : In(1), place : In, element : In(16)
        One element, `place` = bus word * n + position; it never meets a write of the same word.
    read, address, word and fetch, fetch_address, fetch_word
        Two read ports, as that of `RowBank`.
    """

    def __init__(self, machine: ArrayMachine) -> None:
        self.elements = machine.bus_elements
        self.depth = machine.config.array.column_words
        width = 16 * self.elements
        super().__init__(
            {
                "write": In(1),
                "write_address": In(range(self.depth)),
                "write_data": In(width),
                "put": In(1),
                "place": In(range(self.depth * self.elements)),
                "element": In(16),
                "read": In(1),
                "address": In(range(self.depth)),
                "word": Out(width),
                "fetch": In(1),
                "fetch_address": In(range(self.depth)),
                "fetch_word": Out(width),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        width = 16 * self.elements
        m.submodules.cells = cells = Memory(shape=width, depth=self.depth, init=[])
        write, put = cells.write_port(), cells.write_port(granularity=16)
        read, fetch = cells.read_port(), cells.read_port()
        split = ceil_log2(self.elements)
        chosen = Signal(self.elements)
        m.d.comb += [
            chosen.eq(1 << self.place[:split]),
            write.en.eq(self.write),
            write.addr.eq(self.write_address),
            write.data.eq(self.write_data),
            put.en.eq(chosen & self.put.replicate(self.elements)),
            put.addr.eq(self.place[split:]),
            put.data.eq(self.element.replicate(self.elements)),
            read.en.eq(self.read),
            read.addr.eq(self.address),
            self.word.eq(read.data),
            fetch.en.eq(self.fetch),
            fetch.addr.eq(self.fetch_address),
            self.fetch_word.eq(fetch.data),
        ]
        return m
