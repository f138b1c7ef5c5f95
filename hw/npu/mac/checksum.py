"""Checksum lane: what the sum over all lanes that see the same activations has to be."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.npu.mac.lanes import OPERAND_BITS
from bankside.isa.npu_machine import DEPTH, WORD_BYTES

__all__ = ["ChecksumLane"]

_PARTS = WORD_BYTES // DEPTH
_SUM_BITS = 32


class ChecksumLane(wiring.Component):
    """Multiplies the activations by the sum of the weights of `lanes` lanes, and accumulates.

    A sum of products is linear in the weights, so the accumulators of all lanes add up to that of
    this lane, modulo 2^32 like themselves. They are compared whenever the lanes write them. After
    `maximum`, which is not linear, an accumulator is not compared until it is set anew.

    The members are those of `LaneGroup` with all lanes beside each other, and

    Members
    -------
    new : In(lanes of 32)
        What the lanes are about to write into their accumulators.
    failed : Out(1)
        The sum is wrong, in the cycle of `accumulate`.

    It keeps weights of its own: what hits a tile, an operand, a product or an accumulator of a lane
    is seen at the next write of that accumulator, and so is what hits this lane.

    Ref: K.-H. Huang, J. A. Abraham, IEEE Trans. Computers C-33 (1984) 518, Algorithm-based fault
    tolerance for matrix operations; docs/protection.md.
    """

    def __init__(self, lanes: int, address_bits: int) -> None:
        self.lanes, self.address_bits = lanes, address_bits
        flags = ("load", "slot", "single", "pool", "multiply", "accumulate", "first", "maximum")
        super().__init__(
            {
                "w_en": In(lanes),
                "w_slot": In(1),
                "w_data": In(data.ArrayLayout(8 * DEPTH, lanes)),
                "w_part": In(range(_PARTS)),
                **dict.fromkeys(flags, In(1)),
                "part": In(range(_PARTS)),
                "lane": In(data.ArrayLayout(DEPTH, lanes)),
                "x": In(data.ArrayLayout(signed(OPERAND_BITS), DEPTH)),
                "address": In(address_bits),
                "new": In(data.ArrayLayout(_SUM_BITS, lanes)),
                "failed": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        self._compare(m, self._product(m, self._operands(m)))
        return m

    def _operands(self, m: Module) -> list[Value]:
        """For each of the 8 activations the sum of the operands that the lanes load."""
        size = 8 * DEPTH
        m.submodules.tiles = tiles = memory.Memory(
            shape=self.lanes * size, depth=2 * _PARTS, init=[]
        )
        write, read = tiles.write_port(granularity=size), tiles.read_port(domain="comb")
        m.d.comb += [
            write.en.eq(self.w_en),
            write.addr.eq(Cat(self.w_part, self.w_slot)),
            write.data.eq(self.w_data.as_value()),
            read.addr.eq(Cat(self.part, self.slot)),
        ]
        operands = []
        for j in range(DEPTH):
            taken = [self._operand(read.data.word_select(a, size), a, j) for a in range(self.lanes)]
            operands.append(sum(taken[1:], taken[0]))
        return operands

    def _operand(self, tile: Value, a: int, j: int) -> Value:
        weight, first = (tile.word_select(i, 8).as_signed() for i in (j, 0))
        alone = Mux(self.lane[a][j], Mux(self.pool, 1, first), 0)
        return Mux(self.single, alone, weight)

    def _product(self, m: Module, operands: list[Value]) -> Signal:
        """Sum of 8 products, one cycle after the operands."""
        held = []
        with m.If(self.load):
            for j, operand in enumerate(operands):
                held.append(Signal(operand.shape(), name=f"w{j}", reset_less=True))
                m.d.sync += held[j].eq(operand)
        products = [x * w for x, w in zip(self.x, held, strict=True)]
        total = Signal(signed(_SUM_BITS), name="sum", reset_less=True)
        with m.If(self.multiply):
            m.d.sync += total.eq(sum(products[1:], products[0]))
        return total

    def _compare(self, m: Module, total: Signal) -> None:
        shape = data.StructLayout({"sum": _SUM_BITS, "linear": 1})
        m.submodules.sums = cells = memory.Memory(
            shape=shape, depth=1 << self.address_bits, init=[]
        )
        write, old = cells.write_port(), cells.read_port(domain="comb")
        lanes = Signal(_SUM_BITS)
        m.d.comb += [
            old.addr.eq(self.address),
            write.addr.eq(self.address),
            write.en.eq(self.accumulate),
            write.data.linear.eq(~self.maximum & (self.first | old.data.linear)),
            write.data.sum.eq(Mux(self.first, 0, old.data.sum) + total),
            lanes.eq(sum(self.new[a] for a in range(1, self.lanes)) + self.new[0]),
            self.failed.eq(self.accumulate & write.data.linear & (lanes != write.data.sum)),
        ]
