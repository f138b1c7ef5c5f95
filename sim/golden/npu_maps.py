"""Feature maps, tables and records in the shared buffer of the `npu` golden model.

The buffer is uint8 [words, 32]. Ref: docs/npu.md sections 1 and 2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError
from bankside.isa.npu_commands import CHANNEL, Command
from bankside.isa.npu_machine import WORD_BYTES
from bankside.isa.numerics_npu import LUT_BYTES, RECORD_BYTES, SHIFT_MAX, SHIFT_MIN, Output

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]


def _places(command: Command, name: str, shape: tuple[int, int, int]) -> I64:
    """Word of each position, [h, w]."""
    reg, (h, w, _) = command.reg, shape
    rows = reg[name] + np.arange(h) * reg[f"{name}_sy"]
    return rows[:, None] + np.arange(w) * reg[f"{name}_sx"]


def read_map(command: Command, shared: U8, name: str, shape: tuple[int, int, int]) -> NDArray:
    """Elements [h, w, c] as they are stored, int8 or int16 (no zero point)."""
    dtype = np.dtype("<i2" if command.reg[f"{name}_bits"] else "i1")
    h, w, c = shape
    words = -(-c * dtype.itemsize // WORD_BYTES)
    places = _places(command, name, shape)[..., None] + np.arange(words)
    return shared[places].reshape(h, w, words * WORD_BYTES).view(dtype)[:, :, :c]


def read_centred(command: Command, shared: U8, name: str, shape: tuple[int, int, int]) -> I64:
    """`read_map` less the zero point."""
    return read_map(command, shared, name, shape).astype(np.int64) - command.reg[f"{name}_zero"]


def write_map(command: Command, shared: U8, values: NDArray) -> None:
    """Results [h, w, c] (or with positions in one axis); bytes of no element keep their value."""
    reg = command.reg
    shape = (reg["ofm_h"], reg["ofm_w"], reg["ofm_c"])
    dtype = np.dtype("<i2" if reg["ofm_bits"] else "i1")
    data = np.ascontiguousarray(values.astype(dtype)).reshape(shape).view(np.uint8)
    first = _places(command, "ofm", shape)[..., None] * WORD_BYTES
    shared.reshape(-1)[first + np.arange(data.shape[2])] = data


def read_bytes(command: Command, shared: U8, name: str, size: int) -> U8:
    """Bytes from the word in register `name` on."""
    first = command.reg[name]
    return shared[first : first + -(-size // WORD_BYTES)].reshape(-1)[:size]


def look_up(command: Command, shared: U8, index: NDArray) -> NDArray[np.int8]:
    """Table bytes of int8 values."""
    table = read_bytes(command, shared, "lut", LUT_BYTES).view(np.int8)
    return table[index.astype(np.int64) + 128 & LUT_BYTES - 1]


def output_of(command: Command) -> Output:
    """Zero point and limits of the result."""
    reg = command.reg
    return Output(reg["ofm_zero"], reg["ofm_min"], reg["ofm_max"])


def read_records(command: Command, shared: U8) -> tuple[I64, I64, I64]:
    """bias, mult, shift of the output channels, [c] or [1]. Raises ProgramError for a shift that
    has no meaning.
    """
    count = command.reg["ofm_c"] if command.reg["scale_mode"] == CHANNEL else 1
    rows = read_bytes(command, shared, "scale", count * RECORD_BYTES).reshape(count, RECORD_BYTES)
    rows = np.ascontiguousarray(rows)
    numbers = rows.view("<i4").astype(np.int64)
    shift = rows[:, 8].view(np.int8).astype(np.int64)
    bad = np.flatnonzero((shift < SHIFT_MIN) | (shift > SHIFT_MAX))
    if bad.size:
        raise ProgramError(
            f"{command.where}: the scale record of channel {bad[0]} has shift {shift[bad[0]]}; "
            f"expected {SHIFT_MIN}..{SHIFT_MAX}: is `scale` the word of the first record?"
        )
    return numbers[:, 0], numbers[:, 1], shift
