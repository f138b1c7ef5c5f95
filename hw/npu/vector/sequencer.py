"""Order of work of the vector unit: which elements are read in which cycle. Ref: docs/npu.md 5.

An operation goes over every position in up to three passes over the channels. A pass reads one
group of channels per cycle; a fixed pause after it lets the arithmetic units finish.
"""

from typing import NamedTuple

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from bankside.hw.npu.operation import opcode, operation_layout
from bankside.hw.npu.vector.walk import CopyWalk, FeatureWalk
from bankside.isa.npu_machine import SETUP, VECTOR_LATENCY, WORD_BYTES, NpuMachine
from bankside.isa.spec import load_spec

__all__ = ["PASSES", "Pass", "Phase", "Sequencer", "is_layer", "is_lut", "issue_layout"]

_SPEC = load_spec("npu")
_PLACE_BITS = bits_for(WORD_BYTES - 1)


class Phase(enum.Enum, shape=3):
    """What a pass is for."""

    ELEMENT = 0  # V channels per cycle: elementwise results
    MAXIMUM = 1  # V channels per cycle: maximum of softmax
    SUM = 2  # sum of exponentials or of inputs
    SQUARES = 3
    RESULT = 4


class Pass(NamedTuple):
    """`pause`: cycles after its last element."""

    phase: Phase
    pause: int


# The pauses of an operation add up to what docs/npu.md grants a position. Each is at least the
# time until what the pass calculates is there: see SoftmaxUnit and NormUnit.
PASSES: dict[str, tuple[Pass, ...]] = {
    "elementwise": (Pass(Phase.ELEMENT, 0),),
    "softmax": (Pass(Phase.MAXIMUM, 4), Pass(Phase.SUM, 24), Pass(Phase.RESULT, 12)),
    "rms": (Pass(Phase.SQUARES, 40), Pass(Phase.RESULT, 20)),
    "layer": (Pass(Phase.SUM, 50), Pass(Phase.SQUARES, 40), Pass(Phase.RESULT, 20)),
}
_PASS_STEPS = max(map(len, PASSES.values()))


def is_lut(operation: data.View) -> Value:
    """ELEMENTWISE lut."""
    lut = _SPEC.enums["elementwise"]["lut"]
    return (operation.opcode == opcode("ELEMENTWISE")) & (operation.mode == lut)


def is_layer(operation: data.View) -> Value:
    """Of a NORM: with mean."""
    return operation.mode == _SPEC.enums["norm"]["layer"]


def issue_layout(machine: NpuMachine) -> data.StructLayout:
    """Elements that are read in a cycle.

    phase; first, last: of the pass; place: lowest channel mod 32; lanes: which of the V lanes
    hold a channel; ifm, ifm2, ofm: words; gain: word of g[c].
    """
    word = bits_for(machine.shared_words - 1)
    return data.StructLayout(
        {
            "phase": Phase,
            "first": 1,
            "last": 1,
            "place": _PLACE_BITS,
            "lanes": machine.vector_rate,
            **dict.fromkeys(("ifm", "ifm2", "ofm", "gain"), word),
        }
    )


