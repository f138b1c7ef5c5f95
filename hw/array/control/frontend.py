"""Front end: program memory, registers, control commands, dispatch.

Ref: docs/array.md section 4.
"""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.array.control.layouts import (
    COUNTER_BITS,
    SPEC,
    WORD,
    bits,
    load_layout,
    run_layout,
    store_layout,
)
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.layout import legal, view

REGISTERS = SPEC.enums["register"]
#: Commands that go to an engine; each engine has one kind.
DISPATCHED = [name for name, command in SPEC.commands.items() if command.engine != "control"]
_SET = SPEC.commands["SET"].field_map


def command_layouts(machine: ArrayMachine) -> dict[str, data.StructLayout]:
    """Layout of the one command of each engine, by name of the engine."""
    return {
        "load": load_layout(machine),
        "compute": run_layout(machine),
        "store": store_layout(machine),
    }


class Registers(wiring.Component):
    """Descriptor registers, each as wide as its widest copy in a command.

    Members
    -------
    clear : In
        All registers become 0.
    en, index, value : In
        Write the low bits of `value` to the register `index` of the specification.
    load, compute, store : Out
        The engine's command as far as registers give it.
    """

    def __init__(self, machine: ArrayMachine) -> None:
        self._layouts = command_layouts(machine)
        super().__init__(
            {
                "clear": In(1),
                "en": In(1),
                "index": In(_SET["reg"].width),
                "value": In(_SET["value"].width),
                **{name: Out(layout) for name, layout in self._layouts.items()},
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        held = {}
        for name, number in REGISTERS.items():
            copies = [layout.members.get(name, 0) for layout in self._layouts.values()]
            width = max(copies)
            held[name] = Signal(width, name=name)
            with m.If(self.en & (self.index == number)):
                m.d.sync += held[name].eq(self.value)
            with m.If(self.clear):
                m.d.sync += held[name].eq(0)
        for engine, layout in self._layouts.items():
            command = getattr(self, engine)
            m.d.comb += [command[name].eq(held[name]) for name in layout.members if name in held]
        # Multipliers only as wide as a bank address: the offset wraps as all addresses do.
        for start, phase, step, engines in (
            ("ring_start", "ring_phase", "buf_step", ("load", "store")),
            ("kv_start", "kv_phase", "kv_step", ("compute",)),
        ):
            width = len(held[step])
            product = Signal(width, name=start)
            m.d.comb += product.eq(held[phase][:width] * held[step])
            m.d.comb += [getattr(self, engine)[start].eq(product) for engine in engines]
        return m


class FrontEnd(wiring.Component):
    """Executes one command per cycle: SET, KERNEL, BLOCK, BARRIER and HALT itself, the others by
    handing them to the queues with a copy of the registers.

    Members
    -------
    program_en, program_address, program_data : In
        Write port of the program memory; not used while running or in the cycle of `start`.
    start : In
        Pulse while not running; the next cycle is cycle 0 of the program.
    fault : In
        Something outside went wrong: the machine stops with an error.
    compute_idle, idle : In
        The compute engine is idle; all engines are.
    load, compute, store : Out(stream)
        Commands for the queues.
    kernel_en, block_en, word : Out
        `word` is a KERNEL or BLOCK that is executed in this cycle.
    running, done, error : Out
        `done` pulses in the cycle of HALT; `error` stays until the next start when an illegal word
        or a fault stopped the front end.
    pc : Out
        Position of the word that is executed or was executed last.
    cycle : Out
        Number of the current cycle; after the end the cycles of the program.
    """

    load: stream.Interface
    compute: stream.Interface
    store: stream.Interface

    def __init__(self, machine: ArrayMachine) -> None:
        self._machine = machine
        self._depth = machine.config.array.program_words
        self._layouts = command_layouts(machine)
        super().__init__(
            {
                "program_en": In(1),
                "program_address": In(bits(self._depth)),
                "program_data": In(WORD),
                "start": In(1),
                "fault": In(1),
                "compute_idle": In(1),
                "idle": In(1),
                **{name: Out(stream.Signature(layout)) for name, layout in self._layouts.items()},
                "kernel_en": Out(1),
                "block_en": Out(1),
                "word": Out(WORD),
                "running": Out(1),
                "done": Out(1),
                "error": Out(1),
                "pc": Out(bits(self._depth)),
                "cycle": Out(COUNTER_BITS),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.registers = registers = Registers(self._machine)
        advance, chosen = Signal(), self._chosen(m)
        self._fetch(m, advance)
        self._execute(m, chosen, registers, advance)
        self._dispatch(m, chosen, registers)
        bad = ~Cat(*chosen.values()).any() | self.fault | (advance & (self.pc == self._depth - 1))
        with m.If(self.running):
            m.d.sync += [
                self.cycle.eq(self.cycle + 1),
                self.running.eq(~self.done & ~bad),
                self.error.eq(bad),
            ]
        with m.If(self.start):
            m.d.sync += [self.running.eq(1), self.error.eq(0), self.cycle.eq(0)]
        return m

    def _fetch(self, m: Module, advance: Signal) -> None:
        """`word` is the word at `pc`: the memory is read one cycle ahead."""
        m.submodules.program = program = memory.Memory(shape=WORD, depth=self._depth, init=[])
        write, read = program.write_port(), program.read_port()
        following = Signal(len(self.pc))
        m.d.comb += following.eq(self.pc + advance)
        with m.If(self.start):
            m.d.comb += following.eq(0)
        m.d.sync += self.pc.eq(following)
        m.d.comb += [
            write.en.eq(self.program_en),
            write.addr.eq(self.program_address),
            write.data.eq(self.program_data),
            read.addr.eq(following),
            self.word.eq(read.data),
        ]

    def _chosen(self, m: Module) -> dict[str, Signal]:
        """One bit per command: `word` is that command, and legal."""
        chosen = {}
        for name, command in SPEC.commands.items():
            chosen[name] = Signal(name=f"is_{name.lower()}")
            code = view(SPEC, name, self.word).opcode
            m.d.comb += chosen[name].eq((code == command.opcode) & legal(SPEC, command, self.word))
        return chosen

    def _execute(
        self, m: Module, chosen: dict[str, Signal], registers: Registers, advance: Signal
    ) -> None:
        """What each command waits for, and its effect."""
        waits = {
            "HALT": self.idle,
            "BARRIER": self.idle,
            "SET": Const(1),
            "KERNEL": self.compute_idle,
            "BLOCK": self.compute_idle,
            **{name: getattr(self, SPEC.commands[name].engine).ready for name in DISPATCHED},
        }
        goes = {name: self.running & chosen[name] & wait for name, wait in waits.items()}
        operands = view(SPEC, "SET", self.word)
        m.d.comb += [
            self.done.eq(goes.pop("HALT")),
            advance.eq(Cat(*goes.values()).any()),
            self.kernel_en.eq(goes["KERNEL"]),
            self.block_en.eq(goes["BLOCK"]),
            registers.clear.eq(self.start),
            registers.en.eq(goes["SET"]),
            registers.index.eq(operands.reg),
            registers.value.eq(operands.value),
        ]

    def _dispatch(self, m: Module, chosen: dict[str, Signal], registers: Registers) -> None:
        """Each engine's command: its operands and the copy of the registers."""
        for name in DISPATCHED:
            command, operands = SPEC.commands[name], view(SPEC, name, self.word)
            port = getattr(self, command.engine)
            m.d.comb += [
                port.valid.eq(self.running & chosen[name]),
                port.payload.eq(getattr(registers, command.engine)),
                *(port.payload[field].eq(operands[field]) for field in command.field_map),
            ]
