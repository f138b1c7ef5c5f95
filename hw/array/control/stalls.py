"""Counters: every cycle of a program belongs to one reason. Ref: docs/array.md section 5."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.array.control.blocks import OP
from bankside.hw.array.control.layouts import COUNTER_BITS, SPEC
from bankside.isa.array_machine import ArrayMachine

REASON = {name: index for index, name in enumerate(SPEC.stalls)}
MOVES = ("drain", "passx", "passd", "fill")


class Settle(wiring.Component):
    """Tells whether `settle` whole cycles without a pass lie before this one; 1 after reset.

    Members
    -------
    active : In
        A pass runs.
    settled : Out
    """

    def __init__(self, machine: ArrayMachine) -> None:
        self._settle = machine.settle
        super().__init__({"active": In(1), "settled": Out(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        left = Signal(range(self._settle + 1))
        m.d.comb += self.settled.eq(left == 0)
        m.d.sync += left.eq(Mux(self.active, self._settle, left - ~self.settled))
        return m


class StallCounters(wiring.Component):
    """Classifies the current cycle and counts.

    Members
    -------
    running : In
        Count this cycle.
    active, covered : In
        A pass runs; a block covers the slot.
    pe_en, pe_op, lane_en : In
        A word of a PE block is issued, and of which kind; a word of a lane block is issued.
    decision, waiting, lacks_load, lacks_store : In
        A pass is decided on; a RUN is under way or waits, and lacks a token of that engine.
    settled, load_busy, store_busy : In
        No pass ran for long enough; the engine is not idle.
    counts : Out
        Cycles per reason, in the order of the specification.
    """

    def __init__(self) -> None:
        flags = (
            "running", "active", "covered", "pe_en", "lane_en", "decision", "waiting",
            "lacks_load", "lacks_store", "settled", "load_busy", "store_busy",
        )  # fmt: skip
        super().__init__(
            {
                **{name: In(1) for name in flags},
                "pe_op": In(SPEC.commands["BLOCK"].field_map["op"].width),
                "counts": Out(data.ArrayLayout(COUNTER_BITS, len(SPEC.stalls))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        reason = Signal(range(len(SPEC.stalls)))
        with m.If(self.active):
            self._in_pass(m, reason)
        with m.Else():
            self._between(m, reason)
        for index in range(len(SPEC.stalls)):
            with m.If(self.running & (reason == index)):
                m.d.sync += self.counts[index].eq(self.counts[index] + 1)
        return m

    def _choose(self, m: Module, reason: Signal, cases: tuple, otherwise: str) -> None:
        """The reason of the first condition that holds."""
        m.d.comb += reason.eq(REASON[otherwise])
        for condition, name in reversed(cases):
            with m.If(condition):
                m.d.comb += reason.eq(REASON[name])

    def _in_pass(self, m: Module, reason: Signal) -> None:
        move = self.pe_op.matches(*(OP[name] for name in MOVES))
        cases = (
            (self.pe_en & move, "move"),
            (self.pe_en, "mac"),
            (self.lane_en, "lane"),
            (self.covered, "bubble"),
        )
        self._choose(m, reason, cases, "slot")

    def _between(self, m: Module, reason: Signal) -> None:
        cases = (
            (self.decision, "control"),
            (self.lacks_load, "wait_load"),
            (self.lacks_store, "wait_store"),
            (self.waiting, "control"),
            (~self.settled, "settle"),
            (self.store_busy, "store"),
            (self.load_busy, "load"),
        )
        self._choose(m, reason, cases, "control")
