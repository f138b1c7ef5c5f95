"""One x8 chip: banks with their compute units, the shared buffer, the sequencer."""

from amaranth.hdl import (
    Array,
    Cat,
    ClockDomain,
    ClockSignal,
    Const,
    DomainRenamer,
    Elaboratable,
    Module,
    Mux,
    ResetSignal,
    Signal,
    Value,
)
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from bankside.errors import ConfigError
from bankside.hw.lib.delay import DelayLine
from bankside.hw.lib.unit import ExportPlatform, Unit
from bankside.hw.pim.bank import Bank, add_layout
from bankside.hw.pim.layouts import command_codes, command_layout
from bankside.isa.machine import Machine


def read_layout(machine: Machine) -> data.StructLayout:
    """A reading command on its way to the arrays, L cycles.

    mac, cells, result : what is read: a column of all banks, of one bank, a result-buffer word.
    load : the column goes to the shared buffer (LDSB) instead of the data bus.
    bank, column, lane, rb, half, sb : operands; MAC: `sb` is the word of the operand.
    kbuf, rescale, step : MAC only; scale registers, whether they apply, the work of the adders.
    """
    command = command_layout(machine)
    operands = {name: command[name].shape for name in ("bank", "col", "lane", "rb", "half", "sb")}
    kinds = dict.fromkeys(("mac", "cells", "result", "load", "kbuf", "rescale"), 1)
    return data.StructLayout({**kinds, **operands, "step": add_layout(machine)})


def write_layout(machine: Machine) -> data.StructLayout:
    """A writing command that waits WL cycles for its data; `shared` WRSB, else WR."""
    command = command_layout(machine)
    names = ("bank", "col", "lane", "sb", "header", "kbuf")
    return data.StructLayout({"shared": 1, **{name: command[name].shape for name in names}})


