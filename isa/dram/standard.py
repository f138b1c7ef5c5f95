"""What a DRAM standard is once its table is loaded: geometry, commands, integer constraints."""

import enum
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property

from bankside.errors import SpecError

# The order is the priority between equal expiries: the larger code takes the blame.
STALL_TAGS = ("cmd", "ccd", "turn", "wr", "rtp", "ras", "rp", "rcd", "rrd", "faw", "rfc")
LEVELS = ("rank", "bankgroup", "bank")
SCOPES = ("bank", "slice", "rank")
FIRST_TIMING_CODE = 16
# A refresh may be postponed by eight intervals.
MAX_REFRESH_INTERVALS = 9


class State(enum.IntEnum):
    """Violation codes below 16: rules about state. Code 16 + i is timing row i."""

    NONE = 0
    BAD_COMMAND = 1
    BUS_BUSY = 2
    BANK_OPEN = 3
    BANK_CLOSED = 4
    ANY_BANK_CLOSED = 5
    REFRESH_OPEN = 6
    REFRESH_OVERDUE = 7


STATE_TEXT = {
    State.BAD_COMMAND: "no command has this code",
    State.BUS_BUSY: "another command already took this or a later cycle",
    State.BANK_OPEN: "a bank to activate still has an open row",
    State.BANK_CLOSED: "the bank has no open row",
    State.ANY_BANK_CLOSED: "not every bank has an open row",
    State.REFRESH_OPEN: "refresh with an open bank",
    State.REFRESH_OVERDUE: f"more than {MAX_REFRESH_INTERVALS} refresh intervals without a refresh",
}


class FrozenMap(dict):
    """A read-only, hashable, picklable dictionary."""

    def _refuse(self, *_args, **_kwargs):
        raise TypeError("this mapping is read-only; load the standard again with other values")

    __setitem__ = __delitem__ = update = pop = popitem = clear = setdefault = _refuse
    __ior__ = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self):
        return (FrozenMap, (dict(self),))


@dataclass(frozen=True)
class Geometry:
    """One rank, seen by a chip: every number is a power of two; a column is one burst."""

    bank_groups: int
    banks_per_group: int
    columns: int
    rows: int

    @property
    def banks(self) -> int:
        return self.bank_groups * self.banks_per_group


@dataclass(frozen=True)
class Command:
    """One command of the bus.

    `scope` is what it touches: one bank, a slice (the same bank of every group) or the rank.
    `needs` is the state of every touched bank (open, closed, any), `effect` what becomes of it
    (open, close, none), `cycles` the time on the command bus, `bus` its use of the external data
    bus (read, write, none).
    """

    name: str
    code: int
    scope: str
    needs: str
    effect: str
    cycles: int
    bus: str

    @property
    def state_code(self) -> State:
        """The violation code when a touched bank is not in the state that `needs` asks for."""
        if self.needs == "closed":
            return State.BANK_OPEN if self.effect == "open" else State.REFRESH_OPEN
        return State.ANY_BANK_CLOSED if self.scope == "rank" else State.BANK_CLOSED


@dataclass(frozen=True)
class Constraint:
    """One row: `following` waits `latency` cycles after the `window`-th last `preceding`."""

    index: int
    level: str
    preceding: tuple[str, ...]
    following: tuple[str, ...]
    latency: int
    window: int
    stall: int
    text: str

    @property
    def code(self) -> int:
        """Violation code of this row."""
        return FIRST_TIMING_CODE + self.index

    def __str__(self) -> str:
        nth = f" (window {self.window})" if self.window > 1 else ""
        return (
            f"{self.level}: {' '.join(self.preceding)} -> {' '.join(self.following)}{nth} "
            f"{self.text} = {self.latency}"
        )


@dataclass(frozen=True)
class DramStandard:
    """A DRAM standard with one speed grade: the single source for RTL and Python rules.

    `tck_ps` is the memory clock in picoseconds; every entry of `params` is in memory-clock cycles.
    """

    name: str
    family: str
    tck_ps: int
    geometry: Geometry
    params: Mapping[str, int]
    options: Mapping[str, int | str]
    commands: tuple[Command, ...]
    constraints: tuple[Constraint, ...]
    stall_tags: tuple[str, ...] = field(default=STALL_TAGS)

    @cached_property
    def _by_name(self) -> dict[str, Command]:
        return {c.name: c for c in self.commands}

    @property
    def banks(self) -> int:
        return self.geometry.banks

    @property
    def slice_bits(self) -> int:
        """Bits that one x8 chip moves in one column access: eight per beat, two beats per cycle."""
        return self.params["nBL"] * 2 * 8

    def command(self, name: str | int) -> Command:
        """A command by name or code. Errors: SpecError for one that does not exist."""
        if isinstance(name, str) and name in self._by_name:
            return self._by_name[name]
        if isinstance(name, int) and 0 <= name < len(self.commands):
            return self.commands[name]
        raise SpecError(
            f"{self.name}: no command {name!r}; expected one of {', '.join(self._by_name)} or a "
            f"code below {len(self.commands)}; use one of those"
        )

    def code(self, name: str) -> int:
        """The code of a command on every RTL port."""
        return self.command(name).code

    def touched(self, name: str | int, bank: int) -> tuple[int, ...]:
        """Flat indices of the banks that a command touches when `bank` is on its bank port."""
        scope = self.command(name).scope
        if scope == "bank":
            return (bank,)
        if scope == "slice":
            per_group = self.geometry.banks_per_group
            return tuple(range(bank % per_group, self.banks, per_group))
        return tuple(range(self.banks))

    def instances(self, level: str) -> int:
        """How many instances a level has."""
        return {"rank": 1, "bankgroup": self.geometry.bank_groups, "bank": self.banks}[level]

    def instance(self, level: str, bank: int) -> int:
        """The instance of `level` that holds `bank`."""
        if level == "bank":
            return bank
        return bank // self.geometry.banks_per_group if level == "bankgroup" else 0

    def touched_instances(self, name: str | int, bank: int, level: str) -> tuple[int, ...]:
        """The instances of `level` that a command touches, in ascending order."""
        return tuple(sorted({self.instance(level, b) for b in self.touched(name, bank)}))

    def violation_text(self, code: int) -> str:
        """What a violation code means, in words."""
        if code < FIRST_TIMING_CODE:
            return STATE_TEXT.get(State(code), "no violation")
        row = self.constraints[code - FIRST_TIMING_CODE]
        return f"row {row.index}: {row} cycles"

    def violation_name(self, code: int) -> str:
        """A short name of a violation code: the state rule, or the row with its stall tag."""
        if code < FIRST_TIMING_CODE:
            return State(code).name
        row = self.constraints[code - FIRST_TIMING_CODE]
        return f"ROW{row.index}_{self.stall_tags[row.stall].upper()}"

    def digest(self) -> str:
        """A hash of everything in the standard, for caches and result files."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
