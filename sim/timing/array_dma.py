"""Load and store engine of the `array` engine in front of the memory model: bursts as recurrences.

Ref: docs/array.md section 4.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from bankside.isa.array_machine import ArrayMachine
from bankside.sim.timing.array_agenda import ACT, LOAD, NEVER, SHOW, Agenda, Tokens

_PAGE_BYTES = 4096
_MOST_BEATS = 256
#: Times of steps that a port remembers.
_MOST_MEMOS = 4096


@dataclass(frozen=True)
class Transfer:
    """A dispatched LOAD or STORE; `where` names it in messages."""

    where: str
    opcode: int
    mem: int
    outer: int
    outer_bytes: int
    inner: int
    inner_bytes: int
    beats: int
    each: bool
    needs: tuple[int, ...]
    signals: tuple[int, ...]


class Splitter:
    """Bursts of the outer steps of a transfer, in bus words."""

    def __init__(self, bus_bytes: int) -> None:
        self._bytes = bus_bytes
        self._limit = min(_PAGE_BYTES, _MOST_BEATS * bus_bytes)
        self._known: dict[tuple[int, int, int, int], tuple[int, ...]] = {}

    def bursts(self, transfer: Transfer, step: int) -> tuple[int, ...]:
        """Bus words of each burst of outer step `step`."""
        limit = self._limit
        first = (transfer.mem + step * transfer.outer_bytes) % limit
        key = (first, transfer.inner, transfer.inner_bytes % limit, transfer.beats)
        if key not in self._known:
            rows = ((first + j * transfer.inner_bytes) % limit for j in range(transfer.inner))
            self._known[key] = tuple(n for at in rows for n in self._row(at, transfer.beats))
        return self._known[key]

    def _row(self, at: int, beats: int) -> list[int]:
        """Bursts of one row that begins `at` bytes after a boundary."""
        word, per = at // self._bytes, self._limit // self._bytes
        cuts = [word, *range((word // per + 1) * per, word + beats, per), word + beats]
        return [b - a for a, b in pairwise(cuts)]


class Port:
    """Addresses and beats of one direction of the memory port.

    lead: cycles from an address to its first beat, at least. tail: cycles from a burst's last beat
    to the end of the burst. serial: the next address waits for the last beat.
    """

    def __init__(self, lead: int, tail: int, beat: int, outstanding: int, serial: bool) -> None:
        self._lead, self._tail, self._beat, self._serial = lead, tail, beat, serial
        self.next_address = 0
        # Beginning of the last step; next beat at the earliest, ends of the bursts that it left
        # under way, first cycle in which none of this counts any more: relative to that.
        self._begun = 0
        self._left = (NEVER, (NEVER,) * outstanding, NEVER)
        self._memos: dict[tuple, tuple[int, int, tuple]] = {}

    def earliest(self) -> int:
        """First cycle in which the next address can be accepted."""
        return max(self.next_address, self._begun + self._left[1][0])

    def ends(self) -> list[int]:
        """Cycles in which the last bursts, as many as may be under way, have ended."""
        return [self._begun + end for end in self._left[1]]

    def play(self, bursts: tuple[int, ...], start: int) -> tuple[int, int]:
        """Cycles of the last address and of the last beat of `bursts`.

        Their first address is accepted in cycle `start`. What counts of the past are the beats and
        the bursts that are still to come, relative to `start`: steps that begin alike take equally
        long.
        """
        since = start - self._begun
        key = (bursts, since, self._left) if since < self._left[2] else (bursts,)
        found = self._memos.get(key)
        if found is None:
            if len(self._memos) >= _MOST_MEMOS:
                self._memos.clear()
            found = self._memos[key] = self._recur(bursts, since)
        address, last, self._left = found
        self._begun = start
        self.next_address = start + (last if self._serial else address) + 1
        return start + address, start + last

    def _recur(self, bursts: tuple[int, ...], since: int) -> tuple[int, int, tuple]:
        """Last address, last beat, what is left of the step that begins `since` cycles after the
        one before.
        """
        bus, waiting = self._left[0] - since, deque(slot - since for slot in self._left[1])
        soonest, address, last = 0, 0, 0
        for beats in bursts:
            address = max(soonest, waiting.popleft())
            last = max(address + self._lead, bus) + (beats - 1) * self._beat
            bus = last + self._beat
            waiting.append(last + self._tail + 1)
            soonest = (last if self._serial else address) + 1
        return address, last, (bus, tuple(waiting), max(bus - self._lead, waiting[-1]))

    def end(self, last: int) -> int:
        """Cycle in which a burst ends whose last beat is in cycle `last`."""
        return last + self._tail


class Dma:
    """The load or the store engine.

    left(engine, cycle): called for every command that is no longer in the queue from `cycle` on.
    """

    def __init__(
        self, index: int, machine: ArrayMachine, agenda: Agenda, tokens: Tokens,
        left: Callable[[int, int], None],
    ) -> None:  # fmt: skip
        memory = machine.config.memory
        load = index == LOAD
        lead = memory.read_latency_cycles if load else 1
        tail = 0 if load else memory.write_latency_cycles
        self.index, self._agenda, self._tokens, self._left = index, agenda, tokens, left
        self._port = Port(lead, tail, memory.beat_cycles, memory.outstanding, not load)
        self._splitter = Splitter(machine.config.array.bus_bytes)
        self._queue: deque[Transfer] = deque()
        self._step, self._begun = 0, 0
        self._waiting = False
        self.idle_from = 0
        self.busy: list[list[int]] = []  # [first, last] cycle in which the engine is not idle
        self.macros: list[tuple[int, int, int, int, int]] = []

    def dispatch(self, transfer: Transfer, cycle: int) -> None:
        """`transfer` enters the queue in `cycle`."""
        if not self._queue and not (self.busy and self.busy[-1][1] >= cycle):
            self.busy.append([cycle + 1, cycle + 1])
        self._queue.append(transfer)
        if len(self._queue) == 1:
            self._agenda.at(max(cycle + 1, self._port.earliest()), ACT, self._try)

    def wake(self, cycle: int) -> None:
        """A token has come."""
        if self._waiting:
            self._waiting = False
            self._agenda.at(cycle, ACT, self._try)

    def waits_for(self) -> tuple[str, int] | None:
        """Command that waits for a token, and the engine that lacks to give it."""
        if not self._waiting:
            return None
        transfer = self._queue[0]
        return transfer.where, self._tokens.lacks(self.index, transfer.needs)

    def _try(self, cycle: int, _: None) -> None:
        """The first address of the command or of its next step, if the tokens are there."""
        transfer = self._queue[0]
        if self._tokens.lacks(self.index, transfer.needs) >= 0:
            self._waiting = True
            return
        self._tokens.take(self.index, transfer.needs)
        if self._step == 0:
            self._begun = cycle
        address, last = self._play(transfer, cycle)
        if self._step < transfer.outer:
            self._tokens.give(self.index, transfer.signals, self._port.end(last))
            self._agenda.at(self._port.earliest(), ACT, self._try)
        else:
            self._complete(transfer, address, last)

    def _play(self, transfer: Transfer, cycle: int) -> tuple[int, int]:
        """One step if each has tokens of its own, else all: last address, last beat."""
        stop = self._step + 1 if transfer.each else transfer.outer
        while True:
            address, last = self._port.play(self._splitter.bursts(transfer, self._step), cycle)
            self._step += 1
            if self._step == stop:
                return address, last
            cycle = self._port.earliest()

    def _complete(self, transfer: Transfer, address: int, last: int) -> None:
        end = self._port.end(last)
        self._tokens.give(self.index, transfer.signals, end)
        self._queue.popleft()
        self._step = 0
        self.idle_from, self.busy[-1][1] = end + 1, max(self.busy[-1][1], end)
        shown = address if self.index == LOAD else last
        self.macros.append((self.index, transfer.opcode, self._begun, shown, end))
        self._agenda.at(address + 1, SHOW, self._gone)
        if self._queue:
            self._agenda.at(max(address + 1, self._port.earliest()), ACT, self._try)

    def _gone(self, cycle: int, _: None) -> None:
        self._left(self.index, cycle)
