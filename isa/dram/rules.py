"""The rules of a DRAM standard in Python: when a command is legal, and which rule says no.

`RankRules.earliest` and `issue` are the hot path of the timing models: everything that depends on
the table alone is compiled once per standard into short lists of slots. `check` answers from the
raw command history instead, row by row, so that the two ways can be compared with each other.
"""

from collections import deque
from dataclasses import dataclass
from functools import lru_cache

from bankside.errors import SpecError
from bankside.isa.dram.standard import MAX_REFRESH_INTERVALS, Constraint, DramStandard, State

__all__ = ["RankRules", "Violation"]

# An expiry and its stall code share one integer, so that `max` picks the latest and, among equals,
# the larger code.
_CODE_BITS = 4
_CODE_MASK = (1 << _CODE_BITS) - 1


@dataclass(frozen=True)
class Violation:
    """Why a command is refused: `code` as on the RTL port, `name` short, `text` in words."""

    code: int
    name: str
    text: str


class _Plan:
    """The slots of a standard: which ones a command waits for, and which ones it pushes back.

    A slot holds the time before which some commands are blocked in one place. A bank row with a
    rank-wide command on either side acts in the whole rank, so it lives in a rank slot: MAC then
    pushes a handful of slots, not one a bank.
    """

    def __init__(self, std: DramStandard):
        self.std = std
        self.slots: dict[tuple, int] = {}
        codes, banks = range(len(std.commands)), range(std.banks)
        self.edges = [self._edges(c.name) for c in std.commands]
        self.pull = [[self._pull(code, bank) for bank in banks] for code in codes]
        self.push = [[self._push(code, bank) for bank in banks] for code in codes]
        self.windows = [self._windows(c.name) for c in std.commands]
        self.touched = [[std.touched(code, bank) for bank in banks] for code in codes]

    def level(self, row: Constraint, preceding: str, following: str) -> str:
        """Where `row` acts between these two commands."""
        scopes = {self.std.command(preceding).scope, self.std.command(following).scope}
        if "rank" in scopes:
            return "rank"
        if "slice" in scopes:
            return "slice" if row.level == "bank" else "rank"
        return row.level

    def instance(self, level: str, bank: int) -> int:
        if level == "slice":
            return bank % self.std.geometry.banks_per_group
        return self.std.instance(level, bank)

    def _edges(self, following: str) -> dict[str, tuple]:
        """For one following command: level -> the (row, preceding) pairs that act there."""
        found: dict[str, list] = {}
        for row in self.std.constraints:
            if following in row.following:
                for preceding in row.preceding:
                    level = self.level(row, preceding, following)
                    found.setdefault(level, []).append((row.index, preceding))
        return {level: tuple(pairs) for level, pairs in sorted(found.items())}

    def slot(self, code: int, level: str, bank: int) -> int:
        """The number of a slot; commands that wait for the same pairs share one."""
        key = (self.edges[code][level], level, self.instance(level, bank))
        return self.slots.setdefault(key, len(self.slots))

    def _pull(self, code: int, bank: int) -> tuple[int, ...]:
        return tuple(self.slot(code, level, bank) for level in self.edges[code])

    def _push(self, code: int, bank: int) -> tuple[tuple[int, int], ...]:
        """(slot, latency and stall code) of every row without a window that a command starts."""
        name = self.std.commands[code].name
        found: dict[int, int] = {}
        for row in self.std.constraints:
            if name not in row.preceding or row.window > 1:
                continue
            value = row.latency << _CODE_BITS | row.stall
            for following in row.following:
                level = self.level(row, name, following)
                slot = self.slot(self.std.code(following), level, bank)
                found[slot] = max(found.get(slot, 0), value)
        return tuple(found.items())

    def _windows(self, name: str) -> tuple[tuple, ...]:
        """(row, latency and stall code, slots per instance) of the rows with a window."""
        found = []
        for row in self.std.constraints:
            if name not in row.preceding or row.window == 1:
                continue
            slots: list[set[int]] = [set() for _ in range(self.std.instances(row.level))]
            for bank in range(self.std.banks):
                for following in row.following:
                    level = self.level(row, name, following)
                    slot = self.slot(self.std.code(following), level, bank)
                    slots[self.std.instance(row.level, bank)].add(slot)
            value = row.latency << _CODE_BITS | row.stall
            found.append((row, value, tuple(map(tuple, slots))))
        return tuple(found)


