"""Counters: every cycle that is counted belongs to one reason. Ref: docs/npu.md section 8."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.npu.control.layouts import SPEC, counters_layout
from bankside.hw.npu.operation import VECTOR_OPERATIONS

__all__ = ["StallCounters"]

_FLAGS = (
    "clear", "enable", "in_step", "lacks_weights", "lacks_output", "mac_busy", "waits_for_dma",
    "transfers", "fetched",
)  # fmt: skip


class StallCounters(wiring.Component):
    """Classifies the current cycle and counts.

    Members
    -------
    clear : In(1)
        All counters become 0.
    enable : In(1)
        Count this cycle.
    in_step, lacks_weights, lacks_output : In(1)
        Of MacEngine.
    kind : In(4)
        Operation of the vector unit between start and completion, from its cycle s on.
    mac_busy : In(1)
        A MAC operation is between start and completion.
    waits_for_dma : In(1)
        The command is DMA_WAIT or STOP, or its queue is full.
    transfers : In(1)
        A transfer is outstanding.
    fetched : In(1)
        There is a command.
    counts : Out(counters_layout)
    """

    def __init__(self) -> None:
        super().__init__(
            {
                **dict.fromkeys(_FLAGS, In(1)),
                "kind": In(len(VECTOR_OPERATIONS)),
                "counts": Out(counters_layout()),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        reason, index = Signal(range(len(SPEC.stalls))), SPEC.stalls.index
        vector = [(self.kind[i], name.lower()) for i, name in enumerate(VECTOR_OPERATIONS)]
        cases = (
            (self.in_step, "mac"),
            *vector,
            (self.lacks_weights, "weights"),
            (self.lacks_output, "output"),
            (self.mac_busy, "setup"),
            (self.waits_for_dma & self.transfers, "dma"),
            (~self.fetched, "fetch"),
        )
        m.d.comb += reason.eq(index("control"))
        for condition, name in reversed(cases):
            with m.If(condition):
                m.d.comb += reason.eq(index(name))
        for number in range(len(SPEC.stalls)):
            count = self.counts[number]
            with m.If(self.enable & (reason == number)):
                m.d.sync += count.eq(count + 1)
            with m.If(self.clear):
                m.d.sync += count.eq(0)
        return m
