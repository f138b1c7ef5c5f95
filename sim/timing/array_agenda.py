"""What the timing model of the `array` engine has still to do, in order of cycles; tokens.

A cycle has two rounds: first every change that its registers show (`SHOW`), then what the engines
do with them (`ACT`). What an engine does in a cycle is shown in the next one at the earliest, so
the order within a round does not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from bankside.errors import ProgramError

SHOW, ACT = 0, 1
LOAD, COMPUTE, STORE = range(3)
ENGINES = ("load", "compute", "store")
#: Earlier than every cycle of a program.
NEVER = -(1 << 60)


class Agenda:
    """Actions by cycle and round."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, Callable[[int, Any], None], Any]] = []
        self._number = 0
        self.ended = False

    def at(self, cycle: int, rank: int, act: Callable[[int, Any], None], what: Any = None) -> None:
        """Do `act(cycle, what)` in the round `rank` of `cycle`."""
        self._number += 1
        heappush(self._heap, (cycle, rank, self._number, act, what))

    def run(self) -> None:
        """Do what there is to do, until one of the actions sets `ended`."""
        heap = self._heap
        while heap and not self.ended:
            cycle, _, _, act, what = heappop(heap)
            act(cycle, what)


class Tokens:
    """A counter per ordered pair of engines, 0 at the start.

    `wake[engine](cycle)` is called when a token for `engine` can be taken from `cycle` on.
    """

    def __init__(self, agenda: Agenda, most: int) -> None:
        self._agenda, self._most = agenda, most
        self._counts = [[0] * len(ENGINES) for _ in ENGINES]
        self.wake: list[Callable[[int], None]] = []

    def give(self, source: int, targets: tuple[int, ...], cycle: int) -> None:
        """Tokens of `source`, given in `cycle`."""
        for target in targets:
            self._agenda.at(cycle + 1, SHOW, self._arrive, (source, target))

    def _arrive(self, cycle: int, pair: tuple[int, int]) -> None:
        source, target = pair
        self._counts[target][source] += 1
        if self._counts[target][source] > self._most:
            raise ProgramError(
                f"cycle {cycle}: more than {self._most} tokens of {ENGINES[source]} wait for "
                f"{ENGINES[target]}; let it take them earlier"
            )
        self.wake[target](cycle)

    def lacks(self, target: int, needs: tuple[int, ...]) -> int:
        """Engine whose token is missing, load before store before compute; -1: none.

        needs: tokens of each engine that `target` wants to take at once.
        """
        for source in (LOAD, STORE, COMPUTE):
            if needs[source] > self._counts[target][source]:
                return source
        return -1

    def take(self, target: int, needs: tuple[int, ...]) -> None:
        """Take `needs`; they are there."""
        for source, need in enumerate(needs):
            self._counts[target][source] -= need


def engines(mask: int) -> tuple[int, ...]:
    """Engines of a mask."""
    return tuple(e for e in range(len(ENGINES)) if mask >> e & 1)