@lru_cache(maxsize=64)
def _plan(std: DramStandard) -> _Plan:
    return _Plan(std)


class RankRules:
    """State and timing of one rank.

    Commands are codes or names; `bank` is the flat index (for a rank command any, for a slice
    command any bank of the slice); cycles are absolute memory-clock cycles from 0. With
    `refresh_required`, commands other than a precharge or a refresh are refused when more than nine
    refresh intervals passed since the last refresh (or cycle 0).
    """

    def __init__(self, std: DramStandard, *, refresh_required: bool = False):
        self.std = std
        self.refresh_required = refresh_required
        plan = _plan(std)
        self._pull = self._by_code_and_name(plan.pull)
        self._push = self._by_code_and_name(plan.push)
        self._touched = self._by_code_and_name(plan.touched)
        self._effect = self._by_code_and_name([c.effect for c in std.commands])
        self._windows = self._by_code_and_name(plan.windows)
        self._code = self._by_code_and_name(list(range(len(std.commands))))
        self._refresh = std.code("REF")
        self._slots = len(plan.slots)
        self.reset()

    def _by_code_and_name(self, values: list) -> dict:
        by_code = dict(enumerate(values))
        return by_code | {c.name: values[c.code] for c in self.std.commands}

    def reset(self) -> None:
        """An idle rank at cycle 0: every bank closed, no command ever issued."""
        self._ready = [0] * self._slots
        self._bus = 0  # first free cycle of the command bus, as a slot value with stall code 0
        self.open_rows: list[int | None] = [None] * self.std.banks
        self._last: list[list[int | None]] = [[None] * self.std.banks for _ in self.std.commands]
        self._recent: dict[tuple[int, int], deque[int]] = {}
        self._refreshed = 0

    def earliest(self, cmd: int | str, bank: int, now: int) -> tuple[int, int]:
        """First cycle from `now` on at which no timing row blocks `cmd`, and the stall code.

        The code is the index in `STALL_TAGS` of the row that expires last (ties: the larger code);
        it is 0 when the cycle is `now`. State rules (open or closed banks) are not part of it: see
        `check`.
        """
        latest = self._bus
        ready = self._ready
        for slot in self._pull[cmd][bank]:
            if ready[slot] > latest:
                latest = ready[slot]
        cycle = latest >> _CODE_BITS
        return (cycle, latest & _CODE_MASK) if cycle > now else (now, 0)

    def issue(self, cmd: int | str, bank: int, row: int, cycle: int) -> None:
        """Records `cmd` at `cycle`. The caller is responsible for its legality (`check`)."""
        base = cycle << _CODE_BITS
        ready = self._ready
        for slot, latency in self._push[cmd][bank]:
            value = base + latency
            if value > ready[slot]:
                ready[slot] = value
        self._bus = base + (1 << _CODE_BITS)
        if self._windows[cmd]:
            self._slide(cmd, bank, cycle)
        touched = self._touched[cmd][bank]
        last = self._last[self._code[cmd]]
        for b in touched:
            last[b] = cycle
        effect = self._effect[cmd]
        if effect != "none":
            value = row if effect == "open" else None
            for b in touched:
                self.open_rows[b] = value
        elif self._code[cmd] == self._refresh:
            self._refreshed = cycle

    def _slide(self, cmd: int | str, bank: int, cycle: int) -> None:
        for row, latency, slots in self._windows[cmd]:
            for instance in self.std.touched_instances(cmd, bank, row.level):
                recent = self._recent.setdefault((row.index, instance), deque(maxlen=row.window))
                recent.append(cycle)
                if len(recent) == row.window:
                    value = (recent[0] << _CODE_BITS) + latency
                    for slot in slots[instance]:
                        self._ready[slot] = max(self._ready[slot], value)

    def refresh_overdue(self, cycle: int) -> bool:
        """More than nine refresh intervals without a refresh."""
        return cycle - self._refreshed > MAX_REFRESH_INTERVALS * self.std.params["nREFI"]

    def check(self, cmd: int | str, bank: int, cycle: int) -> Violation | None:
        """The violated rule with the lowest code when `cmd` comes at `cycle`, or None."""
        if not 0 <= bank < self.std.banks:
            raise SpecError(
                f"{self.std.name}: bank {bank} does not exist; expected 0..{self.std.banks - 1}; "
                f"give the flat index group * banks_per_group + bank"
            )
        code = self._state_violation(cmd, bank, cycle) or self._timing_violation(cmd, bank, cycle)
        if not code:
            return None
        return Violation(code, self.std.violation_name(code), self.std.violation_text(code))

    def _state_violation(self, cmd: int | str, bank: int, cycle: int) -> int:
        if isinstance(cmd, int) and not 0 <= cmd < len(self.std.commands):
            return State.BAD_COMMAND
        if cycle < self._bus >> _CODE_BITS:
            return State.BUS_BUSY
        command = self.std.command(cmd)
        is_open = [self.open_rows[b] is not None for b in self.std.touched(cmd, bank)]
        if (command.needs == "closed" and any(is_open)) or (
            command.needs == "open" and not all(is_open)
        ):
            return command.state_code
        exempt = command.effect == "close" and command.needs == "any" or command.name == "REF"
        if self.refresh_required and not exempt and self.refresh_overdue(cycle):
            return State.REFRESH_OVERDUE
        return State.NONE

    def _timing_violation(self, cmd: int | str, bank: int, cycle: int) -> int:
        name = self.std.command(cmd).name
        for row in self.std.constraints:
            if name not in row.following:
                continue
            for instance in self.std.touched_instances(cmd, bank, row.level):
                since = self._nth_last(row, instance)
                if since is not None and cycle < since + row.latency:
                    return row.code
        return State.NONE

    def _nth_last(self, row: Constraint, instance: int) -> int | None:
        """When the `window`-th last preceding command of `row` touched `instance`."""
        if row.window > 1:
            recent = self._recent.get((row.index, instance))
            return recent[0] if recent and len(recent) == row.window else None
        banks = [b for b in range(self.std.banks) if self.std.instance(row.level, b) == instance]
        times = [self._last[self._code[p]][b] for p in row.preceding for b in banks]
        return max((t for t in times if t is not None), default=None)

    def relative_state(self, now: int) -> tuple:
        """Everything that decides the future, with times relative to `now`.

        Two equal values mean that equal commands are legal at equal distances from then on; a
        timing model uses it to recognise a steady state. The refresh deadline is left out.
        """
        floor = now << _CODE_BITS
        ready = tuple(max(0, v - floor) if v >> _CODE_BITS > now else 0 for v in self._ready)
        windows = tuple(
            (key, tuple(max(t - now, -(1 << 20)) for t in recent))
            for key, recent in sorted(self._recent.items())
        )
        return ready, max(0, self._bus - floor), tuple(self.open_rows), windows

    def shift(self, cycles: int) -> None:
        """Moves the whole history later by `cycles`, as if it had all happened that much later."""
        delta = cycles << _CODE_BITS
        self._ready = [v + delta for v in self._ready]
        self._bus += delta
        self._last = [[None if t is None else t + cycles for t in row] for row in self._last]
        for recent in self._recent.values():
            recent.extend([t + cycles for t in recent])
        self._refreshed += cycles
