"""Stall accounting: every cycle of a program belongs to one reason. Ref: docs/pim.md section 7."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.pim.controller.array_engine import Kind
from bankside.hw.pim.controller.frontend import SPEC
from bankside.isa.dram.table import STALL_TAGS

COUNTER_BITS = 48
#: Stall tags of the DRAM table that count as waiting for a row to open or close.
ROW_TAGS = ("wr", "rtp", "ras", "rp", "rcd")
REASON = {name: index for index, name in enumerate(SPEC.stalls)}
ARRAY, BUFFER, RANK, HOST = range(4)


class StallCounters(wiring.Component):
    """Classifies the current cycle from the array engine's point of view and counts.

    Members
    -------
    running, clear : In
        Count this cycle; reset the counters.
    busy, issued, legal, kind, tag : In
        The array engine's candidate: what it does, whether it may and does issue, the tag of its
        last constraint.
    waiting, missing : In
        The array queue shows a command; mask of engines whose token is missing.
    active : In, per engine
        Queue not empty, busy, or completion pending.
    counts : Out
        Cycles per reason.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "running": In(1),
                "clear": In(1),
                "busy": In(1),
                "issued": In(1),
                "legal": In(1),
                "kind": In(Kind),
                "tag": In(4),
                "waiting": In(1),
                "missing": In(4),
                "active": In(4),
                "counts": Out(data.ArrayLayout(COUNTER_BITS, len(SPEC.stalls))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        reason = Signal(range(len(SPEC.stalls)), init=REASON["control"])
        with m.If(self.busy):
            self._busy(m, reason)
        with m.Else():
            waits = Signal(4)
            with m.If(self.waiting):
                m.d.comb += waits.eq(self.missing)
            with m.Else():
                m.d.comb += waits.eq(self.active)
            with m.If(waits[RANK]):
                m.d.comb += reason.eq(REASON["wait_rank"])
            with m.Elif(waits[BUFFER]):
                m.d.comb += reason.eq(REASON["wait_buffer"])
            with m.Elif(waits[HOST]):
                m.d.comb += reason.eq(REASON["wait_host"])
        with m.Switch(reason):
            for index in range(len(SPEC.stalls)):
                with m.Case(index):
                    with m.If(self.running):
                        m.d.sync += self.counts[index].eq(self.counts[index] + 1)
        with m.If(self.clear):
            m.d.sync += self.counts.as_value().eq(0)
        return m

    def _busy(self, m: Module, reason: Signal) -> None:
        own = {
            Kind.MAC: "mac",
            Kind.ACTIVATE: "activate",
            Kind.ROW: "row",
            Kind.TRANSFER: "transfer",
        }
        with m.If(self.kind == Kind.REFRESH):
            m.d.comb += reason.eq(REASON["refresh"])
        with m.Elif(self.issued):
            with m.Switch(self.kind):
                for kind, name in own.items():
                    with m.Case(kind):
                        m.d.comb += reason.eq(REASON[name])
        with m.Elif(self.legal):
            m.d.comb += reason.eq(REASON["command_bus"])
        with m.Else():
            self._waiting_for_constraint(m, reason)

    def _waiting_for_constraint(self, m: Module, reason: Signal) -> None:
        code = {name: index for index, name in enumerate(STALL_TAGS)}
        with m.Switch(self.tag):
            with m.Case(code["cmd"]):
                m.d.comb += reason.eq(REASON["command_bus"])
            with m.Case(code["rrd"], code["faw"]):
                m.d.comb += reason.eq(REASON["activate"])
            with m.Case(code["rfc"]):
                m.d.comb += reason.eq(REASON["refresh"])
            with m.Case(code["turn"]):
                m.d.comb += reason.eq(REASON["transfer"])
            with m.Case(*(code[name] for name in ROW_TAGS)):
                m.d.comb += reason.eq(REASON["row"])
            with m.Case(code["ccd"]):
                m.d.comb += reason.eq(REASON["transfer"])
                with m.If(self.kind == Kind.MAC):
                    m.d.comb += reason.eq(REASON["mac"])
