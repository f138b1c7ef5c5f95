# amaranth: UnusedElaboratable=no
"""A small design with every kind of state that protection has to deal with."""

from amaranth.hdl import Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out


class Counter(wiring.Component):
    """Counts while enabled and holds otherwise; its output port is the register."""

    en: In(1)
    value: Out(3)

    def elaborate(self, platform) -> Module:
        m = Module()
        with m.If(self.en):
            m.d.sync += self.value.eq(self.value + 1)
        return m


class Mixed(wiring.Component):
    """A register that holds, one with a power-on value, an accumulator; a memory with two lanes
    per word, read combinationally and clocked; a counter in a module of its own.
    """

    def __init__(self) -> None:
        super().__init__({
            "data": In(8), "address": In(2), "lanes": In(2), "en": In(1), "clear": In(1),
            "direct": Out(8), "clocked": Out(8), "held": Out(8), "total": Out(6), "count": Out(3),
            "mark": Out(1),
        })  # fmt: skip

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.cells = cells = memory.Memory(shape=8, depth=4, init=[0x5A, 0, 0xFF])
        m.submodules.counter = counter = Counter()
        write, direct = cells.write_port(granularity=4), cells.read_port(domain="comb")
        clocked = cells.read_port()
        kept, state = Signal(8), Signal(2, init=2)
        m.d.comb += [
            write.addr.eq(self.address), write.data.eq(self.data), write.en.eq(self.lanes),
            direct.addr.eq(self.address ^ 1), self.direct.eq(direct.data),
            clocked.addr.eq(self.address), clocked.en.eq(self.en), self.clocked.eq(clocked.data),
            self.held.eq(kept), counter.en.eq(self.en & self.data[0]),
            self.count.eq(counter.value), self.mark.eq(state == 1),
        ]  # fmt: skip
        with m.If(self.en):
            m.d.sync += [kept.eq(self.data), state.eq(state + self.data[1])]
        m.d.sync += self.total.eq(self.total + self.data[:3])
        with m.If(self.clear):
            m.d.sync += self.total.eq(0)
        return m
