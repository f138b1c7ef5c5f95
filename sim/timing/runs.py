"""Long runs of MAC, RDRB and WRSB: only the constraints among these commands are followed, and
periods are jumped over.

Within a run the two engines meet only on the command bus and in a few rank-wide rows, so their
joint behaviour becomes periodic after some commands; a repeated state of the candidates'
constraints proves the period, and the run jumps.
"""

from __future__ import annotations

import functools

from bankside.isa.dram.table import DramStandard
from bankside.sim.timing.constraints import TAG_BITS, TAG_MASK, Table, compile_table
from bankside.sim.timing.core import NEVER, SPAN, Core
from bankside.sim.timing.decode import ARRAY, BUFFER
from bankside.sim.timing.stalls import COMMAND_BUS

#: Runs of fewer commands are not worth the set-up.
SHORTEST = 6


class Pairs:
    """What the table says of the three commands among each other. `usable` is False for a table
    that says more.
    """

    def __init__(self, table: Table) -> None:
        std = table.std
        self.table, self.std = table, std
        self.rdrb, self.wrsb, self.mac = (std.code(n) for n in ("RDRB", "WRSB", "MAC"))
        self.names = [c.name for c in std.commands]
        self.groups, per_group = std.geometry.bank_groups, std.geometry.banks_per_group
        self.group_of = [b // per_group for b in range(std.banks)]
        self._offsets: dict[tuple[int, int], int | None] = {}
        self.same_group, self.other_group = self._rdrb_pairs()
        windows = any(table.windows[c] for c in (self.rdrb, self.wrsb, self.mac))
        places = (
            self._place_sets(table.push) <= self.groups
            and self._place_sets(table.pull) <= self.groups
        )
        self.usable = not windows and places and self.same_group is not None and None not in (
            self.offset(self.mac, self.mac), self.offset(self.wrsb, self.wrsb),
        )  # fmt: skip

    def _place_sets(self, lists: list[list[tuple]]) -> int:
        """How many different places RDRB distinguishes: more than the bank groups means a row per
        bank.
        """
        return len(set(lists[self.rdrb]))

    def _rdrb_pairs(self) -> tuple[int | None, int | None]:
        """Latency and tag from RDRB to RDRB in the same group and in another one; None where it
        depends on more.
        """
        found: dict[bool, set[int]] = {True: set(), False: set()}
        for a, push in enumerate(self.table.push[self.rdrb]):
            for b, pull in enumerate(self.table.pull[self.rdrb]):
                value = max((v for s, v in push if s in pull), default=0)
                found[self.group_of[a] == self.group_of[b]].add(value)
        if len(found[True]) != 1 or len(found[False]) > 1:
            return None, None
        return found[True].pop(), found[False].pop() if found[False] else 0

    def offset(self, before: int, after: int) -> int | None:
        """As Table.offset, by command code."""
        key = (before, after)
        if key not in self._offsets:
            self._offsets[key] = self.table.offset(self.names[before], self.names[after])
        return self._offsets[key]


@functools.lru_cache(maxsize=32)
def compile_pairs(std: DramStandard) -> Pairs:
    """The pairs of `std` (kept, since they depend on the standard alone)."""
    return Pairs(compile_table(std))


class Runs:
    """Advances the runs of one Core."""

    def __init__(self, core: Core, pairs: Pairs) -> None:
        self.core, self.pairs = core, pairs

    def advance(self, horizon: int, first_a: int, first_b: int) -> bool:
        """Issues commands of runs before `horizon`, never the last one of a macro-command.

        first_a, first_b: first cycles of the candidates, NEVER where there is none. Returns whether
        anything was issued.
        """
        core = self.core
        array, buffer, _, _ = core.current
        start = max(core.from_cycle)
        # One engine may have only just loaded: then the other may go first, outside a run.
        if horizon - start < SPAN or first_a < start or first_b < start:
            return False
        left_a = left_b = 0
        if array is not None and array.code == self.pairs.mac:
            left_a = array.count - core.done[0]
        if buffer is not None:
            left_b = buffer.count - core.done[1]
        if left_a < SHORTEST and left_b < SHORTEST:
            return False
        if array is None or left_a:
            return self._joint(horizon, left_a, left_b)
        return self._beside(horizon, left_b, first_a, start)

    def _joint(self, horizon: int, left_a: int, left_b: int) -> bool:
        """A run of one engine, or one of each."""
        core = self.core
        if left_a and left_b:
            array, buffer = core.current[ARRAY].code, core.current[BUFFER].code
            if None in (self.pairs.offset(buffer, array), self.pairs.offset(array, buffer)):
                return False
        return _Run(self, horizon, left_a, left_b).go()

    def _beside(self, horizon: int, left_b: int, free: int, start: int) -> bool:
        """A run of the buffer while the array's candidate waits, at least up to cycle `free`."""
        cross = self.pairs.offset(self.core.current[BUFFER].code, self.core.candidate[0])
        if cross is None:
            return False
        until = min(horizon, free - (cross >> TAG_BITS) - 1)
        return until - start >= SPAN and _Run(self, until, 0, left_b).go()


class _Run:
    """One stretch of one or two runs. Without a run of its own the array's side neither issues nor
    changes.

    a, b: array and buffer. key: constraint of the candidate, rank_b and group_b its parts in the
    rank and per bank group.
    """

    def __init__(self, runs: Runs, horizon: int, left_a: int, left_b: int) -> None:
        self.core, self.pairs, self.horizon = runs.core, runs.pairs, horizon
        core = self.core
        self.left_a, self.left_b = left_a, left_b
        self.has_a = left_a > 0
        self.key_a = core.key[0]
        self.free = max(core.from_cycle)
        self.last_a = -1
        self.last_b: list[int] = []
        self.counted, self.stalls = core.counted, [0] * 10
        self.seen: dict[tuple, tuple] = {}
        code_a = core.candidate[0]
        if left_a:
            self.a_to_a = self.pairs.offset(code_a, code_a)
        if left_b:
            self._start_buffer(code_a)

    def _start_buffer(self, code_a: int) -> None:
        core, pairs = self.core, self.pairs
        op = core.current[BUFFER]
        self.op = op
        self.a_to_b = pairs.offset(code_a, op.code) if self.left_a else 0
        self.b_to_a = pairs.offset(op.code, code_a) if self.has_a else 0
        if op.code == pairs.rdrb:
            self.to_same, self.to_other, self.groups = (
                pairs.same_group,
                pairs.other_group,
                pairs.groups,
            )
            count = len(op.instances)
            places = [op.instances[(core.done[1] + i) % count] for i in range(self.groups)]
            self.group_b = [core._latest(op.code, b) for b in places]
        else:
            self.to_same = self.to_other = pairs.offset(op.code, op.code)
            self.groups, self.group_b = 1, [core._latest(op.code, 0)]
        self.rank_b, self.phase = 0, 0
        self.key_b = self.group_b[0]

    def go(self) -> bool:
        """Issues until the horizon, the end of a run or something that is not part of it.

        Returns whether anything was issued.
        """
        left_b, horizon = self.left_b, self.horizon
        while True:
            free = self.free
            a = max(self.key_a >> TAG_BITS, free) if self.has_a else NEVER
            b = max(self.key_b >> TAG_BITS, free) if left_b else NEVER
            if b <= a:
                if b >= horizon or self.left_b <= 1:
                    break
                self._buffer(b, a)
                if self.phase == 0:
                    self._repeat(b)
            else:
                if a >= horizon or self.left_a <= 1:
                    break
                self._array(a)
                if not left_b:
                    self._repeat(a)
        issued = bool(self.last_b) or self.last_a >= 0
        if issued:
            self._write_back()
        return issued

    def _buffer(self, now: int, a: int) -> None:
        core, base = self.core, now << TAG_BITS
        if self.has_a:
            reason = core.wait_stall[core.candidate[0]][self.key_a & TAG_MASK]
            if a > now:
                self.stalls[reason] += now + 1 - self.counted
            else:
                self.stalls[reason] += now - self.counted
                self.stalls[COMMAND_BUS] += 1
            self.counted = now + 1
            self.key_a = max(self.key_a, base + self.b_to_a)
        self.left_b -= 1
        self.last_b.append(now)
        phase = self.phase
        self.group_b[phase] = base + self.to_same
        self.rank_b = max(self.rank_b, base + self.to_other)
        self.phase = phase = (phase + 1) % self.groups
        self.key_b = max(self.group_b[phase], self.rank_b)
        self.free = now + 1

    def _array(self, now: int) -> None:
        core, base = self.core, now << TAG_BITS
        self.stalls[core.wait_stall[core.candidate[0]][self.key_a & TAG_MASK]] += now - self.counted
        self.stalls[core.issue_stall[core.candidate[0]]] += 1
        self.counted = self.free = now + 1
        self.left_a -= 1
        self.last_a = now
        self.key_a = max(self.key_a, base + self.a_to_a)
        if self.left_b:
            self.rank_b = max(self.rank_b, base + self.a_to_b)
            self.key_b = max(self.key_b, self.rank_b)

    def _repeat(self, now: int) -> None:
        """Jumps over as many whole periods as fit when the constraints stand as they stood at an
        earlier command.
        """
        base, limit = now << TAG_BITS, (now + 2) << TAG_BITS
        keys = [self.key_a if self.has_a else 0]
        if self.left_b:
            keys += [self.key_b, self.rank_b, *self.group_b]
        state = tuple([k - base if k >= limit else 0 for k in keys])
        before = self.seen.setdefault(state, (now, self.left_a, self.left_b, tuple(self.stalls)))
        if before[0] == now:
            return
        period, a, b = now - before[0], before[1] - self.left_a, before[2] - self.left_b
        times = (self.horizon - 1 - now) // period
        times = min(times, (self.left_a - 1) // a) if a else times
        times = min(times, (self.left_b - 1) // b) if b else times
        self.seen.clear()
        if times > 0:
            self._jump(times, period, a, b, before[3])

    def _jump(self, times: int, period: int, a: int, b: int, stalls: tuple[int, ...]) -> None:
        cycles = times * period
        shift = cycles << TAG_BITS
        self.left_a -= times * a
        self.left_b -= times * b
        self.stalls = [
            new + times * (new - old) for new, old in zip(self.stalls, stalls, strict=True)
        ]
        self.key_a += shift
        self.free += cycles
        if self.has_a:
            self.counted += cycles
        if a:
            self.last_a += cycles
        if self.left_b:
            self.key_b += shift
            self.rank_b += shift
            self.group_b = [k + shift for k in self.group_b]
            self.last_b = [t + cycles for t in self.last_b[-self.groups :]]

    def _write_back(self) -> None:
        """Counts, and the slots that the last commands push; earlier ones of the same place are
        covered by them.
        """
        core = self.core
        if self.left_b and self.last_b:
            op, count = self.op, len(self.op.instances)
            core.done[1] = op.count - self.left_b
            recent = self.last_b[-self.groups :]
            for i, cycle in enumerate(recent, core.done[1] - len(recent)):
                self._push(op.code, op.instances[i % count], cycle)
        if self.last_a >= 0:
            core.done[0] = core.current[ARRAY].count - self.left_a
            self._push(core.candidate[0], 0, self.last_a)
        for reason, cycles in enumerate(self.stalls):
            core.stalls[reason] += cycles
        core.counted = self.counted
        core.from_cycle[:] = [max(f, self.free) for f in core.from_cycle]
        if core.current[ARRAY] is not None:
            core._find_key(ARRAY, *core.candidate)
        if core.current[BUFFER] is not None:
            op = core.current[BUFFER]
            core._find_key(BUFFER, op.code, op.instances[core.done[1] % len(op.instances)])

    def _push(self, code: int, instance: int, cycle: int) -> None:
        base, ready = cycle << TAG_BITS, self.core.ready
        for slot, value in self.core.table.push[code][instance]:
            ready[slot] = max(ready[slot], base + value)
