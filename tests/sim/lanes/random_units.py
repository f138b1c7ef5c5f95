"""Random designs with a module that occurs often and is therefore kept, with paths through it, and
with clocks that stop.
"""

import numpy as np
from amaranth.hdl import (
    Cat,
    ClockDomain,
    ClockSignal,
    DomainRenamer,
    Module,
    Mux,
    ResetSignal,
    Signal,
)
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from random_design import RandomDesign

from bankside.hw.lib.unit import ExportPlatform, Unit


def _mixed(m: Module, values: list[Signal]) -> Signal:
    """A word in which every bit of `values` counts."""
    out = values[0]
    for value in values[1:]:
        # A signal of its own, because rotating names its operand twice.
        mixed = Signal(70)
        m.d.comb += mixed.eq(out.rotate_left(1) ^ value)
        out = mixed
    return out


class Stage(wiring.Component):
    """A random design between `front` and `back`, which both pass through in one cycle.

    Members: `data` -> `result` through logic and registers, `go` -> `went` and, the other way
    round, `stop` -> `stopped`, each through little logic that depends on a register. A register
    digests all of the random design, or else most of it would be dropped.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        super().__init__(
            {
                "data": In(40), "go": In(1), "stop": In(1), "address": In(4),
                "result": Out(40), "went": Out(1), "stopped": Out(1), "held": Out(9),
            }
        )  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m, rng = Module(), np.random.default_rng(self.seed)
        m.submodules.inner = inner = RandomDesign(self.seed, size=45)
        outs = [getattr(inner, f"o{i}") for i in range(inner.size + len(inner.widths) + 5)]
        for i, width in enumerate(inner.widths):
            low = int(rng.integers(0, 9))
            m.d.comb += getattr(inner, f"in{i}").eq(self.data.rotate_left(low).replicate(2)[:width])
        m.d.comb += [inner.address.eq(self.address), inner.enable.eq(self.go)]
        count, last, digest = Signal(9), Signal(), Signal(70)
        m.d.sync += digest.eq(_mixed(m, outs))
        with m.If(self.go & ~self.stop):
            m.d.sync += count.eq(count + self.data[:3])
        m.d.sync += last.eq(self.stop)
        chosen = [outs[int(rng.integers(len(outs)))][:40] for _ in range(3)]
        m.d.comb += [
            self.result.eq(
                Mux(count[0], chosen[0] ^ self.data, chosen[1] + (chosen[2] << 1)) + digest
            ),
            self.went.eq(self.go & (count[1] | ~last)),
            self.stopped.eq(self.stop | (count[:3] == 5)),
            self.held.eq(count),
        ]
        return m


class RandomUnits(wiring.Component):
    """A chain of kept stages, some of them with a gated clock, beside dissolved random logic."""

    def __init__(self, seed: int, stages: int = 5) -> None:
        self.seed, self.stages = seed, stages
        super().__init__(
            {
                "data": In(40), "go": In(1), "stop": In(1), "address": In(4), "active": In(1),
                "stopped": Out(1), "went": Out(1), "out": Out(70),
                **{f"result{i}": Out(40) for i in range(stages)},
                **{f"held{i}": Out(9) for i in range(stages)},
            }
        )  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        units = [Unit(Stage(self.seed), "bankside_stage") for _ in range(self.stages)]
        active = Signal(2)
        m.d.sync += active.eq(Cat(self.active, active))
        self._gate(m, active.any(), platform)
        before, go, stop = self.data, self.go, self.stop
        for index, unit in enumerate(units):
            m.submodules[f"unit{index}"] = DomainRenamer("bank")(unit) if index % 2 else unit
            m.d.comb += [
                unit.data.eq(before), unit.go.eq(go), unit.address.eq(self.address + index),
                getattr(self, f"result{index}").eq(unit.result),
                getattr(self, f"held{index}").eq(unit.held),
            ]  # fmt: skip
            before, go = unit.result, unit.went
        for unit in reversed(units):
            m.d.comb += unit.stop.eq(stop)
            stop = unit.stopped
        m.d.comb += [self.stopped.eq(stop), self.went.eq(go)]
        self._beside(m, before)
        return m

    def _beside(self, m: Module, data: Signal) -> None:
        """Registers and memories of the module itself that have the gated clock."""
        m.submodules.beside = beside = DomainRenamer("bank")(RandomDesign(self.seed + 1, size=20))
        m.d.comb += [getattr(beside, f"in{i}").eq(data) for i in range(len(beside.widths))]
        m.d.comb += [beside.address.eq(self.address), beside.enable.eq(self.go)]
        late = [getattr(beside, f"o{i}") for i in range(6, beside.size + 11)]
        m.d.comb += self.out.eq(_mixed(m, late))

    @staticmethod
    def _gate(m: Module, active: Signal, platform: object) -> None:
        """As in hw/pim/chip.py."""
        assert isinstance(platform, ExportPlatform)
        m.domains.bank = ClockDomain("bank", local=True)
        m.domains.falling = ClockDomain("falling", clk_edge="neg", reset_less=True, local=True)
        running = Signal(init=1)
        m.d.falling += running.eq(active | ResetSignal("sync"))
        m.d.comb += [
            ClockSignal("falling").eq(ClockSignal("sync")),
            ClockSignal("bank").eq(ClockSignal("sync") & running),
            ResetSignal("bank").eq(ResetSignal("sync")),
        ]
