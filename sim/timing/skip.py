"""Steady state: iterations of a loop that have been simulated once are looked up afterwards.

At every loop head (LOOP, ENDLOOP) the machine's state relative to the current cycle is interned.
One iteration is a transition from state to state; it holds for an interval of the distance to the
next due refresh, because refreshes act on the machine only through their decisions, and each
decision says for which distances it would come out the same. Segments divide an iteration at its
OPEN commands in the same way: iterations that differ in one refresh share all other segments.
"""

from __future__ import annotations

from dataclasses import dataclass

from bankside.isa.spec import Instruction
from bankside.sim.timing.constraints import TAG_BITS
from bankside.sim.timing.core import NEVER, Core
from bankside.sim.timing.decode import ARRAY, BUFFER, HOST, RANK, Decoder
from bankside.sim.timing.front_end import RUNNING

#: Loops whose states do not repeat would otherwise fill the memory.
MAX_STATES = 20_000
_TIMED_FIELDS = ("mode", "bank", "count", "groups", "lanes", "wait", "signal")


def timing_key(code: list[Instruction]) -> tuple:
    """What the transitions of a program depend on: operands that time depends on, counts of
    outermost loops left out.
    """
    key, depth = [], 0
    for ins in code:
        depth -= ins.name == "ENDLOOP"
        fields = tuple(v for k, v in ins.fields.items() if k in _TIMED_FIELDS)
        key.append((ins.name, () if ins.name == "LOOP" and depth == 0 else fields))
        depth += ins.name == "LOOP"
    return tuple(key)


@dataclass(frozen=True, slots=True, eq=False)
class Transition:
    """For low < distance to the next due refresh <= high, `cycles` later the state is `target`.

    `ends_at`: the LOOP or ENDLOOP that a segment ends with (what it does to the loop stack is not
    part of the state), else None.
    """

    low: int
    high: int
    cycles: int
    refreshes: int
    target: int
    stalls: tuple[int, ...]
    ends_at: int | None = None

    def holds(self, distance: int) -> bool:
        return self.low < distance <= self.high


