"""Steady state: iterations of a loop that have been simulated once are looked up afterwards.

At every loop head (LOOP, ENDLOOP) the machine's state relative to the current cycle is interned.
One iteration is a transition from state to state; it holds for an interval of the distance to the
next due refresh, because refreshes act on the machine only through their decisions, and each
decision says for which distances it would come out the same.
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


@dataclass(frozen=True, slots=True)
class Transition:
    """One iteration: for low < distance to the next due refresh <= high, `cycles` later the state
    is `target`.
    """

    low: int
    high: int
    cycles: int
    refreshes: int
    target: int
    stalls: tuple[int, ...]


class Memo:
    """States and transitions of one program (see `timing_key`), and the decoder that numbers its
    commands.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.numbers: dict[tuple, int] = {}
        self.states: list[tuple] = []
        self.transitions: list[list[Transition]] = []

    @property
    def size(self) -> int:
        """Iterations that were simulated."""
        return sum(map(len, self.transitions))

    def intern(self, state: tuple) -> int:
        number = self.numbers.setdefault(state, len(self.states))
        if number == len(self.states):
            self.states.append(state)
            self.transitions.append([])
        return number


class _Record:
    """An iteration in progress. low, high: shifts of all due refreshes that leave its decisions as
    they are.
    """

    __slots__ = ("state", "cycle", "due", "stalls", "low", "high")

    def __init__(self, state: int, core: Core) -> None:
        self.state, self.cycle, self.due, self.stalls = (
            state,
            core.now,
            core.due,
            tuple(core.stalls),
        )
        self.low, self.high = -NEVER, NEVER

    def narrow(self, low: int, high: int) -> None:
        self.low, self.high = max(self.low, low), min(self.high, high)


class Skipper:
    """Observer of a Core: records iterations and jumps over known ones."""

    def __init__(self, core: Core, memo: Memo) -> None:
        self.core, self.memo = core, memo
        self.records: list[_Record] = []
        self.ends = _loop_ends(core.code)
        self.skipped = 0

    # --- refresh decisions ---
    def refreshed(self, late: int) -> None:
        """A refresh became the candidate `late` cycles after it was due."""
        if self.records:
            self.records[-1].narrow(-NEVER, late)

    def not_refreshed(self, late: int) -> None:
        """No refresh although the next is due in -`late` cycles."""
        if self.records:
            self.records[-1].narrow(late, NEVER)

    # --- loop heads ---
    def loop_head(self) -> None:
        """LOOP or ENDLOOP was executed in the current cycle, all of whose events have happened."""
        core, stack = self.core, self.core.stack
        core.account(core.now)
        if core.deciding and core.deciding_since <= core.now:
            self.not_refreshed(core.now - core.due)
            core.deciding_since = core.now + 1
        state = self.memo.intern(snapshot(core, stack[-1][0]))
        if len(self.records) == len(stack):
            self._close(state)
        if stack[-1][1]:
            state = self._follow(state)
        if not stack[-1][1]:
            stack.pop()
        elif len(self.memo.states) > MAX_STATES:
            self._give_up()
        else:
            self.records.append(_Record(state, core))

    def _close(self, state: int) -> None:
        """The innermost iteration has ended in `state`."""
        record, core = self.records.pop(), self.core
        distance = record.due - record.cycle
        refreshes = (core.due - record.due) // core.interval
        stalls = tuple(a - b for a, b in zip(core.stalls, record.stalls, strict=True))
        self.memo.transitions[record.state].append(
            Transition(
                distance + record.low,
                distance + record.high,
                core.now - record.cycle,
                refreshes,
                state,
                stalls,
            )
        )
        if self.records:
            self.records[-1].narrow(record.low, record.high)

    def _follow(self, state: int) -> int:
        """Jumps over as many iterations as are known; returns the state before the next one."""
        core, memo = self.core, self.memo
        left = core.stack[-1][1]
        distance = core.due - core.now
        start, used = left, {}
        while left:
            for step in memo.transitions[state]:
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
            core.now += times * step.cycles
            core.due += times * step.refreshes * core.interval
            core.stalls = [a + times * b for a, b in zip(core.stalls, step.stalls, strict=True)]
            self.skipped += times
        head = core.stack[-1][0]
        core.stack[-1][1] = left
        core.pc = head if left else self.ends[head] + 1
        restore(core, self.memo, self.memo.states[state])

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
