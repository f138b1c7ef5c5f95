"""The 2D array of PEs."""

from amaranth.hdl import Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.tf32 import TF32_BITS
from bankside.hw.array.pe import Pe
from bankside.hw.array.words import pe_layout
from bankside.hw.lib.unit import Unit
from bankside.isa.array_machine import ArrayMachine


class Mesh(wiring.Component):
    """R x C PEs; each hands on to its right and its lower neighbour, one cycle later.

    Members
    -------
    a : In(R of 19)
        Row buses at the left.
    t, p : In(C of 32), control : In(C of pe_layout)
        Top buses, partial sums and control at the top.
    sums : Out(C of 32)
        Partial sums below the last row.

    Ref: docs/array.md section 1.
    """

    def __init__(self, machine: ArrayMachine) -> None:
        self.machine = machine
        rows, columns = machine.rows, machine.columns
        super().__init__(
            {
                "a": In(data.ArrayLayout(TF32_BITS, rows)),
                "t": In(data.ArrayLayout(32, columns)),
                "p": In(data.ArrayLayout(32, columns)),
                "control": In(data.ArrayLayout(pe_layout(machine), columns)),
                "sums": Out(data.ArrayLayout(32, columns)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        machine = self.machine
        above = [(self.t[c], self.p[c], self.control[c]) for c in range(machine.columns)]
        for r in range(machine.rows):
            left = self.a[r]
            for c, (t, p, control) in enumerate(above):
                pe = m.submodules[f"pe{r}_{c}"] = Unit(Pe(machine), "bankside_array_pe")
                m.d.comb += [pe.row.eq(r), pe.a.eq(left), pe.t.eq(t), pe.p.eq(p)]
                m.d.comb += pe.control.eq(control)
                left = pe.a_out
                above[c] = (pe.t_out, pe.p_out, pe.control_out)
        m.d.comb += [self.sums[c].eq(p) for c, (_, p, _) in enumerate(above)]
        return m
