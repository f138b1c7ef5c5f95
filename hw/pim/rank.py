"""The rank of the `pim` engine: chips in lock-step behind one guarded command bus."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.dram.checker import TimingChecker
from bankside.hw.dram.ports import PortWidths
from bankside.hw.lib.unit import Unit
from bankside.hw.pim.chip import Chip
from bankside.hw.pim.layouts import command_layout
from bankside.isa.machine import Machine

CYCLE_BITS = 48
MAX_OPEN_INTERVALS = 8
"""Refresh intervals that may pass with an open row (a refresh may be postponed eight times)."""


class PimRank(wiring.Component):
    """C chips and the checker that refuses what the timing table forbids.

    Members
    -------
    valid : In(1), command : In(command_layout)
        DRAM command of cycle t.
    wdata : In(C slices of NE*16)
        Burst of a WR or WRSB, in cycle t+WL.
    rvalid : Out(1), rdata : Out(C slices of NE*16)
        Burst of a RD or RDRB, in cycle t+RL.
    accept : Out(1)
        The command of this cycle is legal. A refused one changes nothing in the rank.
    violation : Out, violation_cycle : Out(48)
        Code of the first refused command (0: none so far) and its cycle, counted from reset.
    unrefreshable : Out(1)
        Sticky: some bank was open in each of 8*nREFI cycles in a row, so that no refresh could
        come. Means nothing where refresh is not in use.

    Ref: docs/pim.md sections 5 and 6; codes: `bankside.isa.dram.standard`.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        burst = data.ArrayLayout(machine.slice_bits, machine.chips)
        super().__init__(
            {
                "valid": In(1),
                "command": In(command_layout(machine)),
                "wdata": In(burst),
                "rvalid": Out(1),
                "rdata": Out(burst),
                "accept": Out(1),
                "violation": Out(PortWidths.of(machine.std).violation),
                "violation_cycle": Out(CYCLE_BITS),
                "unrefreshable": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        machine = self.machine
        m.submodules.checker = checker = TimingChecker(machine.std)
        m.d.comb += [
            checker.valid.eq(self.valid),
            checker.command.eq(self.command.code),
            checker.bank.eq(self.command.bank),
            checker.row.eq(self.command.row),
            self.accept.eq(checker.accept),
        ]
        arrived = []
        for index in range(machine.chips):
            chip = m.submodules[f"chip{index}"] = Unit(Chip(machine), "bankside_chip")
            m.d.comb += [
                chip.valid.eq(checker.accept),
                chip.command.eq(self.command),
                chip.wdata.eq(self.wdata[index]),
                self.rdata[index].eq(chip.rdata),
            ]
            arrived.append(chip.rvalid)
        m.d.comb += self.rvalid.eq(arrived[0])
        self._flags(m, checker)
        return m

    def _flags(self, m: Module, checker: TimingChecker) -> None:
        """The first violation, and rows that keep refresh away for too long."""
        now = Signal(CYCLE_BITS)
        m.d.sync += now.eq(now + 1)
        with m.If(self.valid & ~checker.accept & (self.violation == 0)):
            m.d.sync += [self.violation.eq(checker.violation), self.violation_cycle.eq(now)]
        limit = MAX_OPEN_INTERVALS * self.machine.refresh_interval
        opened = Signal(range(limit + 1))
        with m.If(checker.open_mask == 0):
            m.d.sync += opened.eq(0)
        with m.Elif(opened != limit):
            m.d.sync += opened.eq(opened + 1)
        with m.Else():
            m.d.sync += self.unrefreshable.eq(1)
