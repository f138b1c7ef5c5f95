"""Event-driven state of the `pim` engine: jumps from one event to the next, exact to the cycle.

Every cycle in which anything changes is visited once, in the order front end, loads, DRAM commands,
completions: so each part sees the state as it was at the start of the cycle.
Ref: docs/pim.md sections 4, 5, 7.
"""

from __future__ import annotations

from collections import deque

from bankside.errors import ProgramError
from bankside.isa.machine import Machine
from bankside.isa.program import Program
from bankside.isa.spec import Instruction
from bankside.sim.timing.constraints import TAG_BITS, TAG_MASK, compile_table
from bankside.sim.timing.decode import ARRAY, BUFFER, HOST, RANK, Decoder, Op
from bankside.sim.timing.front_end import FULL, HALTED, IDLE, RUNNING, FrontEnd
from bankside.sim.timing.stalls import (
    COMMAND_BUS,
    CONTROL,
    REFRESH,
    WAITS,
    issue_reasons,
    wait_reasons,
)
from bankside.sim.timing.trace import Log

NEVER = 1 << 60
#: Stretches of fewer cycles are not worth looking for a run.
SPAN = 24
_OPENS = ("ACT", "ACT4", "ACTA")


class Core(FrontEnd):
    """One run.

    `observer` (see skip.py) hears of loop heads and refresh decisions, `log` collects a trace,
    `runs` (see runs.py) advances long runs; None: no such thing.
    """

    def __init__(
        self,
        machine: Machine,
        program: Program,
        decoder: Decoder | None = None,
        code: list[Instruction] | None = None,
    ) -> None:
        self.machine = machine
        self.decoder = decoder or Decoder(machine, program)
        self.code = self.decoder.code if code is None else code
        self.table = compile_table(machine.std)
        self.depth = machine.config.pim.queue_depth
        self.loop_depth = program.spec.loop_depth
        self._compile_commands()
        self.interval = machine.refresh_interval if machine.refresh else NEVER
        self.log: Log | None = None
        self.observer = None
        self.runs = None
        self.reset()

    def _compile_commands(self) -> None:
        std = self.machine.std
        self.code_ref = std.code("REF")
        self.code_mac = std.code("MAC")
        self.issue_stall, self.wait_stall = issue_reasons(std), wait_reasons(std)
        self.bank_masks: list[list[int] | None] = [None] * len(std.commands)
        for n in (*_OPENS, "PRE", "PREA"):
            places = range(self.table.instances(n))
            self.bank_masks[std.code(n)] = [sum(1 << b for b in std.touched(n, i)) for i in places]
        self.opening = {std.code(n) for n in _OPENS}

    def reset(self) -> None:
        """Cycle 0 of a machine whose banks are closed and whose constraints have all expired."""
        self.now = -1
        self.front = RUNNING
        self.front_engine = 0
        self.pc, self.stack, self.registers, self.lanes = 0, [], [0, 0, 0, 0], 1
        self.queues: list[deque[Op]] = [deque() for _ in range(4)]
        self.current: list[Op | None] = [None] * 4
        self.done = [0, 0]  # DRAM commands issued of the current array, buffer command
        self.ends = [NEVER] * 4  # last busy cycle of rank, host
        self.tokens = [0] * 16  # [4 * from + to]
        self.loads = 0  # engines that load in the next cycle, as a mask
        self.completions: list[tuple[int, int, Op]] = []
        self.pending = [0] * 4
        self.ready = [0] * self.table.slots
        self.recent = [-NEVER] * self.table.recent
        self.open_banks = 0
        self.key = [NEVER << TAG_BITS] * 2  # candidate's latest constraint, array and buffer
        self.from_cycle = [0, 0]  # first cycle in which the candidate may issue, constraints aside
        self.candidate = (0, 0)  # array: command code, instance
        self.due = self.interval  # cycle from which one more refresh is pending
        self.deciding = False  # the candidate is an OPEN that would give way to a refresh
        self.deciding_since = 0  # first cycle of that decision
        self.deciding_keys = (0, 0)  # constraints of activation and refresh in that cycle
        self.refreshing = False  # the candidate is a refresh before an OPEN
        self.stalls = [0] * 10
        self.counted = 0  # cycles below it belong to a reason
        self.idle_stall = CONTROL
        self.loop_event = False  # LOOP, ENDLOOP or an OPEN inside a loop was executed
        self.executed = 0

    # --- the event loop ---
    def run(self) -> int:
        """Runs to HALT; returns its cycle. Raises ProgramError on a deadlock or illegal program."""
        while True:
            horizon = self._horizon()
            if horizon > self.now + 1:
                self.now = self._issue_before(horizon)
                if self.now < horizon:
                    self._settle()
                    continue
            if horizon >= NEVER:
                self._deadlock()
            self.now = horizon
            self._visit(horizon)
            if self.front == HALTED:
                self.account(horizon)
                return horizon
            while self.loop_event:
                self.loop_event = False
                if self.observer is not None:
                    self.observer.loop_event()

    def _horizon(self) -> int:
        """The next cycle in which something other than a DRAM command happens."""
        after = self.now + 1
        if self.front == RUNNING or self.loads:
            return after
        horizon = min(self.ends[RANK], self.ends[HOST])
        for entry in self.completions:
            if entry[0] < horizon:
                horizon = entry[0]
        if self.deciding and self.due < horizon:
            horizon = max(self.due, after)
        return horizon

    def _visit(self, now: int) -> None:
        loads, self.loads = self.loads, 0
        if self.deciding and now >= self.due:
            self._start_refresh(now)
        if self.current[ARRAY] is None:
            self._count_idle(now)
        if self.front == RUNNING:
            self._front_end()
        if loads:
            for engine in range(4):
                if loads >> engine & 1:
                    self._load(engine, now)
        self._issue_before(now + 1)
        for engine in (RANK, HOST):
            if self.ends[engine] == now:
                self.ends[engine] = NEVER
                self._finish(engine, now)
        if self.completions:
            for entry in [e for e in self.completions if e[0] == now]:
                self.completions.remove(entry)
                self.pending[entry[1]] -= 1
                self._give(entry[1], entry[2].signals)
        self._settle()

    def _settle(self) -> None:
        """After the last change of a cycle: the idle reason from the next cycle on, and whether the
        machine is idle.
        """
        if self.current[ARRAY] is None:
            self._count_idle(self.now)
            self.idle_stall = self._idle_reason()
        if self.front == IDLE and self._is_idle():
            self.front = RUNNING

    def _is_idle(self) -> bool:
        return not (any(self.queues) or any(self.current) or self.completions)

    def _deadlock(self) -> None:
        waiting = [f"{e.name} (engine {e.engine})" for e in (q[0] for q in self.queues if q)]
        raise ProgramError(
            f"deadlock in cycle {self.now}, command {self.pc}: no token ever comes for "
            f"{', '.join(waiting)}; let an earlier command signal it"
        )

    # --- loads, tokens, completions ---
    def _consider(self, engine: int) -> None:
        """Marks `engine` for a load in the next cycle when nothing keeps it from loading."""
        queue = self.queues[engine]
        if queue and self.current[engine] is None:
            for source in queue[0].waits:
                if not self.tokens[4 * source + engine]:
                    return
            self.loads |= 1 << engine

    def _load(self, engine: int, now: int) -> None:
        op = self.queues[engine].popleft()
        for source in op.waits:
            self.tokens[4 * source + engine] -= 1
        self.current[engine] = op
        if self.front == FULL and self.front_engine == engine:
            self.front = RUNNING
        if self.log is not None:
            self.log.load(engine, now)
        if engine >= RANK:
            self.ends[engine] = now + op.busy
            return
        self.done[engine] = 0
        self.from_cycle[engine] = now + 1
        if engine == BUFFER:
            self._find_key(BUFFER, op.code, op.instances[0])
            return
        self._set_candidate(op.code, op.instances[0])
        if op.code in self.opening and not self.open_banks and self.interval < NEVER:
            self._decide_from(now + 1)
            if now + 1 >= self.due:
                self._start_refresh(now + 1)

    def _finish(self, engine: int, now: int) -> None:
        """The last action of the current command happened in cycle `now`."""
        op = self.current[engine]
        self.current[engine] = None
        if self.log is not None:
            self.log.finish(engine, op, now, now + op.after)
        if op.after:
            self.completions.append((now + op.after, engine, op))
            self.pending[engine] += 1
        else:
            self._give(engine, op.signals)
        self._consider(engine)

    def _give(self, engine: int, targets: tuple[int, ...]) -> None:
        for target in targets:
            count = self.tokens[4 * engine + target] + 1
            if count > 15:
                raise ProgramError(
                    f"cycle {self.now}: more than 15 tokens from engine {engine} to engine "
                    f"{target}; expected at most 15; let engine {target} wait for them earlier"
                )
            self.tokens[4 * engine + target] = count
            self._consider(target)

    # --- DRAM commands ---
    def _latest(self, code: int, instance: int) -> int:
        """The constraint that a command waits for the longest: expiry and tag."""
        latest, ready = 0, self.ready
        for slot in self.table.pull[code][instance]:
            if ready[slot] > latest:
                latest = ready[slot]
        return latest

    def _find_key(self, engine: int, code: int, instance: int) -> None:
        self.key[engine] = self._latest(code, instance)

    def _set_candidate(self, code: int, instance: int) -> None:
        self.candidate = (code, instance)
        self._find_key(ARRAY, code, instance)

    def refind_keys(self) -> None:
        """Candidates, their constraints and the idle reason from the rest of the state."""
        array, buffer = self.current[ARRAY], self.current[BUFFER]
        if array is None:
            self.idle_stall = self._idle_reason()
        elif self.refreshing:
            self._set_candidate(self.code_ref, 0)
        else:
            self._set_candidate(array.code, array.instances[self.done[0] % len(array.instances)])
        if self.deciding:
            self._decide_from(self.now + 1)
        if buffer is not None:
            self._find_key(
                BUFFER, buffer.code, buffer.instances[self.done[1] % len(buffer.instances)]
            )

    def _start_refresh(self, cycle: int) -> None:
        """From `cycle` on the array's candidate is a refresh."""
        self._count_waiting(cycle - 1)
        if self.observer is not None:
            if (
                cycle == self.due
                and self.deciding_since < cycle
                and not self._same_as_refresh(cycle)
            ):
                self.observer.not_refreshed(cycle - 1 - self.due)
            self.observer.refreshed(cycle - self.due)
        self.deciding, self.refreshing = False, True
        self._set_candidate(self.code_ref, 0)
        # What held the activation back may have freed the refresh before it was due.
        self.from_cycle[ARRAY] = max(self.from_cycle[ARRAY], cycle)

    def _first(self, engine: int) -> int:
        """First cycle in which the candidate of an engine may issue, as things stand."""
        if self.current[engine] is None:
            return NEVER
        cycle = self.key[engine] >> TAG_BITS
        return cycle if cycle > self.from_cycle[engine] else self.from_cycle[engine]

    def _first_buffer(self) -> int:
        """As `_first`; never from the cycle on in which the array's candidate is a refresh."""
        cycle = self._first(BUFFER)
        held = self.candidate[0] == self.code_ref and self.current[ARRAY] is not None
        return NEVER if held and cycle >= self.from_cycle[ARRAY] else cycle

    def _issue_before(self, horizon: int) -> int:
        """DRAM commands before `horizon`, at most up to a cycle that may bring another event.

        Returns that cycle, or `horizon`.
        """
        long = self.runs is not None and horizon - self.now > SPAN
        while True:
            array, buffer = self._first(ARRAY), self._first_buffer()
            if long and (array - buffer > SPAN or self.candidate[0] == self.code_mac):
                if self.runs.advance(horizon, array, buffer):
                    continue
            if buffer <= array:
                if buffer >= horizon:
                    return horizon
                if self._issue_buffer(buffer, array):
                    return buffer
            else:
                if array >= horizon:
                    return horizon
                if self._issue_array(array):
                    return array

    def _issue_buffer(self, now: int, array: int) -> bool:
        op, done = self.current[BUFFER], self.done[1]
        waiting = self.current[ARRAY] is not None
        if waiting:
            if array > now:
                self._count_waiting(now)
            else:
                self._count_waiting(now - 1)
                self.stalls[COMMAND_BUS] += 1
                self.counted = now + 1
        self._issue(op, op.code, op.instances[done % len(op.instances)], now, done)
        self.done[1] = done = done + 1
        if waiting and self.table.touches[op.code][self.candidate[0]]:
            self._find_key(ARRAY, *self.candidate)
        if done == op.count:
            self._finish(BUFFER, now)
            return True
        self._find_key(BUFFER, op.code, op.instances[done % len(op.instances)])
        return False

    def _issue_array(self, now: int) -> bool:
        op, done = self.current[ARRAY], self.done[0]
        self._count_waiting(now - 1)
        code, instance = self.candidate
        self.stalls[self.issue_stall[code]] += 1
        self.counted = now + 1
        self._issue(op, code, instance, now, done)
        other, index = self.current[BUFFER], self.done[1]
        if other is not None and self.table.touches[code][other.code]:
            self._find_key(BUFFER, other.code, other.instances[index % len(other.instances)])
        if self.refreshing:
            self._refresh_issued(op, now)
            return True  # the next refresh may be due before the horizon
        if self.deciding:
            if self.observer is not None:
                self.observer.not_refreshed(now - self.due)
            self.deciding = False
        self.done[0] = done = done + 1
        if done == op.count:
            self._finish(ARRAY, now)
            return True
        self._set_candidate(op.code, op.instances[done % len(op.instances)])
        return False

    def _decide_from(self, cycle: int) -> None:
        """From `cycle` on the array's candidate, an activation, gives way to a refresh that becomes
        due.
        """
        self.deciding, self.deciding_since = True, cycle
        self.deciding_keys = (self.key[0], self._latest(self.code_ref, 0))

    def _same_as_refresh(self, cycle: int) -> bool:
        """Whether the candidate, had it been a refresh since the decision began, would have changed
        nothing yet.

        So it is in the wait after another refresh: both are blocked, as is the buffer, which a
        refresh would have held back, and both count as `refresh`.
        """
        key, refresh_key = self.deciding_keys
        reason = self.wait_stall[self.candidate[0]][key & TAG_MASK]
        nothing_issued = key == self.key[0] and self.from_cycle[ARRAY] <= self.deciding_since
        return nothing_issued and reason == REFRESH and refresh_key >> TAG_BITS >= cycle

    def _refresh_issued(self, op: Op, now: int) -> None:
        self.due += self.interval
        self.refreshing = False
        self._set_candidate(op.code, op.instances[0])
        self._decide_from(now + 1)
        if now + 1 >= self.due:
            self._start_refresh(now + 1)

    def _issue(self, op: Op, code: int, instance: int, now: int, done: int) -> None:
        base, ready = now << TAG_BITS, self.ready
        for slot, value in self.table.push[code][instance]:
            if base + value > ready[slot]:
                ready[slot] = base + value
        for window in self.table.windows[code]:
            self._slide(window, now)
        masks = self.bank_masks[code]
        if masks is not None:
            mask = masks[instance]
            self.open_banks = (
                self.open_banks | mask if code in self.opening else self.open_banks & ~mask
            )
        # One command per cycle on the bus: no row says it.
        self.from_cycle[0] = self.from_cycle[1] = now + 1
        if self.log is not None:
            self.log.command(op, code, instance, now, done)

    def _slide(self, window, now: int) -> None:
        first, recent = window.first, self.recent
        recent.insert(first + window.depth, now)
        del recent[first]
        oldest = recent[first]
        if oldest >= 0:
            value = (oldest << TAG_BITS) + window.value
            for slot in window.slots:
                self.ready[slot] = max(self.ready[slot], value)

    # --- stall accounting ---
    def _count_waiting(self, last: int) -> None:
        """Cycles up to `last` belong to the constraint for which the array's candidate waits."""
        if last >= self.counted:
            self.stalls[self.wait_stall[self.candidate[0]][self.key[0] & TAG_MASK]] += (
                last + 1 - self.counted
            )
            self.counted = last + 1

    def _count_idle(self, last: int) -> None:
        if last >= self.counted:
            self.stalls[self.idle_stall] += last + 1 - self.counted
            self.counted = last + 1

    def account(self, last: int) -> None:
        """Gives every cycle up to `last` a reason (all events up to `last` have happened)."""
        if self.current[ARRAY] is None:
            self._count_idle(last)
        else:
            self._count_waiting(last)

    def _idle_reason(self) -> int:
        queue = self.queues[ARRAY]
        if queue:
            for source, reason in WAITS:
                if source in queue[0].waits and not self.tokens[4 * source]:
                    return reason
            return CONTROL
        for source, reason in WAITS:
            if self.queues[source] or self.current[source] is not None or self.pending[source]:
                return reason
        return CONTROL
