"""Sequencer: RUN commands to passes, passes to words. Ref: docs/array.md sections 3 to 5."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.array.control.blocks import BLOCKS, PE_BLOCKS, STAGES, Cursor, Schedule
from bankside.hw.array.control.issue import Issue
from bankside.hw.array.control.iterations import Iterations, context_layout
from bankside.hw.array.control.layouts import (
    COUNTER_BITS,
    ENGINES,
    LOAD,
    SPEC,
    STORE,
    TILE_BITS,
    WORD,
    TokenSignature,
    run_layout,
)
from bankside.hw.array.control.passes import Passes
from bankside.hw.array.control.stalls import Settle, StallCounters
from bankside.hw.array.words import mode_layout, word_layout
from bankside.hw.lib.delay import DelayLine
from bankside.isa.array_machine import ArrayMachine


def trace_layout() -> data.StructLayout:
    """What happens in this cycle: slot 0 of a pass, which starts an iteration (of tile `tile`,
    else 0); the decision for a RUN, the done slot of its last tile, its completion.
    """
    return data.StructLayout(
        {
            "slot_0": 1,
            "iteration": 1,
            "tile": TILE_BITS,
            "decision": 1,
            "done": 1,
            "complete": 1,
        }
    )


class Contexts(wiring.Component):
    """The iterations under way, one per stage.

    Members
    -------
    en, context : In
        An iteration starts; it is in stage 0 from the next cycle on.
    newest, exists : In
        Of `Passes`.
    stage : In, two
        Stage asked for.
    present, answer : Out, two
        Whether an iteration is in it, and that iteration.
    """

    def __init__(self, machine: ArrayMachine) -> None:
        self._layout = context_layout(machine)
        stage = range(STAGES)
        super().__init__(
            {
                "en": In(1),
                "context": In(self._layout),
                "newest": In(stage),
                "exists": In(STAGES),
                "stage": In(stage).array(2),
                "present": Out(1).array(2),
                "answer": Out(self._layout).array(2),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.ring = ring = memory.Memory(shape=self._layout, depth=STAGES, init=[])
        write = ring.write_port()
        m.d.comb += [
            write.en.eq(self.en),
            write.addr.eq(self.newest + 1),
            write.data.eq(self.context),
        ]
        for index in range(2):
            read = ring.read_port(domain="comb")
            m.d.comb += [
                read.addr.eq(self.newest - self.stage[index]),
                self.present[index].eq(self.exists.bit_select(self.stage[index], 1)),
                self.answer[index].eq(read.data),
            ]
        return m


class Sequencer(wiring.Component):
    """Repeats the schedule for tile after tile, several tiles in flight.

    Members
    -------
    run : In(stream)
        RUN commands; one is taken in the cycle in which its first iteration is decided on.
    kernel_en, block_en, command : In
        Execute the KERNEL or BLOCK `command`; only while `idle`.
    tokens, second, each, free :
        To and from `Tokens`, as the compute engine.
    running, load_busy, store_busy : In
        For the counters: a program runs, the engine is not idle.
    word : Out
        The word register: the word issued in the cycle before.
    mode : Out
        Mode of the machine.
    idle : Out
        No pass, no RUN, and settled.
    counts : Out
        Stall counters.
    trace : Out
        See `trace_layout`.
    """

    run: stream.Interface

    def __init__(self, machine: ArrayMachine) -> None:
        self._machine = machine
        super().__init__(
            {
                "run": In(stream.Signature(run_layout(machine))),
                "kernel_en": In(1),
                "block_en": In(1),
                "command": In(WORD),
                "tokens": Out(TokenSignature()),
                "second": In(1),
                "each": Out(1),
                "free": Out(2),
                "running": In(1),
                "load_busy": In(1),
                "store_busy": In(1),
                "word": Out(word_layout(machine)),
                "mode": Out(mode_layout()),
                "idle": Out(1),
                "counts": Out(data.ArrayLayout(COUNTER_BITS, len(SPEC.stalls))),
                "trace": Out(trace_layout()),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.schedule = schedule = Schedule()
        m.submodules.passes = passes = Passes()
        m.submodules.iterations = iterations = Iterations(self._machine)
        m.submodules.contexts = contexts = Contexts(self._machine)
        m.submodules.stalls = stalls = StallCounters()
        m.submodules.settle = settle = Settle(self._machine)
        m.d.comb += [
            schedule.kernel_en.eq(self.kernel_en),
            schedule.block_en.eq(self.block_en),
            schedule.word.eq(self.command),
            self.mode.eq(schedule.mode),
            passes.ii.eq(schedule.ii),
            passes.more.eq(schedule.more),
            iterations.head.eq(self.run.payload),
            iterations.kernel_en.eq(self.kernel_en),
            contexts.context.eq(iterations.context),
            contexts.newest.eq(passes.newest),
            contexts.exists.eq(passes.exists),
            settle.active.eq(passes.active),
            self.idle.eq(~passes.active & ~iterations.under_way & ~self.run.valid & settle.settled),
            stalls.settled.eq(settle.settled),
        ]
        start = self._decide(m, passes, iterations, stalls)
        m.d.comb += [passes.start.eq(start), contexts.en.eq(start)]
        self._issue(m, schedule, passes, contexts, stalls)
        self._trace(m, passes, iterations, start)
        self._count(m, passes, stalls, start)
        return m

    def _decide(
        self, m: Module, passes: Passes, iterations: Iterations, stalls: StallCounters
    ) -> Signal:
        """1 if the next pass starts an iteration."""
        head, present, start = self.run.payload, self.tokens.present, Signal()
        begin, lacks = Signal(), Signal(ENGINES)
        under_way = iterations.under_way
        m.d.comb += [
            start.eq(passes.boundary & (under_way | self.run.valid) & ~lacks.any()),
            begin.eq(start & ~under_way),
            iterations.begin.eq(begin),
            iterations.proceed.eq(start & under_way),
            self.run.ready.eq(begin),
            self.tokens.take.eq(Mux(begin, head.wait, 0)),
            self.each.eq(start & Mux(under_way, iterations.each, head.each)),
            stalls.waiting.eq(under_way | self.run.valid),
            stalls.lacks_load.eq(lacks[LOAD]),
            stalls.lacks_store.eq(lacks[STORE]),
        ]
        with m.If(under_way):
            m.d.comb += lacks[LOAD].eq(iterations.each & ~present[LOAD])
        with m.Elif(self.run.valid):
            both = head.each & head.wait[LOAD]
            m.d.comb += lacks.eq(head.wait & ~present)
            m.d.comb += lacks[LOAD].eq(
                Mux(both, ~self.second, (head.each | head.wait[LOAD]) & ~present[LOAD])
            )
        return start

    def _issue(
        self,
        m: Module,
        schedule: Schedule,
        passes: Passes,
        contexts: Contexts,
        stalls: StallCounters,
    ) -> None:
        m.submodules.issue = issue = Issue(self._machine)
        frees, finals = [], []
        for index, (name, blocks) in enumerate(
            (("pe", range(PE_BLOCKS)), ("lane", range(PE_BLOCKS, BLOCKS)))
        ):
            cursor = self._cursor(m, name, blocks, schedule, passes)
            part, context = getattr(issue, name), contexts.answer[index]
            ends = Signal(name=f"{name}_ends")
            m.d.comb += [
                contexts.stage[index].eq(cursor.block.stage),
                part.en.eq(
                    cursor.covered & contexts.present[index] & (context.last | (name == "pe"))
                ),
                part.op.eq(cursor.block.op),
                part.j.eq(cursor.j),
                part.context.eq(context),
                ends.eq(cursor.last & contexts.present[index]),
            ]
            with m.If(ends & cursor.block.done):
                m.d.comb += [passes.done.eq(1), passes.done_stage.eq(cursor.block.stage)]
            with m.If(cursor.covered):
                m.d.comb += stalls.covered.eq(1)
            frees.append(ends & cursor.block.free & context.free)
            finals.append((ends & cursor.block.done & context.final, context.signal))
        m.d.sync += self.word.eq(issue.word)
        m.d.comb += [
            stalls.pe_en.eq(issue.pe.en),
            stalls.pe_op.eq(issue.pe.op),
            stalls.lane_en.eq(issue.lane.en),
        ]
        self._complete(m, frees, finals)

    def _cursor(
        self, m: Module, name: str, blocks: range, schedule: Schedule, passes: Passes
    ) -> Cursor:
        m.submodules[f"{name}_cursor"] = cursor = Cursor(len(blocks))
        m.d.comb += [
            cursor.valid.eq(schedule.valid[blocks.start : blocks.stop]),
            *(cursor.blocks[i].eq(schedule.blocks[block]) for i, block in enumerate(blocks)),
            cursor.active.eq(passes.active),
            cursor.slot.eq(passes.slot),
        ]
        return cursor

    def _complete(self, m: Module, frees: list, finals: list) -> None:
        """Tokens some time after their slot."""
        machine = self._machine
        m.submodules.free = free = DelayLine(2, machine.free_latency)
        m.submodules.complete = complete = DelayLine(ENGINES, machine.settle)
        m.d.comb += [
            free.i_payload.eq(sum(frees)),
            free.i_valid.eq(free.i_payload != 0),
            self.free.eq(Mux(free.o_valid, free.o_payload, 0)),
            self.tokens.give.eq(Mux(complete.o_valid, complete.o_payload, 0)),
            self.trace.done.eq(complete.i_valid),
            self.trace.complete.eq(complete.o_valid),
        ]
        for final, signal in finals:
            with m.If(final):
                m.d.comb += [complete.i_valid.eq(1), complete.i_payload.eq(signal)]

    def _trace(self, m: Module, passes: Passes, iterations: Iterations, start: Signal) -> None:
        tile = Signal(TILE_BITS)
        with m.If(passes.boundary):
            m.d.sync += tile.eq(Mux(start, iterations.context.tile, 0))
        m.d.comb += [
            self.trace.slot_0.eq(passes.active & (passes.slot == 0)),
            self.trace.iteration.eq(passes.exists[0]),
            self.trace.tile.eq(tile),
            self.trace.decision.eq(iterations.begin),
        ]

    def _count(self, m: Module, passes: Passes, stalls: StallCounters, start: Signal) -> None:
        m.d.comb += [
            stalls.running.eq(self.running),
            stalls.active.eq(passes.active),
            stalls.decision.eq(start),
            stalls.load_busy.eq(self.load_busy),
            stalls.store_busy.eq(self.store_busy),
            self.counts.eq(stalls.counts),
        ]
