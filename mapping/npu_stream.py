"""Command streams of the `npu` engine as they are written: registers that already hold a value are
not sent, waits that are already fulfilled are left out, weights are fetched ahead of their use.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from bankside.errors import ConfigError
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.spec import load_spec

_SPEC = load_spec("npu")
_REGISTERS = _SPEC.enums["register"]
_MASK = (1 << 32) - 1
_FARTHEST = 15
"""Largest count of a wait."""
_LAG = 2
"""Operations that stay in the queue while the control waits for an older one."""


@dataclass
class Chunk:
    """Weights that come with one transfer and serve one operation.

    offset, size: bytes in their region; both are whole words of the weight port.
    """

    offset: int
    size: int
    first: int = 0
    transfer: int = -1


class Stream:
    """Words of one program.

    `schedule`: all chunks of weights in the order of their use, region `region` of main memory.
    """

    def __init__(
        self, machine: NpuMachine, schedule: Iterable[Chunk] = (), *, region: int = 0
    ) -> None:
        self._machine, self._region = machine, region
        self._words: list[int] = []
        self._state: dict[str, int] = {}
        self._transfers = self._operations = 0
        self._transfers_done = self._operations_done = 0
        self._ahead = deque(schedule)
        self._ring = _Ring(machine.config.npu.weight_bytes)

    # --- commands -----------------------------------------------------------------------------
    def emit(self, name: str, **operands: int | str) -> None:
        """One command word."""
        where = f"command {len(self._words)} {name}"
        self._words.append(_SPEC.encode(name, where=where, **operands))

    def set(self, **registers: int) -> None:
        """Registers, those that change only."""
        for name, value in registers.items():
            value &= _MASK
            if self._state.get(name, 0) != value:
                self._state[name] = value
                self.emit("SET", reg=_REGISTERS[name], value=value)

    def operation(self, name: str, registers: dict[str, int], **operands: int | str) -> int:
        """An operation of the kernel engine; returns its number."""
        self.set(**registers)
        self.emit(name, **operands)
        self._operations += 1
        self._fetch(forced=False)
        return self._operations - 1

    def transfer(self, direction: str, registers: dict[str, int]) -> int:
        """A transfer; returns its number."""
        self.set(**registers)
        self.emit("DMA", direction=direction)
        self._transfers += 1
        return self._transfers - 1

    def await_transfer(self, number: int) -> None:
        """Go on when that transfer, and all before, are complete."""
        if number >= self._transfers_done:
            self.emit("DMA_WAIT", outstanding=min(self._transfers - 1 - number, _FARTHEST))
            self._transfers_done = number + 1

    def await_operation(self, number: int) -> None:
        """Go on when that operation, and all before, are complete."""
        if number >= self._operations_done:
            self.emit("KERNEL_WAIT", outstanding=min(self._operations - 1 - number, _FARTHEST))
            self._operations_done = number + 1

    def finish(self) -> tuple[int, ...]:
        """All words, with the end."""
        self.emit("STOP")
        return tuple(self._words)

    # --- weights ------------------------------------------------------------------------------
    def weights(self, chunk: Chunk) -> int:
        """Word of the weight buffer from which the chunk lies there; it is the next one used."""
        while chunk.transfer < 0:
            self._fetch(forced=True)
        self.await_transfer(chunk.transfer)
        return chunk.first // self._machine.weight_port_bytes

    def used(self, chunk: Chunk, operation: int) -> None:
        """The chunk's place is free when that operation is complete."""
        self._ring.release(chunk, operation)

    def _fetch(self, *, forced: bool) -> None:
        """Start transfers of weights as far as there is room; one at least where `forced`."""
        depth = self._machine.config.npu.queue_depth
        while self._ahead:
            if not forced and self._transfers - self._transfers_done >= depth:
                return
            place = self._ring.place(self._ahead[0].size)
            if place is None:
                if forced:
                    raise ConfigError(
                        f"{self._ahead[0].size} bytes of weights do not fit the weight buffer of "
                        f"{self._machine.config.npu.weight_bytes}; split the layer further"
                    )
                return
            first, freed = place
            recent = self._operations - 1 - freed < _LAG
            if not forced and freed >= self._operations_done and recent:
                return
            self._start(first, freed)
            forced = False

    def _start(self, first: int, freed: int) -> None:
        chunk = self._ahead.popleft()
        self.await_operation(freed)
        self._ring.take(first, chunk)
        chunk.first = first
        chunk.transfer = self.transfer(
            "to_weights",
            {"region": self._region, "offset": chunk.offset, "rows": 1, "row_bytes": chunk.size,
             "buf": first},
        )  # fmt: skip


class _Ring:
    """The weight buffer: chunks in order of their use, the oldest freed first."""

    def __init__(self, size: int) -> None:
        self._size, self._next = size, 0
        # (first, stop, chunk, operation after which it is free or None)
        self._held: deque[list] = deque()

    def place(self, size: int) -> tuple[int, int] | None:
        """(first byte, last operation to wait for, -1 if none) for a new chunk, None: no room."""
        first = self._next if self._next + size <= self._size else 0
        freed, stop = -1, first + size
        for low, high, _, operation in self._held:
            if low < stop and first < high:
                if operation is None:
                    return None
                freed = max(freed, operation)
        return (first, freed) if size <= self._size else None

    def take(self, first: int, chunk: Chunk) -> None:
        stop = first + chunk.size
        kept = [h for h in self._held if not (h[0] < stop and first < h[1])]
        self._held = deque([*kept, [first, stop, chunk, None]])
        self._next = stop

    def release(self, chunk: Chunk, operation: int) -> None:
        for held in self._held:
            if held[2] is chunk:
                held[3] = operation
