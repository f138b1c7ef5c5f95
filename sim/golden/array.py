"""Golden model of the `array` engine: the exact bits of every command, no time.

The front end dispatches commands to three queues; each engine takes its next step as soon as the
tokens for it are there. A verified program gives the same bits in every order that the tokens
allow. Queues are as long as those of the machine, so a program that cannot finish there does not
finish here. Ref: docs/array.md sections 2 to 4.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.program import Program, Step, walk
from bankside.isa.spec import Instruction, load_spec
from bankside.sim.engine import Result
from bankside.sim.golden.array_compute import Compute
from bankside.sim.golden.array_schedule import Run

U16 = NDArray[np.uint16]
I64 = NDArray[np.int64]

_SPEC = load_spec("array")
_ENGINES = _SPEC.engines
LOAD, COMPUTE, STORE = range(3)
_REGISTERS = {code: name for name, code in _SPEC.enums["register"].items()}
_ROW = _SPEC.enums["side"]["row"]


@dataclass
class _Job:
    """A dispatched command: its place, operands, registers at that time; steps done so far."""

    pc: int
    command: Instruction
    registers: dict[str, int]
    done: int = 0

    @property
    def name(self) -> str:
        return f"command {self.pc} ({self.command.name})"


@dataclass
class _Engines:
    """Queues of the engines, the RUN under way, tokens [from, to]."""

    queues: list[deque[_Job]] = field(default_factory=lambda: [deque() for _ in _ENGINES])
    run: _Job | None = None
    tokens: I64 = field(default_factory=lambda: np.zeros((len(_ENGINES),) * 2, np.int64))

    def missing(self, own: int, needed: int, *, load: int = 0) -> list[str]:
        """Engines whose tokens for engine `own` are lacking; `load`: tokens of it beyond those."""
        extra = [load if other == LOAD else 0 for other in range(len(_ENGINES))]
        wanted = [(needed >> other & 1) + extra[other] for other in range(len(_ENGINES))]
        return [_ENGINES[i] for i, w in enumerate(wanted) if self.tokens[i, own] < w]

    def take(self, own: int, mask: int) -> None:
        for other in range(len(_ENGINES)):
            self.tokens[other, own] -= mask >> other & 1

    def give(self, own: int, mask: int) -> None:
        for other in range(len(_ENGINES)):
            self.tokens[own, other] += mask >> other & 1


class ArrayGolden:
    """One machine of the `array` engine.

    State that lives on between programs: `row` uint16 [R, row_words * n] and `column` uint16
    [C, column_words * n] (bits of the banks), schedule, PEs and lanes. Main memory comes with each
    program.
    """

    def __init__(self, machine: ArrayMachine) -> None:
        self.machine = machine
        self.reset()

    def reset(self) -> None:
        """Power-on state: everything zero, no schedule."""
        mc, n = self.machine, self.machine.bus_elements
        self.row = np.zeros((mc.rows, mc.config.array.row_words * n), np.uint16)
        self.column = np.zeros((mc.columns, mc.config.array.column_words * n), np.uint16)
        self.compute = Compute(mc, self.row, self.column)

    # --- order of execution -------------------------------------------------------------------
    def run(self, program: Program, *, trace: bool = False) -> Result:
        """Execute `program`; outputs are its memory image afterwards, of the shape of `host_in`.

        Raises ProgramError when the program cannot finish or uses what the machine does not have.
        """
        self._memory = self._image(program)
        self.compute.forget()
        self.registers = dict.fromkeys(_REGISTERS.values(), 0)
        engines = _Engines()
        for step in walk(program):
            name = step.instruction.name
            if name == "SET":
                self.registers[_REGISTERS[step.instruction.reg]] = step.instruction.value
            elif name in ("KERNEL", "BLOCK"):
                self._drain(engines)
                self._require_idle(engines, step, (COMPUTE,))
                self._configure(step)
            elif name in ("BARRIER", "HALT"):
                self._drain(engines)
                self._require_idle(engines, step, (LOAD, COMPUTE, STORE))
            else:
                self._dispatch(engines, step)
        return Result(self._memory[: len(program.host_in)].copy(), None, clock_domain="array")

    def _image(self, program: Program) -> U16:
        n, size = self.machine.bus_elements, self.machine.config.memory.bytes
        rows = size // self.machine.config.array.bus_bytes
        image = program.host_in
        if image.ndim != 2 or image.shape[1] != n or len(image) > rows:
            raise ProgramError(
                f"memory image of shape {list(image.shape)}; expected at most {rows} rows of {n} "
                f"elements (memory.bytes = {size})"
            )
        memory = np.zeros((rows, n), np.uint16)
        memory[: len(image)] = image
        return memory

    def _configure(self, step: Step) -> None:
        if step.instruction.name == "KERNEL":
            self.compute.kernel(step.instruction)
        else:
            self.compute.schedule.add(step.pc, step.instruction)

    def _dispatch(self, engines: _Engines, step: Step) -> None:
        own = _ENGINES.index(_SPEC.commands[step.instruction.name].engine)
        queue, depth = engines.queues[own], self.machine.config.array.queue_depth
        if len(queue) == depth:
            self._drain(engines)
        if len(queue) == depth:
            self._stuck(engines, step, f"the full queue of engine {_ENGINES[own]}")
        queue.append(_Job(step.pc, step.instruction, dict(self.registers)))

    def _drain(self, engines: _Engines) -> None:
        """Take steps until every engine is idle or waits for tokens."""
        steps = (self._load_step, self._compute_step, self._store_step)
        while any([take(engines) for take in steps]):
            pass

    def _require_idle(self, engines: _Engines, at: Step, which: tuple[int, ...]) -> None:
        busy = [i for i in which if engines.queues[i] or (i == COMPUTE and engines.run)]
        if busy:
            self._stuck(engines, at, " and ".join(f"engine {_ENGINES[i]}" for i in busy))

    def _stuck(self, engines: _Engines, at: Step, reason: str) -> None:
        """ProgramError: the front end waits for `reason`, which no token can end any more."""
        waits = []
        for own, queue in enumerate(engines.queues):
            under_way = engines.run if own == COMPUTE else None
            job = under_way or (queue[0] if queue else None)
            if job:
                lacking = self._lacking(engines, own, job, under_way is not None)
                where = f"{job.name}, step {job.done}" if job.done else job.name
                givers = " and ".join(lacking)
                waits.append(f"engine {_ENGINES[own]} at {where} waits for a token of {givers}")
        raise ProgramError(
            f"command {at.pc} ({at.instruction.name}) waits for {reason} for ever: "
            f"{'; '.join(waits)}; add the missing signal before this command"
        )

    @staticmethod
    def _lacking(engines: _Engines, own: int, job: _Job, under_way: bool) -> list[str]:
        if own == COMPUTE:
            wait = 0 if under_way else job.command.wait
            return engines.missing(own, wait, load=job.command.each)
        return engines.missing(own, job.command.wait)

    # --- load and store engine ----------------------------------------------------------------
    def _load_step(self, engines: _Engines) -> bool:
        queue = engines.queues[LOAD]
        if not queue or self._lacking(engines, LOAD, queue[0], False):
            return False
        job = queue[0]
        self._check_transfer(job)
        outer = job.registers["outer"]
        steps = [job.done] if job.command.each else range(outer)
        engines.take(LOAD, job.command.wait)
        for i in steps:
            self._load(job, i)
        engines.give(LOAD, job.command.signal)
        job.done = steps[-1] + 1
        if job.done == outer:
            queue.popleft()
        return True

    def _store_step(self, engines: _Engines) -> bool:
        queue = engines.queues[STORE]
        if not queue or self._lacking(engines, STORE, queue[0], False):
            return False
        job = queue.popleft()
        self._check_transfer(job)
        engines.take(STORE, job.command.wait)
        self.compute.flush()
        for i in range(job.registers["outer"]):
            banks, words = self._bank_words(job, i, self.column)
            self._memory[self._memory_words(job, i)] = words[banks[:, None], self._beats(job, i)]
        engines.give(STORE, job.command.signal)
        return True

    def _load(self, job: _Job, i: int) -> None:
        """Outer step `i` of a LOAD."""
        if job.command.side != _ROW:
            self.compute.flush()
        side = self.row if job.command.side == _ROW else self.column
        banks, words = self._bank_words(job, i, side)
        words[banks[:, None], self._beats(job, i)] = self._memory[self._memory_words(job, i)]

    def _check_transfer(self, job: _Job) -> None:
        reg = job.registers
        for name in ("outer", "inner", "beats", "ring"):
            if reg[name] == 0:
                raise ProgramError(f"{job.name}: {name} is 0; SET it to at least 1 before")
        for name in ("mem", "outer_bytes", "inner_bytes"):
            if reg[name] % self.machine.config.array.bus_bytes:
                raise ProgramError(
                    f"{job.name}: {name} = {reg[name]}; expected a multiple of the "
                    f"{self.machine.config.array.bus_bytes} bytes of a bus word"
                )

    def _memory_words(self, job: _Job, i: int) -> I64:
        """Rows of main memory of outer step `i`, [inner, beats]."""
        reg = job.registers
        start = reg["mem"] + i * reg["outer_bytes"] + np.arange(reg["inner"]) * reg["inner_bytes"]
        words = start[:, None] // self.machine.config.array.bus_bytes + np.arange(reg["beats"])
        if words.max() >= len(self._memory):
            byte = words.max() * self.machine.config.array.bus_bytes
            raise ProgramError(
                f"{job.name}: step {i} reaches byte {byte} of main memory, which has "
                f"{self.machine.config.memory.bytes}; lower mem or raise memory.bytes"
            )
        return words

    def _bank_words(self, job: _Job, i: int, side: U16) -> tuple[I64, U16]:
        """Banks of outer step `i` [inner] and the side as bus words [banks, words, n]."""
        reg = job.registers
        banks = reg["bank"] + i * reg["bank_step"] + np.arange(reg["inner"])
        words = side.reshape(len(side), -1, self.machine.bus_elements)
        last = self._beats(job, i)[-1]
        if banks[-1] >= len(words) or last >= words.shape[1]:
            raise ProgramError(
                f"{job.name}: step {i} uses bank {banks[-1]}, bus word {last}; expected banks "
                f"below {len(words)} and words below {words.shape[1]}"
            )
        return banks, words

    def _beats(self, job: _Job, i: int) -> I64:
        """Bus words of outer step `i` within a bank, [beats]."""
        reg = job.registers
        step = (reg["ring_phase"] + i) % reg["ring"]
        return reg["buf"] + step * reg["buf_step"] + np.arange(reg["beats"])

    # --- compute engine -----------------------------------------------------------------------
    def _compute_step(self, engines: _Engines) -> bool:
        """Start the next RUN, or take the tiles of the one under way whose tokens are there."""
        queue = engines.queues[COMPUTE]
        if engines.run is None:
            if not queue or self._lacking(engines, COMPUTE, queue[0], False):
                return False
            engines.run = queue.popleft()
            engines.take(COMPUTE, engines.run.command.wait)
            self.compute.start(Run(engines.run.pc, engines.run.command, engines.run.registers))
        job, command = engines.run, engines.run.command
        count = command.tiles - job.done
        if command.each:
            count = min(count, int(engines.tokens[LOAD, COMPUTE]))
            engines.tokens[LOAD, COMPUTE] -= count
        self.compute.take(job.done, count)
        job.done += count
        if command.free:
            engines.tokens[COMPUTE, LOAD] += count * self.compute.schedule.frees
        if job.done == command.tiles:
            self.compute.flush()
            engines.give(COMPUTE, command.signal)
            engines.run = None
        return count > 0
