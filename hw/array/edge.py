"""The top edge of one column: its bank, its masks, the maximum that came back from its lane."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.tf32 import Decode
from bankside.hw.array.banks import ColumnBank, pick
from bankside.hw.array.pe import BOUND_BITS
from bankside.hw.array.words import KEY_BITS, TopOp, pe_layout, tag_bits, top_layout
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.numerics_array import EXP2_COEFFICIENTS, MARKER, SCORE_MARKER


def return_layout(machine: ArrayMachine) -> data.StructLayout:
    """What a lane sends back to the top of its column.

    maximum: `value` is the negative maximum of tag `place`; otherwise its low 16 bits are element
    `place` of the column bank.
    """
    elements = machine.config.array.column_words * machine.bus_elements
    place = max((elements - 1).bit_length(), tag_bits(machine))
    return data.StructLayout({"maximum": 1, "place": place, "value": 32})


class Edge(wiring.Component):
    """Reads the bank and finds the masks in the cycle of `top`, drives the column two later.

    Members
    -------
    top : In(top_layout), top_out : Out(top_layout)
        Control of this cycle; for the edge to the right in the next one, with its query position.
    pe : In(pe_layout), pe_out : Out(pe_layout)
        Control of the PEs, passed on along the edges.
    format : In(1)
        0 FP16, 1 bf16.
    write : In(1), write_address : In, write_data : In(n*16)
        Write of the load engine.
    fetch : In(1), fetch_address : In, fetch_word : Out(n*16)
        Read of the store engine; the word is there in the next cycle.
    back_valid : In(1), back : In(return_layout)
        From the return path; written at the end of the cycle.
    t, p : Out(32), control : Out(pe_layout)
        To the first PE of the column, two cycles after `top`.

    Ref: docs/array.md sections 1 and 3.
    """

    def __init__(self, machine: ArrayMachine) -> None:
        self.machine = machine
        width, words = 16 * machine.bus_elements, machine.config.array.column_words
        super().__init__(
            {
                "top": In(top_layout(machine)),
                "top_out": Out(top_layout(machine)),
                "pe": In(pe_layout(machine)),
                "pe_out": Out(pe_layout(machine)),
                "format": In(1),
                "write": In(1),
                "write_address": In(range(words)),
                "write_data": In(width),
                "fetch": In(1),
                "fetch_address": In(range(words)),
                "fetch_word": Out(width),
                "back_valid": In(1),
                "back": In(return_layout(machine)),
                "t": Out(32),
                "p": Out(32),
                "control": Out(pe_layout(machine)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.bank = bank = ColumnBank(self.machine)
        m.submodules.decode = decode = Decode()
        self._bank(m, bank)
        self._pass_on(m)
        # `top_out` is also what this edge was told in the cycle before; of the fields used here
        # none differs between neighbours.
        now = self.top_out
        maxima = [Signal(32, name=f"mtop{i}") for i in range(self.machine.tags)]
        for tag, maximum in enumerate(maxima):
            with m.If(self.back_valid & self.back.maximum & (self.back.place == tag)):
                m.d.sync += maximum.eq(self.back.value)
        bits = Signal(16)
        m.d.comb += [
            bits.eq(pick(bank.word, now.element)),
            decode.bits.eq(bits),
            decode.format.eq(self.format),
        ]
        self._drive(m, bits, decode.y, Array(maxima)[now.tag])
        return m

    def _bank(self, m: Module, bank: ColumnBank) -> None:
        for name in ("write", "write_address", "write_data", "fetch", "fetch_address"):
            m.d.comb += getattr(bank, name).eq(getattr(self, name))
        m.d.comb += [
            bank.put.eq(self.back_valid & ~self.back.maximum),
            bank.place.eq(self.back.place),
            bank.element.eq(self.back.value),
            bank.read.eq(self.top.read),
            bank.address.eq(self.top.address),
            self.fetch_word.eq(bank.fetch_word),
        ]

    def _pass_on(self, m: Module) -> None:
        """Control to the right: the next column may belong to the next query position."""
        top, following = self.top, self.top_out
        m.d.sync += [self.pe_out.eq(self.pe), self.control.eq(self.pe_out), following.eq(top)]
        with m.If(top.phase + 1 == top.group):
            m.d.sync += [following.phase.eq(0), following.position.eq(top.position + 1)]
        with m.Else():
            m.d.sync += following.phase.eq(top.phase + 1)

    def _bounds(self, m: Module) -> tuple[Signal, Signal]:
        """First and last row that is not masked, in the cycle after BOUNDS or UNMASKED.

        If there is none, the first is R.
        """
        top, rows = self.top, self.machine.rows
        begin, end = Signal(signed(KEY_BITS + 2)), Signal(signed(KEY_BITS))
        m.d.comb += [
            begin.eq(Mux(top.window == 0, 0, top.position - top.window + 1)),
            end.eq(Mux(top.causal & (top.position < top.limit), top.position, top.limit)),
        ]
        first = Signal(range(rows + 1), reset_less=True)
        last = Signal(range(rows), reset_less=True)
        with m.If((top.op == TopOp.BOUNDS) | (top.op == TopOp.UNMASKED)):
            m.d.sync += [
                first.eq(Mux((end < 0) | (begin > rows), rows, Mux(begin < 0, 0, begin))),
                last.eq(Mux(end >= rows, rows - 1, end)),
            ]
        return first, last

    def _drive(self, m: Module, bits: Signal, number: Signal, maximum: Signal) -> None:
        """Registers of the two buses of the column."""
        now = self.top_out
        first, last = self._bounds(m)
        t, p = Signal(32), Signal(32)
        with m.Switch(now.op):
            with m.Case(TopOp.QUERY, TopOp.FILL):
                m.d.comb += t.eq(number)
            with m.Case(TopOp.BOUNDS):
                m.d.comb += [t[:BOUND_BITS].eq(first), t[BOUND_BITS:].eq(last), p.eq(MARKER)]
            with m.Case(TopOp.MAXIMUM):
                m.d.comb += t.eq(maximum)
            with m.Case(TopOp.COEFFICIENT):
                with m.Switch(now.coefficient):
                    for j in range(1, 7):
                        with m.Case(j):
                            m.d.comb += t.eq(EXP2_COEFFICIENTS[6 - j])
            with m.Case(TopOp.UNMASKED):
                m.d.comb += t.eq((now.row >= first) & (now.row <= last))
            with m.Case(TopOp.SCORE):
                marked = Mux(self.format, SCORE_MARKER[1], SCORE_MARKER[0])
                m.d.comb += p.eq(Mux(bits == marked, MARKER, number))
            with m.Case(TopOp.NUMBER):
                m.d.comb += p.eq(number)
        held = Signal(64, reset_less=True)
        m.d.sync += held.eq(Cat(t, p))
        m.d.comb += [self.t.eq(held[:32]), self.p.eq(held[32:])]
