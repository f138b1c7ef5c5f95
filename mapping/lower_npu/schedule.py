"""Order of transfers and operations: what a command needs is fetched while others run.

Chunks of weights go round the weight buffer as in a ring and stay until others take their place;
constants come in batches into alternating slots of the shared buffer. A transfer may be emitted as
soon as the operations that last used its target are emitted, all but the latest: then it waits for
them only, while the latest runs. Ref: docs/npu_compiler.md.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from bankside.isa.npu_machine import WORD_BYTES, NpuMachine
from bankside.mapping.lower_npu.storage import (
    Buffer,
    Chunk,
    Constant,
    Load,
    Op,
    Store,
    bank_words,
    transfer_words,
)

#: Operations ahead of the one that runs for which transfers are emitted.
_AHEAD = 3
#: Part of the shared buffer that constants may take to be loaded all at once.
_ONE_SLOT_SHARE = 8


@dataclass(eq=False)
class Batch:
    """Constants that lie in a slot together. address: word of the slot."""

    address: int
    offsets: dict[int, int] = field(default_factory=dict)
    parts: list[Constant] = field(default_factory=list)
    words: int = 0

    def added(self, constants: list[Constant]) -> int:
        """Words with these as well."""
        new = {id(c): c for c in constants if id(c) not in self.offsets}
        return self.words + sum(c.words for c in new.values())

    def add(self, constants: list[Constant]) -> None:
        for constant in constants:
            if id(constant) not in self.offsets:
                self.offsets[id(constant)] = self.words
                self.parts.append(constant)
                self.words += constant.words

    def place(self) -> None:
        """Give its constants their addresses."""
        for constant in self.parts:
            constant.address = self.address + self.offsets[id(constant)]

    def data(self) -> bytes:
        return b"".join(c.data.ljust(c.words * WORD_BYTES, b"\0") for c in self.parts)


@dataclass(frozen=True, eq=False)
class WeightLoad:
    """A chunk to a word of the weight buffer."""

    chunk: Chunk
    address: int


@dataclass(frozen=True, eq=False)
class Run:
    """An operation with its constants and the word of its weights."""

    op: Op
    batch: Batch | None
    weights: int


Transfer = WeightLoad | Batch | Load | Store
Event = Transfer | Run


@dataclass(eq=False)
class _Pending:
    """A transfer for operation `need`, not before operation `after` is emitted."""

    transfer: WeightLoad | Batch | Load
    need: int
    after: int


# --- slots of constants -------------------------------------------------------------------------


@dataclass(frozen=True)
class Slots:
    """Slots of `words` at the end of the shared buffer."""

    count: int
    words: int

    @classmethod
    def of(cls, machine: NpuMachine, ops: list[Op]) -> Slots:
        """One where everything fits an eighth, else two of whole banks."""
        unit, bank = transfer_words(machine), bank_words(machine)
        everything = {id(c): c for op in ops for c in op.constants}
        total = _round(sum(c.words for c in everything.values()), unit)
        if total <= max(machine.shared_words // _ONE_SLOT_SHARE, bank):
            return cls(1, total)
        most = max(Batch(0).added(op.constants) for op in ops)
        return cls(2, _round(most, bank))

    @property
    def total(self) -> int:
        return self.count * self.words

    def batches(self, machine: NpuMachine, ops: list[Op]) -> list[Batch | None]:
        """The batch of every operation."""
        found: list[Batch | None] = []
        made = 0
        batch: Batch | None = None
        for op in ops:
            if op.constants and (batch is None or batch.added(op.constants) > self.words):
                slot = made % self.count
                batch = Batch(machine.shared_words - (slot + 1) * self.words)
                made += 1
            if batch is not None:
                batch.add(op.constants)
            found.append(batch if op.constants else None)
        return found


def _round(words: int, unit: int) -> int:
    return -(-words // unit) * unit


# --- ring of weights ----------------------------------------------------------------------------


class _Ring:
    """What lies in the weight buffer, by key: words [start, stop), its last user."""

    def __init__(self, words: int) -> None:
        self.words, self._head = words, 0
        self._held: dict[tuple, tuple[int, int]] = {}
        self._users: list[tuple[int, int, int]] = []

    def held(self, key: tuple) -> int | None:
        return self._held[key][0] if key in self._held else None

    def place(self, key: tuple, words: int) -> tuple[int, int]:
        """(address, last operation that reads something there)."""
        if self._head + words > self.words:
            self._head = 0
        start, stop = self._head, self._head + words
        self._head = stop
        gone = [k for k, (a, b) in self._held.items() if a < stop and start < b]
        for other in gone:
            del self._held[other]
        after = max((u for a, b, u in self._users if a < stop and start < b), default=-1)
        self._users = [(a, b, u) for a, b, u in self._users if not (start <= a and b <= stop)]
        self._held[key] = (start, stop)
        return start, after

    def use(self, key: tuple, op: int) -> None:
        self._users = [e for e in self._users if e[:2] != self._held[key]]
        self._users.append((*self._held[key], op))


# --- order --------------------------------------------------------------------------------------


def schedule(machine: NpuMachine, ops: list[Op], slots: Slots) -> list[Event]:
    """Events in the order of the program."""
    return _Scheduler(machine, ops, slots).run()


class _Scheduler:
    def __init__(self, machine: NpuMachine, ops: list[Op], slots: Slots) -> None:
        self.machine, self.ops, self.slots = machine, ops, slots
        self.batches = slots.batches(machine, ops)
        self.addresses: list[int] = []
        self.pending = deque(self._transfers())
        self.events: list[Event] = []
        self.stores: list[Store] = []

    def _transfers(self) -> list[_Pending]:
        """What every operation needs that is not there yet, in order."""
        found: list[_Pending] = []
        ring = _Ring(self.machine.weight_words)
        last_use: dict[int, int] = {}
        slot_use: dict[int, int] = {}
        loaded: set[int] = set()
        for index, op in enumerate(self.ops):
            batch = self.batches[index]
            if batch is not None:
                if id(batch) not in loaded:
                    loaded.add(id(batch))
                    found.append(_Pending(batch, index, slot_use.get(batch.address, -1)))
                slot_use[batch.address] = index
            for load in op.loads:
                after = last_use.get(id(load.buffer), -1) if load.ahead else index - 1
                found.append(_Pending(load, index, after))
            self.addresses.append(self._weights(op, index, ring, found))
            for buffer in (*op.reads, op.writes):
                last_use[id(buffer)] = index
        return found

    def _weights(self, op: Op, index: int, ring: _Ring, found: list[_Pending]) -> int:
        """Word of its weights; a transfer where they are not there."""
        if op.weights is None:
            return 0
        key = op.weights.key
        address = ring.held(key)
        if address is None:
            words = len(op.weights.data) // self.machine.weight_port_bytes
            address, after = ring.place(key, words)
            found.append(_Pending(WeightLoad(op.weights, address), index, after))
        ring.use(key, index)
        return address

    def run(self) -> list[Event]:
        for index, op in enumerate(self.ops):
            while self.pending and self.pending[0].need <= index:
                self._emit(self.pending.popleft())
            self.events.append(Run(op, self.batches[index], self.addresses[index]))
            self._flush()
            self.stores = list(op.stores)
            while self.pending and self._may_go(self.pending[0], index):
                self._emit(self.pending.popleft())
        self._flush()
        return self.events

    def _may_go(self, pending: _Pending, index: int) -> bool:
        transfer = pending.transfer
        waits = transfer.waits if isinstance(transfer, Load) else ()
        stored = all(store.emitted for store in waits)
        return stored and pending.need <= index + _AHEAD and pending.after < index

    def _emit(self, pending: _Pending) -> None:
        transfer = pending.transfer
        if isinstance(transfer, Load) and not all(s.emitted for s in transfer.waits):
            self._flush()
        self.events.append(transfer)

    def _flush(self) -> None:
        """Results leave after the next operation is under way."""
        for store in self.stores:
            store.emitted = True
            self.events.append(store)
        self.stores = []


def spans(events: list[Event]) -> dict[int, tuple[Buffer, int, int]]:
    """First and last event of every buffer without an address, by id."""
    found: dict[int, tuple[Buffer, int, int]] = {}
    for position, event in enumerate(events):
        if isinstance(event, Run):
            used = [*event.op.reads, event.op.writes]
        else:
            used = [event.buffer] if isinstance(event, Load | Store) else []
        for buffer in used:
            if buffer.address < 0:
                first = found[id(buffer)][1] if id(buffer) in found else position
                found[id(buffer)] = (buffer, first, position)
    return found
