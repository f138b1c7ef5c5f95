"""Address counters of the vector unit, without multipliers. Ref: docs/npu.md sections 1 and 2."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from bankside.hw.npu.operation import operation_layout
from bankside.isa.npu_machine import NpuMachine

__all__ = ["CopyWalk", "FeatureWalk"]


class FeatureWalk(wiring.Component):
    """Positions of the output in row-major order, with their words in three feature maps.

    Members
    -------
    operation : In(operation_layout)
    load : In(1)
        First position from the next cycle on.
    next : In(1)
        Next position from the next cycle on.
    ifm, ifm2, ofm : Out
        First word of the position.
    last : Out(1)
    """

    def __init__(self, machine: NpuMachine) -> None:
        word = bits_for(machine.shared_words - 1)
        super().__init__(
            {
                "operation": In(operation_layout(machine)),
                "load": In(1),
                "next": In(1),
                **dict.fromkeys(("ifm", "ifm2", "ofm"), Out(word)),
                "last": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        o = self.operation
        rows, columns = Signal(16), Signal(16)
        row_over = Signal()
        m.d.comb += [row_over.eq(columns == 1), self.last.eq(row_over & (rows == 1))]
        with m.If(self.load):
            m.d.sync += [rows.eq(o.ofm_h), columns.eq(o.ofm_w)]
        with m.Elif(self.next):
            m.d.sync += columns.eq(Mux(row_over, o.ofm_w, columns - 1))
            m.d.sync += rows.eq(rows - row_over)
        fixed = o.ifm2_broadcast
        self._map(m, self.ifm, row_over, o.ifm, o.ifm_sy, o.ifm_sx)
        rows2, columns2 = Mux(fixed[0], 0, o.ifm2_sy), Mux(fixed[1], 0, o.ifm2_sx)
        self._map(m, self.ifm2, row_over, o.ifm2, rows2, columns2)
        self._map(m, self.ofm, row_over, o.ofm, o.ofm_sy, o.ofm_sx)
        return m

    def _map(self, m: Module, place, row_over, base, row_step, column_step) -> None:
        row, below = Signal.like(place, name=f"{place.name}_row"), Signal.like(place)
        m.d.comb += below.eq(row + row_step)
        with m.If(self.load):
            m.d.sync += [row.eq(base), place.eq(base)]
        with m.Elif(self.next & row_over):
            m.d.sync += [row.eq(below), place.eq(below)]
        with m.Elif(self.next):
            m.d.sync += place.eq(place + column_step)


class CopyWalk(wiring.Component):
    """Elements of COPY, the innermost count fastest.

    Members
    -------
    operation : In(operation_layout)
    load, next : In(1)
        As in `FeatureWalk`.
    src, dst : Out
        Byte addresses of the element.
    last : Out(1)
    """

    def __init__(self, machine: NpuMachine) -> None:
        layout = operation_layout(machine)
        super().__init__(
            {
                "operation": In(layout),
                "load": In(1),
                "next": In(1),
                **{name: Out(layout[name].shape) for name in ("src", "dst")},
                "last": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        counts = [self.operation[f"n{level}"] for level in range(3)]
        left = Signal(data.ArrayLayout(16, 3))
        # over[i]: the loops inside loop i and loop i itself end with this element.
        over = Signal(3)
        m.d.comb += [
            over[2].eq(left[2] == 1),
            over[1].eq(over[2] & (left[1] == 1)),
            over[0].eq(over[1] & (left[0] == 1)),
            self.last.eq(over[0]),
        ]
        with m.If(self.load):
            m.d.sync += [left[level].eq(count) for level, count in enumerate(counts)]
        with m.Elif(self.next):
            for level, inner in ((2, 1), (1, over[2]), (0, over[1])):
                with m.If(over[level]):
                    m.d.sync += left[level].eq(counts[level])
                with m.Elif(inner):
                    m.d.sync += left[level].eq(left[level] - 1)
        for name in ("src", "dst"):
            self._addresses(m, name, over)
        return m

    def _addresses(self, m: Module, name: str, over: Signal) -> None:
        address = getattr(self, name)
        steps = [self.operation[f"{name}_s{level}"] for level in range(3)]
        outer, middle = (Signal.like(address, name=f"{name}_{k}") for k in ("outer", "middle"))
        places = (outer, middle, address)
        with m.If(self.load):
            m.d.sync += [place.eq(self.operation[name]) for place in places]
        with m.Elif(self.next):
            with m.If(over[1]):
                m.d.sync += [place.eq(outer + steps[0]) for place in places]
            with m.Elif(over[2]):
                m.d.sync += [place.eq(middle + steps[1]) for place in places[1:]]
            with m.Else():
                m.d.sync += address.eq(address + steps[2])