class Memo:
    """States and transitions of one program (see `timing_key`), and its decoder.

    iterations, segments: by number of the state in which they start.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.numbers: dict[tuple, int] = {}
        self.states: list[tuple] = []
        self.iterations: list[list[Transition]] = []
        self.segments: list[list[Transition]] = []

    @property
    def size(self) -> int:
        """Iterations that were simulated."""
        return sum(map(len, self.iterations))

    def intern(self, state: tuple) -> int:
        number = self.numbers.setdefault(state, len(self.states))
        if number == len(self.states):
            self.states.append(state)
            self.iterations.append([])
            self.segments.append([])
        return number


class _Record:
    """An iteration or segment in progress.

    low, high: shifts of all due refreshes that leave its decisions as they are.
    """

    __slots__ = ("state", "cycle", "due", "stalls", "low", "high")

    def __init__(self, state: int, core: Core) -> None:
        self.state, self.cycle, self.due = state, core.now, core.due
        self.stalls = tuple(core.stalls)
        self.low, self.high = -NEVER, NEVER

    def narrow(self, low: int, high: int) -> None:
        self.low, self.high = max(self.low, low), min(self.high, high)

    def ended(self, core: Core, target: int, ends_at: int | None = None) -> Transition:
        """What was recorded, now that the state is `target`."""
        distance = self.due - self.cycle
        refreshes = (core.due - self.due) // core.interval
        stalls = tuple(a - b for a, b in zip(core.stalls, self.stalls, strict=True))
        low, high, cycles = distance + self.low, distance + self.high, core.now - self.cycle
        return Transition(low, high, cycles, refreshes, target, stalls, ends_at)


class Skipper:
    """Observer of a Core: records iterations and jumps over known ones."""

    def __init__(self, core: Core, memo: Memo) -> None:
        self.core, self.memo = core, memo
        self.records: list[_Record] = []  # one per loop
        self.segment: _Record | None = None
        self.ends = _loop_ends(core.code)
        self.skipped = 0

    # --- refresh decisions ---
    def refreshed(self, late: int) -> None:
        """A refresh became the candidate `late` cycles after it was due."""
        self._narrow(-NEVER, late)

    def not_refreshed(self, late: int) -> None:
        """No refresh although the next is due in -`late` cycles."""
        self._narrow(late, NEVER)

    def _narrow(self, low: int, high: int) -> None:
        if self.segment is not None:
            self.segment.narrow(low, high)
        elif self.records:
            self.records[-1].narrow(low, high)

    # --- loop heads ---
    def loop_event(self) -> None:
        """LOOP, ENDLOOP or an OPEN of a loop was executed in the current cycle, which is over."""
        core = self.core
        core.account(core.now)
        if core.deciding and core.deciding_since <= core.now:
            self.not_refreshed(core.now - core.due)
            core.deciding_since = core.now + 1
        if core.code[core.executed].name == "OPEN":
            state = self.memo.intern(snapshot(core, core.pc))
            self._close_segment(state, None)
            self._follow_segments(state)
        else:
            self._loop_head(core.executed)

    def _loop_head(self, command: int) -> None:
        core, stack = self.core, self.core.stack
        state = self.memo.intern(snapshot(core, stack[-1][0]))
        self._close_segment(state, command)
        if len(self.records) == len(stack):
            record = self.records.pop()
            self.memo.iterations[record.state].append(record.ended(core, state))
            self._narrow(record.low, record.high)
        if stack[-1][1]:
            state = self._follow(state)
        if not stack[-1][1]:
            stack.pop()
        elif len(self.memo.states) > MAX_STATES:
            self._give_up()
        else:
            self.records.append(_Record(state, core))
            self._follow_segments(state)

    def _close_segment(self, state: int, ends_at: int | None) -> None:
        record, self.segment = self.segment, None
        if record is not None:
            self.memo.segments[record.state].append(record.ended(self.core, state, ends_at))
            self._narrow(record.low, record.high)

    def _follow_segments(self, state: int) -> None:
        """Jumps over known segments; executes the LOOP or ENDLOOP that one ends with."""
        core, memo = self.core, self.memo
        moved = False
        while True:
            distance = core.due - core.now
            step = next((s for s in memo.segments[state] if s.holds(distance)), None)
            if step is None:
                break
            self._narrow(step.low - distance, step.high - distance)
            self._advance(step, 1)
            state, moved = step.target, True
            if step.ends_at is not None:
                self._restore(state)
                core.pc = step.ends_at
                core.execute_control()
                return
        if moved:
            self._restore(state)
            core.pc = memo.states[state][0]
        self.segment = _Record(state, core)

    def _advance(self, step: Transition, times: int) -> None:
        core = self.core
        core.now += times * step.cycles
        core.due += times * step.refreshes * core.interval
        core.stalls = [a + times * b for a, b in zip(core.stalls, step.stalls, strict=True)]

    def _restore(self, state: int) -> None:
        restore(self.core, self.memo, self.memo.states[state])

    def _follow(self, state: int) -> int:
        """Jumps over as many iterations as are known; returns the state before the next one."""
        core, iterations = self.core, self.memo.iterations
        left = core.stack[-1][1]
        distance = core.due - core.now
        start, used = left, {}
        while left:
            for step in iterations[state]:
                if step.low < distance <= step.high:
                    break
            else:
                break
            times = 1
            if step.target == state and not step.refreshes and step.high > NEVER // 2:
                times = min(left, (distance - step.low - 1) // step.cycles + 1)
            left -= times
            if self.records:
                last = distance - (times - 1) * step.cycles
                self.records[-1].narrow(step.low - last, step.high - distance)
            distance += times * (step.refreshes * core.interval - step.cycles)
            used[step] = used.get(step, 0) + times
            state = step.target
        if left < start:
            self._jump(state, left, used)
        return state

    def _jump(self, state: int, left: int, used: dict[Transition, int]) -> None:
        core = self.core
        for step, times in used.items():
            self._advance(step, times)
            self.skipped += times
        head = core.stack[-1][0]
        core.stack[-1][1] = left
        core.pc = head if left else self.ends[head] + 1
        self._restore(state)

    def _give_up(self) -> None:
        self.core.observer = None
        self.memo.__init__(self.memo.decoder)


def _loop_ends(code: list[Instruction]) -> dict[int, int]:
    """First command of each loop body -> its ENDLOOP."""
    ends, stack = {}, []
    for pc, ins in enumerate(code):
        if ins.name == "LOOP":
            stack.append(pc + 1)
        elif ins.name == "ENDLOOP" and stack:
            ends[stack.pop()] = pc
    return ends


def snapshot(core: Core, head: int) -> tuple:
    """All that decides the future at the end of cycle `core.now`, with times relative to it; the
    refresh apart.
    """
    now = core.now
    base, limit = now << TAG_BITS, (now + 2) << TAG_BITS
    current = tuple([-1 if op is None else op.index for op in core.current])
    array = (
        (core.done[0], core.deciding, core.refreshing) if core.current[ARRAY] is not None else ()
    )
    recent = zip(core.recent, core.table.recent_latency, strict=True)
    return (
        head, core.lanes, current, array,
        core.done[1] if core.current[BUFFER] is not None else 0,
        tuple([e - now if e < NEVER else NEVER for e in core.ends]),
        tuple([tuple([op.index for op in q]) for q in core.queues]),
        tuple(core.tokens), core.loads,
        tuple(sorted([(t - now, e, op.index) for t, e, op in core.completions])),
        tuple([k - base if k >= limit else 0 for k in core.ready]),
        tuple([t - now if t + n > now + 1 else -NEVER for t, n in recent]),
        core.open_banks,
    )  # fmt: skip


def restore(core: Core, memo: Memo, state: tuple) -> None:
    """Puts a snapshot into `core` at the end of cycle `core.now`; `due`, loop stack and program
    counter are the caller's.
    """
    now, ops = core.now, memo.decoder.ops
    base = now << TAG_BITS
    (_, core.lanes, current, array, done, ends, queues, tokens, core.loads, completions, ready,
     recent, core.open_banks) = state  # fmt: skip
    core.current[:] = [None if i < 0 else ops[i] for i in current]
    core.ends[:] = [e + now if e < NEVER else NEVER for e in ends]
    for queue, indices in zip(core.queues, queues, strict=True):
        queue.clear()
        queue.extend([ops[i] for i in indices])
    core.tokens[:] = tokens
    core.completions[:] = [(t + now, e, ops[i]) for t, e, i in completions]
    core.pending[:] = [sum(c[1] == e for c in completions) for e in (ARRAY, BUFFER, RANK, HOST)]
    core.ready[:] = [k + base if k else 0 for k in ready]
    core.recent[:] = [t + now if t > -NEVER else -NEVER for t in recent]
    core.front, core.loop_event = RUNNING, False
    core.counted = now + 1
    core.from_cycle[:] = [now + 1] * 2
    core.done[1] = done
    core.done[0], core.deciding, core.refreshing = array or (0, False, False)
    core.refind_keys()
