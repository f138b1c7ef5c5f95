"""Random designs whose arithmetic is needed under some of several conditions only."""

import numpy as np
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

_OPERATIONS = (
    lambda a, b: (a + b)[:40], lambda a, b: (a - b)[:40], lambda a, b: (a * b)[:40],
    lambda a, b: a ^ (b >> 3), lambda a, b: (a.as_signed() >> 2) + b,
    lambda a, b: Mux(b[1], a, ~b), lambda a, b: (a << b[:3])[:40],
)  # fmt: skip


class RandomBranches(wiring.Component):
    """Units of several operations each, of which cases of `op` and registers with enables use the
    result; nothing else shows it. What a unit computes may feed another one.
    """

    def __init__(self, seed: int, units: int = 6, uses: int = 10) -> None:
        self.seed, self.units, self.uses = seed, units, uses
        outs = {f"o{i}": Out(40) for i in range(uses)}
        self.now: dict[str, Signal] = {}
        super().__init__({"a": In(33), "b": In(17), "op": In(4), "enable": In(3), **outs})

    def elaborate(self, platform: object) -> Module:
        m, rng = Module(), np.random.default_rng(self.seed)
        # Behind registers all logic is one phase, of which nobody asks for a part only.
        self.now = {name: Signal.like(getattr(self, name)) for name in ("a", "b", "op", "enable")}
        m.d.sync += [signal.eq(getattr(self, name)) for name, signal in self.now.items()]
        a, b = self.now["a"], self.now["b"]
        values = [a, b.as_signed(), a[3:20]]
        for number in range(self.units):
            values.append(self._unit(m, rng, values, number))
        for number in range(self.uses):
            self._use(m, rng, values[3:], number)
        return m

    def _unit(self, m: Module, rng, values, number: int) -> Signal:
        out = values[int(rng.integers(len(values)))]
        for step in range(12):
            other = values[int(rng.integers(len(values)))]
            made = _OPERATIONS[int(rng.integers(len(_OPERATIONS)))](out, other)
            step_out = Signal(made.shape(), name=f"unit{number}_{step}")
            m.d.comb += step_out.eq(made)
            out = step_out[:40] if len(step_out) > 40 else step_out
        return out

    def _use(self, m: Module, rng, units, number: int) -> None:
        """One or two cases show a unit, directly or by a register."""
        out, kept = getattr(self, f"o{number}"), Signal(40, name=f"kept{number}")
        pick = lambda: units[int(rng.integers(len(units)))]  # noqa: E731
        if rng.random() < 0.5:
            with m.If(self.now["enable"] == int(rng.integers(8))):
                m.d.sync += kept.eq(pick())
        m.d.comb += out.eq(kept)
        with m.Switch(self.now["op"]):
            for case in rng.choice(16, int(rng.integers(1, 4)), replace=False).tolist():
                with m.Case(case):
                    m.d.comb += out.eq(pick() ^ kept)
