"""The `array` engine in the execution without data: exact cycles, stall reasons and traces.

Ref: docs/array.md sections 3 to 5.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from bankside.isa.array_machine import ArrayMachine
from bankside.isa.program import Program
from bankside.sim.engine import COMMAND_DTYPE, MACRO_DTYPE, Result
from bankside.sim.timing.array_front_end import FrontEnd
from bankside.sim.timing.array_schedule import CONTROL, LOADING, SETTLE, STALLS, STORING


class ArrayTiming:
    """Timing model of one machine. Every run starts at cycle 0 with idle engines and no tokens.

    `skipping` False simulates every pass (a trace always does); the result is the same.
    """

    def __init__(self, machine: ArrayMachine, *, skipping: bool = True) -> None:
        self.machine, self.skipping = machine, skipping

    def run(self, program: Program, *, trace: bool = False) -> Result:
        """Execute `program` without data.

        Returns a Result with `cycles` (up to and including the one of HALT) and `counters`; with
        `trace` also the passes and the macro-commands (docs/array.md section 6). Raises
        ProgramError on an illegal command, a deadlock or too many tokens.
        """
        front = FrontEnd(self.machine, program)
        front.compute.skipping = self.skipping and not trace
        front.compute.passes = [] if trace else None
        cycles = front.run()
        counters = dict(zip(STALLS, _counts(front, self.machine.settle), strict=True))
        commands, macros = np.zeros(0, COMMAND_DTYPE), np.zeros(0, MACRO_DTYPE)
        if trace:
            passes = [(cycle, code, 0, row, 0) for cycle, code, row in front.compute.passes]
            commands = np.array(passes, COMMAND_DTYPE)
            found = front.load.macros + front.compute.macros + front.store.macros
            macros = np.array(sorted(found, key=lambda m: (m[2], m[0])), MACRO_DTYPE)
        return Result(None, cycles, counters, commands, macros, self.machine.engine)

    def reset(self) -> None:
        """Nothing to do: no timing state lives on between programs."""


def _counts(front: FrontEnd, settle: int) -> list[int]:
    """Cycles by stall reason, those without a RUN included."""
    counts = list(front.compute.counts)
    store, load = Busy(front.store.busy), Busy(front.load.busy)
    for first, end, pass_end in front.compute.gaps:
        calm = min(end, max(first, pass_end + settle + 1))
        counts[SETTLE] += calm - first
        storing = store.within(calm, end)
        loading = sum(load.within(a, b) for a, b in store.between(calm, end))
        counts[STORING] += storing
        counts[LOADING] += loading
        counts[CONTROL] += end - calm - storing - loading
    return counts


class Busy:
    """Times at which an engine is not idle: [first, last] of each, in order."""

    def __init__(self, times: list[list[int]]) -> None:
        self._times, self._lasts = times, [last for _, last in times]

    def _overlaps(self, first: int, end: int) -> list[tuple[int, int]]:
        """Parts of [first, end) in which it is not idle."""
        found, index = [], bisect_left(self._lasts, first)
        while index < len(self._times) and self._times[index][0] < end:
            a, b = self._times[index]
            found.append((max(a, first), min(b + 1, end)))
            index += 1
        return [(a, b) for a, b in found if a < b]

    def within(self, first: int, end: int) -> int:
        """Cycles of [first, end) in which it is not idle."""
        return sum(b - a for a, b in self._overlaps(first, end))

    def between(self, first: int, end: int) -> list[tuple[int, int]]:
        """Parts of [first, end) in which it is idle."""
        parts = []
        for a, b in [*self._overlaps(first, end), (end, end)]:
            if first < a:
                parts.append((first, a))
            first = b
        return parts
