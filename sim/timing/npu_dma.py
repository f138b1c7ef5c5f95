"""DMA engine of the `npu` engine and the memory behind both of its ports: bursts as recurrences.

Ref: docs/npu.md sections 6 and 7.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from bankside.config_npu import NpuMemoryConfig
from bankside.isa.npu_machine import NpuMachine

_PAGE_BYTES = 4096
_MOST_BEATS = 256
_MASK = (1 << 32) - 1
#: m1 draws its own numbers from the same seed.
_FETCH_SEED = 0x9E3779B9
#: Earlier than every cycle of a program.
NEVER = -(1 << 60)


def xorshift32(seed: int) -> Iterator[int]:
    """x_0, x_1, ... Ref: G. Marsaglia, Xorshift RNGs, J. Stat. Softw. 8 (2003), no. 14."""
    x = seed
    while True:
        x ^= x << 13 & _MASK
        x ^= x >> 17
        x ^= x << 5 & _MASK
        yield x


class ReadChannel:
    """Read bursts of one port; the memory takes every address at once."""

    def __init__(self, memory: NpuMemoryConfig, seed: int) -> None:
        self._latency, self._beat = memory.read_latency_cycles, memory.beat_cycles
        self._jitter, self._numbers = memory.jitter_cycles, xorshift32(seed)
        self._free = NEVER

    def burst(self, address: int, beats: int) -> tuple[int, int]:
        """Cycles of the first and the last beat of the next burst, accepted in `address`."""
        late = next(self._numbers) % (self._jitter + 1) if self._jitter else 0
        first = max(address + self._latency + late, self._free)
        last = first + (beats - 1) * self._beat
        self._free = last + self._beat
        return first, last


def fetch_channel(memory: NpuMemoryConfig) -> ReadChannel:
    """The read channel of m1."""
    return ReadChannel(memory, memory.seed ^ _FETCH_SEED or memory.seed)


class Rows(NamedTuple):
    """Rows of a transfer in main memory, bytes; `address` is absolute."""

    address: int
    rows: int
    row_bytes: int
    row_step: int


class Transfer(NamedTuple):
    """Cycles of one transfer: first address, last address (read) or last beat (write), first cycle
    in which it is not outstanding any more.
    """

    opcode: int
    first: int
    last: int
    complete: int


class Dma:
    """The engine: what it does from the dispatch of a transfer on is decided there."""

    def __init__(self, machine: NpuMachine) -> None:
        memory = machine.config.memory
        self._bytes = machine.bus_bytes
        self._limit = min(_PAGE_BYTES, _MOST_BEATS * self._bytes)
        self._outstanding, self._beat = memory.outstanding, memory.beat_cycles
        self._response = memory.write_latency_cycles
        self._reads = ReadChannel(memory, memory.seed)
        self._free = NEVER  # first cycle in which the memory may take a beat
        self.transfers: list[Transfer] = []

    def dispatch(self, opcode: int, rows: Rows, write: bool, cycle: int) -> None:
        """A transfer that enters the queue in `cycle`."""
        start = max(cycle + 1, self.complete + 1)
        last, complete = (self._write if write else self._read)(rows, start)
        self.transfers.append(Transfer(opcode, start, last, complete))

    @property
    def complete(self) -> int:
        """Cycle from which on no transfer is outstanding."""
        return self.transfers[-1].complete if self.transfers else NEVER

    def _bursts(self, rows: Rows) -> Iterator[int]:
        """Beats of each burst."""
        per, known = self._limit // self._bytes, {}
        for row in range(rows.rows):
            at = (rows.address + row * rows.row_step) % self._limit
            if at not in known:
                word, end = at // self._bytes, (at + rows.row_bytes) // self._bytes
                cuts = [word, *range((word // per + 1) * per, end, per), end]
                known[at] = [b - a for a, b in pairwise(cuts)]
            yield from known[at]

    def _read(self, rows: Rows, start: int) -> tuple[int, int]:
        """Last address; completion."""
        slots, soonest, address, last = deque([NEVER] * self._outstanding), start, start, start
        for beats in self._bursts(rows):
            address = max(soonest, slots.popleft())
            _, last = self._reads.burst(address, beats)
            slots.append(last + 1)
            soonest = address + 1
        return address, last + 1

    def _write(self, rows: Rows, start: int) -> tuple[int, int]:
        """Last beat; completion."""
        slots, soonest, last = deque([NEVER] * self._outstanding), start, start
        for beats in self._bursts(rows):
            address = max(soonest, slots.popleft())
            last = max(address + 1, self._free) + (beats - 1) * self._beat
            self._free = last + self._beat
            slots.append(last + self._response + 1)
            soonest = last + 1
        return last, last + self._response + 1
