"""The front end of the `array` engine: registers, dispatch, waiting for idle engines.

Ref: docs/array.md section 4.
"""

from __future__ import annotations

from bankside.errors import ProgramError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.program import Program
from bankside.isa.spec import Instruction
from bankside.sim.timing.array_agenda import (
    ACT,
    COMPUTE,
    ENGINES,
    LOAD,
    STORE,
    Agenda,
    Tokens,
    engines,
)
from bankside.sim.timing.array_compute import Compute, Run
from bankside.sim.timing.array_dma import Dma, Transfer
from bankside.sim.timing.array_schedule import SPEC, Block, Schedule

_NAMES = {code: name for name, code in SPEC.enums["register"].items()}
_AT_LEAST_ONE = ("outer", "inner", "beats")


class FrontEnd:
    """Executes a program, one command per cycle, with the three engines that it owns."""

    def __init__(self, machine: ArrayMachine, program: Program) -> None:
        self.agenda = Agenda()
        self.tokens = Tokens(self.agenda, SPEC.token_max)
        self.load, self.store = (
            Dma(engine, machine, self.agenda, self.tokens, self._left) for engine in (LOAD, STORE)
        )
        self.compute = Compute(machine, self.agenda, self.tokens, self._left, self._stopped)
        self.tokens.wake = [self.load.wake, self.compute.wake, self.store.wake]
        self.halted: int | None = None  # cycle of HALT
        self._code = program.instructions()
        self._depth = machine.config.array.queue_depth
        self._pc, self._queued = 0, [0] * len(ENGINES)
        self._registers = dict.fromkeys(_NAMES.values(), 0)
        self._blocked = False

    def run(self) -> int:
        """Cycles of the program. Raises ProgramError on a deadlock."""
        self.agenda.at(0, ACT, self._step)
        self.agenda.run()
        if self.halted is None:
            raise ProgramError(self._deadlock())
        self.compute.finish(self.halted)
        return self.halted + 1

    def _deadlock(self) -> str:
        units = zip(ENGINES, (self.load, self.compute, self.store), strict=True)
        waits = [(name, unit.waits_for()) for name, unit in units]
        lines = [
            f"{name}: {wait[0]} waits for a token of {ENGINES[wait[1]]}"
            for name, wait in waits
            if wait is not None
        ]
        here = f"command {self._pc} {self._code[self._pc].name}"
        return (
            f"deadlock at {here}: {'; '.join(lines)}; give these tokens with `signal` of an "
            f"earlier command, or do not wait for them"
        )

    # --- commands ---

    def _step(self, cycle: int, _: None) -> None:
        """Commands from `cycle` on, up to one that has to wait or is dispatched."""
        begun = cycle
        while (ins := self._instruction()).name == "SET":
            fields = ins.fields
            self._registers[_NAMES[fields["reg"]]] = fields["value"]
            self._pc += 1
            cycle += 1
        if cycle > begun:
            # The engines act before the next command does.
            self.agenda.at(cycle, ACT, self._step)
        elif SPEC.commands[ins.name].engine == "control":
            self._control(ins, cycle)
        else:
            self._dispatch(ins, cycle)

    def _instruction(self) -> Instruction:
        if self._pc >= len(self._code):
            raise ProgramError(
                f"command {self._pc}: the program runs past its end; end it with HALT"
            )
        return self._code[self._pc]

    def _next(self, cycle: int) -> None:
        self._pc += 1
        self.agenda.at(cycle + 1, ACT, self._step)

    def _control(self, ins: Instruction, cycle: int) -> None:
        everything = ins.name in ("HALT", "BARRIER")
        ready = self._idle_from(everything)
        if ready is None:
            self._blocked = True
        elif ready > cycle:
            self.agenda.at(ready, ACT, self._step)
        elif ins.name == "HALT":
            self.halted, self.agenda.ended = cycle, True
        else:
            if ins.name == "KERNEL":
                self.compute.schedule = Schedule(ins.ii)
            elif ins.name == "BLOCK":
                self.compute.schedule.add(Block(**ins.fields))
            self._next(self._blocks(cycle))

    def _blocks(self, cycle: int) -> int:
        """Those BLOCKs that follow the command of `cycle`: the engine is still idle. Cycle of the
        last one.
        """
        while self._pc + 1 < len(self._code) and self._code[self._pc + 1].name == "BLOCK":
            self._pc += 1
            self.compute.schedule.add(Block(**self._code[self._pc].fields))
            cycle += 1
        return cycle

    def _dispatch(self, ins: Instruction, cycle: int) -> None:
        engine = ENGINES.index(SPEC.commands[ins.name].engine)
        if self._queued[engine] == self._depth:
            self._blocked = True
            return
        self._queued[engine] += 1
        if engine == COMPUTE:
            self.compute.dispatch(self._as_run(ins), cycle)
        else:
            (self.load if engine == LOAD else self.store).dispatch(self._transfer(ins), cycle)
        self._next(cycle)

    # --- waiting ---

    def _idle_from(self, everything: bool) -> int | None:
        """First cycle in which the compute engine (or every engine) is idle; None: not known."""
        units = [(COMPUTE, self.compute.idle_from())]
        if everything:
            units += [(LOAD, self.load.idle_from), (STORE, self.store.idle_from)]
        if any(self._queued[engine] or since is None for engine, since in units):
            return None
        return max(since for _, since in units)

    def _left(self, engine: int, cycle: int) -> None:
        self._queued[engine] -= 1
        self._retry(cycle)

    def _stopped(self, cycle: int) -> None:
        self._retry(cycle + 1)

    def _retry(self, cycle: int) -> None:
        if self._blocked:
            self._blocked = False
            self.agenda.at(cycle, ACT, self._step)

    # --- operands ---

    def _where(self, ins: Instruction) -> str:
        return f"command {self._pc} {ins.name}"

    def _transfer(self, ins: Instruction) -> Transfer:
        registers = self._registers
        for name in _AT_LEAST_ONE:
            if not registers[name]:
                raise ProgramError(
                    f"{self._where(ins)}: register {name} is 0; SET it to at least 1"
                )
        operands = {
            name: registers[name]
            for name in ("mem", "outer", "outer_bytes", "inner", "inner_bytes", "beats")
        }
        return Transfer(
            where=self._where(ins), opcode=SPEC.commands[ins.name].opcode, **operands,
            each=bool(ins.fields.get("each")), needs=_needs(ins.wait), signals=engines(ins.signal),
        )  # fmt: skip

    def _as_run(self, ins: Instruction) -> Run:
        each = 1 << LOAD if ins.each else 0
        needs = [a + b for a, b in zip(_needs(ins.wait), _needs(each), strict=True)]
        return Run(
            where=self._where(ins), opcode=SPEC.commands[ins.name].opcode, tiles=ins.tiles,
            each=bool(ins.each), free=bool(ins.free), last=bool(ins.last), needs=tuple(needs),
            more=_needs(each), signals=engines(ins.signal),
        )  # fmt: skip


def _needs(mask: int) -> tuple[int, ...]:
    """Tokens of each engine."""
    return tuple(mask >> engine & 1 for engine in range(len(ENGINES)))
