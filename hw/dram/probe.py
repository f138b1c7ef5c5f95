"""Device-side and controller-side rules next to each other, for replaying command streams."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.dram.checker import TimingChecker
from bankside.hw.dram.ports import PortWidths
from bankside.hw.dram.timers import IssueTimers
from bankside.isa.dram.standard import DramStandard

__all__ = ["CommandProbe"]


class CommandProbe(wiring.Component):
    """Presents one command to a `TimingChecker` and asks `IssueTimers` about the same command.

    `accept` and `violation` are the device's answer, `legal` and `stall` the controller's, all
    combinational. The timers record what the device accepts. `device` and `timers` may be built
    from other tables than `std` (of equal widths), which a bench uses as known-bad twins.
    """

    valid: Signal
    command: Signal
    bank: Signal
    row: Signal
    accept: Signal
    violation: Signal
    legal: Signal
    stall: Signal
    open_mask: Signal

    def __init__(
        self,
        std: DramStandard,
        *,
        device: DramStandard | None = None,
        timers: DramStandard | None = None,
        refresh_required: bool = False,
    ):
        self.device, self.timers = device or std, timers or std
        self.refresh_required = refresh_required
        width = PortWidths.of(std)
        super().__init__(
            {
                "valid": In(1),
                "command": In(width.command),
                "bank": In(width.bank),
                "row": In(width.row),
                "accept": Out(1),
                "violation": Out(width.violation),
                "legal": Out(1),
                "stall": Out(4),
                "open_mask": Out(std.banks),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        checker = TimingChecker(self.device, refresh_required=self.refresh_required)
        timers = IssueTimers(self.timers, queries=1)
        m.submodules.checker, m.submodules.timers = checker, timers
        issue, query = timers.issue, timers.query[0]
        m.d.comb += [
            checker.valid.eq(self.valid),
            checker.row.eq(self.row),
            self.accept.eq(checker.accept),
            self.violation.eq(checker.violation),
            self.open_mask.eq(checker.open_mask),
            issue.valid.eq(checker.accept),
            self.legal.eq(query.legal),
            self.stall.eq(query.stall),
        ]
        for target in (checker, issue, query):
            m.d.comb += [target.command.eq(self.command), target.bank.eq(self.bank)]
        return m
