"""Known-bad twins of any component: one output spoilt, everything else untouched."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from bankside.hw.lib.unit import flat_ports


class Twin(wiring.Component):
    """A component with one output spoilt: `change(m, value, ports)` gives its new value."""

    def __init__(self, component: wiring.Component, port: str, change) -> None:
        self.component, self.port, self.change = component, port, change
        super().__init__(dict(component.signature.members))

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.unit = unit = self.component
        for path, member, value in self.signature.flatten(self):
            inner = unit
            for step in path:
                inner = getattr(inner, str(step))
            inner, value = Value.cast(inner), Value.cast(value)
            if member.flow == wiring.In:
                m.d.comb += inner.eq(value)
            else:
                spoilt = "__".join(map(str, path)) == self.port
                m.d.comb += value.eq(self.change(m, inner, unit) if spoilt else inner)
        return m


def late(m, value, unit):
    """The value of the cycle before."""
    held = Signal.like(value)
    m.d.sync += held.eq(value)
    return held


def sometimes(m, value, unit):
    """0 in one cycle of eight."""
    count = Signal(3)
    m.d.sync += count.eq(count + 1)
    return Mux(count == 7, 0, value)


class Faulty(wiring.Component):
    """A component with the fault number `fault` (0: a faithful copy), so that all twins of a bench
    are one model.

    `faults` maps a name to (output port, `change(m, value, unit)`); faults count from 1.
    """

    def __init__(self, component: wiring.Component, faults: dict) -> None:
        self.component, self.faults = component, faults
        members = dict(component.signature.members)
        super().__init__({**members, "fault": In(range(len(faults) + 1))})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.unit = unit = self.component
        own = flat_ports(self)
        for port, (inner, direction) in flat_ports(unit).items():
            outer, _ = own[port]
            m.d.comb += inner.eq(outer) if direction == "i" else outer.eq(inner)
        for number, (port, change) in enumerate(self.faults.values(), 1):
            outer, (inner, _) = own[port][0], flat_ports(unit)[port]
            spoilt = change(m, inner, unit)
            with m.If(self.fault == number):
                m.d.comb += outer.eq(spoilt)
        return m
