"""Weight unit of the narrow profile: reads packed tiles and decodes 8 weights per cycle.

Ref: docs/npu.md sections 3 and 5.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.npu.mac.job import geometry_layout, step_job_layout
from bankside.hw.npu.mac.reader import (
    CODE_BITS,
    MASK_WORDS,
    PORT_BITS,
    PackedReader,
    code_words,
    header_layout,
    ones,
)
from bankside.hw.npu.mac.tiles import TileRoom
from bankside.hw.npu.ports import weight_read
from bankside.isa.npu_machine import DECODED, WORD_BYTES, NpuMachine

__all__ = ["PackedFeed"]


class PackedFeed(wiring.Component):
    """Reader, staging buffers and decoder.

    Members
    -------
    job, geometry, load, step_end, ready, weights, w_en, w_slot : as in `TileFeed`
    illegal : Out(1)
        As in `PackedReader`.
    w_part : Out(2), w_data : Out(N of 8 weights)
        8 input channels of one output channel; DEPTHWISE: one weight for each output channel.

    Ref: docs/npu.md sections 3 and 5.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self.machine = machine
        super().__init__(
            {
                "job": In(step_job_layout(machine)),
                "geometry": In(geometry_layout(machine)),
                **dict.fromkeys(("load", "step_end"), In(1)),
                **dict.fromkeys(("ready", "illegal"), Out(1)),
                "weights": Out(weight_read(machine)),
                "w_en": Out(machine.lanes),
                "w_slot": Out(1),
                "w_part": Out(2),
                "w_data": Out(data.ArrayLayout(DECODED * CODE_BITS, machine.lanes)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.reader = reader = PackedReader(self.machine)
        m.submodules.room = room = TileRoom()
        wiring.connect(m, reader.weights, wiring.flipped(self.weights))
        job = self.job
        staged, ready = Signal(2), Signal(2)
        inside, active, last, ended = Signal(), Signal(), Signal(), Signal()
        octet = Signal(range(self.machine.channels * WORD_BYTES // DECODED))
        buffer, slot = Signal(init=1), Signal()
        octets = Mux(job.single, 1, self.machine.channels * WORD_BYTES // DECODED)
        m.d.comb += [
            reader.job.eq(job),
            reader.geometry.eq(self.geometry),
            reader.load.eq(self.load),
            reader.give.eq(last),
            active.eq(inside | ((staged != 0) & room.free)),
            last.eq(active & (octet + 1 == octets)),
            room.take.eq(last),
            room.give.eq(self.step_end),
            self.ready.eq(ready != 0),
            self.illegal.eq(reader.illegal),
        ]
        m.d.sync += [
            inside.eq(active & ~last),
            staged.eq(staged + reader.ended - last),
            ended.eq(last),
            ready.eq(ready + ended - self.step_end),
            buffer.eq(buffer ^ last),
            slot.eq(slot ^ last),
        ]
        with m.If(active):
            m.d.sync += octet.eq(Mux(last, 0, octet + 1))
        window, mask = self._stage(m, reader, buffer, octet, active, last)
        place = Signal(data.StructLayout({"slot": 1, "single": 1, "octet": len(octet)}))
        m.d.comb += [place.slot.eq(slot), place.single.eq(job.single), place.octet.eq(octet)]
        self._decode(m, active, place, reader.header[buffer], window, mask)
        return m

    def _stage(
        self,
        m: Module,
        reader: PackedReader,
        buffer: Signal,
        octet: Signal,
        active: Signal,
        last: Signal,
    ) -> tuple[Value, Value]:
        """64 bits of codes from the bit pointer on, and 8 bits of the mask."""
        words = code_words(self.machine)
        low, high = self._cells(m, "codes", words, reader, reader.code_en, reads=2)
        (bits,) = self._cells(m, "masks", MASK_WORDS, reader, reader.mask_en, reads=1)
        pointer = Signal(range(words * PORT_BITS + 1))
        mask, window = Signal(DECODED), Signal(PORT_BITS)
        header, own = reader.header[buffer], len(low.addr) - 1
        mask_word = Cat(octet[3:], Const(0, 2))[:2]
        m.d.comb += [
            low.addr.eq(Cat(pointer[6:][:own], buffer)),
            high.addr.eq(Cat((pointer[6:] + 1)[:own], buffer)),
            bits.addr.eq(Cat(mask_word, buffer)),
            mask.eq(Mux(header.masked, bits.data.word_select(octet[:3], DECODED), 255)),
            window.eq(Cat(low.data, high.data) >> pointer[:6]),
        ]
        with m.If(active):
            m.d.sync += pointer.eq(Mux(last, 0, pointer + ones(mask) * header.width))
        return window, mask

    @staticmethod
    def _cells(
        m: Module, name: str, words: int, reader: PackedReader, en: Signal, reads: int
    ) -> list[memory.ReadPort]:
        """One kind of words of both staging buffers."""
        cells = memory.Memory(shape=PORT_BITS, depth=2 * words, init=[])
        m.submodules[name] = cells
        write = cells.write_port()
        m.d.comb += [
            write.en.eq(en),
            write.addr.eq(Cat(reader.number[: len(write.addr) - 1], reader.buffer)),
            write.data.eq(reader.weights.data),
        ]
        return [cells.read_port(domain="comb") for _ in range(reads)]

    def _decode(
        self,
        m: Module,
        active: Signal,
        place: data.View,
        header: data.View,
        window: Value,
        mask: Value,
    ) -> None:
        """Two more stages: codes to weights, write."""
        codes, kept = Signal(PORT_BITS, reset_less=True), Signal(DECODED, reset_less=True)
        coding = Signal(header_layout(), reset_less=True)
        places = [Signal.like(place, name=f"place{i}") for i in range(2)]
        valid = Signal(2)
        m.d.sync += valid.eq(Cat(active, valid)[:2])
        with m.If(active):
            m.d.sync += [codes.eq(window), kept.eq(mask), coding.eq(header), places[0].eq(place)]
        weights = Signal(data.ArrayLayout(CODE_BITS, DECODED), reset_less=True)
        values = self._weights(m, codes, kept, coding)
        with m.If(valid[0]):
            m.d.sync += [weights[j].eq(value) for j, value in enumerate(values)]
            m.d.sync += places[1].eq(places[0])
        here = places[1]
        m.d.comb += [self.w_slot.eq(here.slot), self.w_part.eq(here.octet[:2])]
        for n in range(self.machine.lanes):
            lane = n % self.machine.channels
            m.d.comb += [
                self.w_en[n].eq(valid[1] & (here.single | (here.octet[2:] == lane))),
                self.w_data[n].eq(Mux(here.single, weights[lane], weights.as_value())),
            ]

    @staticmethod
    def _weights(m: Module, codes: Value, mask: Value, header: data.View) -> list[Signal]:
        """The j-th weight that is not 0 takes the j-th code."""
        numbers = [Signal(CODE_BITS, name=f"code{j}") for j in range(DECODED)]
        for width in range(CODE_BITS + 1):
            with m.If(header.width == width):
                m.d.comb += [
                    number.eq(codes[j * width : (j + 1) * width])
                    for j, number in enumerate(numbers)
                ]
        values = []
        for j in range(DECODED):
            before = Signal(3, name=f"before{j}")
            value = Signal(signed(CODE_BITS), name=f"value{j}")
            code = data.View(data.ArrayLayout(CODE_BITS, DECODED), Cat(numbers))[before]
            m.d.comb += before.eq(ones(mask[:j]) if j else 0)
            with m.If(mask[j]):
                m.d.comb += value.eq(header.base + code)
            values.append(value)
        return values
