"""Order between the engines of an `array` program: tokens, dead ends, hazards.

The commands are executed step by step in one order that tokens and queues allow. Every engine knows
up to which step each other one is surely finished; a token carries the giver's knowledge. An access
to words that another engine has used, and of which this one does not know that it is over, is a
hazard in every order. The compute engine counts twice: a `free` token vouches only for reads that
are over by then, the completion of a RUN for everything. Ref: docs/array.md sections 3 and 4.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError
from bankside.isa.array_commands import Command, Run, Transfer
from bankside.isa.array_machine import ArrayMachine

LOAD, EARLY, COMPUTE, STORE = range(4)
_CLOCK = {"load": LOAD, "compute": COMPUTE, "store": STORE}
_ENGINES = ("load", "compute", "store")
Vector = NDArray[np.int64]
Region = tuple


@dataclass(frozen=True)
class Wait:
    """KERNEL waits for the compute engine, BARRIER and HALT for all."""

    pc: int
    name: str
    everything: bool


@dataclass
class _Job:
    command: Command
    base: Vector  # what the front end knew when it dispatched the command
    done: int = 0

    @property
    def steps(self) -> int:
        command = self.command
        if isinstance(command, Transfer):
            return command.reg["outer"] if command.each else 1
        assert isinstance(command, Run)
        return command.tiles if command.each or command.free else 1

    def needs(self) -> dict[str, int]:
        """Tokens that the next step takes."""
        command = self.command
        each = isinstance(command, Transfer) and command.each
        needs = dict.fromkeys(command.wait, 1) if each or self.done == 0 else {}
        if isinstance(command, Run) and command.each:
            needs["load"] = needs.get("load", 0) + 1
        return needs


@dataclass
class _Space:
    """Words that engines share: who read and wrote each last (step number + 1), what is defined."""

    name: str
    reads: NDArray[np.int32]
    writes: NDArray[np.int32]
    defined: NDArray[np.bool_]

    @classmethod
    def of(cls, name: str, *shape: int) -> _Space:
        last = (4, *shape)
        return cls(name, np.zeros(last, np.int32), np.zeros(last, np.int32), np.zeros(shape, bool))


@dataclass
class _Channel:
    """Tokens of an ordered pair of engines: knowledge that they carry, how many were given, and how
    many the taker's steps had taken."""

    tokens: deque[Vector] = field(default_factory=deque)
    given: int = 0
    taken: int = 0
    taken_by: list[int] = field(default_factory=lambda: [0])


