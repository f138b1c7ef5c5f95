"""Front end, queues, tokens and sequencer as one part. Ref: docs/array.md sections 3 to 5."""

from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from bankside.hw.array.control.frontend import FrontEnd, command_layouts
from bankside.hw.array.control.layouts import COUNTER_BITS, SPEC, TokenSignature
from bankside.hw.array.control.sequencer import Sequencer, trace_layout
from bankside.hw.array.control.tokens import Tokens
from bankside.hw.array.words import mode_layout, word_layout
from bankside.hw.lib.queue import Queue
from bankside.isa.array_machine import ArrayMachine

_FRONT = (
    "program_en", "program_address", "program_data", "start", "fault", "running", "done", "error",
    "pc", "cycle",
)  # fmt: skip


class Control(wiring.Component):
    """Everything between the program and the load engine, the store engine and the datapath.

    Members
    -------
    program_en, program_address, program_data, start, fault, running, done, error, pc, cycle :
        Of `FrontEnd`. A start empties queues, tokens and sequencer.
    ready : Out
        No program runs and all engines are idle: what a start finds after a program without error.
    load, store : Out(stream)
        Head of the engine's queue. The engine looks at it as long as it works on it and raises
        `ready` in the cycle in which it is finished with it (its last address is accepted).
    load_tokens, store_tokens : In(TokenSignature)
        The engine's tokens.
    load_idle, store_idle : In
        The engine has nothing under way (registered), its queue aside.
    word, mode : Out
        For the datapath; `word` is the word register.
    counts : Out
        Stall counters.
    trace : Out
        Passes and RUNs, see `trace_layout`.
    """

    load: stream.Interface
    store: stream.Interface

    def __init__(self, machine: ArrayMachine) -> None:
        self._machine = machine
        self._front = FrontEnd(machine)
        front, layouts = self._front.signature.members, command_layouts(machine)
        super().__init__(
            {
                **{name: front[name] for name in _FRONT},
                "ready": Out(1),
                "load": Out(stream.Signature(layouts["load"])),
                "store": Out(stream.Signature(layouts["store"])),
                "load_tokens": In(TokenSignature()),
                "store_tokens": In(TokenSignature()),
                "load_idle": In(1),
                "store_idle": In(1),
                "word": Out(word_layout(machine)),
                "mode": Out(mode_layout()),
                "counts": Out(data.ArrayLayout(COUNTER_BITS, len(SPEC.stalls))),
                "trace": Out(trace_layout()),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.front = front = self._front
        sequencer, tokens = Sequencer(self._machine), Tokens()
        restart = ResetInserter(self.start)
        m.submodules.sequencer = restart(sequencer)
        m.submodules.tokens = restart(tokens)
        connect(m, sequencer.tokens, tokens.compute)
        connect(m, flipped(self.load_tokens), tokens.load)
        connect(m, flipped(self.store_tokens), tokens.store)
        outputs = {
            "load": flipped(self.load),
            "compute": sequencer.run,
            "store": flipped(self.store),
        }
        depth = self._machine.config.array.queue_depth
        for engine, layout in command_layouts(self._machine).items():
            queue = Queue(layout, depth)
            m.submodules[f"{engine}_queue"] = restart(queue)
            connect(m, getattr(front, engine), queue.i)
            connect(m, queue.o, outputs[engine])
        for name in _FRONT:
            inward = self.signature.members[name].flow == In
            target, source = (front, self) if inward else (self, front)
            m.d.comb += getattr(target, name).eq(getattr(source, name))
        self._join(m, front, sequencer, tokens)
        return m

    def _join(self, m: Module, front: FrontEnd, sequencer: Sequencer, tokens: Tokens) -> None:
        load_busy, store_busy = Signal(), Signal()
        m.d.comb += [
            load_busy.eq(self.load.valid | ~self.load_idle),
            store_busy.eq(self.store.valid | ~self.store_idle),
            front.compute_idle.eq(sequencer.idle),
            front.idle.eq(sequencer.idle & ~load_busy & ~store_busy),
            self.ready.eq(~front.running & front.idle),
            sequencer.kernel_en.eq(front.kernel_en),
            sequencer.block_en.eq(front.block_en),
            sequencer.command.eq(front.word),
            sequencer.running.eq(front.running),
            sequencer.load_busy.eq(load_busy),
            sequencer.store_busy.eq(store_busy),
            sequencer.second.eq(tokens.second),
            tokens.each.eq(sequencer.each),
            tokens.free.eq(sequencer.free),
            self.word.eq(sequencer.word),
            self.mode.eq(sequencer.mode),
            self.counts.eq(sequencer.counts),
            self.trace.eq(sequencer.trace),
        ]
