"""The controller: from program words to DRAM commands and rank-unit operations. Ref: docs/pim.md
sections 4 to 7.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.dram.timers import IssueTimers
from bankside.hw.lib.delay import DelayLine
from bankside.hw.pim.controller.array_engine import ArrayEngine, Kind
from bankside.hw.pim.controller.buffer_engine import BufferEngine
from bankside.hw.pim.controller.completion import Completions
from bankside.hw.pim.controller.dispatch import ENGINES, Dispatch
from bankside.hw.pim.controller.frontend import SPEC, Frontend
from bankside.hw.pim.controller.stalls import ARRAY, COUNTER_BITS, HOST, RANK, StallCounters
from bankside.hw.pim.layouts import command_codes, command_layout
from bankside.hw.pim.rank_unit.ports import burst_layout, host_layout, rank_layout
from bankside.isa.layout import opcodes, view
from bankside.isa.machine import Machine


class Leftover(wiring.Component):
    """Tells when no DRAM constraint of earlier commands is left, so that a program's cycles depend
    on nothing before it.

    Members
    -------
    valid, code : In
        DRAM command of this cycle.
    quiet : Out
        Every command may issue as far as earlier ones are concerned.
    """

    def __init__(self, machine: Machine) -> None:
        rows = machine.std.constraints
        self._horizon = {
            command.code: max(
                (row.latency for row in rows if command.name in row.preceding), default=0
            )
            for command in machine.std.commands
        }
        super().__init__(
            {"valid": In(1), "code": In(range(max(self._horizon) + 1)), "quiet": Out(1)}
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        left, wanted = (
            Signal(range(max(self._horizon.values()) + 1)),
            Signal(range(max(self._horizon.values()) + 1)),
        )
        m.d.comb += self.quiet.eq(left == 0)
        with m.Switch(self.code):
            for code, horizon in self._horizon.items():
                with m.Case(code):
                    m.d.comb += wanted.eq(horizon)
        with m.If(left != 0):
            m.d.sync += left.eq(left - 1)
        with m.If(self.valid & (wanted > left)):
            m.d.sync += left.eq(wanted)
        return m


class Controller(wiring.Component):
    """Front end, dispatch, array and buffer engines, command bus, data-path bookkeeping, stall
    counters.

    Members
    -------
    program_en, program_addr, program_data, start, done, running, error, pc, cycle :
        Of the front end.
    refresh : In
        Refresh in time; constant while a program runs.
    ready : Out
        No program runs, nothing is pending and no DRAM constraint is left over: a new program may
        start.
    command_valid, command : Out
        DRAM command of this cycle (always legal).
    stage_en, stage_address, prob_en, prob_address, write_probability : Out
        Rank-unit memories to read in this cycle; the burst driven in the next cycle is the
        probability one.
    read_valid, read_info, read_out, read_out_address : Out
        What the burst that arrives in this cycle is for.
    host_*, rank_* :
        Start, command, busy, done of the rank unit's engines.
    counts : Out
        Stall counters.
    load, loaded, last : Out, per engine
        Trace: the engine takes the command with opcode `loaded`; its last action is in this cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._front = Frontend(machine)
        front = self._front.signature.members
        staging, prob = 12, 10
        super().__init__(
            {
                **{
                    name: front[name]
                    for name in (
                        "program_en",
                        "program_addr",
                        "program_data",
                        "start",
                        "geometry",
                        "running",
                        "done",
                        "error",
                        "pc",
                        "cycle",
                    )
                },
                "refresh": In(1),
                "ready": Out(1),
                "command_valid": Out(1),
                "command": Out(command_layout(machine)),
                "stage_en": Out(1),
                "stage_address": Out(staging),
                "prob_en": Out(1),
                "prob_address": Out(prob),
                "write_probability": Out(1),
                "read_valid": Out(1),
                "read_info": Out(burst_layout(machine)),
                "read_out": Out(1),
                "read_out_address": Out(staging),
                "host_start": Out(1),
                "host_command": Out(host_layout(machine)),
                "host_busy": In(1),
                "host_done": In(1),
                "rank_start": Out(1),
                "rank_command": Out(rank_layout(machine)),
                "rank_busy": In(1),
                "rank_done": In(1),
                "counts": Out(data.ArrayLayout(COUNTER_BITS, len(SPEC.stalls))),
                "load": Out(ENGINES),
                "loaded": Out(data.ArrayLayout(6, ENGINES)),
                "last": Out(ENGINES),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        machine = self._machine
        m.submodules.front = front = self._front
        m.submodules.dispatch = dispatch = Dispatch(machine.config.pim.queue_depth)
        m.submodules.array = array = ArrayEngine(machine)
        m.submodules.buffer = buffer = BufferEngine(machine)
        m.submodules.timers = timers = IssueTimers(machine.std, queries=2)
        m.submodules.leftover = leftover = Leftover(machine)
        m.submodules.stalls = stalls = StallCounters()
        m.d.comb += [
            front.program_en.eq(self.program_en),
            front.program_addr.eq(self.program_addr),
            front.program_data.eq(self.program_data),
            front.start.eq(self.start),
            front.full.eq(dispatch.full),
            dispatch.push.eq(front.push),
            dispatch.word.eq(front.word),
            dispatch.clear.eq(self.start),
            self.geometry.eq(front.geometry),
            self.running.eq(front.running),
            self.done.eq(front.done),
            self.error.eq(front.error),
            self.pc.eq(front.pc),
            self.cycle.eq(front.cycle),
            array.start.eq(self.start),
            array.refresh.eq(self.refresh),
            array.running.eq(front.running),
            buffer.geometry.eq(front.geometry),
        ]
        active = self._connect_engines(m, dispatch, array, buffer)
        m.d.comb += [
            front.idle.eq(active == 0),
            self.ready.eq(~front.running & (active == 0) & leftover.quiet),
        ]
        issue_array = self._command_bus(m, array, buffer, timers)
        m.d.comb += [leftover.valid.eq(self.command_valid), leftover.code.eq(self.command.code)]
        self._write_data(m, array, buffer)
        self._read_data(m, array, buffer)
        m.d.comb += [
            stalls.running.eq(front.running),
            stalls.clear.eq(self.start),
            stalls.busy.eq(array.busy),
            stalls.issued.eq(issue_array),
            stalls.legal.eq(timers.query[0].legal),
            stalls.kind.eq(array.kind),
            stalls.tag.eq(timers.query[0].stall),
            stalls.waiting.eq(dispatch.waiting[ARRAY]),
            stalls.missing.eq(dispatch.missing[ARRAY]),
            stalls.active.eq(active),
            self.counts.eq(stalls.counts),
        ]
        return m

    def _connect_engines(
        self, m: Module, dispatch: Dispatch, array: ArrayEngine, buffer: BufferEngine
    ) -> Signal:
        """Loads, busy flags, completions; returns the mask of active engines."""
        delay, active = self._machine.completions, Signal(ENGINES)
        for index, (engine, name) in enumerate(((array, "array"), (buffer, "buffer"))):
            kinds = {code: delay[SPEC.by_opcode[code].name] for code in opcodes(SPEC, name)}
            m.submodules[f"completions_{name}"] = completions = Completions(kinds)
            m.d.comb += [
                engine.load.eq(dispatch.load[index]),
                engine.word.eq(dispatch.command[index]),
                dispatch.busy[index].eq(engine.busy),
                completions.last.eq(engine.last),
                completions.opcode.eq(engine.opcode),
                completions.signal.eq(engine.signal),
                dispatch.gifts[index].eq(completions.gifts),
                self.last[index].eq(engine.last),
                active[index].eq(dispatch.waiting[index] | engine.busy | completions.pending),
            ]
        self._rank_unit_engine(m, dispatch, active, RANK, "rank")
        self._rank_unit_engine(m, dispatch, active, HOST, "host")
        for index in range(ENGINES):
            m.d.comb += [
                self.load[index].eq(dispatch.load[index]),
                self.loaded[index].eq(view(SPEC, "MAC", dispatch.command[index]).opcode),
            ]
        return active

    def _rank_unit_engine(
        self, m: Module, dispatch: Dispatch, active: Signal, index: int, name: str
    ) -> None:
        busy, done = getattr(self, f"{name}_busy"), getattr(self, f"{name}_done")
        word, signal = dispatch.command[index], Signal(ENGINES, name=f"signal_{name}")
        with m.If(dispatch.load[index]):
            m.d.sync += signal.eq(view(SPEC, "SFM", word).signal)
        m.d.comb += [
            getattr(self, f"{name}_start").eq(dispatch.load[index]),
            dispatch.busy[index].eq(busy),
            self.last[index].eq(done),
            active[index].eq(dispatch.waiting[index] | busy),
            *(dispatch.gifts[index][e].eq(done & signal[e]) for e in range(ENGINES)),
        ]
        if name == "host":
            self._host_command(m, word)
        else:
            self._rank_command(m, word)

    def _host_command(self, m: Module, word) -> None:
        operands, command = view(SPEC, "HWR", word), self.host_command
        m.d.comb += [
            command.read.eq(operands.opcode == SPEC.commands["HRD"].opcode),
            command.address.eq(operands.stage),
            command.count.eq(operands.count),
            command.layout.eq(operands.layout),
        ]

    def _rank_command(self, m: Module, word) -> None:
        softmax, norm, command = (
            view(SPEC, "SFM", word),
            view(SPEC, "NORM", word),
            self.rank_command,
        )
        m.d.comb += [
            command[name].eq(softmax[name])
            for name in ("score", "prob", "groups", "buf", "valid", "first")
        ]
        m.d.comb += [
            command.norm.eq(norm.opcode == SPEC.commands["NORM"].opcode),
            command.out.eq(norm.out),
            command.count.eq(norm.count),
        ]

    def _command_bus(
        self, m: Module, array: ArrayEngine, buffer: BufferEngine, timers: IssueTimers
    ) -> Signal:
        """One DRAM command per cycle; the buffer engine goes first, except that it does not issue
        while the array engine wants to refresh (each burst would put the refresh off further).
        Returns the array engine's issue strobe.
        """
        issue_array, hold = Signal(), Signal()
        for query, engine in zip(timers.query, (array, buffer), strict=True):
            m.d.comb += [query.command.eq(engine.command.code), query.bank.eq(engine.command.bank)]
        m.d.comb += [
            hold.eq(array.want & (array.kind == Kind.REFRESH)),
            buffer.issued.eq(buffer.want & timers.query[1].legal & ~hold),
            issue_array.eq(array.want & timers.query[0].legal & ~buffer.issued),
            array.issued.eq(issue_array),
            self.command_valid.eq(buffer.issued | issue_array),
            self.command.eq(Mux(buffer.issued, buffer.command, array.command)),
            timers.issue.valid.eq(self.command_valid),
            timers.issue.command.eq(self.command.code),
            timers.issue.bank.eq(self.command.bank),
        ]
        return issue_array

    def _write_data(self, m: Module, array: ArrayEngine, buffer: BufferEngine) -> None:
        """WR and WRSB: the source word is read one cycle before its burst is driven (cycle t+WL).
        """
        codes = command_codes(self._machine)
        source = data.StructLayout({"address": 12, "probability": 1})
        m.submodules.write_line = line = DelayLine(source, self._machine.write_latency - 1)
        writing = Signal()
        m.d.comb += [
            writing.eq(array.issued & (array.command.code == codes["WR"])),
            line.i_valid.eq(writing | (buffer.issued & (buffer.command.code == codes["WRSB"]))),
            line.i_payload.address.eq(Mux(writing, array.stage, buffer.source)),
            line.i_payload.probability.eq(~writing & buffer.probability),
            self.stage_en.eq(line.o_valid & ~line.o_payload.probability),
            self.stage_address.eq(line.o_payload.address),
            self.prob_en.eq(line.o_valid & line.o_payload.probability),
            self.prob_address.eq(line.o_payload.address),
        ]
        m.d.sync += self.write_probability.eq(line.o_payload.probability)

    def _read_data(self, m: Module, array: ArrayEngine, buffer: BufferEngine) -> None:
        """RD and RDRB: what to do with the burst that arrives RL cycles after the command."""
        machine, codes = self._machine, command_codes(self._machine)
        arrival = data.StructLayout({"out": 1, "out_address": 12, "info": burst_layout(machine)})
        m.submodules.read_line = line = DelayLine(arrival, machine.read_latency)
        reading, info = Signal(), line.i_payload.info
        m.d.comb += [
            reading.eq(array.issued & (array.command.code == codes["RD"])),
            line.i_valid.eq(reading | (buffer.issued & (buffer.command.code == codes["RDRB"]))),
            line.i_payload.out.eq(reading),
            line.i_payload.out_address.eq(array.stage),
            info.context.eq(buffer.context),
            info.address.eq(buffer.target),
            info.lane.eq(buffer.command.lane),
            info.first_of_lane.eq((buffer.middle == 0) & buffer.first_bank),
            info.first_bank.eq(buffer.first_bank),
            info.last_bank.eq(buffer.last_bank),
            info.group.eq(buffer.middle),
            info.bank.eq(buffer.command.bank),
            info.buf.eq(buffer.buf),
            info.valid.eq(buffer.valid),
            self.read_out.eq(line.o_valid & line.o_payload.out),
            self.read_out_address.eq(line.o_payload.out_address),
            self.read_valid.eq(line.o_valid & ~line.o_payload.out),
            self.read_info.eq(line.o_payload.info),
        ]
