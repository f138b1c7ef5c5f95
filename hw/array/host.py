"""What the host sees: registers behind AXI4-Lite. Ref: docs/array.md section 6."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from bankside.hw.array.control.layouts import COUNTER_BITS, SPEC, WORD, bits
from bankside.hw.axi.lite import AxiLiteSlave
from bankside.hw.axi.signatures import AxiLiteSignature
from bankside.isa.array_machine import ArrayMachine

REGISTER_BYTES = WORD // 8
#: Byte addresses.
CONTROL, STATUS, CYCLES, POSITION, COUNTERS, PROGRAM = 0x00, 0x08, 0x10, 0x18, 0x40, 0x8000
#: Bits of CONTROL.
START, CLEAR = 1, 2
#: Bits of STATUS, from bit 0 on.
STATUS_BITS = ("running", "done", "error", "bus_error")


def host_address_bits(machine: ArrayMachine) -> int:
    """Bits of a byte address of the register map."""
    return bits(PROGRAM + REGISTER_BYTES * machine.config.array.program_words)


class HostRegisters(wiring.Component):
    """AXI4-Lite slave with the registers of the machine.

    A write answers SLVERR, and does nothing, where there is no register to write, to a start while
    a program runs or an error or a clear is pending, and to a program word while a program runs.

    Members
    -------
    axi : In(AxiLiteSignature)
    program_en, program_address, program_data : Out
        Write of a program word.
    start : Out
        Pulse.
    clear : Out
        From the write of CLEAR (without START) until `cleared`.
    cleared : In
        The machine has been reset.
    running, ended, error, bus_error, pc, cycle, counts : In
        State of the machine; `ended` pulses at the end of a program.
    """

    def __init__(self, machine: ArrayMachine) -> None:
        self._words = machine.config.array.program_words
        self._address_bits = host_address_bits(machine)
        axi = AxiLiteSignature(data_bits=WORD, address_bits=self._address_bits)
        super().__init__(
            {
                "axi": In(axi),
                "program_en": Out(1),
                "program_address": Out(bits(self._words)),
                "program_data": Out(WORD),
                "start": Out(1),
                "clear": Out(1),
                "cleared": In(1),
                **dict.fromkeys(("running", "ended", "error", "bus_error"), In(1)),
                "pc": In(bits(self._words)),
                "cycle": In(COUNTER_BITS),
                "counts": In(data.ArrayLayout(COUNTER_BITS, len(SPEC.stalls))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.slave = slave = AxiLiteSlave(address_bits=self._address_bits)
        wiring.connect(m, wiring.flipped(self.axi), slave.axi)
        done = Signal()
        with m.If(self.ended):
            m.d.sync += done.eq(1)
        with m.If(self.start | self.cleared):
            m.d.sync += done.eq(0)
        self._write(m, slave)
        self._read(m, slave, done)
        return m

    def _write(self, m: Module, slave: AxiLiteSlave) -> None:
        control, program, free = Signal(), Signal(), Signal()
        word = slave.write_data
        index = slave.write_address - PROGRAM // REGISTER_BYTES
        in_map = slave.write_address >= PROGRAM // REGISTER_BYTES
        may_start = free & ~self.error & ~self.bus_error
        m.d.comb += [
            free.eq(~self.running & ~self.clear),
            control.eq(slave.write_address == CONTROL // REGISTER_BYTES),
            program.eq(in_map & (index < self._words)),
            slave.write_error.eq(~Mux(control, ~word[0] | may_start, program & free)),
            self.start.eq(slave.write_en & control & word[0] & may_start),
            self.program_en.eq(slave.write_en & program & free),
            self.program_address.eq(index),
            self.program_data.eq(word),
        ]
        with m.If(self.cleared):
            m.d.sync += self.clear.eq(0)
        with m.Elif(slave.write_en & control & word[1] & ~word[0]):
            m.d.sync += self.clear.eq(1)

    def _read(self, m: Module, slave: AxiLiteSlave, done: Signal) -> None:
        status = Cat(self.running, done, self.error | self.bus_error, self.bus_error)
        registers: dict[int, Value] = {
            STATUS: status,
            CYCLES: self.cycle,
            POSITION: self.pc,
            **{COUNTERS + REGISTER_BYTES * i: self.counts[i] for i in range(len(SPEC.stalls))},
        }
        with m.Switch(slave.read_address):
            for address, value in registers.items():
                with m.Case(address >> exact_log2(REGISTER_BYTES)):
                    m.d.comb += slave.read_data.eq(value)
            with m.Default():
                m.d.comb += slave.read_error.eq(1)
