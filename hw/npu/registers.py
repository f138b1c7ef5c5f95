"""What the host sees: registers behind AXI4-Lite. Ref: docs/npu.md section 9."""

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from bankside.hw.axi.lite import AxiLiteSlave
from bankside.hw.axi.signatures import AxiLiteSignature
from bankside.hw.npu.control.layouts import (
    ADDRESS_BITS,
    COUNTER_BITS,
    POSITION_BITS,
    SPEC,
    WORD,
    counters_layout,
    region_layout,
)
from bankside.isa.npu_commands import REGIONS
from bankside.isa.npu_registers import (
    CONTROL,
    QUEUE_ALIGNMENT,
    READ,
    READ_WRITE,
    REGISTER_BYTES,
    STATUS,
    WRITE,
    HostRegister,
    addresses,
    registers,
)

__all__ = ["ADDRESS_MAP_BITS", "HostRegisters"]

ADDRESS_MAP_BITS = bits_for(max(addresses().values()))
"""Bits of a byte address of the register map."""
_CODE = SPEC.commands["IRQ"].field_map["code"].width


class HostRegisters(wiring.Component):
    """AXI4-Lite slave with the registers of isa/npu_registers.py.

    A write answers SLVERR, and does nothing, where there is no register to write; to a start while
    the machine is not free or a fault or a clear is pending; to any other register while it is not
    free; and to a QBASE that is no multiple of 128. A read answers SLVERR where there is no
    register to read. CONTROL with START begins a stream, whatever CLEAR is.

    Members
    -------
    axi : In(AxiLiteSignature)
    line : Out(1)
        Interrupt line, the status bit.
    start : Out(1)
        Pulse.
    clear : Out(1)
        From a write of CLEAR, unless a stream was running, until `cleared`.
    cleared : In(1)
        The machine has been reset.
    qbase, qsize, regions : Out
        As `Control` takes them.
    running, done, halted, fault, position, interrupt, interrupt_code, cycle, counts : In
        Of `Control`.
    quiet : In(1)
        No burst of any port is under way or offered.
    """

    def __init__(self) -> None:
        axi = AxiLiteSignature(data_bits=WORD, address_bits=ADDRESS_MAP_BITS)
        flags = ("cleared", "running", "done", "halted", "interrupt", "quiet")
        super().__init__(
            {
                "axi": In(axi),
                **dict.fromkeys(("line", "start", "clear"), Out(1)),
                "qbase": Out(ADDRESS_BITS),
                "qsize": Out(POSITION_BITS),
                "regions": Out(data.ArrayLayout(region_layout(), REGIONS)),
                **dict.fromkeys(flags, In(1)),
                "fault": In(8),
                "position": In(POSITION_BITS),
                "interrupt_code": In(_CODE),
                "cycle": In(COUNTER_BITS),
                "counts": In(counters_layout()),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.slave = slave = AxiLiteSlave(address_bits=ADDRESS_MAP_BITS)
        wiring.connect(m, wiring.flipped(self.axi), slave.axi)
        free, done, code = Signal(), Signal(), Signal(_CODE)
        m.d.comb += free.eq(~self.running & self.quiet & ~self.clear)
        with m.If(self.done):
            m.d.sync += done.eq(1)
        with m.If(self.start | self.cleared):
            m.d.sync += done.eq(0)
        self._write(m, slave, free)
        self._interrupt(m, slave, code)
        self._read(m, slave, done, code)
        return m

    def _kept(self) -> dict[str, Value]:
        """Registers that the host writes and reads."""
        kept = {"qbase": self.qbase, "qsize": self.qsize}
        for i in range(REGIONS):
            kept[f"region{i}.base"] = self.regions[i].base
            kept[f"region{i}.size"] = self.regions[i].size
        return kept

    def _write(self, m: Module, slave: AxiLiteSlave, free: Signal) -> None:
        word, kept = slave.write_data, self._kept()
        start, clear = (word[field.lsb] for field in CONTROL.fields)
        may_start = free & ~self.halted
        m.d.comb += slave.write_error.eq(1)
        with m.Switch(slave.write_address):
            for name, address, register in registers():
                if WRITE not in register.access:
                    continue
                with m.Case(address >> exact_log2(REGISTER_BYTES)):
                    if register is CONTROL:
                        m.d.comb += [
                            slave.write_error.eq(start & ~may_start),
                            self.start.eq(slave.write_en & start & may_start),
                        ]
                        continue
                    low = exact_log2(QUEUE_ALIGNMENT) if name == "qbase" else 0
                    legal = free & ~word[:low].any() & ~word[len(kept[name]) :].any()
                    m.d.comb += slave.write_error.eq(~legal)
                    with m.If(slave.write_en & legal):
                        m.d.sync += kept[name].eq(word)
        with m.If(self.cleared):
            m.d.sync += self.clear.eq(0)
        with m.Elif(self._clears(slave, clear & ~start) & ~self.running):
            m.d.sync += self.clear.eq(1)

    def _clears(self, slave: AxiLiteSlave, bit: Value) -> Value:
        chosen = slave.write_address == CONTROL.address >> exact_log2(REGISTER_BYTES)
        return slave.write_en & chosen & bit

    def _interrupt(self, m: Module, slave: AxiLiteSlave, code: Signal) -> None:
        """An IRQ in the cycle of a clear is the later one."""
        start, clear = (slave.write_data[field.lsb] for field in CONTROL.fields)
        with m.If(self._clears(slave, clear & ~start) | self.start):
            m.d.sync += [self.line.eq(0), code.eq(0)]
        with m.If(self.interrupt):
            m.d.sync += [self.line.eq(1), code.eq(self.interrupt_code)]

    def _read(self, m: Module, slave: AxiLiteSlave, done: Signal, code: Signal) -> None:
        status = {
            "running": self.running | ~self.quiet,
            "done": done,
            "fault": self.halted,
            "interrupt": self.line,
            "fault_code": self.fault,
            "interrupt_code": code,
            "position": self.position,
        }
        values = {
            **self._kept(),
            "status": _packed(STATUS, status),
            "cycles": self.cycle,
            **{f"counters.{name}": self.counts[i] for i, name in enumerate(SPEC.stalls)},
        }
        m.d.comb += slave.read_error.eq(1)
        with m.Switch(slave.read_address):
            for name, address, register in registers():
                if register.access in (READ, READ_WRITE):
                    with m.Case(address >> exact_log2(REGISTER_BYTES)):
                        m.d.comb += [
                            slave.read_data.eq(values[name]),
                            slave.read_error.eq(0),
                        ]


def _packed(register: HostRegister, values: dict[str, Value]) -> Value:
    """The fields of a register at their bits, zeros between them."""
    parts, at = [], 0
    for field in register.fields:
        if field.lsb > at:
            parts.append(Const(0, field.lsb - at))
        parts.append(values[field.name][: field.width])
        at = field.lsb + field.width
    return Cat(*parts)
