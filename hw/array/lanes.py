"""The 1D array of lanes and the return path to the top edges."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.array.edge import return_layout
from bankside.hw.array.lane import Lane
from bankside.hw.array.words import LaneOp, lane_layout, mode_layout
from bankside.hw.lib.delay import DelayLine
from bankside.hw.lib.unit import Unit
from bankside.isa.array_machine import ArrayMachine


class Lanes(wiring.Component):
    """C lanes; control reaches the first one R + 2 cycles after `control`, as the partial sums do.

    Members
    -------
    control : In(lane_layout)
        Part of the word register.
    mode : In(mode_layout)
    sums : In(C of 32)
        Partial sums of the columns.
    back_valid : Out(C), back : Out(C of return_layout)
        What arrives at the top of each column, `ret` + 1 cycles after the lane worked.

    Ref: docs/array.md sections 1 and 3.
    """

    def __init__(self, machine: ArrayMachine) -> None:
        self.machine = machine
        columns = machine.columns
        super().__init__(
            {
                "control": In(lane_layout(machine)),
                "mode": In(mode_layout()),
                "sums": In(data.ArrayLayout(32, columns)),
                "back_valid": Out(columns),
                "back": Out(data.ArrayLayout(return_layout(machine), columns)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        machine = self.machine
        layout = lane_layout(machine)
        m.submodules.wait = wait = DelayLine(layout, machine.rows + 2)
        control = Signal(layout)
        m.d.comb += [
            wait.i_valid.eq(self.control.op != LaneOp.NOP),
            wait.i_payload.eq(self.control),
        ]
        with m.If(wait.o_valid):
            m.d.comb += control.eq(wait.o_payload)
        for c in range(machine.columns):
            lane = m.submodules[f"lane{c}"] = Unit(Lane(machine), "bankside_array_lane")
            path = m.submodules[f"back{c}"] = Unit(
                DelayLine(return_layout(machine), machine.return_cycles), "bankside_array_back"
            )
            m.d.comb += [
                lane.control.eq(control),
                lane.mode.eq(self.mode),
                lane.psum.eq(self.sums[c]),
                path.i_valid.eq(lane.back_valid),
                path.i_payload.eq(lane.back),
                self.back_valid[c].eq(path.o_valid),
                self.back[c].eq(path.o_payload),
            ]
            control = lane.control_out
        return m
