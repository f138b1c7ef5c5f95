"""The DRAM constraint table, compiled for the thirteen commands that the `pim` machine issues.

Every command that is issued pushes a few slots; every candidate waits for the maximum of a few
slots. A slot holds `expiry << TAG_BITS | stall tag`, so that one `max` finds the row that expires
last and, among equals, the larger tag. Ref: docs/pim.md sections 5 and 7; isa/dram/*.yaml.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

from bankside.errors import SpecError
from bankside.isa.dram.standard import Constraint
from bankside.isa.dram.table import DramStandard

TAG_BITS = 4
TAG_MASK = (1 << TAG_BITS) - 1
MACHINE_COMMANDS = (
    "ACT", "ACT4", "ACTA", "PRE", "PREA", "REF", "WRR", "MAC", "WR", "RD", "LDSB", "WRSB", "RDRB",
)  # fmt: skip

Slot = tuple[str, str, int]  # kind, following command, instance
Source = tuple[
    str, int
]  # preceding command, its bank (scope bank), slice (scope slice) or 0 (scope rank)


class Window:
    """A row that counts: `value` applies from the `depth`-th last of its preceding commands."""

    def __init__(self, row: Constraint, first: int, slots: tuple[int, ...]) -> None:
        self.first, self.depth, self.slots = first, row.window, slots
        self.latency = row.latency
        self.value = row.latency << TAG_BITS | row.stall


class Table:
    """Compiled table of one standard. Lists are indexed by [command code][instance].

    pull: slots a candidate waits for. push: (slot, latency and tag) that an issued command starts.
    windows: by command code, the windows that it fills; their recent times live in one flat list of
    `recent` entries.
    """

    def __init__(self, std: DramStandard) -> None:
        self.std = std
        self.scopes = {name: std.command(name).scope for name in MACHINE_COMMANDS}
        pushes = self._pushes()
        numbers = self._number(pushes)
        count = len(std.commands)
        self.slots = len(set(numbers.values()))
        self.pull: list[list[tuple[int, ...]]] = [[] for _ in range(count)]
        self.push: list[list[tuple[tuple[int, int], ...]]] = [[] for _ in range(count)]
        for name in MACHINE_COMMANDS:
            for instance in range(self.instances(name)):
                slots = {numbers[s] for s in self._waits_for(name, instance) if s in numbers}
                self.pull[std.code(name)].append(tuple(sorted(slots)))
                found: dict[int, int] = {}
                for slot, value in pushes[name, instance].items():
                    number = numbers[slot]
                    found[number] = max(found.get(number, 0), value)
                self.push[std.code(name)].append(tuple(found.items()))
        self.windows: list[tuple[Window, ...]] = [()] * count
        self.recent = 0
        self.recent_latency: list[int] = []
        self._add_windows(numbers)
        self.touches = [[self._touches(a, b) for b in range(count)] for a in range(count)]

    def instances(self, name: str) -> int:
        """How many places a command can be issued to."""
        geometry = self.std.geometry
        return {"bank": geometry.banks, "slice": geometry.banks_per_group, "rank": 1}[
            self.scopes[name]
        ]

    def _rows(self) -> Iterator[tuple[Constraint, str, str]]:
        for row in self.std.constraints:
            for before in row.preceding:
                for after in row.following:
                    if before in self.scopes and after in self.scopes:
                        yield row, before, after

    def _waits_for(self, name: str, instance: int) -> Iterable[Slot]:
        yield ("rank", name, 0)
        if self.scopes[name] == "slice":
            yield ("slice", name, instance)
        elif self.scopes[name] == "bank":
            yield ("bankgroup", name, instance // self.std.geometry.banks_per_group)
            yield ("bank", name, instance)

    def _pushes(self) -> dict[Source, dict[Slot, int]]:
        """Latency and tag from every source to every slot, rows with a window left out."""
        found: dict[Source, dict[Slot, int]] = {
            (name, i): {} for name in MACHINE_COMMANDS for i in range(self.instances(name))
        }
        for row, before, after in self._rows():
            if row.window > 1:
                continue
            value = row.latency << TAG_BITS | row.stall
            for instance in range(self.instances(before)):
                target = found[before, instance]
                for slot in self._affected(row.level, before, instance, after):
                    target[slot] = max(target.get(slot, 0), value)
        return found

    def _affected(self, level: str, before: str, instance: int, after: str) -> Iterator[Slot]:
        """Where a row of `level` acts: the narrowest place in which both commands touch the same
        instance.
        """
        scopes, per_group = (
            (self.scopes[before], self.scopes[after]),
            self.std.geometry.banks_per_group,
        )
        if level == "rank" or "rank" in scopes or (level == "bankgroup" and "slice" in scopes):
            yield ("rank", after, 0)
        elif level == "bankgroup":
            yield ("bankgroup", after, instance // per_group)
        elif scopes == ("bank", "bank"):
            yield ("bank", after, instance)
        elif scopes[1] == "slice":
            yield ("slice", after, instance % per_group)
        else:
            for bank in range(instance, self.std.banks, per_group):
                yield ("bank", after, bank)

    def _number(self, pushes: dict[Source, dict[Slot, int]]) -> dict[Slot, int]:
        """Slot numbers; slots that the same rows push always hold the same value and become one."""
        profiles: dict[Slot, list] = {}
        for source, targets in pushes.items():
            for slot, value in targets.items():
                profiles.setdefault(slot, []).append((source, value))
        for row, _, after in self._rows():
            if row.window > 1:
                profiles.setdefault(("rank", after, 0), []).append(("window", row.index))
        numbers: dict[tuple, int] = {}
        return {
            slot: numbers.setdefault(tuple(sorted(profile, key=repr)), len(numbers))
            for slot, profile in profiles.items()
        }

    def _add_windows(self, numbers: dict[Slot, int]) -> None:
        for row in self.std.constraints:
            if row.window == 1:
                continue
            if row.level != "rank":
                raise SpecError(
                    f"{self.std.name}: row {row.index} ({row}) has a window at level "
                    f"{row.level}; the timing model counts windows per rank; use level rank "
                    f"or extend sim/timing/constraints.py"
                )
            after = [a for a in row.following if a in self.scopes]
            slots = tuple({numbers["rank", a, 0] for a in after})
            window = Window(row, self.recent, slots)
            self.recent += row.window
            self.recent_latency += [row.latency] * row.window
            for before in row.preceding:
                if before in self.scopes:
                    self.windows[self.std.code(before)] += (window,)

    def _touches(self, before: int, after: int) -> bool:
        """Whether the command with code `before` ever moves a constraint of the other."""
        pushed = {s for push in self.push[before] for s, _ in push}
        pushed |= {s for window in self.windows[before] for s in window.slots}
        return any(not pushed.isdisjoint(pull) for pull in self.pull[after])

    def offset(self, before: str, after: str) -> int | None:
        """Latency and tag from `before` to `after` where the instances do not matter (0: no row),
        else None.
        """
        sources, targets = self.push[self.std.code(before)], self.pull[self.std.code(after)]
        values = {
            max((v for s, v in source if s in target), default=0)
            for source in sources
            for target in targets
        }
        return values.pop() if len(values) == 1 else None


@functools.lru_cache(maxsize=32)
def compile_table(std: DramStandard) -> Table:
    """The compiled table of `std` (kept, since it depends on the standard alone)."""
    return Table(std)
