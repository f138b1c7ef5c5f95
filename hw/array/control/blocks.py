"""The schedule: its table of blocks and the position of the pass in them.

Ref: docs/array.md section 3.
"""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.array.control.layouts import SPEC, WORD, bits
from bankside.hw.array.words import INDEX_BITS, mode_layout
from bankside.isa.layout import view

_FIELDS = SPEC.commands["BLOCK"].field_map
BLOCKS = _FIELDS["index"].maximum + 1
#: Blocks of the 2D array come first, then those of the lanes.
PE_BLOCKS = 8
STAGES = _FIELDS["stage"].maximum + 1
OP = SPEC.enums["block_op"]


def block_layout() -> data.StructLayout:
    """Operands of BLOCK but its index."""
    return data.StructLayout(
        {name: field.width for name, field in _FIELDS.items() if name != "index"}
    )


class Schedule(wiring.Component):
    """What KERNEL and BLOCK have set.

    Members
    -------
    kernel_en, block_en, word : In
        Execute the KERNEL or BLOCK `word`.
    ii, mode : Out
        Slots of a pass; mode of the machine.
    valid, blocks : Out
        Which blocks exist; their operands.
    more : Out, per stage
        Some block has a higher stage. One cycle later than `blocks`, which is before any RUN.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "kernel_en": In(1),
                "block_en": In(1),
                "word": In(WORD),
                "ii": Out(INDEX_BITS),
                "mode": Out(mode_layout()),
                "valid": Out(BLOCKS),
                "blocks": Out(data.ArrayLayout(block_layout(), BLOCKS)),
                "more": Out(STAGES),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        kernel, block = view(SPEC, "KERNEL", self.word), view(SPEC, "BLOCK", self.word)
        with m.If(self.kernel_en):
            m.d.sync += [self.ii.eq(kernel.ii), self.valid.eq(0)]
            m.d.sync += [self.mode[name].eq(kernel[name]) for name, _ in mode_layout()]
        for index in range(BLOCKS):
            with m.If(self.block_en & (block.index == index)):
                m.d.sync += self.valid[index].eq(1)
                m.d.sync += [self.blocks[index][name].eq(block[name]) for name, _ in block_layout()]
        for stage in range(STAGES):
            above = [self.valid[i] & (self.blocks[i].stage > stage) for i in range(BLOCKS)]
            m.d.sync += self.more[stage].eq(Cat(*above).any())
        return m


class Cursor(wiring.Component):
    """Follows the pass through blocks of which no two share a slot.

    Members
    -------
    valid, blocks : In
        The blocks, of the schedule.
    active, slot : In
        A pass runs, and its slot.
    covered : Out
        The slot belongs to a block:
    block, j, last : Out
        its operands, the position of the word in it, and whether that is its last one.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        super().__init__(
            {
                "valid": In(count),
                "blocks": In(data.ArrayLayout(block_layout(), count)),
                "active": In(1),
                "slot": In(INDEX_BITS),
                "covered": Out(1),
                "block": Out(block_layout()),
                "j": Out(INDEX_BITS),
                "last": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        which, inside, j = Signal(bits(self._count)), Signal(), Signal(INDEX_BITS)
        chosen = Signal.like(which)
        m.d.comb += [chosen.eq(which), self.covered.eq(self.active & inside), self.j.eq(j)]
        for index in range(self._count):
            begins = self.valid[index] & (self.blocks[index].start == self.slot)
            with m.If(self.active & begins):
                m.d.comb += [chosen.eq(index), self.covered.eq(1), self.j.eq(0)]
        m.d.comb += [
            self.block.eq(self.blocks[chosen]),
            self.last.eq(self.covered & (self.j + 1 == self.block.length)),
        ]
        m.d.sync += [
            which.eq(chosen),
            inside.eq(self.covered & ~self.last),
            j.eq(self.j + 1),
        ]
        return m
