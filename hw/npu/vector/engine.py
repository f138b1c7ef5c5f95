"""Vector unit of the kernel engine. Ref: docs/npu.md sections 2 and 5."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out
from amaranth.utils import bits_for

from bankside.hw.lib.delay import DelayLine
from bankside.hw.npu.operation import VECTOR_OPERATIONS, opcode
from bankside.hw.npu.ports import engine_members
from bankside.hw.npu.vector.elements import Extract, Insert
from bankside.hw.npu.vector.elementwise import LATENCY, ElementLanes
from bankside.hw.npu.vector.norm import NormUnit
from bankside.hw.npu.vector.sequencer import Phase, Sequencer, is_lut, issue_layout
from bankside.hw.npu.vector.softmax import SoftmaxUnit
from bankside.hw.npu.vector.table import Table
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine

__all__ = ["VectorEngine"]

_BYTE_BITS = bits_for(WORD_BYTES - 1)


class VectorEngine(wiring.Component):
    """ELEMENTWISE, SOFTMAX, NORM and COPY, one operation at a time.

    Members
    -------
    Those of `hw.npu.ports.engine_members`, and:

    kind : Out(4)
        Bit i: the operation between start and completion is `VECTOR_OPERATIONS[i]` (registered:
        from the cycle after the start on, up to and including that of `complete`).

    What this machine cannot do (a size of 0, int16 where only int8 is defined, NORM of more than
    4096 channels) must not come here: the dispatch refuses it.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self.machine = machine
        super().__init__({**engine_members(machine), "kind": Out(len(VECTOR_OPERATIONS))})

    def elaborate(self, platform) -> Module:
        m = Module()
        rate = self.machine.vector_rate
        m.submodules.sequencer = sequencer = Sequencer(self.machine)
        wiring.connect(m, wiring.flipped(self.operation), sequencer.operation)
        held, issue = sequencer.held, Signal(issue_layout(self.machine))
        for name in ("idle", "started", "steps_done", "complete"):
            m.d.comb += getattr(self, name).eq(getattr(sequencer, name))
        kinds = Cat(held.opcode == opcode(name) for name in VECTOR_OPERATIONS)
        m.d.comb += self.kind.eq(Mux(self.idle, 0, kinds))
        valid = Signal()
        m.d.sync += valid.eq(sequencer.element)
        with m.If(sequencer.element):
            m.d.sync += issue.eq(sequencer.issue)
        self._read(m, sequencer)
        m.submodules.first = first = Extract(rate)
        m.submodules.table = table = Table(rate)
        m.d.comb += [
            first.word.eq(self.read0.data),
            first.place.eq(issue.place),
            first.two_bytes.eq(held.ifm_bits),
            table.word.eq(self.read2.data),
        ]
        m.d.sync += [table.write.eq(sequencer.table), table.row.eq(sequencer.row)]
        y, empty = self._arithmetic(m, held, valid, issue, first, table)
        values = self._finish(m, held, y, empty, table)
        self._write(m, sequencer, valid, issue, values)
        return m

    def _read(self, m: Module, sequencer: Sequencer) -> None:
        issue, held = sequencer.issue, sequencer.held
        elementwise = sequencer.element & (issue.phase == Phase.ELEMENT)
        norm = sequencer.element & (held.opcode == opcode("NORM"))
        m.d.comb += [
            self.read0.en.eq(sequencer.element | sequencer.copy),
            self.read0.address.eq(Mux(sequencer.copy, sequencer.src[_BYTE_BITS:], issue.ifm)),
            self.read1.en.eq(elementwise & ~is_lut(held)),
            self.read1.address.eq(issue.ifm2),
            self.read2.en.eq(sequencer.table | (norm & (issue.phase == Phase.RESULT))),
            self.read2.address.eq(Mux(sequencer.table, held.lut + sequencer.row, issue.gain)),
        ]

    def _arithmetic(
        self,
        m: Module,
        held: data.View,
        valid: Signal,
        issue: data.View,
        first: Extract,
        table: Table,
    ) -> tuple[data.View, Value]:
        """Results before the zero point, `LATENCY` cycles after the data; sum of softmax is 0."""
        rate = self.machine.vector_rate
        m.submodules.lanes = lanes = ElementLanes(self.machine)
        m.submodules.softmax = softmax = SoftmaxUnit(self.machine)
        m.submodules.norm = norm = NormUnit(self.machine)
        m.submodules.second = second = Extract(rate)
        fixed = held.ifm2_broadcast[2]
        m.d.comb += [
            second.word.eq(self.read1.data),
            second.place.eq(Mux(fixed, 0, issue.place)),
            second.two_bytes.eq(held.ifm2_bits),
            lanes.operation.eq(held),
            lanes.a.eq(first.values),
            softmax.values.eq(first.values),
            softmax.entry.eq(table.entry),
            table.index.eq(softmax.index),
            norm.operation.eq(held),
            norm.gain.eq(self.read2.data.word_select(issue.place[:4], 16)),
        ]
        for lane in range(rate):
            m.d.comb += lanes.b[lane].eq(Mux(fixed, second.value, second.values[lane]))
        with m.If(valid & (issue.phase == Phase.ELEMENT)):
            m.d.comb += lanes.lanes.eq(issue.lanes)
        for unit, name in ((softmax, "SOFTMAX"), (norm, "NORM")):
            m.d.comb += [
                unit.valid.eq(valid & (held.opcode == opcode(name))),
                unit.issue.eq(issue),
                unit.value.eq(first.value),
            ]
        y = Signal(data.ArrayLayout(signed(32), rate))
        m.d.comb += y.eq(lanes.y)
        with m.If(held.opcode == opcode("SOFTMAX")):
            m.d.comb += y[0].eq(softmax.y)
        with m.Elif(held.opcode == opcode("NORM")):
            m.d.comb += y[0].eq(norm.y)
        return y, softmax.empty & (held.opcode == opcode("SOFTMAX"))

    def _finish(
        self, m: Module, held: data.View, y: data.View, empty: Value, table: Table
    ) -> data.View:
        """Zero point, clamp, table; the one result of SOFTMAX and NORM in every lane."""
        rate, lut = self.machine.vector_rate, Signal()
        values = Signal(data.ArrayLayout(signed(16), rate))
        m.d.comb += [lut.eq(is_lut(held)), table.use.eq(lut)]
        single = held.opcode != opcode("ELEMENTWISE")
        for lane in range(rate):
            moved, clamped = Signal(signed(32)), Signal(signed(16), name=f"clamped{lane}")
            m.d.comb += [
                moved.eq(y[lane] + held.ofm_zero),
                clamped.eq(_clamp(moved, held.ofm_min, held.ofm_max)),
                table.indices[lane].eq(y[lane][:8] ^ 0x80),
                values[lane].eq(clamped),
            ]
            if lane:
                with m.If(single):
                    m.d.comb += values[lane].eq(values[0])
            with m.If(lut):
                m.d.comb += values[lane].eq(table.bytes[lane])
        with m.If(empty):
            m.d.comb += values[0].eq(held.ofm_min)
        return values

    def _write(
        self,
        m: Module,
        sequencer: Sequencer,
        valid: Signal,
        issue: data.View,
        values: data.View,
    ) -> None:
        """The output register: elements `LATENCY` + 1 cycles after their data, copies one cycle."""
        held, rate = sequencer.held, self.machine.vector_rate
        shape = issue.shape()
        place = data.StructLayout({name: shape[name].shape for name in ("ofm", "place", "lanes")})
        m.submodules.insert = insert = Insert(rate)
        m.submodules.places = places = DelayLine(place, LATENCY)
        written = (issue.phase == Phase.ELEMENT) | (issue.phase == Phase.RESULT)
        m.d.comb += places.i_valid.eq(valid & written)
        for name in ("ofm", "place", "lanes"):
            m.d.comb += places.i_payload[name].eq(issue[name])
        m.d.comb += [
            insert.values.eq(values),
            insert.lanes.eq(places.o_payload.lanes),
            insert.place.eq(places.o_payload.place),
            insert.two_bytes.eq(held.ofm_bits),
        ]
        copied, src, dst = Signal(), Signal(_BYTE_BITS), Signal.like(sequencer.dst)
        m.d.sync += [copied.eq(sequencer.copy), src.eq(sequencer.src), dst.eq(sequencer.dst)]
        byte = self.read0.data.word_select(src, 8)
        port = self.write0
        m.d.sync += port.en.eq(copied | places.o_valid)
        with m.If(copied):
            m.d.sync += [
                port.address.eq(dst[_BYTE_BITS:]),
                port.data.eq(Mux(held.wide, self.read0.data, byte.replicate(WORD_BYTES))),
                port.mask.eq(Mux(held.wide, ~0, 1 << dst[:_BYTE_BITS])),
            ]
        with m.Elif(places.o_valid):
            m.d.sync += [
                port.address.eq(places.o_payload.ofm),
                port.data.eq(insert.word),
                port.mask.eq(insert.mask),
            ]


def _clamp(value: Value, low: Value, high: Value) -> Value:
    raised = Mux(value < low, low, value)
    return Mux(raised > high, high, raised)
