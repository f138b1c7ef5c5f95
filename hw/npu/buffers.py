"""Shared buffer and weight buffer. Ref: docs/npu.md section 1."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from bankside.hw.npu.control.layouts import buffer_bits
from bankside.hw.npu.ports import shared_read, shared_write, weight_read
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine

__all__ = ["READS", "Clash", "SharedBuffer", "WeightBuffer", "beat_bits"]

READS = ("read0", "read1", "read2")
"""Read ports of the kernel engine."""


def beat_bits(machine: NpuMachine) -> int:
    """Bits of an address in beats of the data port, in the larger buffer."""
    return buffer_bits(machine) - exact_log2(machine.bus_bytes)


def _dma_members(machine: NpuMachine) -> dict[str, wiring.Member]:
    return {
        "beat": In(beat_bits(machine)),
        "write": In(1),
        "data": In(8 * machine.bus_bytes),
    }


class SharedBuffer(wiring.Component):
    """Words of 32 bytes. Where the data port is wider than a word, word i lies in memory i mod 4,
    so that a beat moves its words at once.

    Members
    -------
    read0, read1, read2 : In(shared_read), write0 : In(shared_write)
        Of the kernel engine.
    beat, write, data : In
        Beat of the DMA engine that is written at the end of this cycle.
    fetch : In(1), fetched : Out
        Beat of the DMA engine that is read in this cycle; it stays from the next one on until
        another one is read.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self._machine = machine
        self._parts = max(1, machine.bus_bytes // WORD_BYTES)
        super().__init__(
            {
                **dict.fromkeys(READS, In(shared_read(machine))),
                "write0": In(shared_write(machine)),
                **_dma_members(machine),
                "fetch": In(1),
                "fetched": Out(8 * machine.bus_bytes),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        depth = -(-self._machine.shared_words // self._parts)
        memories = []
        for part in range(self._parts):
            cells = Memory(shape=8 * WORD_BYTES, depth=depth, init=[])
            m.submodules[f"cells{part}"] = cells
            memories.append(cells)
        for name in READS:
            self._read(m, memories, getattr(self, name))
        self._write(m, memories)
        if self._machine.bus_bytes < WORD_BYTES:
            self._narrow(m, memories[0])
        else:
            self._wide(m, memories)
        return m

    def _read(self, m: Module, memories: list[Memory], port) -> None:
        low = exact_log2(self._parts)
        words = []
        for part, cells in enumerate(memories):
            read = cells.read_port()
            m.d.comb += [
                read.en.eq(port.en & (port.address[:low] == part)),
                read.addr.eq(port.address[low:]),
            ]
            words.append(read.data)
        if not low:
            m.d.comb += port.data.eq(words[0])
            return
        chosen = Signal(low)
        with m.If(port.en):
            m.d.sync += chosen.eq(port.address[:low])
        with m.Switch(chosen):
            for part, word in enumerate(words):
                with m.Case(part):
                    m.d.comb += port.data.eq(word)

    def _write(self, m: Module, memories: list[Memory]) -> None:
        low, port = exact_log2(self._parts), self.write0
        for part, cells in enumerate(memories):
            write = cells.write_port(granularity=8)
            here = port.en & (port.address[:low] == part)
            m.d.comb += [
                write.en.eq(Mux(here, port.mask, 0)),
                write.addr.eq(port.address[low:]),
                write.data.eq(port.data),
            ]

    def _narrow(self, m: Module, cells: Memory) -> None:
        """A beat is a part of a word."""
        width = 8 * self._machine.bus_bytes
        parts = 8 * WORD_BYTES // width
        low = exact_log2(parts)
        write, read = cells.write_port(granularity=width), cells.read_port()
        place, chosen = self.beat[:low], Signal(low)
        m.d.comb += [
            write.en.eq(Mux(self.write, 1 << place, 0)),
            write.addr.eq(self.beat[low:]),
            write.data.eq(self.data.replicate(parts)),
            read.en.eq(self.fetch),
            read.addr.eq(self.beat[low:]),
            self.fetched.eq(read.data.word_select(chosen, width)),
        ]
        with m.If(self.fetch):
            m.d.sync += chosen.eq(place)

    def _wide(self, m: Module, memories: list[Memory]) -> None:
        """A beat is a word of every memory."""
        reads = []
        for part, cells in enumerate(memories):
            write, read = cells.write_port(), cells.read_port()
            m.d.comb += [
                write.en.eq(self.write),
                write.addr.eq(self.beat),
                write.data.eq(self.data.word_select(part, 8 * WORD_BYTES)),
                read.en.eq(self.fetch),
                read.addr.eq(self.beat),
            ]
            reads.append(read.data)
        m.d.comb += self.fetched.eq(Cat(*reads))


class WeightBuffer(wiring.Component):
    """Words of the weight port, of one or more beats.

    Members
    -------
    read : In(weight_read)
        Of the kernel engine.
    beat, write, data : In
        Beat of the DMA engine that is written at the end of this cycle.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self._machine = machine
        super().__init__({"read": In(weight_read(machine)), **_dma_members(machine)})

    def elaborate(self, platform) -> Module:
        m = Module()
        machine, width = self._machine, 8 * self._machine.bus_bytes
        parts = machine.weight_port_bytes // machine.bus_bytes
        low = exact_log2(parts)
        m.submodules.cells = cells = Memory(
            shape=8 * machine.weight_port_bytes, depth=machine.weight_words, init=[]
        )
        write, read = cells.write_port(granularity=width), cells.read_port()
        m.d.comb += [
            write.en.eq(Mux(self.write, 1 << self.beat[:low], 0)),
            write.addr.eq(self.beat[low:]),
            write.data.eq(self.data.replicate(parts)),
            read.en.eq(self.read.en),
            read.addr.eq(self.read.address),
            self.read.data.eq(read.data),
        ]
        return m


class Clash(wiring.Component):
    """Both engines use one bank of the shared buffer in this cycle (combinational).

    Members
    -------
    en : In(4), address : In(4 of a word address)
        What the kernel engine uses.
    dma : In(1), beat : In
        What the DMA engine uses.
    clash : Out(1)
    """

    def __init__(self, machine: NpuMachine) -> None:
        self._machine = machine
        self._bank_words = machine.shared_words // machine.config.npu.banks
        ports = len(READS) + 1
        address = bits_for(machine.shared_words - 1)
        super().__init__(
            {
                "en": In(ports),
                "address": In(address).array(ports),
                "dma": In(1),
                "beat": In(beat_bits(machine)),
                "clash": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        used = self._dma_banks(m)
        meets = Signal(len(self.en))
        for i, address in enumerate(self.address):
            bank = Signal.like(used[0], name=f"bank{i}")
            m.d.comb += [
                bank.eq(self._bank(address)),
                meets[i].eq(self.en[i] & Cat(bank == other for other in used).any()),
            ]
        m.d.comb += self.clash.eq(self.dma & meets.any())
        return m

    def _dma_banks(self, m: Module) -> list[Signal]:
        """Bank of the first word of the beat, and of the last where that can be another one."""
        bus, bits = self._machine.bus_bytes, bits_for(self._machine.config.npu.banks - 1)
        if bus <= WORD_BYTES:
            words = [self.beat[exact_log2(WORD_BYTES // bus) :]]
        else:
            low = exact_log2(bus // WORD_BYTES)
            ends = (0,) if self._bank_words % (1 << low) == 0 else (0, (1 << low) - 1)
            words = [(self.beat << low) | end for end in ends]
        used = []
        for i, word in enumerate(words):
            used.append(Signal(bits, name=f"dma_bank{i}"))
            m.d.comb += used[-1].eq(self._bank(word))
        return used

    def _bank(self, word: Value) -> Value:
        size, banks = self._bank_words, self._machine.config.npu.banks
        if size & (size - 1) == 0:
            return word[exact_log2(size) :]
        return sum((word >= bank * size for bank in range(1, banks)), start=word[:0])
