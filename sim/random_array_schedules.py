"""Random legal schedules of the `array` engine: any order, gaps, stages and overlaps that the rules
allow.

Ref: docs/array.md section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bankside.errors import ProgramError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.array_schedule import (
    LANE_PARTS,
    MAX_STAGE,
    Block,
    Schedule,
    check,
    distances,
    fixed_length,
)

Rng = np.random.Generator
#: Blocks in an order in which every rule of one iteration points forward.
ORDER = ("qk", "lm", "exp", "drain", "passx", "passd", "fill", "sld", "rcp", "one", "slnv", "av")
#: Schedules tried with one length of the pass.
_TRIES = 8


@dataclass(frozen=True)
class Work:
    """What one kernel does.

    ops: its blocks. chunked, correct: operands of KERNEL. e, f: elements of a key, of a value.
    """

    ops: tuple[str, ...]
    e: int
    f: int
    chunked: bool = False
    correct: bool = False

    def lengths(self, machine: ArrayMachine) -> dict[str, int]:
        """Slots of each block."""
        free = {"qk": self.e, "slnv": self.f, "av": self.f}
        return {op: free.get(op) or fixed_length(op, machine) for op in self.ops}

    @property
    def reads_rows(self) -> bool:
        return "qk" in self.ops or "slnv" in self.ops

    @property
    def uses_scores(self) -> bool:
        """Whether its tiles have scores or probabilities in the column banks."""
        return bool({"drain", "passx", "passd", "fill"} & set(self.ops))


class _Placing:
    """One try: block after block at a random slot that is still free."""

    def __init__(self, rng: Rng, lengths: dict[str, int], ii: int) -> None:
        self.rng, self.lengths, self.ii = rng, lengths, ii
        self.slots: tuple[set[int], set[int]] = (set(), set())  # of the 2D array, of the lanes
        self.begins: dict[str, int] = {}

    def place(self, op: str, earliest: int) -> bool:
        """Put `op` not before slot `earliest` of the iteration; False: it fits nowhere."""
        slack = int(self.rng.integers(0, self.ii)) if self.rng.random() < 0.3 else 0
        for at in range(earliest + slack, earliest + slack + 2 * self.ii):
            if self._free(op, at % self.ii) and at // self.ii <= MAX_STAGE:
                self.begins[op] = at
                for taken in self._uses(op):
                    taken.update(range(at % self.ii, at % self.ii + self.lengths[op]))
                return True
        return False

    def _uses(self, op: str) -> list[set[int]]:
        array, lanes = self.slots
        return [array] * (op not in ("rcp", "one", "av")) + [lanes] * (op in LANE_PARTS)

    def _free(self, op: str, start: int) -> bool:
        stop = start + self.lengths[op]
        wanted = range(start, stop)
        return stop <= self.ii and all(taken.isdisjoint(wanted) for taken in self._uses(op))


def random_schedule(rng: Rng, machine: ArrayMachine, work: Work, format: str) -> Schedule:
    """A schedule for `work` that `check` accepts."""
    lengths = work.lengths(machine)
    array = sum(n for op, n in lengths.items() if op not in ("rcp", "one", "av"))
    lanes = sum(n for op, n in lengths.items() if op in LANE_PARTS)
    ii = max(array, lanes) + int(rng.integers(0, 4))
    if rng.random() < 0.2:
        ii += int(rng.integers(0, 2 * ii))
    while True:
        for _ in range(_TRIES):
            schedule = _try(rng, machine, work, ii, format)
            if schedule is not None:
                return schedule
        ii += 1 + ii // 4


def _try(rng: Rng, machine: ArrayMachine, work: Work, ii: int, format: str) -> Schedule | None:
    lengths = work.lengths(machine)
    rules = [r for r in distances(lengths, machine, work.chunked) if not r.later]
    placing = _Placing(rng, lengths, ii)
    for op in sorted(work.ops, key=ORDER.index):
        earliest = [placing.begins[r.first] + r.slots for r in rules if r.second == op]
        if not placing.place(op, max(earliest, default=0)):
            return None
    first = min(placing.begins.values()) // ii * ii
    blocks = [
        Block(op, at % ii, lengths[op], (at - first) // ii) for op, at in placing.begins.items()
    ]
    order = rng.permutation(len(blocks))
    schedule = Schedule(
        ii, tuple(blocks[i] for i in order), format, work.chunked, work.correct
    ).marked()
    try:
        check(schedule, machine)
    except ProgramError:
        return None
    return schedule
