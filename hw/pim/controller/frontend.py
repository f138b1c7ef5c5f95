"""Front end: program memory, control commands, dispatch. Ref: docs/pim.md section 4."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.pim.rank_unit.ports import geometry_layout
from bankside.isa.layout import opcodes, view
from bankside.isa.machine import Machine
from bankside.isa.spec import load_spec

SPEC = load_spec("pim")
WORD = SPEC.word_bits
LOOP_COUNT_BITS = 24
ADDRESS_BITS = 20


#: Geometry at the start of every program: N_hc = 1, one column per token, one lane.
GEOMETRY_RESET = {"nhc_log2": 0, "cpt": 1, "lanes": 1}


class LoopStack(wiring.Component):
    """Start and remaining count of the open loops.

    Members
    -------
    push, start, count : In
        Open a loop whose body begins at `start`.
    step : In
        ENDLOOP: one iteration less; the loop closes with the last one.
    again : Out
        The body runs again (from `target`) when `step` is given now.
    """

    def __init__(self, pc_bits: int) -> None:
        self._pc_bits = pc_bits
        super().__init__(
            {
                "push": In(1),
                "start": In(pc_bits),
                "count": In(LOOP_COUNT_BITS),
                "step": In(1),
                "clear": In(1),
                "again": Out(1),
                "target": Out(pc_bits),
                "empty": Out(1),
                "full": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        entries = [
            Signal(
                data.StructLayout({"start": self._pc_bits, "count": LOOP_COUNT_BITS}),
                name=f"loop{i}",
            )
            for i in range(SPEC.loop_depth)
        ]
        depth = Signal(range(SPEC.loop_depth + 1))
        m.d.comb += [self.empty.eq(depth == 0), self.full.eq(depth == SPEC.loop_depth)]
        for level, entry in enumerate(entries):
            with m.If(depth == level + 1):
                m.d.comb += [self.target.eq(entry.start), self.again.eq(entry.count != 1)]
                with m.If(self.step):
                    m.d.sync += entry.count.eq(entry.count - 1)
                    with m.If(entry.count == 1):
                        m.d.sync += depth.eq(level)
            with m.If(self.push & (depth == level)):
                m.d.sync += [
                    entry.start.eq(self.start),
                    entry.count.eq(self.count),
                    depth.eq(level + 1),
                ]
        with m.If(self.clear):
            m.d.sync += depth.eq(0)
        return m


class Frontend(wiring.Component):
    """Fetches one command per cycle, executes control commands, pushes the others to the engines'
    queues.

    Members
    -------
    program_en, program_addr, program_data : In
        Write port of the program memory (while not running).
    start : In
        Pulse; the next cycle is cycle 0 of the program.
    idle : In
        The machine is idle (queues, engines, completions), as registered.
    full : In, one bit per engine
        The engine's queue cannot take a command in this cycle.
    push, word : Out
        Command for the engine whose `push` bit is set.
    running, done, error, pc : Out
        `done` pulses in the cycle of HALT; `error` stays when an illegal command stopped the front
        end at `pc`.
    cycle : Out
        Number of the current cycle.
    """

    def __init__(self, machine: Machine) -> None:
        self._depth = machine.config.pim.program_words
        self._pc_bits = max(1, (self._depth - 1).bit_length())
        engines = len(SPEC.engines)
        super().__init__(
            {
                "program_en": In(1),
                "program_addr": In(self._pc_bits),
                "program_data": In(WORD),
                "start": In(1),
                "idle": In(1),
                "full": In(engines),
                "push": Out(engines),
                "word": Out(WORD),
                "geometry": Out(geometry_layout(machine)),
                "running": Out(1),
                "done": Out(1),
                "error": Out(1),
                "pc": Out(self._pc_bits),
                "cycle": Out(48),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.program = program = memory.Memory(shape=WORD, depth=self._depth, init=[])
        m.submodules.loops = loops = LoopStack(self._pc_bits)
        write, read = program.write_port(), program.read_port(domain="comb")
        m.d.comb += [
            write.en.eq(self.program_en),
            write.addr.eq(self.program_addr),
            write.data.eq(self.program_data),
            read.addr.eq(self.pc),
            loops.start.eq(self.pc + 1),
            loops.clear.eq(self.start),
        ]
        advance = Signal()
        registers = Signal(data.ArrayLayout(ADDRESS_BITS, 4), name="address")
        with m.If(self.running):
            m.d.sync += self.cycle.eq(self.cycle + 1)
            self._execute(m, read.data, registers, loops, advance)
        with m.If(advance):
            m.d.sync += self.pc.eq(self.pc + 1)
        with m.If(loops.step & loops.again):
            m.d.sync += self.pc.eq(loops.target)
        with m.If(self.start):
            # A program always starts from the same front-end state, so that its cycles do not
            # depend on the one before.
            m.d.sync += [
                self.running.eq(1),
                self.pc.eq(0),
                self.cycle.eq(0),
                self.error.eq(0),
                registers.as_value().eq(0),
                self.geometry.eq(self.geometry.shape().const(GEOMETRY_RESET)),
            ]
        return m

    def _execute(self, m: Module, word, registers, loops: LoopStack, advance: Signal) -> None:
        codes = {name: command.opcode for name, command in SPEC.commands.items()}
        self._resolve_row(m, word, registers)
        with m.Switch(word[SPEC.opcode.lsb :]):
            self._dispatch(m, advance)
            self._address_commands(m, word, registers, advance)
            with m.Case(codes["HALT"]):
                with m.If(self.idle):
                    m.d.comb += self.done.eq(1)
                    m.d.sync += self.running.eq(0)
            with m.Case(codes["BARRIER"]):
                m.d.comb += advance.eq(self.idle)
            with m.Case(codes["GEOM"]):
                with m.If(self.idle):
                    operands = view(SPEC, "GEOM", word)
                    m.d.sync += [
                        self.geometry[name].eq(operands[name])
                        for name in ("nhc_log2", "cpt", "lanes")
                    ]
                    m.d.comb += advance.eq(1)
            with m.Case(codes["LOOP"]):
                m.d.comb += [
                    loops.push.eq(1),
                    loops.count.eq(view(SPEC, "LOOP", word).count),
                    advance.eq(~loops.full),
                ]
                self._refuse(m, loops.full)
            with m.Case(codes["ENDLOOP"]):
                m.d.comb += [loops.step.eq(~loops.empty), advance.eq(~loops.empty & ~loops.again)]
                self._refuse(m, loops.empty)
            with m.Default():
                self._refuse(m, Const(1))

    def _refuse(self, m: Module, condition) -> None:
        """An illegal command stops the front end where it stands."""
        with m.If(condition):
            m.d.sync += [self.error.eq(1), self.running.eq(0)]

    def _dispatch(self, m: Module, advance: Signal) -> None:
        for index, engine in enumerate(SPEC.engines):
            with m.Case(*opcodes(SPEC, engine)):
                m.d.comb += [advance.eq(~self.full[index]), self.push[index].eq(~self.full[index])]

    def _resolve_row(self, m: Module, word, registers) -> None:
        """The queues get OPEN with its address register already added to the row."""
        row = view(SPEC, "OPEN", word)
        total = Signal(ADDRESS_BITS)
        field = SPEC.commands["OPEN"].field_map["row"]
        m.d.comb += [self.word.eq(word), total.eq(row.row + registers[row.areg])]
        with m.If((row.opcode == SPEC.commands["OPEN"].opcode) & row.areg_en):
            m.d.comb += self.word.eq(Cat(word[: field.lsb], total, word[field.lsb + field.width :]))

    def _address_commands(self, m: Module, word, registers, advance: Signal) -> None:
        with m.Case(SPEC.commands["SETA"].opcode):
            operands = view(SPEC, "SETA", word)
            m.d.sync += registers[operands.areg].eq(operands.value)
            m.d.comb += advance.eq(1)
        with m.Case(SPEC.commands["ADDA"].opcode):
            operands = view(SPEC, "ADDA", word)
            m.d.sync += registers[operands.areg].eq(registers[operands.areg] + operands.value)
            m.d.comb += advance.eq(1)
