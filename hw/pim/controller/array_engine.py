"""Array engine: row commands, MAC, column reads and writes, refresh. Ref: docs/pim.md sections 4
and 5.
"""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.pim.controller.frontend import SPEC, WORD
from bankside.hw.pim.layouts import command_codes, command_layout
from bankside.isa.layout import view
from bankside.isa.machine import Machine


class Kind(enum.Enum, shape=3):
    """What the candidate command does, for the stall counters."""

    MAC = 0
    ACTIVATE = 1
    ROW = 2
    REFRESH = 3
    TRANSFER = 4


COUNT_BITS = 9
STAGE_BITS = 12


class Refresh(wiring.Component):
    """Refreshes that are due: one more every nREFI cycles of the program, one less per `taken`.

    The debt is at most a few intervals (rows are closed often enough), hence the small counter.
    """

    def __init__(self, machine: Machine) -> None:
        self._interval = machine.refresh_interval
        super().__init__(
            {"enable": In(1), "start": In(1), "running": In(1), "taken": In(1), "due": Out(1)}
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        elapsed, owed = Signal(range(self._interval)), Signal(6)
        wrap = Signal()
        m.d.comb += [
            wrap.eq(self.running & (elapsed == self._interval - 1)),
            self.due.eq(self.enable & (owed != 0)),
        ]
        with m.If(self.running):
            m.d.sync += elapsed.eq(elapsed + 1)
        with m.If(wrap):
            m.d.sync += elapsed.eq(0)
        m.d.sync += owed.eq(owed + wrap - self.taken)
        with m.If(self.start):
            m.d.sync += [elapsed.eq(0), owed.eq(0)]
        return m


class ArrayEngine(wiring.Component):
    """Turns one macro-command after the other into DRAM commands for the array.

    Members
    -------
    refresh : In
        Refresh in time (constant while a program runs).
    load, word : In
        Take a command (the engine is not busy).
    want, command, kind : Out
        Candidate DRAM command of this cycle.
    issued : In
        The candidate goes to the DRAM in this cycle.
    last : Out
        It is the command's last one.
    stage, out : Out
        Staging address of the candidate WR or RD burst.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        super().__init__(
            {
                "refresh": In(1),
                "start": In(1),
                "running": In(1),
                "load": In(1),
                "word": In(WORD),
                "busy": Out(1),
                "want": Out(1),
                "command": Out(command_layout(machine)),
                "kind": Out(Kind),
                "issued": In(1),
                "last": Out(1),
                "opcode": Out(6),
                "signal": Out(4),
                "stage": Out(STAGE_BITS),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        machine = self._machine
        word, index, final = Signal(WORD), Signal(COUNT_BITS), Signal(COUNT_BITS)
        m.submodules.refresh = refresh = Refresh(machine)
        open_banks, refreshing = Signal(machine.banks), Signal()
        m.d.comb += [
            refresh.enable.eq(self.refresh),
            refresh.start.eq(self.start),
            refresh.running.eq(self.running),
            refresh.taken.eq(self.issued & refreshing),
            self.want.eq(self.busy),
            self.opcode.eq(view(SPEC, "MAC", word).opcode),
            self.signal.eq(view(SPEC, "MAC", word).signal),
            self.last.eq(self.issued & ~refreshing & (index == final)),
        ]
        with m.If(self.load):
            m.d.sync += [word.eq(self.word), index.eq(0), self.busy.eq(1)]
        with m.If(self.issued & ~refreshing):
            m.d.sync += index.eq(index + 1)
        with m.If(self.last):
            m.d.sync += self.busy.eq(0)
        with m.Switch(self.opcode):
            self._rows(m, word, index, final)
            self._columns(m, word, index, final)
        opening = self.opcode == SPEC.commands["OPEN"].opcode
        with m.If(opening & (index == 0) & refresh.due & (open_banks == 0)):
            m.d.comb += [
                refreshing.eq(1),
                self.command.code.eq(command_codes(machine)["REF"]),
                self.kind.eq(Kind.REFRESH),
                self.command.bank.eq(0),
                self.command.row.eq(0),
            ]
        self._track_open(m, open_banks)
        return m

    def _visit(self, index: Signal):
        """Flat bank index of the index-th bank in visiting order."""
        groups, per_group = (
            self._machine.groups.bit_length() - 1,
            self._machine.banks_per_group.bit_length() - 1,
        )
        return Cat(index[groups : groups + per_group], index[:groups])

    def _rows(self, m: Module, word: Signal, index: Signal, final: Signal) -> None:
        machine, codes = self._machine, command_codes(self._machine)
        row, close = view(SPEC, "OPEN", word), view(SPEC, "CLOSE", word)
        with m.Case(SPEC.commands["OPEN"].opcode):
            m.d.comb += [self.kind.eq(Kind.ACTIVATE), self.command.row.eq(row.row)]
            with m.Switch(row.mode):
                with m.Case(SPEC.enums["open_mode"]["bank"]):
                    m.d.comb += [self.command.code.eq(codes["ACT"]), self.command.bank.eq(row.bank)]
                with m.Case(SPEC.enums["open_mode"]["staggered"]):
                    m.d.comb += [
                        self.command.code.eq(codes["ACT"]),
                        final.eq(machine.banks - 1),
                        self.command.bank.eq(self._visit(index)),
                    ]
                with m.Case(SPEC.enums["open_mode"]["group"]):
                    m.d.comb += [
                        self.command.code.eq(codes["ACT4"]),
                        final.eq(machine.banks_per_group - 1),
                        self.command.bank.eq(index),
                    ]
                with m.Case(SPEC.enums["open_mode"]["all"]):
                    m.d.comb += self.command.code.eq(codes["ACTA"])
        with m.Case(SPEC.commands["CLOSE"].opcode):
            m.d.comb += self.kind.eq(Kind.ROW)
            with m.If(close.mode == SPEC.enums["close_mode"]["all"]):
                m.d.comb += self.command.code.eq(codes["PREA"])
            with m.Else():
                m.d.comb += [self.command.code.eq(codes["PRE"]), self.command.bank.eq(close.bank)]
        with m.Case(SPEC.commands["REF"].opcode):
            m.d.comb += [self.kind.eq(Kind.REFRESH), self.command.code.eq(codes["REF"])]
        with m.Case(SPEC.commands["WRR"].opcode):
            mode = view(SPEC, "WRR", word)
            m.d.comb += [self.kind.eq(Kind.TRANSFER), self.command.code.eq(codes["WRR"])]
            m.d.comb += [
                self.command[name].eq(mode[name])
                for name in ("mode", "kbuf", "rescale", "sb", "rb", "cpt")
            ]

    def _columns(self, m: Module, word: Signal, index: Signal, final: Signal) -> None:
        codes = command_codes(self._machine)
        for name in ("MAC", "WR", "RD", "LDSB"):
            operands = view(SPEC, name, word)
            with m.Case(SPEC.commands[name].opcode):
                m.d.comb += [
                    self.kind.eq(Kind.MAC if name == "MAC" else Kind.TRANSFER),
                    self.command.code.eq(codes[name]),
                    self.command.col.eq(operands.col + index),
                    final.eq(operands.count - 1),
                ]
                if name != "MAC":
                    m.d.comb += self.command.bank.eq(operands.bank)
                if name in ("WR", "RD"):
                    m.d.comb += self.stage.eq(
                        (operands.stage if name == "WR" else operands.out) + index
                    )
                if name == "LDSB":
                    m.d.comb += [
                        self.command.sb.eq(operands.sb + index),
                        self.command.lane.eq(operands.lane),
                    ]

    def _track_open(self, m: Module, open_banks: Signal) -> None:
        machine, codes = self._machine, command_codes(self._machine)
        one = Const(1, machine.banks)
        slice_mask = sum(1 << (g * machine.banks_per_group) for g in range(machine.groups))
        with m.If(self.issued):
            with m.Switch(self.command.code):
                with m.Case(codes["ACT"]):
                    m.d.sync += open_banks.eq(open_banks | (one << self.command.bank))
                with m.Case(codes["ACT4"]):
                    m.d.sync += open_banks.eq(
                        open_banks | (Const(slice_mask, machine.banks) << self.command.bank)
                    )
                with m.Case(codes["ACTA"]):
                    m.d.sync += open_banks.eq(~Const(0, machine.banks))
                with m.Case(codes["PRE"]):
                    m.d.sync += open_banks.eq(open_banks & ~(one << self.command.bank))
                with m.Case(codes["PREA"]):
                    m.d.sync += open_banks.eq(0)
