# amaranth: UnusedElaboratable=no
"""Designs to protect: a small one with every kind of state, and MAC lanes beside each other."""

from amaranth.hdl import Module, Shape, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.lib.unit import Unit, flat_ports
from bankside.hw.npu.mac.lanes import LaneGroup
from bankside.isa.npu_machine import NpuMachine

LANES = "bankside_npu_lanes_u55"
PER_LANE = ("w_en", "w_data", "lane")


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


class Lanes(wiring.Component):
    """MAC lanes of an NPU that see the same activations, read together."""

    def __init__(self, machine: NpuMachine) -> None:
        self.machine, self.count = machine, machine.lanes // machine.output_rate
        ports = {}
        for port, member in LaneGroup(machine).signature.members.items():
            width = Shape.cast(member.shape).width
            each = port in PER_LANE or member.flow == Out
            ports[port] = member.flow(width * self.count if each else width)
        super().__init__(ports)

    def elaborate(self, platform) -> Module:
        m = Module()
        for number in range(self.count):
            m.submodules[f"lanes{number}"] = lanes = Unit(LaneGroup(self.machine), LANES)
            for port, (value, direction) in flat_ports(lanes.component).items():
                own = getattr(self, port)
                if len(own) != len(value):
                    own = own.word_select(number, len(value))
                m.d.comb += value.eq(own) if direction == "i" else own.eq(value)
        return m
