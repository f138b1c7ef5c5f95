"""Command streams that exercise a constraint table: one per edge, and dense random ones.

An edge is one (row, preceding command, following command). Its stream ends with the following
command in the first cycle in which the row allows it, with no other row later: so it must be legal
there and refused one cycle earlier. Whatever implements the table is replayed against these.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from bankside.errors import SpecError
from bankside.isa.dram.rules import RankRules
from bankside.isa.dram.standard import FIRST_TIMING_CODE, Command, Constraint, DramStandard

__all__ = ["Edge", "StreamCommand", "dense_stream", "edge_streams"]


@dataclass(frozen=True)
class StreamCommand:
    """A command at an absolute cycle; `bank` is the flat index."""

    cycle: int
    command: str
    bank: int
    row: int = 0


@dataclass(frozen=True)
class Edge:
    """A stream from an idle rank whose last command is bound by `row` alone."""

    row: Constraint
    preceding: str
    following: str
    stream: tuple[StreamCommand, ...]


def edge_streams(std: DramStandard) -> Iterator[Edge]:
    """One stream for every edge of the table that can bind.

    An edge cannot bind when the preceding command leaves a bank in a state that the following
    command must not find, and bringing it into the other state takes longer. A row that holds for
    every following command is a floor: other rows may be later for some pairs. Any other edge that
    cannot bind is a mistake in the table.

    Errors: SpecError for such a dead edge, or for a row none of whose edges binds.
    """
    for row in std.constraints:
        # In the same cycle and in the next one the command bus alone decides.
        if row.latency <= 1:
            continue
        is_floor = len(row.following) == len(std.commands)
        bound = False
        for before, after in product(row.preceding, row.following):
            edge = _edge(std, row, before, after)
            if edge is not None:
                bound = True
                yield edge
            elif not is_floor and not _needs_row_command(std, row, before, after):
                raise SpecError(f"{_dead(std, row)} for {before} -> {after}; {_ADVICE}")
        if not bound:
            raise SpecError(f"{_dead(std, row)}; {_ADVICE}")


_ADVICE = "another row is always later; remove it or correct its latency"


def _dead(std: DramStandard, row: Constraint) -> str:
    return f"{std.name}: row {row.index} ({row}) can never bind"


def _relations(std: DramStandard, row: Constraint) -> list[tuple[int, ...]]:
    """Bank choices: the preceding commands' banks, then the following command's bank."""
    shape = std.geometry
    spread = sorted(range(std.banks), key=lambda b: (b % shape.banks_per_group, b))
    if row.window > 1:
        return [tuple(spread[: row.window + 1])]
    others = {"bank": [0], "bankgroup": [1, 0], "rank": [shape.banks_per_group, 1, 0]}[row.level]
    return [(0, other) for other in others if other < std.banks]


def _edge(std: DramStandard, row: Constraint, before: str, after: str) -> Edge | None:
    between = [(), ("PRE",), ("PREA",), ("RDA",), ("WRA",), ("ACT",), ("ACTA",)]
    for banks, middle in product(_relations(std, row), between):
        stream = _attempt(std, row, std.command(before), std.command(after), banks, middle)
        if stream is not None:
            return Edge(row, before, after, tuple(stream))
    return None


def _attempt(
    std: DramStandard,
    row: Constraint,
    before: Command,
    after: Command,
    banks: tuple[int, ...],
    middle: tuple[str, ...],
) -> list[StreamCommand] | None:
    """The stream, if `after` becomes legal exactly `latency` after the first `before`."""
    player = _Player(std)
    for bank in _banks_to_open(std, before, after, banks):
        player.play("ACT", bank)
    # Long enough for the activations, the only commands so far, to have no say any more.
    player.now += max(r.latency for r in std.constraints if "ACT" in r.preceding)
    start = None
    for bank in banks[:-1]:
        cycle = player.play(before.name, bank)
        start = cycle if start is None else start
    for name in middle:
        player.play(name, banks[-1])
    if start is None or player.failed or player.now > start + row.latency:
        return None
    if player.play(after.name, banks[-1]) != start + row.latency:
        return None
    return None if player.failed else player.stream


class _Player:
    """Plays commands at the earliest cycle and remembers whether one was impossible."""

    def __init__(self, std: DramStandard):
        self.rules = RankRules(std)
        self.stream: list[StreamCommand] = []
        self.failed = False
        self.now = 0

    def play(self, name: str, bank: int) -> int | None:
        cycle, _ = self.rules.earliest(name, bank, self.now)
        if self.failed or self.rules.check(name, bank, cycle) is not None:
            self.failed = True
            return None
        self.rules.issue(name, bank, 0, cycle)
        self.stream.append(StreamCommand(cycle, name, bank))
        self.now = cycle + 1
        return cycle


def _banks_to_open(
    std: DramStandard, before: Command, after: Command, banks: tuple[int, ...]
) -> list[int]:
    """Banks that must have an open row before the first `before`."""
    first = {b for bank in banks[:-1] for b in std.touched(before.name, bank)}
    second = set(std.touched(after.name, banks[-1]))
    wanted = set()
    if before.needs == "open" or before.effect == "close":
        wanted |= first
    if after.needs == "open":
        wanted |= second if before.needs == "any" else second - first
    if after.needs == "closed" and before.effect != "close":
        wanted -= second - first if before.needs == "open" else second
    return sorted(wanted)


def _needs_row_command(std: DramStandard, row: Constraint, before: str, after: str) -> bool:
    """For every choice of banks `before` leaves one in a state in which `after` is impossible."""
    first, needs = std.command(before), std.command(after).needs
    left = {"open": "open", "close": "closed", "none": first.needs}[first.effect]
    if "any" in (left, needs) or left == needs:
        return False
    return all(
        set(std.touched(before, banks[0])) & set(std.touched(after, banks[-1]))
        for banks in _relations(std, row)
    )


def dense_stream(
    std: DramStandard, seed: int, count: int, *, commands: tuple[str, ...] | None = None
) -> list[StreamCommand]:
    """`count` random legal commands, nearly all in the first cycle in which they are legal.

    `commands` restricts the choice; the default is every command of the standard.
    """
    rng = random.Random(seed)
    rules = RankRules(std)
    names = commands or tuple(c.name for c in std.commands)
    # Commands that move the whole rank are rare, or no bank would ever stay open.
    rare = {"REF": 0.05, "PREA": 0.1, "ACTA": 0.3, "ACT4": 0.3}
    weights = [rare.get(name, 1.0) for name in names]
    stream: list[StreamCommand] = []
    now = 0
    while len(stream) < count:
        name, bank = rng.choices(names, weights)[0], rng.randrange(std.banks)
        cycle, _ = rules.earliest(name, bank, now)
        violation = rules.check(name, bank, cycle)
        if violation is not None:
            if violation.code >= FIRST_TIMING_CODE:
                raise AssertionError(f"seed {seed}: {name} at {cycle}: {violation}")
            continue
        row = rng.randrange(std.geometry.rows)
        rules.issue(name, bank, row, cycle)
        stream.append(StreamCommand(cycle, name, bank, row))
        now = cycle + 1 if rng.random() < 0.95 else cycle + rng.randrange(1, 200)
    return stream
