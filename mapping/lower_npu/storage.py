"""Where data lie: buffers without an address yet, constants, transfers, operations, the bytes of
tensors in both memories. Ref: docs/npu.md section 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bankside.isa.npu_machine import WORD_BYTES, NpuMachine
from bankside.mapping.npu_graph import Tensor


@dataclass(frozen=True)
class Layout:
    """Words from row to row (sy) and from position to position (sx), words of the whole map."""

    sy: int
    sx: int
    words: int

    @classmethod
    def of(cls, machine: NpuMachine, tensor: Tensor, rows: int | None = None) -> Layout:
        """Of a tensor (or of so many rows of one) that can be transferred row by row."""
        height, width, _ = tensor.shape
        unit = transfer_words(machine)
        sy = -(-width * tensor.words // unit) * unit
        return cls(sy, tensor.words, sy * (height if rows is None else rows))


def transfer_words(machine: NpuMachine) -> int:
    """Transfers move multiples of so many words."""
    return max(machine.bus_bytes // WORD_BYTES, 1)


def bank_words(machine: NpuMachine) -> int:
    return machine.shared_words // machine.config.npu.banks


@dataclass(eq=False)
class Buffer:
    """Words of the shared buffer. address: given by the allocation. align: in words."""

    name: str
    words: int
    align: int = 1
    address: int = -1


@dataclass(eq=False)
class Constant:
    """Bytes that an operation reads from the shared buffer (records, tables, gains, tensors).
    slot: word of the slot in which its batch puts it.
    """

    data: bytes
    address: int = -1

    @property
    def words(self) -> int:
        return -(-len(self.data) // WORD_BYTES)


@dataclass(frozen=True, eq=False)
class Place:
    """A byte of a buffer or constant; a register gets its word, COPY its byte address."""

    target: Buffer | Constant
    byte: int = 0
    in_bytes: bool = False

    def moved(self, words: int) -> Place:
        """So many words further on."""
        return Place(self.target, self.byte + words * WORD_BYTES, self.in_bytes)

    def value(self) -> int:
        byte = self.target.address * WORD_BYTES + self.byte
        return byte if self.in_bytes else byte // WORD_BYTES


@dataclass(frozen=True, eq=False)
class Chunk:
    """Tiles of some output channels in the weight buffer; `key` tells equal ones."""

    key: tuple
    data: bytes


@dataclass(eq=False)
class Store:
    """`size` bytes of a buffer to a tensor in main memory, from byte `offset` on."""

    buffer: Buffer
    start: int
    tensor: Tensor
    offset: int
    size: int
    emitted: bool = False


@dataclass(eq=False)
class Load:
    """The other way; waits: stores that bring these bytes to main memory. ahead: may be emitted
    before the operation that needs it is next.
    """

    buffer: Buffer
    start: int
    tensor: Tensor
    offset: int
    size: int
    waits: list[Store] = field(default_factory=list)
    ahead: bool = False


@dataclass(eq=False)
class Op:
    """One operation without addresses.

    loads: must be in the shared buffer before. stores: go out after it.
    """

    layer: str
    command: str
    fields: dict[str, str]
    registers: dict[str, int | Place]
    reads: list[Buffer]
    writes: Buffer
    weights: Chunk | None = None
    loads: list[Load] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)
    cycles: float = 0.0

    @property
    def constants(self) -> list[Constant]:
        """What it reads in the slot of its batch."""
        targets = (p.target for p in self.registers.values() if isinstance(p, Place))
        return [t for t in targets if isinstance(t, Constant)]


# --- bytes of tensors ---------------------------------------------------------------------------


def to_bytes(values: NDArray, tensor: Tensor, layout: Layout) -> bytes:
    """Integers [rows, columns, channels] as words of the shared buffer, padded with zeros."""
    height, width, channels = tensor.shape
    kind = "<i1" if tensor.form.bits == 8 else "<i2"
    padded = np.zeros((height, width, tensor.words * tensor.word_channels), kind)
    padded[..., :channels] = values
    rows = np.zeros((height, layout.sy * WORD_BYTES), np.uint8)
    flat = padded.reshape(height, -1).view(np.uint8)
    rows[:, : flat.shape[1]] = flat
    return rows.tobytes()


def from_bytes(data: bytes, tensor: Tensor, layout: Layout) -> NDArray[np.int16]:
    """Inverse of `to_bytes`."""
    height, width, channels = tensor.shape
    kind = "<i1" if tensor.form.bits == 8 else "<i2"
    rows = np.frombuffer(data, np.uint8)[: layout.words * WORD_BYTES].reshape(height, -1)
    used = np.ascontiguousarray(rows[:, : width * tensor.words * WORD_BYTES])
    positions = used.view(kind).reshape(height, width, -1)
    return positions[..., :channels].astype(np.int16)
