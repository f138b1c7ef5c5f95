"""Completions: tokens are given a fixed time after an engine's last action. Ref: docs/pim.md
section 4.
"""

from collections.abc import Mapping

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.lib.delay import DelayLine
from bankside.hw.pim.controller.dispatch import ENGINES, gifts_layout


class Completions(wiring.Component):
    """Delays the signal masks of one engine and adds up what falls into the same cycle.

    Parameters
    ----------
    kinds : mapping
        Opcode -> latency in cycles (`Machine.completions`). Commands of equal latency share a delay
        line.

    Members
    -------
    last, opcode, signal : In
        The engine's last action of the command `opcode` happens in this cycle; its signal mask.
    gifts : Out
        Tokens given in this cycle.
    pending : Out
        A completion is still to come (registered).
    """

    def __init__(self, kinds: Mapping[int, int]) -> None:
        self._kinds = dict(kinds)
        super().__init__(
            {
                "last": In(1),
                "opcode": In(6),
                "signal": In(ENGINES),
                "gifts": Out(gifts_layout()),
                "pending": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        masks, pending = [], []
        for latency in sorted(set(self._kinds.values())):
            codes = [code for code, value in self._kinds.items() if value == latency]
            fire = Signal(name=f"fire_{latency}")
            with m.Switch(self.opcode):
                with m.Case(*codes):
                    m.d.comb += fire.eq(self.last)
            if latency == 0:
                masks.append(Mux(fire, self.signal, 0))
                continue
            m.submodules[f"delay_{latency}"] = line = DelayLine(ENGINES, latency)
            m.d.comb += [line.i_valid.eq(fire), line.i_payload.eq(self.signal)]
            masks.append(Mux(line.o_valid, line.o_payload, 0))
            pending.append(line.busy)
        for engine in range(ENGINES):
            m.d.comb += self.gifts[engine].eq(sum(mask[engine] for mask in masks))
        m.d.comb += self.pending.eq(sum(pending) != 0 if pending else 0)
        return m
