"""Which bytes of the buffers a command of an `npu` program reads and writes, exactly.

Ref: docs/npu.md sections 1 to 3 and 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bankside.isa.npu_commands import (
    CHANNEL,
    LUT_BYTES,
    OPERATIONS,
    TO_MEMORY,
    TO_WEIGHTS,
    WINDOWED,
    Command,
)
from bankside.isa.npu_machine import WORD_BYTES
from bankside.isa.numerics_npu import EXP_ENTRIES, RECORD_BYTES

I64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Use:
    """Bytes [first[i], stop[i]) of a buffer, sorted and disjoint, and what they are."""

    what: str
    first: I64
    stop: I64

    @classmethod
    def of(cls, what: str, starts: I64, length: int) -> Use:
        """`length` bytes from each of `starts` (any order); neighbours are joined."""
        starts = np.unique(starts)
        new = np.flatnonzero(np.diff(starts) > length) + 1
        ends = starts + length
        last = np.append(new, len(starts)) - 1
        return cls(what, starts[np.concatenate([[0], new])], ends[last])

    def meeting(self, other: Use) -> int | None:
        """The lowest byte that both use."""
        index = np.searchsorted(other.stop, self.first, "right")
        there = np.minimum(index, len(other.first) - 1)
        hit = (index < len(other.first)) & (other.first[there] < self.stop)
        if not hit.any():
            return None
        at = int(np.flatnonzero(hit)[0])
        return int(max(self.first[at], other.first[there[at]]))

    def mask(self) -> tuple[slice, NDArray[np.bool_]]:
        """Range of bytes around it, and which of them it is."""
        low, high = int(self.first[0]), int(self.stop[-1])
        edges = np.zeros(high - low + 1, np.int8)
        edges[self.first - low] += 1
        edges[self.stop - low] -= 1
        return slice(low, high), np.cumsum(edges[:-1], dtype=np.int8).astype(bool)

    def banks(self, bank_bytes: int) -> set[int]:
        """Banks of its words."""
        low, high = self.first // bank_bytes, (self.stop - 1) // bank_bytes
        pairs = np.unique(np.stack([low, high]), axis=1).T
        return {bank for a, b in pairs for bank in range(int(a), int(b) + 1)}


def _touched(size: int, outputs: int, kernel: int, stride: int, dilation: int, pad: int) -> I64:
    """Rows (or columns) of the input that some window meets."""
    reach = np.arange(outputs)[:, None] * stride + np.arange(kernel) * dilation - pad
    return np.unique(reach[(reach >= 0) & (reach < size)])


def _map(command: Command, name: str, rows: I64, columns: I64, channels: int) -> list[Use]:
    if not rows.size or not columns.size:
        return []
    reg = command.reg
    words = reg[name] + rows[:, None] * reg[f"{name}_sy"] + columns * reg[f"{name}_sx"]
    size = channels << reg[f"{name}_bits"]
    return [Use.of(name, words.reshape(-1) * WORD_BYTES, size)]


def _input(command: Command) -> list[Use]:
    reg, (height, width, channels) = command.reg, command.ifm_shape()
    rows, columns = np.arange(height), np.arange(width)
    if command.name in WINDOWED:
        axes = ("y", "top", "h", height), ("x", "left", "w", width)
        rows, columns = (
            _touched(
                size, reg[f"ofm_{edge}"], reg[f"kernel_{edge}"], reg[f"stride_{axis}"],
                reg[f"dilation_{axis}"], reg[f"pad_{side}"],
            )
            for axis, side, edge, size in axes
        )  # fmt: skip
    return _map(command, "ifm", rows, columns, channels)


def _copied(command: Command, side: str) -> Use:
    reg = command.reg
    starts = np.array([reg[side]])
    for i in range(3):
        step = np.unique(np.arange(reg[f"n{i}"]) * reg[f"{side}_s{i}"])
        starts = np.unique(starts[:, None] + step)
    return Use.of(side, starts, WORD_BYTES if reg["wide"] else 1)


def _table(command: Command, name: str, size: int) -> Use:
    return Use.of(name, np.array([command.reg[name] * WORD_BYTES]), size)


def _tables(command: Command) -> list[Use]:
    reg, found = command.reg, []
    if command.has_records:
        count = reg["ofm_c"] if reg["scale_mode"] == CHANNEL else 1
        found.append(_table(command, "scale", count * RECORD_BYTES))
    if command.name == "NORM":
        found.append(_table(command, "scale", 2 * reg["ofm_c"]))
    if command.has_lut:
        found.append(_table(command, "lut", LUT_BYTES))
    if command.name == "SOFTMAX":
        found.append(_table(command, "lut", 4 * EXP_ENTRIES))
    return found


def shared_reads(command: Command) -> list[Use]:
    """What an operation or a transfer reads of the shared buffer."""
    if command.name == "DMA":
        return [_transferred(command)] if command.fields["direction"] == TO_MEMORY else []
    if command.name not in OPERATIONS:
        return []
    if command.name == "COPY":
        return [_copied(command, "src")]
    found = _input(command)
    if command.has_ifm2:
        height, width, channels = command.ifm2_shape()
        found += _map(command, "ifm2", np.arange(height), np.arange(width), channels)
    return found + _tables(command)


def shared_writes(command: Command) -> list[Use]:
    """What it writes there."""
    if command.name == "DMA":
        return [] if command.fields["direction"] in (TO_MEMORY, TO_WEIGHTS) else [
            _transferred(command)
        ]  # fmt: skip
    if command.name not in OPERATIONS:
        return []
    if command.name == "COPY":
        return [_copied(command, "dst")]
    reg = command.reg
    return _map(command, "ofm", np.arange(reg["ofm_h"]), np.arange(reg["ofm_w"]), reg["ofm_c"])


def _transferred(command: Command) -> Use:
    """Of the buffer, either."""
    reg = command.reg
    starts = reg["buf"] + np.arange(reg["rows"]) * reg["buf_step"]
    return Use.of("buf", starts, reg["row_bytes"])


def weight_writes(command: Command) -> list[Use]:
    """Bytes of the weight buffer that a transfer brings."""
    brings = command.name == "DMA" and command.fields["direction"] == TO_WEIGHTS
    return [_transferred(command)] if brings else []


def memory_use(command: Command, base: int) -> Use:
    """Bytes of main memory of a transfer; base: of its region."""
    reg = command.reg
    starts = base + reg["offset"] + np.arange(reg["rows"]) * reg["row_step"]
    return Use.of("main memory", starts, reg["row_bytes"])


def memory_order(command: Command, base: int) -> tuple[Sequence[tuple[int, int]], int]:
    """(memory byte, buffer byte) of each row of a transfer, and the bytes of a row."""
    reg = command.reg
    rows = range(reg["rows"])
    start = base + reg["offset"]
    pairs = [(start + i * reg["row_step"], reg["buf"] + i * reg["buf_step"]) for i in rows]
    return pairs, reg["row_bytes"]
