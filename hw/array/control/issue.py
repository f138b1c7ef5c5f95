"""From a block, an iteration and a position to the word. Ref: docs/array.md section 3."""

from amaranth.hdl import Module, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.array.control.blocks import OP
from bankside.hw.array.control.iterations import context_layout
from bankside.hw.array.words import INDEX_BITS, LaneOp, PeOp, TopOp, word_layout
from bankside.isa.array_machine import ArrayMachine

_MASK = ("limit", "position", "window", "causal", "group")


def part_layout(machine: ArrayMachine) -> data.StructLayout:
    """What one part of a word is issued for. No word if not `en`."""
    return data.StructLayout(
        {"en": 1, "op": 4, "j": INDEX_BITS, "context": context_layout(machine)}
    )


class Issue(wiring.Component):
    """Makes a word of a word of a PE block, of a lane block, or of both.

    Members
    -------
    pe, lane : In
        Word of a PE block and of a lane block.
    word : Out
        Fields that an operation does not use are 0.
    """

    def __init__(self, machine: ArrayMachine) -> None:
        self._machine = machine
        self._element_bits = machine.bus_elements.bit_length() - 1
        part = part_layout(machine)
        super().__init__({"pe": In(part), "lane": In(part), "word": Out(word_layout(machine))})

    def elaborate(self, platform) -> Module:
        m = Module()
        with m.If(self.pe.en):
            with m.Switch(self.pe.op):
                self._mac_blocks(m)
                self._move_blocks(m)
        with m.If(self.lane.en):
            self._lane_blocks(m)
        return m

    # --- fields ---
    def _fetch(self, m: Module, target: data.View, base: Value) -> None:
        """Element j from bus word `base` on: a read for each new bus word."""
        j = self.pe.j
        element = j[: self._element_bits]
        m.d.comb += [
            target.read.eq(element == 0),
            target.address.eq(base + (j >> self._element_bits)),
            target.element.eq(element),
        ]

    def _pe(self, m: Module, op: PeOp) -> None:
        m.d.comb += [self.word.pe.op.eq(op), self.word.pe.tag.eq(self.pe.context.tag)]

    def _top(self, m: Module, op: TopOp) -> None:
        m.d.comb += [self.word.top.op.eq(op), self.word.top.tag.eq(self.pe.context.tag)]

    def _mask(self, m: Module) -> None:
        m.d.comb += [self.word.top[name].eq(self.pe.context[name]) for name in _MASK]

    def _lane(self, m: Module, op: LaneOp, part: data.View) -> None:
        """Fields that every operation of a lane may use."""
        lane, context = self.word.lane, part.context
        m.d.comb += [
            lane.op.eq(op),
            lane.tag.eq(context.tag),
            lane.begin.eq(part.j == 0),
            lane.first.eq(context.first),
            lane.set.eq(context.set),
        ]

    def _return(self, m: Module, part: data.View, base: Value) -> None:
        """The lane returns element j from bus word `base` on."""
        m.d.comb += self.word.lane.element.eq((base << self._element_bits) + part.j)

    # --- blocks of the 2D array ---
    def _mac_blocks(self, m: Module) -> None:
        word, j, context = self.word, self.pe.j, self.pe.context
        with m.Case(OP["qk"]):
            self._pe(m, PeOp.QK)
            self._top(m, TopOp.QUERY)
            self._fetch(m, word.row, context.k)
            self._fetch(m, word.top, context.q)
            m.d.comb += word.pe.first.eq(j == 0)
        with m.Case(OP["lm"]):
            self._pe(m, PeOp.LM)
            self._top(m, TopOp.BOUNDS)
            self._mask(m)
            self._lane(m, LaneOp.MAX, self.pe)
        with m.Case(OP["exp"]):
            with m.If(j == 0):
                self._pe(m, PeOp.SUB)
                self._top(m, TopOp.MAXIMUM)
            with m.Else():
                self._pe(m, PeOp.EXP)
                self._top(m, TopOp.COEFFICIENT)
                m.d.comb += [
                    word.top.coefficient.eq(j),
                    word.pe.first.eq(j == 1),
                    word.pe.last.eq(j == 6),
                ]
        with m.Case(OP["sld"]):
            self._pe(m, PeOp.SUM)
            m.d.comb += word.row.one.eq(1)
            self._lane(m, LaneOp.DENOMINATOR, self.pe)
        with m.Case(OP["slnv"]):
            self._pe(m, PeOp.SUM)
            self._fetch(m, word.row, context.v)
            self._lane(m, LaneOp.ACCUMULATE, self.pe)
            m.d.comb += word.lane.index.eq(j)

    def _move_blocks(self, m: Module) -> None:
        word, j, context = self.word, self.pe.j, self.pe.context
        with m.Case(OP["drain"]):
            self._pe(m, PeOp.DRAIN)
            self._top(m, TopOp.UNMASKED)
            self._mask(m)
            self._lane(m, LaneOp.SCORE, self.pe)
            self._return(m, self.pe, context.s)
            m.d.comb += [
                word.pe.select.eq(j),
                word.top.row.eq(j),
                word.lane.end.eq(j == self._machine.rows - 1),
                word.lane.chunk.eq(context.tile),
            ]
        for name, top, lane in (
            ("passx", TopOp.SCORE, LaneOp.EXP),
            ("passd", TopOp.NUMBER, LaneOp.DIVIDE),
        ):
            with m.Case(OP[name]):
                self._top(m, top)
                self._fetch(m, word.top, context.s)
                self._lane(m, lane, self.pe)
                self._return(m, self.pe, context.s)
        with m.Case(OP["fill"]):
            self._pe(m, PeOp.FILL)
            self._top(m, TopOp.FILL)
            self._fetch(m, word.top, context.s)
            m.d.comb += word.pe.select.eq(j)
            with m.If(j == 0):
                self._lane(m, LaneOp.STEP, self.pe)
                m.d.comb += word.lane.chunk.eq(context.tile)

    # --- blocks of the lanes ---
    def _lane_blocks(self, m: Module) -> None:
        part = self.lane
        with m.Switch(part.op):
            with m.Case(OP["rcp"]):
                self._lane(m, LaneOp.RECIPROCAL, part)
            with m.Case(OP["one"]):
                self._lane(m, LaneOp.ONE, part)
            with m.Case(OP["av"]):
                self._lane(m, LaneOp.RESULT, part)
                self._return(m, part, part.context.out)
                m.d.comb += self.word.lane.index.eq(part.j)