class Sequencer(wiring.Component):
    """Takes an operation and issues its reads.

    Members
    -------
    operation : In(stream of operation_layout)
    held : Out(operation_layout)
        The operation under way.
    idle, started, steps_done, complete : Out(1)
        As in `hw.npu.ports.engine_members`.
    element : Out(1), issue : Out(issue_layout)
        Elements to be read in this cycle.
    table : Out(1), row : Out(5)
        Word `lut` + row of the table is to be read.
    copy : Out(1), src, dst : Out
        Byte addresses of an element of COPY to be read.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self._machine = machine
        layout = operation_layout(machine)
        super().__init__(
            {
                "operation": In(stream.Signature(layout)),
                "held": Out(layout),
                **dict.fromkeys(("idle", "started", "steps_done", "complete"), Out(1)),
                "element": Out(1),
                "issue": Out(issue_layout(machine)),
                "table": Out(1),
                "row": Out(5),
                "copy": Out(1),
                **{name: Out(layout[name].shape) for name in ("src", "dst")},
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.walk = walk = FeatureWalk(self._machine)
        m.submodules.copies = copies = CopyWalk(self._machine)
        m.d.comb += [walk.operation.eq(self.held), copies.operation.eq(self.held)]
        m.d.comb += [self.src.eq(copies.src), self.dst.eq(copies.dst), copies.next.eq(self.copy)]
        self._step, self._channel = Signal(range(_PASS_STEPS)), Signal(16)
        self._count = Signal(range(64))
        self._pause = Signal(range(64))
        self._final = Signal()  # the last pass over a position
        self._choose_pass(m)
        self._issue(m, walk)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.idle.eq(1), self.operation.ready.eq(1)]
                with m.If(self.operation.valid):
                    m.d.comb += self.started.eq(1)
                    m.d.sync += self.held.eq(self.operation.payload)
                    self._wait(m, "SETUP", SETUP - 1)
            self._setup(m, walk, copies)
            with m.State("PASS"):
                m.d.comb += self.element.eq(1)
                stride = self._stride()
                m.d.sync += self._channel.eq(self._channel + stride)
                with m.If(self.issue.last & (self._pause != 0)):
                    m.d.sync += self._count.eq(self._pause - 1)
                    m.next = "PAUSE"
                with m.Elif(self.issue.last):
                    self._pass_over(m, walk)
            with m.State("PAUSE"):
                m.d.sync += self._count.eq(self._count - 1)
                with m.If(self._count == 0):
                    self._pass_over(m, walk)
            with m.State("COPY"):
                m.d.comb += self.copy.eq(1)
                with m.If(copies.last):
                    self._work_over(m)
            with m.State("TAIL"):
                m.d.sync += self._count.eq(self._count - 1)
                with m.If(self._count == 0):
                    m.d.comb += self.complete.eq(1)
                    m.next = "IDLE"
        return m

    def _wait(self, m: Module, state: str, cycles: int) -> None:
        m.d.sync += self._count.eq(cycles - 1)
        m.next = state

    def _setup(self, m: Module, walk: FeatureWalk, copies: CopyWalk) -> None:
        softmax = self.held.opcode == opcode("SOFTMAX")
        with m.State("SETUP"):
            m.d.comb += [walk.load.eq(1), copies.load.eq(1)]
            m.d.sync += [self._count.eq(self._count - 1), self._step.eq(0)]
            m.d.sync += [self._channel.eq(0), self.row.eq(0)]
            with m.If(self._count == 0):
                with m.If(softmax | is_lut(self.held)):
                    m.next = "TABLE"
                with m.Elif(self.held.opcode == opcode("COPY")):
                    m.next = "COPY"
                with m.Else():
                    m.next = "PASS"
        with m.State("TABLE"):
            m.d.comb += self.table.eq(1)
            m.d.sync += self.row.eq(self.row + 1)
            with m.If(self.row == Mux(softmax, 31, 7)):
                m.next = "PASS"

    def _pass_over(self, m: Module, walk: FeatureWalk) -> None:
        """This is the last cycle of a pass and of its pause."""
        m.d.sync += self._channel.eq(0)
        m.next = "PASS"
        with m.If(~self._final):
            m.d.sync += self._step.eq(self._step + 1)
        with m.Else():
            m.d.sync += self._step.eq(0)
            m.d.comb += walk.next.eq(1)
            with m.If(walk.last):
                self._work_over(m)

    def _work_over(self, m: Module) -> None:
        m.d.comb += self.steps_done.eq(1)
        self._wait(m, "TAIL", VECTOR_LATENCY)

    def _choose_pass(self, m: Module) -> None:
        def passes(name: str) -> None:
            with m.Switch(self._step):
                for step, part in enumerate(PASSES[name]):
                    with m.Case(step):
                        m.d.comb += [self.issue.phase.eq(part.phase), self._pause.eq(part.pause)]
                        m.d.comb += self._final.eq(step == len(PASSES[name]) - 1)

        with m.Switch(self.held.opcode):
            with m.Case(opcode("ELEMENTWISE")):
                passes("elementwise")
            with m.Case(opcode("SOFTMAX")):
                passes("softmax")
            with m.Case(opcode("NORM")):
                with m.If(is_layer(self.held)):
                    passes("layer")
                with m.Else():
                    passes("rms")

    def _stride(self) -> Value:
        wide = (self.issue.phase == Phase.ELEMENT) | (self.issue.phase == Phase.MAXIMUM)
        return Mux(wide, self._machine.vector_rate, 1)

    def _issue(self, m: Module, walk: FeatureWalk) -> None:
        issue, held, channel = self.issue, self.held, self._channel
        rate = self._machine.vector_rate
        wide_lanes = Cat(channel + lane < held.ofm_c for lane in range(rate))
        one_lane = 1 << channel[: bits_for(rate - 1)] if rate > 1 else 1

        def word(base: Value, two_bytes: Value) -> Value:
            return base + Mux(two_bytes, channel >> _PLACE_BITS - 1, channel >> _PLACE_BITS)

        stride = self._stride()
        m.d.comb += [
            issue.first.eq(channel == 0),
            issue.last.eq(channel + stride >= held.ofm_c),
            issue.place.eq(channel),
            issue.lanes.eq(Mux(stride == 1, one_lane, wide_lanes)),
            issue.ifm.eq(word(walk.ifm, held.ifm_bits)),
            issue.ifm2.eq(Mux(held.ifm2_broadcast[2], walk.ifm2, word(walk.ifm2, held.ifm2_bits))),
            issue.ofm.eq(word(walk.ofm, held.ofm_bits)),
            issue.gain.eq(word(held.scale, 1)),
        ]