class Order:
    """Checks the order of a program's dispatched commands. `run` raises ProgramError."""

    def __init__(self, machine: ArrayMachine, memory_words: int, token_max: int) -> None:
        array = machine.config.array
        self.machine, self.depth, self.token_max = machine, array.queue_depth, token_max
        self.rows = _Space.of("row bank", array.rows, array.row_words)
        self.columns = _Space.of("column bank", array.columns, array.column_words)
        self.memory = _Space.of("main memory", memory_words)
        self.queues: dict[str, deque[_Job]] = {engine: deque() for engine in _ENGINES}
        self.running: _Job | None = None  # the RUN under way, which has left its queue
        self.known = {engine: np.zeros(4, np.int64) for engine in _ENGINES}
        self.front = np.zeros(4, np.int64)
        self.places: dict[str, list[int]] = {engine: [] for engine in _ENGINES}
        self.channels = {(a, b): _Channel() for a in _ENGINES for b in _ENGINES if a != b}
        self.completion: Command | None = None

    # --- front end --------------------------------------------------------------------------------
    def run(self, items: Iterable[Command | Wait]) -> None:
        """Execute everything; ProgramError at the first thing that is wrong."""
        for item in items:
            while not self._dispatch(item):
                if not any([self._advance(engine) for engine in _ENGINES]):
                    raise self._stuck(item)
        while any([self._advance(engine) for engine in _ENGINES]):
            pass
        if any(self.queues.values()) or self.running:
            raise self._stuck(None)

    def _dispatch(self, item: Command | Wait) -> bool:
        if isinstance(item, Wait):
            return self._synchronise(item)
        queue = self.queues[item.engine]
        if len(queue) >= self.depth:
            return False
        queue.append(_Job(item, self.front.copy()))
        return True

    def _synchronise(self, item: Wait) -> bool:
        engines = _ENGINES if item.everything else ("compute",)
        if any(self.queues[engine] for engine in engines) or self.running:
            return False
        for engine in engines:
            self.front = np.maximum(self.front, self.known[engine])
            clock = _CLOCK[engine]
            self.front[clock] = len(self.places[engine])
        self.front[EARLY] = self.front[COMPUTE]
        self.completion = None
        return True

    # --- steps ------------------------------------------------------------------------------------
    def _advance(self, engine: str) -> bool:
        """Execute the steps of an engine as far as tokens allow; True when there were any."""
        progress = False
        while job := self._head(engine):
            needs = job.needs()
            if any(len(self.channels[a, engine].tokens) < n for a, n in needs.items()):
                break
            self._step(engine, job, needs)
            progress = True
        return progress

    def _head(self, engine: str) -> _Job | None:
        if engine == "compute" and self.running:
            return self.running
        queue = self.queues[engine]
        return queue[0] if queue else None

    def _step(self, engine: str, job: _Job, needs: dict[str, int]) -> None:
        known = np.maximum(self.known[engine], job.base)
        for giver, count in needs.items():
            channel = self.channels[giver, engine]
            for _ in range(count):
                known = np.maximum(known, channel.tokens.popleft())
            channel.taken += count
        self.known[engine] = known
        self.places[engine].append(job.command.pc)
        for giver in _ENGINES:
            if giver != engine:
                channel = self.channels[giver, engine]
                channel.taken_by.append(channel.taken)
        if isinstance(job.command, Run):
            self._run_step(job, job.command)
        else:
            self._transfer_step(job)
        self._retire(engine, job)

    def _retire(self, engine: str, job: _Job) -> None:
        if job.done == 0 and engine == "compute":
            self.running = self.queues[engine].popleft()
        job.done += 1
        last = job.done == job.steps
        if last and engine == "compute":
            self.running = None
        elif last:
            self.queues[engine].popleft()
        self._give(engine, job.command, last)

    # --- tokens -----------------------------------------------------------------------------------
    def _give(self, engine: str, command: Command, last: bool) -> None:
        if isinstance(command, Run) and command.free:
            if self.completion is not None:
                raise command.refuse(
                    f"gives `free` tokens while the token of {self.completion.where} to the load "
                    f"engine may still come; put a BARRIER in between, or use one kind"
                )
            self._token(engine, "load", command, EARLY)
        each = isinstance(command, Transfer) and command.each
        if last or each:
            for taker in command.signal:
                self._token(engine, taker, command, COMPUTE)
            if isinstance(command, Run) and "load" in command.signal:
                self.completion = command

    def _token(self, engine: str, taker: str, command: Command, level: int) -> None:
        carried = self.known[engine].copy()
        steps = len(self.places[engine])
        if engine == "compute":
            carried[EARLY] = steps
            if level == COMPUTE:
                carried[COMPUTE] = steps
        else:
            carried[_CLOCK[engine]] = steps
        channel = self.channels[engine, taker]
        channel.tokens.append(carried)
        channel.given += 1
        clock = EARLY if taker == "compute" else _CLOCK[taker]
        surely = channel.taken_by[int(self.known[engine][clock])]
        if channel.given - surely > self.token_max:
            raise command.refuse(
                f"more than {self.token_max} tokens from {engine} to {taker} may be outstanding; "
                f"let {engine} wait for {taker} in between"
            )

    # --- accesses ---------------------------------------------------------------------------------
    def _transfer_step(self, job: _Job) -> None:
        command = job.command
        assert isinstance(command, Transfer)
        if command.each:
            words, regions = command.memory(job.done, 1), command.banks(job.done)
        else:
            words, regions = command.memory(0, command.reg["outer"]), command.all_banks()
        load = command.name == "LOAD"
        clock = LOAD if load else STORE
        self._touch(command, self.memory, (words,), clock, write=not load)
        space = self.rows if command.row_side else self.columns
        for region in regions:
            if not load:
                self._require_defined(command, space, region, "buf, bank or inner")
            self._touch(command, space, region, clock, write=load)

    def _run_step(self, job: _Job, command: Run) -> None:
        first, count = (job.done, 1) if job.steps > 1 else (0, command.tiles)
        for use in command.uses(first, count):
            space = self.rows if use.rows else self.columns
            region = (slice(None), use.words)
            if not use.write:
                self._require_defined(command, space, region, use.what)
            clock = EARLY if use.early else COMPUTE
            self._touch(command, space, region, clock, write=use.write)

    def _touch(
        self, command: Command, space: _Space, region: Region, clock: int, write: bool
    ) -> None:
        """Refuse a hazard; note the access."""
        where = (slice(None), *region)
        known = self.known[command.engine]
        self._compare(command, space, region, space.writes[where], known)
        if write:
            self._compare(command, space, region, space.reads[where], known)
            space.defined[region] = True
        target = space.writes if write else space.reads
        target[(clock, *region)] = len(self.places[command.engine])

    def _compare(
        self, command: Command, space: _Space, region: Region, last: NDArray, known: Vector
    ) -> None:
        latest = last.reshape(4, -1).max(axis=1)
        for clock in (LOAD, EARLY, COMPUTE, STORE):
            engine = "compute" if clock == EARLY else _ENGINES[clock - (clock > 0)]
            if engine != command.engine and latest[clock] > known[clock]:
                raise self._hazard(command, engine, space, region, int(latest[clock]))

    def _hazard(
        self, command: Command, engine: str, space: _Space, region: Region, step: int
    ) -> ProgramError:
        other = self.places[engine][step - 1]
        return command.refuse(
            f"uses {space.name} words {_first(region[-1])}.. without an order to command {other} "
            f"of the {engine} engine, which uses them, too; let {engine} signal {command.engine} "
            f"after command {other} and this one wait for it, or the other way round"
        )

    def _require_defined(
        self, command: Command, space: _Space, region: Region, register: str
    ) -> None:
        if space.defined[region].all():
            return
        missing = np.argwhere(~space.defined[region])[0]
        words = np.arange(space.defined.shape[-1])[region[-1]]
        banks = np.arange(space.defined.shape[0])[region[0]]
        raise command.refuse(
            f"reads {space.name} {banks[missing[0]]} word {words[missing[-1]]}, which nothing has "
            f"written before; LOAD it first or correct {register}"
        )

    # --- dead ends --------------------------------------------------------------------------------
    def _stuck(self, item: Command | Wait | None) -> ProgramError:
        heads = [job for engine in _ENGINES if (job := self._head(engine))]
        job = min(heads, key=lambda job: job.command.pc)
        engine = job.command.engine
        missing = [
            giver
            for giver, count in job.needs().items()
            if len(self.channels[giver, engine].tokens) < count
        ]
        blocked = ""
        if isinstance(item, Wait):
            blocked = f" while command {item.pc} ({item.name}) waits for it"
        elif item is not None:
            blocked = f" while {item.where} waits for a place in the queue of {self.depth}"
        step = f" of step {job.done}" if job.steps > 1 else ""
        return job.command.refuse(
            f"waits for a token{step} from {' and '.join(missing)} that never comes{blocked}; add "
            f"the missing signal, or move it before the command that waits"
        )


def _first(words: slice | Vector) -> int:
    return words.start if isinstance(words, slice) else int(words.min())
