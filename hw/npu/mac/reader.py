"""Reader of packed tiles, the first half of the narrow profile's weight unit.

Ref: docs/npu.md sections 3 and 5.
"""

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.npu.mac.job import geometry_layout, step_job_layout
from bankside.hw.npu.mac.tiles import BlockLoop, TileRoom
from bankside.hw.npu.ports import weight_read
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine

__all__ = ["CODE_BITS", "MASK_WORDS", "PORT_BITS", "PackedReader", "code_words", "ones"]

PORT_BITS = 64
CODE_BITS = 8
MASK_WORDS = 4
"""Room for the mask of a tile."""
_WIDTH_BITS = 4


def code_words(machine: NpuMachine) -> int:
    """Words of the longest codes of a tile."""
    return machine.channels * WORD_BYTES * CODE_BITS // PORT_BITS


def ones(bits: Value) -> Value:
    """Number of ones."""
    return sum(bits[i] for i in range(len(bits)))


def header_layout() -> data.StructLayout:
    """Width of the codes, base, mask present."""
    return data.StructLayout({"width": _WIDTH_BITS, "base": signed(CODE_BITS), "masked": 1})


class PackedReader(wiring.Component):
    """Brings tiles into two staging buffers, one word per cycle.

    The length of a tile is known only from its header and its mask. Both are on the port in the
    cycle in which the word after them would be read, and decide there whether it is.

    Members
    -------
    job, geometry, load : In
    give : In(1)
        Last cycle in which a staging buffer is read.
    ended : Out(1)
        A tile is complete in its buffer from the next cycle on (pulse in R_end).
    weights : Out(weight_read)
    header : Out(2 of header)
    illegal : Out(1)
        The header on the port is none, or a tile leaves the buffer (the word is not read).
    mask_en, code_en : Out(1), buffer : Out(1), number : Out
        The word on the port belongs to the mask, to the codes; to which buffer; its number.

    Ref: docs/npu.md section 5.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self.machine = machine
        super().__init__(
            {
                "job": In(step_job_layout(machine)),
                "geometry": In(geometry_layout(machine)),
                **dict.fromkeys(("load", "give"), In(1)),
                **dict.fromkeys(("ended", "illegal", "mask_en", "code_en", "buffer"), Out(1)),
                "weights": Out(weight_read(machine)),
                "header": Out(data.ArrayLayout(header_layout(), 2)),
                "number": Out(range(code_words(machine))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.loop = loop = BlockLoop(self.machine)
        m.submodules.room = room = TileRoom()
        # On the port: the header; the last word of the mask. Either decides about the codes.
        header, mask_end, decides = Signal(), Signal(), Signal()
        mask_left, codes_left = Signal(range(MASK_WORDS + 1)), Signal(7)
        masks, codes = Signal.like(mask_left), Signal.like(codes_left)
        starts, more_mask, more_codes, late = Signal(), Signal(), Signal(), Signal()
        mask_total = Mux(self.job.single, 1, self.machine.channels * WORD_BYTES // PORT_BITS)
        m.d.comb += [
            loop.job.eq(self.job),
            loop.geometry.eq(self.geometry),
            loop.load.eq(self.load),
            loop.advance.eq(starts),
            room.take.eq(starts),
            room.give.eq(self.give),
            decides.eq(header | mask_end),
            masks.eq(Mux(header, Mux(self.weights.data[16], mask_total, 0), mask_left)),
            codes.eq(Mux(decides, self._code_words(m, header), codes_left)),
            more_mask.eq(masks != 0),
            more_codes.eq(~more_mask & (codes != 0)),
            starts.eq(~more_mask & ~more_codes & loop.pending & room.free),
            self.ended.eq(late | (decides & ~more_mask & ~more_codes)),
        ]
        m.d.sync += [
            header.eq(starts),
            mask_end.eq(masks == 1),
            mask_left.eq(masks - more_mask),
            late.eq(more_codes & (codes == 1)),
        ]
        with m.If(~more_mask):
            m.d.sync += codes_left.eq(codes - more_codes)
        m.d.sync += [self.mask_en.eq(more_mask), self.code_en.eq(more_codes)]
        self._read(m, starts, loop.restart, header, more_mask, more_codes)
        self._capture(m, starts, header, more_mask)
        return m

    def _code_words(self, m: Module, header: Signal) -> Signal:
        """Words of codes, from the header (no mask) or the last word of the mask."""
        machine, word, single = self.machine, self.weights.data, self.job.single
        weights = machine.channels * WORD_BYTES
        seen, total = Signal(range(weights + 1)), Signal(range(weights + 1))
        width, known = Signal(_WIDTH_BITS), Signal(_WIDTH_BITS)
        bits = Signal(range(weights * 15 + PORT_BITS))
        here = ones(Mux(single, word[: machine.channels], word))
        m.d.comb += [
            total.eq(Mux(header, Mux(single, machine.channels, weights), seen + here)),
            width.eq(Mux(header, word[:_WIDTH_BITS], known)),
            bits.eq(total * width + (PORT_BITS - 1)),
        ]
        with m.If(header):
            m.d.sync += [seen.eq(0), known.eq(width)]
        with m.Elif(self.mask_en):
            m.d.sync += seen.eq(total)
        words = Signal(7)
        m.d.comb += words.eq(bits >> 6)
        return words

    def _read(
        self,
        m: Module,
        starts: Signal,
        restart: Value,
        header: Signal,
        more_mask: Signal,
        more_codes: Signal,
    ) -> None:
        """Tiles follow each other; a block begins with the first one again."""
        following = Signal(len(self.job.weights) + 1)
        address = Signal.like(following)
        outside, word = Signal(), self.weights.data
        needs = starts | more_mask | more_codes
        m.d.comb += [
            address.eq(Mux(starts & restart, self.job.weights, following)),
            outside.eq(needs & (address >= self.machine.weight_words)),
            self.weights.en.eq(needs & ~outside),
            self.weights.address.eq(address),
            self.illegal.eq(outside | (header & ((word[:8] > CODE_BITS) | word[17:].any()))),
        ]
        with m.If(needs):
            m.d.sync += following.eq(address + 1)

    def _capture(self, m: Module, starts: Signal, header: Signal, more_mask: Signal) -> None:
        """Header registers; number of the word that will be on the port, in mask or codes."""
        word = self.weights.data
        # The codes count from 0 again after the mask.
        first = header | (self.mask_en & ~more_mask)
        with m.If(starts):
            m.d.sync += self.buffer.eq(~self.buffer)
        m.d.sync += self.number.eq(Mux(first, 0, self.number + 1))
        with m.If(header):
            taken = self.header[self.buffer]
            m.d.sync += [
                taken.width.eq(word[:_WIDTH_BITS]),
                taken.base.eq(word[8:16]),
                taken.masked.eq(word[16]),
            ]
