"""Lanes: tiles of weights, products, accumulators."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from bankside.isa.npu_machine import DEPTH, WORD_BYTES, NpuMachine

__all__ = ["OPERAND_BITS", "LaneGroup", "accumulator_index_bits", "weight_bits"]

OPERAND_BITS = 9
"""int8 minus a zero point."""
_PARTS = WORD_BYTES // DEPTH
SUM_BITS = 20
"""Sum of 8 products of 9 bits each."""
SCALE_BITS = 6


def weight_bits(machine: NpuMachine) -> int:
    """Bits of a weight as an operand; rows of MATMUL have a zero point."""
    return OPERAND_BITS if machine.wide else 8


def accumulator_index_bits(machine: NpuMachine) -> int:
    """Bits of the number of a microblock in its block."""
    positions = machine.config.npu.accumulators
    microblocks = positions if machine.wide else -(-positions // machine.positions)
    return bits_for(microblocks - 1)


class LaneGroup(wiring.Component):
    """A lanes that see the same activations and are read together.

    Cycle c (`load`): weights of `slot` and `part` become operands, activations `x` do the same
    outside. c + 1 (`multiply`): their sum of products. c + 2 (`accumulate`): the accumulator.

    Members
    -------
    w_en : In(A), w_slot : In(1), w_data : In(A of weights)
        Write of a tile: whole (32 weights per lane), or `w_part` of it (8 weights) in the narrow
        profile.
    w_alone : In(1), w_first : In(A of 8)
        Only one weight per lane counts, that of `w_first` (wide profile).
    s_en : In(A), s_data : In(A of 6)
        Scale of a tile (wide profile).
    load, slot, part, single, pool : In; w4, zero2 : In (wide profile)
        Weights are numbers of 4 bits, or bytes with a zero point. `single`: only the product of
        `lane` (one-hot per lane) counts, with the first weight of the tile, or 1 for `pool`.
    lane : In(A of 8)
    x : In(8 of signed(9))
    multiply, accumulate : In(1)
    first, maximum : In(1), address : In
        With `accumulate`: set the accumulator; keep the larger value; which one (buffer is the top
        bit).
    read : In(1), read_address : In
    data : Out(A of signed(32))
        The accumulators read in the cycle before.

    Ref: docs/npu.md sections 1 and 5.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self.machine = machine
        lanes = machine.output_rate
        address = accumulator_index_bits(machine) + 1
        if machine.wide:
            tile = {
                "w_data": In(data.ArrayLayout(8 * WORD_BYTES, lanes)),
                "w4": In(1),
                "zero2": In(signed(8)),
                "w_alone": In(1),
                "w_first": In(data.ArrayLayout(8, lanes)),
                "s_en": In(lanes),
                "s_data": In(data.ArrayLayout(SCALE_BITS, lanes)),
            }
        else:
            tile = {"w_data": In(data.ArrayLayout(8 * DEPTH, lanes)), "w_part": In(2)}
        flags = ("load", "slot", "single", "pool", "multiply", "accumulate", "first", "maximum")
        super().__init__(
            {
                "w_en": In(lanes),
                "w_slot": In(1),
                **tile,
                **dict.fromkeys((*flags, "read"), In(1)),
                "part": In(range(_PARTS)),
                "lane": In(data.ArrayLayout(DEPTH, lanes)),
                "x": In(data.ArrayLayout(signed(OPERAND_BITS), DEPTH)),
                "address": In(address),
                "read_address": In(address),
                "data": Out(data.ArrayLayout(signed(32), lanes)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        lanes = range(self.machine.output_rate)
        weights = self._wide_tiles(m) if self.machine.wide else self._narrow_tiles(m)
        sums = [self._products(m, a, weights[a]) for a in lanes]
        if self.machine.wide:
            sums = [self._scaled(m, a, sums[a]) for a in lanes]
        self._accumulate(m, sums)
        return m

    def _narrow_tiles(self, m: Module) -> list[list]:
        """The 8 weights of (slot, part) of every lane, from a memory of parts."""
        lanes, size = self.machine.output_rate, DEPTH * 8
        m.submodules.tiles = tiles = memory.Memory(shape=lanes * size, depth=2 * _PARTS, init=[])
        write, read = tiles.write_port(granularity=size), tiles.read_port(domain="comb")
        m.d.comb += [
            write.en.eq(self.w_en),
            write.addr.eq(Cat(self.w_part, self.w_slot)),
            write.data.eq(self.w_data.as_value()),
            read.addr.eq(Cat(self.part, self.slot)),
        ]
        return [_split(read.data.word_select(a, size), 8) for a in range(lanes)]

    def _wide_tiles(self, m: Module) -> list[list]:
        """As `_narrow_tiles`; the parts are written at once, so each has its memory."""
        lanes, size = self.machine.output_rate, 8 * DEPTH
        words = []
        for part in range(_PARTS):
            tiles = memory.Memory(shape=lanes * size, depth=2, init=[])
            m.submodules[f"tiles{part}"] = tiles
            write, read = tiles.write_port(granularity=size), tiles.read_port(domain="comb")
            fields = [self.w_data[a].word_select(part, size) for a in range(lanes)]
            if part == 0:
                alone = zip(self.w_first, fields, strict=True)
                fields = [Cat(Mux(self.w_alone, w, f[:8]), f[8:]) for w, f in alone]
            m.d.comb += [
                write.en.eq(self.w_en),
                write.addr.eq(self.w_slot),
                write.data.eq(Cat(fields)),
                read.addr.eq(self.slot),
            ]
            words.append(read.data)
        word = Signal(lanes * size)
        with m.Switch(self.part):
            for part in range(_PARTS):
                with m.Case(part):
                    m.d.comb += word.eq(words[part])
        return [self._numbers(word.word_select(a, size)) for a in range(lanes)]

    def _numbers(self, part: Value) -> list[Value]:
        """8 weights of 4 bits or of bytes, without their zero point (rows of MATMUL)."""
        narrow, wide = _split(part[: 4 * DEPTH], 4), _split(part, 8)
        pairs = zip(narrow, wide, strict=True)
        return [Mux(self.w4, number, byte - self.zero2) for number, byte in pairs]

    def _products(self, m: Module, a: int, weights: list) -> Signal:
        """Sum of 8 products, one cycle after the operands."""
        bits = weight_bits(self.machine)
        operands = [Signal(signed(bits), name=f"w{a}_{j}", reset_less=True) for j in range(DEPTH)]
        total = Signal(signed(SUM_BITS), name=f"sum{a}", reset_less=True)
        with m.If(self.load):
            with m.If(self.single):
                for j, operand in enumerate(operands):
                    alone = Mux(self.pool, 1, weights[0])
                    m.d.sync += operand.eq(Mux(self.lane[a][j], alone, 0))
            with m.Else():
                m.d.sync += [operand.eq(w) for operand, w in zip(operands, weights, strict=True)]
        with m.If(self.multiply):
            m.d.sync += total.eq(sum(x * w for x, w in zip(self.x, operands, strict=True)))
        return total

    def _scaled(self, m: Module, a: int, total: Signal) -> Signal:
        """W4: the scale of the tile travels with its products."""
        held = data.ArrayLayout(SCALE_BITS, 2)
        scales = Signal(held, name=f"scales{a}", reset_less=True)
        now, then = (Signal(SCALE_BITS, name=f"scale{a}_{i}", reset_less=True) for i in range(2))
        scaled = Signal(signed(SUM_BITS + SCALE_BITS), name=f"scaled{a}")
        with m.If(self.s_en[a]):
            m.d.sync += scales[self.w_slot].eq(self.s_data[a])
        with m.If(self.load):
            m.d.sync += now.eq(Mux(self.pool, 1, scales[self.slot]))
        with m.If(self.multiply):
            m.d.sync += then.eq(now)
        m.d.comb += scaled.eq(total * then)
        return scaled

    def _accumulate(self, m: Module, sums: list) -> None:
        lanes = len(sums)
        depth = 2 << accumulator_index_bits(self.machine)
        m.submodules.accumulators = cells = memory.Memory(
            shape=data.ArrayLayout(signed(32), lanes), depth=depth, init=[]
        )
        write, old = cells.write_port(), cells.read_port(domain="comb")
        out = cells.read_port()
        m.d.comb += [
            old.addr.eq(self.address),
            write.addr.eq(self.address),
            write.en.eq(self.accumulate),
            out.addr.eq(self.read_address),
            out.en.eq(self.read),
            self.data.eq(out.data),
        ]
        for a, total in enumerate(sums):
            keep = self.maximum & (old.data[a] > total)
            base = Mux(self.first | self.maximum, 0, old.data[a])
            with m.If(keep & ~self.first):
                m.d.comb += write.data[a].eq(old.data[a])
            with m.Else():
                m.d.comb += write.data[a].eq(base + total)


def _split(word, bits: int) -> list:
    return [word.word_select(j, bits).as_signed() for j in range(len(word) // bits)]
