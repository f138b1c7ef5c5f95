"""Legality of `array` programs, before they run.

`verify` refuses, naming the first bad command: operands and registers that the machine does not
have, schedules that break a rule, lanes that use what no tile has produced, bank words read before
anything was written, tokens that never come or overflow, and two engines (or two iterations) that
use the same words without an order. Ref: docs/array.md sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bankside.errors import ProgramError
from bankside.isa.array_commands import Command, Run, run_of, transfer_of
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.array_order import Order, Wait
from bankside.isa.array_schedule import Schedule, check
from bankside.isa.program import Program, Step, walk
from bankside.isa.spec import Instruction, load_spec


class _Lanes:
    """What the lanes hold: maximum, denominator, accumulators, reciprocal, maxima of tiles."""

    def __init__(self) -> None:
        self.maximum = self.denominator = self.reciprocal = False
        self.accumulators = [0, 0]
        self.chunks = 0
        self.ended: Run | None = None  # the RUN before, if it was `last`, in this schedule

    def run(self, run: Run) -> None:
        """Refuse a RUN that uses what is not there; note what it leaves."""
        ops = {block.op: block for block in run.schedule.blocks}
        self._running(run, ops)
        self._accumulators(run, ops)
        if "passd" in ops and not self.reciprocal:
            raise run.refuse("passd has no reciprocal; let a RUN with `last` and rcp come first")
        if run.last and ("rcp" in ops or "one" in ops):
            if "rcp" in ops and not self.denominator:
                raise run.refuse("rcp has no denominator; let sld or passx come first")
            self.reciprocal = True
        if "av" in ops and run.last and not self.reciprocal:
            raise run.refuse("av has no reciprocal; add rcp or one to the schedule")
        self.ended = run if run.last else None

    def _running(self, run: Run, ops: dict) -> None:
        """Maximum and denominator."""
        if ("lm" in ops or "drain" in ops) and not (run.first or self.maximum):
            raise run.refuse("continues a maximum that no RUN has begun; set `first`")
        self.maximum |= "lm" in ops or "drain" in ops
        if "passx" in ops and not self.maximum:
            raise run.refuse("passx has no maximum; let a RUN with drain come first")
        if ("sld" in ops or "passx" in ops) and not (run.first or self.denominator):
            raise run.refuse("continues a denominator that no RUN has begun; set `first`")
        self.denominator |= "sld" in ops or "passx" in ops
        if "drain" in ops and run.schedule.chunked:
            self.chunks = max(self.chunks, run.tiles)
        if "fill" in ops and run.schedule.correct and run.tiles > self.chunks:
            raise run.refuse(
                f"corrects {run.tiles} tiles, but maxima of {self.chunks} tiles were kept; let a "
                f"chunked drain of as many tiles come first"
            )

    def _accumulators(self, run: Run, ops: dict) -> None:
        slnv, av = ops.get("slnv"), ops.get("av")
        before = self.ended
        if slnv and av and before and before.set == run.set and run.first:
            schedule = run.schedule
            if schedule.end(av) > schedule.begin(slnv) + schedule.ii:
                raise run.refuse(
                    f"begins in accumulator set {run.set} while the results of {before.where} are "
                    f"still read there; use set {1 - run.set}"
                )
        there = self.accumulators[run.set]
        if slnv and not run.first and there < slnv.length:
            raise run.refuse(
                f"continues {slnv.length} numerators of set {run.set}, which holds {there}; set "
                f"`first`"
            )
        if slnv:
            self.accumulators[run.set] = max(slnv.length, 0 if run.first else there)
        if av and run.last and self.accumulators[run.set] < av.length:
            raise run.refuse(
                f"av reads {av.length} numerators of set {run.set}, which holds "
                f"{self.accumulators[run.set]}; shorten it or let slnv come first"
            )


class _Scores:
    """Column words that iterations in flight use for scores and results."""

    def __init__(self, words: int) -> None:
        self.last = np.full(words, -(1 << 40), np.int64)  # iteration that used it for scores
        self.out = np.zeros(words, bool)  # holds results of this schedule's RUNs
        self.iterations = 0

    def begin(self) -> None:
        """A new schedule: nothing is in flight."""
        self.last[:] = -(1 << 40)
        self.out[:] = False
        self.iterations = 0

    def run(self, run: Run) -> None:
        """Refuse iterations that use column words too soon after another one; note them."""
        self._results(run)
        ring = run.schedule.score_ring(run.machine)
        if ring:
            # Within a RUN only the first and the last tiles can meet those of another RUN.
            head = range(min(run.tiles, ring + run.reg["s_ring"]))
            tail = range(max(len(head), run.tiles - ring - run.reg["s_ring"]), run.tiles)
            for tile in (*head, *tail):
                self._tile(run, tile, ring)
        self.iterations += run.tiles

    def _tile(self, run: Run, tile: int, ring: int) -> None:
        words, now = run.score_words(tile, 1), self.iterations + tile
        gap = now - int(self.last[words].max())
        if gap < ring:
            raise run.refuse(
                f"tile {tile} uses the scores' words {words.start}.. {gap} iterations after "
                f"another tile; this schedule needs {ring}: raise s_ring or move `s`"
            )
        self.last[words] = now

    def _results(self, run: Run) -> None:
        for use in run.uses(0, run.tiles):
            if use.rows or use.what == "out":
                continue
            if self.out[use.words].any():
                raise run.refuse(
                    f"{use.what} uses column words to which a RUN of the same schedule returns "
                    f"results; move `{use.what}` or `out`, or put KERNEL in between"
                )
        for use in run.uses(run.tiles - 1, 1):
            if use.what == "out":
                self.out[use.words] = True

    def loaded(self, words: slice) -> None:
        """A LOAD, which comes after all uses before it, gives the words another meaning."""
        self.out[words] = False
        self.last[words] = -(1 << 40)


class _Checker:
    """Walks the commands and gives those that are dispatched, each checked by itself."""

    def __init__(self, program: Program, machine: ArrayMachine) -> None:
        self.program, self.machine, self.spec = program, machine, load_spec("array")
        self.names = {value: name for name, value in self.spec.enums["register"].items()}
        self.registers = dict.fromkeys(self.names.values(), 0)
        self.kernel: list[Instruction] = []
        self.schedule: Schedule | None = None
        self.lanes = _Lanes()
        self.scores = _Scores(machine.config.array.column_words)

    def items(self) -> Iterator[Command | Wait]:
        """Commands of the engines, and the waits of the front end."""
        for step in walk(self.program):
            ins = step.instruction
            if ins.name == "SET":
                self.registers[self.names[ins.reg]] = ins.value
            elif ins.name in ("KERNEL", "BLOCK"):
                self._note_kernel(step)
                yield Wait(step.pc, ins.name, False)
            elif ins.name in ("BARRIER", "HALT"):
                self.scores.begin()
                self.lanes.ended = None
                yield Wait(step.pc, ins.name, True)
            elif ins.name == "RUN":
                yield self._run(step)
            else:
                yield self._transfer(step)

    def _note_kernel(self, step: Step) -> None:
        if step.instruction.name == "KERNEL":
            self.kernel = []
        elif not self.kernel:
            raise ProgramError(f"command {step.pc} (BLOCK): no KERNEL before it; add one")
        self.kernel.append(step.instruction)
        self.schedule = None
        self.scores.begin()
        self.lanes.ended = None

    def _tokens(self, step: Step, engine: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        ins, engines = step.instruction, self.spec.engines
        masks = [
            tuple(name for bit, name in enumerate(engines) if mask >> bit & 1)
            for mask in (ins.wait, ins.signal)
        ]
        if engine in masks[0] or engine in masks[1]:
            raise ProgramError(
                f"command {step.pc} ({ins.name}): wait or signal names its own engine {engine}; "
                f"commands of one engine run in order, leave it out"
            )
        return masks[0], masks[1]

    def _run(self, step: Step) -> Run:
        if self.schedule is None:
            where = f"command {step.pc} (RUN)"
            if not self.kernel:
                raise ProgramError(f"{where}: there is no schedule; begin with KERNEL")
            try:
                self.schedule = Schedule.decode(self.kernel)
                check(self.schedule, self.machine)
            except ProgramError as error:
                raise ProgramError(f"{where}: {error}") from None
        tokens = self._tokens(step, "compute")
        run = run_of(self.machine, step, self.schedule, tokens, self.registers)
        run.check()
        self.lanes.run(run)
        self.scores.run(run)
        return run

    def _transfer(self, step: Step) -> Command:
        engine = "load" if step.instruction.name == "LOAD" else "store"
        tokens = self._tokens(step, engine)
        command = transfer_of(self.machine, step, tokens, self.registers)
        command.check(len(self.program.host_in))
        if engine == "load" and not command.row_side:
            for _, words in command.all_banks():
                self.scores.loaded(words)
        return command


def _check_memory(program: Program, machine: ArrayMachine) -> None:
    config, n = machine.config, machine.bus_elements
    words = config.memory.bytes // (2 * n)
    shape = program.host_in.shape
    if len(shape) != 2 or shape[1] != n or shape[0] > words:
        raise ProgramError(
            f"the program's memory has the shape {list(shape)}; {config.name} has up to {words} "
            f"bus words of {n} elements"
        )
    for name, (first, count) in program.outputs.items():
        if first < 0 or count < 1 or first + count > shape[0]:
            raise ProgramError(
                f"output {name!r}: bus words {first}..{first + count - 1}; the program's memory "
                f"has 0..{shape[0] - 1}"
            )


def dispatched(program: Program, machine: ArrayMachine) -> Iterator[Command | Wait]:
    """Commands of the engines in program order, each with its registers and checked by itself.

    Raises ProgramError at the first one that is illegal whatever its order.
    """
    return _Checker(program, machine).items()


def verify(program: Program, machine: ArrayMachine) -> None:
    """Raise ProgramError that names the first illegal command of `program` on `machine`."""
    room = machine.config.array.program_words
    if len(program.words) > room:
        raise ProgramError(
            f"the program has {len(program.words)} words; {machine.config.name} holds {room}; "
            f"split it or raise array.program_words"
        )
    _check_memory(program, machine)
    order = Order(machine, len(program.host_in), load_spec("array").token_max)
    order.run(dispatched(program, machine))
