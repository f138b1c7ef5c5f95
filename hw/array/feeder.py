"""The left edge of the 2D array: a row bank and what it puts on the row bus."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.tf32 import TF32_BITS, Decode
from bankside.hw.array.banks import RowBank, pick
from bankside.hw.array.words import row_layout
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.numerics_array import ONE, TF32_DROP


class Feeder(wiring.Component):
    """Reads the bank in the cycle of `control`, selects and decodes in the next one.

    Members
    -------
    control : In(row_layout), control_out : Out(row_layout)
        Of this cycle; of the cycle before, for the feeder below.
    format : In(1)
        0 FP16, 1 bf16.
    write : In(1), write_address : In, write_data : In(n*16)
        Write of the load engine.
    a : Out(19)
        Row bus, two cycles after `control`.

    Ref: docs/array.md sections 1 and 3.
    """

    def __init__(self, machine: ArrayMachine) -> None:
        self.machine = machine
        layout = row_layout(machine)
        super().__init__(
            {
                "control": In(layout),
                "control_out": Out(layout),
                "format": In(1),
                "write": In(1),
                "write_address": In(range(machine.config.array.row_words)),
                "write_data": In(16 * machine.bus_elements),
                "a": Out(TF32_BITS),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.bank = bank = RowBank(self.machine)
        m.submodules.decode = decode = Decode()
        held = Signal(TF32_BITS, reset_less=True)
        m.d.sync += self.control_out.eq(self.control)
        # `control_out` is also what this feeder did in the cycle before.
        now = self.control_out
        m.d.comb += [
            bank.write.eq(self.write),
            bank.write_address.eq(self.write_address),
            bank.write_data.eq(self.write_data),
            bank.read.eq(self.control.read),
            bank.address.eq(self.control.address),
            decode.bits.eq(pick(bank.word, now.element)),
            decode.format.eq(self.format),
            self.a.eq(held),
        ]
        m.d.sync += held.eq(Mux(now.one, ONE >> TF32_DROP, decode.y[TF32_DROP:]))
        return m
