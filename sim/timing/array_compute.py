"""The sequencer of the `array` engine: decisions, passes, waiting times.

Ref: docs/array.md sections 3 to 5.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from bankside.isa.array_machine import ArrayMachine
from bankside.sim.timing.array_agenda import ACT, COMPUTE, LOAD, NEVER, SHOW, STORE, Agenda, Tokens
from bankside.sim.timing.array_schedule import (
    ABSENT,
    CONTROL,
    FINAL,
    PRESENT,
    STALLS,
    WAIT_LOAD,
    WAIT_STORE,
    Schedule,
)

#: Fewer passes at once are not worth the test.
_LEAST_SKIP = 4


@dataclass(eq=False)
class Run:
    """A dispatched RUN; `where` names it in messages.

    needs, more: tokens of its first tile, of every other one. started: tiles so far.
    """

    where: str
    opcode: int
    tiles: int
    each: bool
    free: bool
    last: bool
    needs: tuple[int, ...]
    more: tuple[int, ...]
    signals: tuple[int, ...]
    started: int = 0
    decided: int = 0


#: An iteration: its RUN and tile.
Iteration = tuple[Run, int]


class Compute:
    """Decides at every boundary and counts what the slots of the passes are.

    left: as in `Dma`. stopped(cycle): called when no pass follows the one that ends in `cycle`.
    """

    def __init__(
        self, machine: ArrayMachine, agenda: Agenda, tokens: Tokens,
        left: Callable[[int, int], None], stopped: Callable[[int], None],
    ) -> None:  # fmt: skip
        self.schedule = Schedule()
        self.counts = [0] * len(STALLS)
        self.gaps: list[tuple[int, int, int]] = []  # [from, to) without a RUN, last pass before it
        self.macros: list[tuple[int, int, int, int, int]] = []
        self.passes: list[tuple[int, int, int]] | None = None
        self.skipping = True
        self.pass_end = NEVER
        self._settle, self._free = machine.settle, machine.free_latency
        self._agenda, self._tokens, self._left = agenda, tokens, left
        self._stopped = stopped
        self._queue: deque[Run] = deque()
        self._run: Run | None = None
        self._pipe: list[Iteration | None] = []
        self._running = False
        self._since = 0  # first cycle without a pass that is not counted yet
        self._reason = CONTROL
        self._candidate = False

    # --- what the others see ---

    def dispatch(self, run: Run, cycle: int) -> None:
        """`run` is dispatched in `cycle`."""
        self._agenda.at(cycle + 1, SHOW, self._enter, run)

    def _enter(self, cycle: int, run: Run) -> None:
        self._queue.append(run)
        if not self._running and not self._candidate:
            self._agenda.at(cycle, ACT, self._idle)

    def wake(self, cycle: int) -> None:
        """A token has come."""
        if self._candidate:
            self._agenda.at(cycle, ACT, self._idle)

    def idle_from(self) -> int | None:
        """First cycle in which the engine is idle, None while a RUN or a pass is there."""
        if self._running or self._run or self._queue:
            return None
        return self.pass_end + self._settle + 1

    def waits_for(self) -> tuple[str, int] | None:
        """RUN that waits for a token, and the engine that lacks to give it."""
        if not self._candidate:
            return None
        run = self._next()
        return run.where, self._tokens.lacks(COMPUTE, self._needs(run))

    def finish(self, cycle: int) -> None:
        """HALT in `cycle`."""
        self.gaps.append((self._since, cycle + 1, self.pass_end))

    # --- decisions ---

    def _next(self) -> Run | None:
        """The RUN of which the next iteration would be."""
        return self._run or (self._queue[0] if self._queue else None)

    def _needs(self, run: Run) -> tuple[int, ...]:
        return run.more if run.started else run.needs

    def _decide(self, cycle: int) -> Iteration | None:
        """The iteration that starts after `cycle`, if any; takes its tokens."""
        run = self._next()
        if run is None:
            return None
        needs = run.more if run.started else run.needs
        if self._tokens.lacks(COMPUTE, needs) >= 0:
            return None
        self._tokens.take(COMPUTE, needs)
        if self._run is None:
            self._queue.popleft()
            run.decided = cycle
            self._agenda.at(cycle + 1, SHOW, self._gone)
        tile = run.started
        run.started += 1
        self._run = run if run.started < run.tiles else None
        return run, tile

    def _gone(self, cycle: int, _: None) -> None:
        self._left(COMPUTE, cycle)

    def _boundary(self, cycle: int, _: None) -> None:
        """The last slot of a pass."""
        moved = self._pipe[:-1]
        new = self._decide(cycle)
        if new or any(moved):
            self._pass(cycle + 1, [new, *moved])
        else:
            self._stop(cycle)

    def _stop(self, end: int) -> None:
        """No pass after the one that ends in cycle `end`."""
        self._running, self._pipe = False, []
        self.pass_end, self._since = end, end + 1
        self._stopped(end)
        if self._next():
            self._agenda.at(end + 1, ACT, self._idle)

    def _idle(self, cycle: int, _: None) -> None:
        """A cycle without a pass in which something has changed."""
        if self._running:
            return
        self._count_waiting(cycle)
        self._candidate = True
        new = self._decide(cycle)
        if new:
            self.counts[CONTROL] += 1
            self._candidate, self._running = False, True
            self._pass(cycle + 1, [new] + [None] * (self.schedule.stages - 1))
        else:
            lacks = self._tokens.lacks(COMPUTE, self._needs(self._next()))
            self._reason = {LOAD: WAIT_LOAD, STORE: WAIT_STORE}.get(lacks, CONTROL)

    def _count_waiting(self, cycle: int) -> None:
        """Cycles from the last change up to, not including, `cycle`."""
        if self._candidate:
            self.counts[self._reason] += cycle - self._since
        elif cycle > self._since:
            self.gaps.append((self._since, cycle, self.pass_end))
        self._since = cycle

    # --- passes ---

    def _pass(self, cycle: int, pipe: list[Iteration | None]) -> None:
        """The pass whose slot 0 is in `cycle`, and those that are like it."""
        self._pipe = pipe
        pattern = tuple(self._state(i) for i in pipe)
        one = self.schedule.of(pattern)
        if self.passes is not None:
            self.passes.append((cycle, int(pipe[0] is not None), pipe[0][1] if pipe[0] else 0))
        times = self._alike(pattern)
        period = one.slots + one.cut
        for i, n in one.counted:
            self.counts[i] += n * times
        self.counts[CONTROL] += one.cut * (times - 1)
        self._give_free(one.frees, cycle, period, times)
        if times > 1:
            self._pipe = [(run, tile + times - 1) for run, tile in pipe]
            pipe[0][0].started += times - 1
            cycle += (times - 1) * period
        else:
            self._complete(cycle)
        if one.cut:
            self._agenda.at(cycle + one.slots - 1, ACT, self._cut)
        else:
            self._agenda.at(cycle + one.slots - 1, ACT, self._boundary)

    def _state(self, iteration: Iteration | None) -> int:
        if iteration is None:
            return ABSENT
        run, tile = iteration
        return FINAL if run.last and tile == run.tiles - 1 else PRESENT

    def _alike(self, pattern: tuple[int, ...]) -> int:
        """Passes like this one that follow whatever the other engines do, itself included.

        Each starts a tile of a RUN without tokens, and ends no RUN.
        """
        run = self._run
        if not self.skipping or run is None or run.each or set(pattern) != {PRESENT}:
            return 1
        if any(iteration[0] is not run for iteration in self._pipe):
            return 1
        times = run.tiles - run.started
        return times if times >= _LEAST_SKIP else 1

    def _give_free(self, frees, cycle: int, period: int, times: int) -> None:
        for slot, stage in frees:
            if self._pipe[stage][0].free:
                for i in range(times):
                    given = cycle + i * period + slot + self._free
                    self._tokens.give(COMPUTE, (LOAD,), given)

    def _complete(self, cycle: int) -> None:
        """A RUN whose last tile is done in the pass from `cycle` on."""
        done = self.schedule.done()
        iteration = self._pipe[done.stage]
        if iteration and iteration[1] == iteration[0].tiles - 1:
            run, slot = iteration[0], cycle + done.last_slot
            self.macros.append((COMPUTE, run.opcode, run.decided, slot, slot + self._settle))
            self._tokens.give(COMPUTE, run.signals, slot + self._settle)

    def _cut(self, cycle: int, _: None) -> None:
        self._stop(cycle)