class Sequencer(wiring.Component):
    """Mode registers and the column and slot counters of the bank units.

    Members
    -------
    configure : In(1)
        WRR: take the operands of `command`, restart the counters.
    advance : In(1)
        MAC: the next one works on the next column.
    command : In(command_layout)
    kbuf, rescale : Out(1)
        Scale register set of the MAC, and whether it applies.
    sb : Out
        Shared-buffer word of the operand (acc: of the banks 0..NE-1).
    step : Out(add_layout)
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.layout = command_layout(machine)
        super().__init__(
            {
                "configure": In(1),
                "advance": In(1),
                "command": In(self.layout),
                "kbuf": Out(1),
                "rescale": Out(1),
                "sb": Out(self.layout["sb"].shape),
                "step": Out(add_layout(machine)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        machine = self.machine
        names = ("mode", "kbuf", "rescale", "sb", "rb", "cpt")
        mode = Signal(data.StructLayout({name: self.layout[name].shape for name in names}))
        column = Signal(self.layout["cpt"].shape)
        slot = Signal(range(machine.sizes["result_buffer_words"] * machine.elements))
        last = Signal()
        m.d.comb += last.eq(column + 1 == mode.cpt)
        with m.If(self.configure):
            m.d.sync += [mode[name].eq(self.command[name]) for name in names]
            m.d.sync += [column.eq(0), slot.eq(0)]
        with m.Elif(self.advance):
            m.d.sync += column.eq(Mux(last, 0, column + 1))
            m.d.sync += slot.eq(slot + last)
        position = slot[: ceil_log2(machine.elements)]
        step = self.step
        m.d.comb += [
            self.kbuf.eq(mode.kbuf),
            self.rescale.eq(mode.rescale & (slot == 0)),
            step.mode.eq(mode.mode),
            step.start.eq(column == 0),
        ]
        with m.If(mode.mode):
            m.d.comb += [
                self.sb.eq(mode.sb + slot * machine.subbanks),
                step.rb.eq(mode.rb + column),
                step.mask.eq(~Const(0, machine.elements)),
            ]
        with m.Else():
            m.d.comb += [
                self.sb.eq(mode.sb + column),
                step.rb.eq(mode.rb + slot[ceil_log2(machine.elements) :]),
                step.mask.eq(Mux(last, 1 << position, 0)),
            ]
        return m


class SharedBuffer(wiring.Component):
    """Operands that all banks of a chip share: NE-element words per lane, and the scale registers.

    Operands are read in the clock domain `bank`, everything else is in `sync`.

    Word w lies in sub-bank w mod SUB at address w div SUB, so that the probabilities of one token
    slot, one for each bank, come out at once.

    Members
    -------
    write, header, write_kbuf : In(1), write_lane, write_word : In, wdata : In(NE*16)
        Write a word, or with `header` the scale register [kbuf][lane] (low 8 bits).
    read : In(1), word : In
        Read in all lanes; the outputs change in the next cycle.
    query : Out(lanes of NE*16)
        `word` itself.
    probability : Out(lanes of B*16)
        The SUB words around `word`; element b is that of bank b.
    kbuf : In(1), k : Out(lanes of 8)
        Scale registers of this set.
    """

    def __init__(self, machine: Machine) -> None:
        self.lanes = machine.lanes
        self.subbanks = machine.subbanks
        self.depth = machine.shared_words // machine.subbanks
        width = machine.slice_bits
        command = command_layout(machine)
        super().__init__(
            {
                "write": In(1),
                "header": In(1),
                "write_kbuf": In(1),
                "write_lane": In(command["lane"].shape),
                "write_word": In(command["sb"].shape),
                "wdata": In(width),
                "read": In(1),
                "word": In(command["sb"].shape),
                "query": Out(data.ArrayLayout(width, self.lanes)),
                "probability": Out(data.ArrayLayout(16 * machine.banks, self.lanes)),
                "kbuf": In(1),
                "k": Out(data.ArrayLayout(8, self.lanes)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        split = ceil_log2(self.subbanks)
        chosen = Signal(max(1, split))
        with m.If(self.read):
            m.d.bank += chosen.eq(self.word[:split])
        scale = Signal(data.ArrayLayout(data.ArrayLayout(8, self.lanes), 2))
        m.d.comb += self.k.eq(scale[self.kbuf])
        with m.If(self.write & self.header):
            m.d.sync += scale[self.write_kbuf][self.write_lane].eq(self.wdata[:8])
        for lane in range(self.lanes):
            words = []
            for sub in range(self.subbanks):
                memory = Memory(shape=len(self.wdata), depth=self.depth, init=[])
                m.submodules[f"lane{lane}_sub{sub}"] = memory
                read, write = memory.read_port(domain="bank"), memory.write_port()
                here = (self.write_lane == lane) & (self.write_word[:split] == sub)
                m.d.comb += [
                    read.en.eq(self.read),
                    read.addr.eq(self.word[split:]),
                    write.en.eq(self.write & ~self.header & here),
                    write.addr.eq(self.write_word[split:]),
                    write.data.eq(self.wdata),
                ]
                words.append(read.data)
            m.d.comb += self.query[lane].eq(Array(words)[chosen])
            m.d.comb += self.probability[lane].eq(Cat(words))
        return m


class Chip(wiring.Component):
    """One x8 chip. Every command that it sees must be legal; PRE, PREA and REF change nothing here.

    Members
    -------
    valid : In(1), command : In(command_layout)
        DRAM command of cycle t.
    wdata : In(NE*16)
        Burst of a WR or WRSB, in cycle t+WL.
    rvalid : Out(1), rdata : Out(NE*16)
        Burst of a RD or RDRB, in cycle t+RL.

    Raises
    ------
    ConfigError: when a row could be replaced while a column of it is still to be read or written.

    Ref: docs/pim.md sections 2 and 6.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        # The open row is looked up when the array is accessed, not when the command comes.
        p = machine.std.params
        if p["nRTP"] + p["nRP"] < machine.mac_period:
            raise ConfigError(
                f"{machine.std.name}: another row may open {p['nRTP'] + p['nRP']} cycles after a "
                f"read command that reaches the array after {machine.mac_period}; expected "
                f"nRTP + nRP >= nCCD_L; correct the timing parameters"
            )
        super().__init__(
            {
                "valid": In(1),
                "command": In(command_layout(machine)),
                "wdata": In(machine.slice_bits),
                "rvalid": Out(1),
                "rdata": Out(machine.slice_bits),
            }
        )

    def elaborate(self, platform) -> Elaboratable:
        m = Module()
        machine = self.machine
        banks = [Unit(Bank(machine), "bankside_bank") for _ in range(machine.banks)]
        for index, bank in enumerate(banks):
            m.submodules[f"bank{index}"] = DomainRenamer("bank")(bank)
        m.submodules.shared = shared = SharedBuffer(machine)
        is_a = self._decode(m)
        reading = self._start_reads(m, is_a)
        self._reads(m, banks, reading)
        load = self._finish_reads(m, banks, reading)
        active = [
            self._open_rows(m, banks, is_a),
            reading.o_valid,
            *self._compute(m, banks, shared, reading),
            self._writes(m, banks, shared, is_a, load),
        ]
        return self._with_bank_clock(m, Cat(active).any(), platform)

    @staticmethod
    def _with_bank_clock(m: Module, active: Value, platform: object) -> Elaboratable:
        """Stop the clock of the banks in cycles in which no register of theirs changes.

        The exported design has a gated clock, which also spares a compiled simulation most of its
        work. `active` comes from registers, so it is settled at the falling edge. In Amaranth's
        own simulator, which orders no edges between derived clocks, the banks have the plain clock:
        every register has its enable anyway.
        """
        if not isinstance(platform, ExportPlatform):
            return DomainRenamer({"bank": "sync"})(m)
        m.domains.bank = ClockDomain("bank", local=True)
        m.domains.falling = ClockDomain("falling", clk_edge="neg", reset_less=True, local=True)
        running = Signal(init=1)
        m.d.falling += running.eq(active | ResetSignal("sync"))
        m.d.comb += [
            ClockSignal("falling").eq(ClockSignal("sync")),
            ClockSignal("bank").eq(ClockSignal("sync") & running),
            ResetSignal("bank").eq(ResetSignal("sync")),
        ]
        return m

    def _decode(self, m: Module) -> dict[str, Signal]:
        """One signal per command: it comes in this cycle. RDA and WRA count as RD and WR."""
        codes = command_codes(self.machine)
        aliases = {"RD": ("RD", "RDA"), "WR": ("WR", "WRA")}
        is_a = {}
        for name in ("ACT", "ACT4", "ACTA", "RD", "WR", "MAC", "LDSB", "RDRB", "WRSB", "WRR"):
            is_a[name] = Signal(name=f"is_{name.lower()}")
            match = Cat(self.command.code == codes[c] for c in aliases.get(name, (name,))).any()
            m.d.comb += is_a[name].eq(self.valid & match)
        return is_a

    def _open_rows(self, m: Module, banks: list[Unit], is_a: dict[str, Signal]) -> Value:
        """Rows open one cycle after the command; returned: in this cycle."""
        opening, row = Signal(self.machine.banks), Signal.like(self.command.row)
        m.d.sync += row.eq(self.command.row)
        per_group = self.machine.banks_per_group
        in_group = self.command.bank[: ceil_log2(per_group)]
        for index, bank in enumerate(banks):
            m.d.sync += opening[index].eq(
                is_a["ACTA"]
                | (is_a["ACT"] & (self.command.bank == index))
                | (is_a["ACT4"] & (in_group == index % per_group))
            )
            m.d.comb += [bank.row.eq(row), bank.open.eq(opening[index])]
        return opening.any()

    def _start_reads(self, m: Module, is_a: dict[str, Signal]) -> DelayLine:
        """Everything that reads, delayed to cycle t+L."""
        machine = self.machine
        m.submodules.sequencer = sequencer = Sequencer(machine)
        m.submodules.reading = line = DelayLine(read_layout(machine), machine.mac_period)
        request = line.i_payload
        m.d.comb += [
            sequencer.command.eq(self.command),
            sequencer.configure.eq(is_a["WRR"]),
            sequencer.advance.eq(is_a["MAC"]),
            request.mac.eq(is_a["MAC"]),
            request.cells.eq(is_a["RD"] | is_a["LDSB"]),
            request.load.eq(is_a["LDSB"]),
            request.result.eq(is_a["RDRB"]),
            request.sb.eq(Mux(is_a["MAC"], sequencer.sb, self.command.sb)),
            request.kbuf.eq(sequencer.kbuf),
            request.rescale.eq(sequencer.rescale),
            request.step.eq(sequencer.step),
            line.i_valid.eq(request.mac | request.cells | request.result),
        ]
        m.d.comb += [request[f].eq(self.command[f]) for f in ("bank", "col", "lane", "rb", "half")]
        return line

    def _reads(self, m: Module, banks: list[Unit], reading: DelayLine) -> None:
        """Accesses of the cycle t+L; the data are there in the next one."""
        request = reading.o_payload
        for index, bank in enumerate(banks):
            here = request.bank == index
            m.d.comb += [
                bank.read.eq(reading.o_valid & (request.mac | (request.cells & here))),
                bank.column.eq(request.col),
                bank.read_result.eq(reading.o_valid & request.result & here),
            ]
            m.d.comb += [bank.source[f].eq(request[f]) for f in ("lane", "rb", "half")]

    def _compute(
        self, m: Module, banks: list[Unit], shared: SharedBuffer, reading: DelayLine
    ) -> list[Value]:
        """MAC: operands read at t+L, products at t+2L, sums at t+3L, the same in all banks.

        Returns the strobes of the second and third of these cycles.
        """
        machine, request = self.machine, reading.o_payload
        layout = data.StructLayout({"kbuf": 1, "rescale": 1, "step": add_layout(machine)})
        multiplying, adding = Signal(layout), Signal(layout)
        k = Signal(data.ArrayLayout(8, machine.lanes))
        read = Signal()
        multiply, add = (self._strobe(m, read, n * machine.mac_period) for n in (1, 2))
        m.d.comb += [
            read.eq(reading.o_valid & request.mac),
            shared.read.eq(read),
            shared.word.eq(request.sb),
            shared.kbuf.eq(multiplying.kbuf),
        ]
        # MACs are at least L cycles apart, so what steers a stage stands still for all of its L
        # cycles: the data path may run with a clock of period L.
        with m.If(read):
            m.d.bank += [multiplying[f].eq(request[f]) for f in ("kbuf", "rescale", "step")]
        with m.If(multiply):
            m.d.bank += adding.eq(multiplying)
            m.d.bank += k.eq(Mux(multiplying.rescale, shared.k.as_value(), 0))
        for index, bank in enumerate(banks):
            m.d.comb += [
                bank.query.eq(shared.query),
                bank.acc_operand.eq(multiplying.step.mode),
                bank.multiply.eq(multiply),
                bank.add.eq(add),
                bank.step.eq(adding.step),
                bank.k.eq(k),
            ]
            part = slice(16 * index, 16 * index + 16)
            m.d.comb += [
                bank.probability[lane].eq(shared.probability[lane][part])
                for lane in range(machine.lanes)
            ]
        return [multiply, add]

    @staticmethod
    def _strobe(m: Module, first: Signal, cycles: int) -> Value:
        """`first`, `cycles` later."""
        passed = Signal(cycles, name=f"strobe{cycles}")
        m.d.sync += passed.eq(Cat(first, passed)[:cycles])
        return passed[-1]

    def _finish_reads(
        self, m: Module, banks: list[Unit], reading: DelayLine
    ) -> tuple[data.View, Value]:
        """Data of cycle t+L+1, to the bus or (returned: request, data) to the shared buffer."""
        machine = self.machine
        got = Signal(data.StructLayout({"valid": 1, "request": read_layout(machine)}))
        m.d.sync += [got.valid.eq(reading.o_valid), got.request.eq(reading.o_payload)]
        found = Signal(machine.slice_bits)
        m.d.comb += found.eq(Array(bank.rdata for bank in banks)[got.request.bank])
        rest = machine.read_latency - machine.mac_period - 1
        m.submodules.leaving = leaving = DelayLine(machine.slice_bits, rest)
        to_bus = got.request.result | (got.request.cells & ~got.request.load)
        m.d.comb += [
            leaving.i_valid.eq(got.valid & to_bus),
            leaving.i_payload.eq(found),
            self.rvalid.eq(leaving.o_valid),
            self.rdata.eq(leaving.o_payload),
        ]
        return got, found

    def _writes(
        self,
        m: Module,
        banks: list[Unit],
        shared: SharedBuffer,
        is_a: dict[str, Signal],
        load: tuple[data.View, Value],
    ) -> Value:
        """Bursts from outside in cycle t+WL, and the loads of the shared buffer.

        Returns whether an array is written in this cycle.
        """
        machine = self.machine
        m.submodules.writing = line = DelayLine(write_layout(machine), machine.write_latency)
        request, now = line.i_payload, line.o_payload
        m.d.comb += [line.i_valid.eq(is_a["WR"] | is_a["WRSB"]), request.shared.eq(is_a["WRSB"])]
        names = ("bank", "col", "lane", "sb", "header", "kbuf")
        m.d.comb += [request[name].eq(self.command[name]) for name in names]
        write = Signal()
        m.d.comb += write.eq(line.o_valid & ~now.shared)
        for index, bank in enumerate(banks):
            m.d.comb += [
                bank.write.eq(write & (now.bank == index)),
                bank.write_column.eq(now.col),
                bank.wdata.eq(self.wdata),
            ]
        got, found = load
        loading = got.valid & got.request.load
        # The timing rules keep loads and bursts apart: they never want the buffer in one cycle.
        m.d.comb += [
            shared.write.eq(loading | (line.o_valid & now.shared)),
            shared.header.eq(now.header & ~loading),
            shared.write_kbuf.eq(now.kbuf),
            shared.write_lane.eq(Mux(loading, got.request.lane, now.lane)),
            shared.write_word.eq(Mux(loading, got.request.sb, now.sb)),
            shared.wdata.eq(Mux(loading, found, self.wdata)),
        ]
        return write
