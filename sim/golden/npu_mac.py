"""CONV, DEPTHWISE, MATMUL and POOL of the `npu` golden model, a whole layer at a time.

Products and sums are exact: one place of the window gives at most 2^16 products below 2^17, and a
float64 matrix product of integers is exact while every partial sum stays below 2^53. The int64 sum
over the places is then wrapped to 32 bits, which equals wrapping at every addition.
Ref: docs/npu.md sections 2 and 3.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError
from bankside.isa import numerics_npu_np as fast
from bankside.isa.npu_commands import OUTSIDE, Command
from bankside.isa.npu_weights import PACKED
from bankside.isa.spec import load_spec
from bankside.sim.golden.npu_maps import (
    look_up,
    output_of,
    read_centred,
    read_map,
    read_records,
    write_map,
)

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]
BOOL = NDArray[np.bool_]

_MAX = load_spec("npu").enums["pool"]["max"]


def mac_operation(command: Command, shared: U8, weights: U8) -> None:
    """Execute one of them: shared uint8 [words, 32], weights the bytes of the weight buffer."""
    if command.name == "POOL":
        values = _pool(command, shared)
    elif command.name == "MATMUL":
        values = _scaled(command, shared, _matmul(command, shared))
    else:
        layer = _decoded(command, weights)
        kernel = _convolve if command.name == "CONV" else _depthwise
        values = _scaled(command, shared, kernel(command, shared, layer))
    values = np.minimum(np.maximum(values, command.reg["ofm_min"]), command.reg["ofm_max"])
    if command.reg["lut_enable"]:
        values = look_up(command, shared, values)
    write_map(command, shared, values)


def _decoded(command: Command, weights: U8) -> NDArray[np.int16]:
    data = weights[command.reg["weights"] * command.machine.weight_port_bytes :]
    try:
        return command.weights.decode(data, command.where)
    except ProgramError as error:
        # Only packed tiles tell their size themselves; the others have been checked.
        if command.reg["weight_format"] == PACKED:
            raise command.fault(OUTSIDE, str(error)) from None
        raise


def _scaled(command: Command, shared: U8, acc: I64) -> I64:
    """Accumulators [positions, c] to results, not yet clamped where they bypass."""
    acc = fast.wrap32(acc)
    if not command.has_records:
        return acc
    bias, mult, shift = read_records(command, shared)
    return fast.requantise(
        acc, bias, mult, shift, output_of(command), command.reg["rounding"]
    )


def _taps(command: Command, values: NDArray) -> Iterator[tuple[int, int, NDArray, BOOL]]:
    """Of every place of the window: its row and column, what the output positions see there
    [h, w, c], whether it is inside [h, w]. `values`: [ifm_h, ifm_w, c].
    """
    reg = command.reg
    y = np.arange(reg["ofm_h"]) * reg["stride_y"] - reg["pad_top"]
    x = np.arange(reg["ofm_w"]) * reg["stride_x"] - reg["pad_left"]
    for ky in range(reg["kernel_h"]):
        rows = y + ky * reg["dilation_y"]
        rows_in = (rows >= 0) & (rows < reg["ifm_h"])
        for kx in range(reg["kernel_w"]):
            columns = x + kx * reg["dilation_x"]
            columns_in = (columns >= 0) & (columns < reg["ifm_w"])
            seen = values[rows.clip(0, reg["ifm_h"] - 1)][:, columns.clip(0, reg["ifm_w"] - 1)]
            yield ky, kx, seen, rows_in[:, None] & columns_in


def _convolve(command: Command, shared: U8, weights: NDArray[np.int16]) -> I64:
    x = read_centred(command, shared, "ifm", command.ifm_shape()).astype(np.float64)
    acc = np.zeros((command.reg["ofm_h"] * command.reg["ofm_w"], command.reg["ofm_c"]))
    for ky, kx, seen, inside in _taps(command, x):
        if inside.any():
            seen = np.where(inside[..., None], seen, 0).reshape(len(acc), -1)
            acc += seen @ weights[:, ky, kx].T.astype(np.float64)
    return acc.astype(np.int64)


def _depthwise(command: Command, shared: U8, weights: NDArray[np.int16]) -> I64:
    x = read_centred(command, shared, "ifm", command.ifm_shape()).astype(np.int32)
    acc = np.zeros((command.reg["ofm_h"], command.reg["ofm_w"], command.reg["ofm_c"]), np.int32)
    # 255 * 128 * 255 * 255 < 2^31: the largest window does not wrap.
    for ky, kx, seen, inside in _taps(command, x):
        acc += np.where(inside[..., None], seen, 0) * weights[:, ky, kx].astype(np.int32)
    return acc.reshape(-1, acc.shape[2]).astype(np.int64)


def _matmul(command: Command, shared: U8) -> I64:
    left = read_centred(command, shared, "ifm", command.ifm_shape()).astype(np.float64)
    right = read_centred(command, shared, "ifm2", command.ifm2_shape())[0].astype(np.float64)
    return (left.reshape(-1, left.shape[2]) @ right.T).astype(np.int64)


def _pool(command: Command, shared: U8) -> I64:
    x = read_map(command, shared, "ifm", command.ifm_shape()).astype(np.int32)
    shape = (command.reg["ofm_h"], command.reg["ofm_w"], command.reg["ofm_c"])
    largest, total = np.full(shape, -128, np.int32), np.zeros(shape, np.int32)
    count = np.zeros(shape[:2], np.int64)
    for _, _, seen, inside in _taps(command, x):
        if command.op == _MAX:
            largest = np.maximum(largest, np.where(inside[..., None], seen, -128))
        else:
            total += np.where(inside[..., None], seen, 0)
            count += inside
    values = largest if command.op == _MAX else fast.average(total, count[..., None])
    return values.astype(np.int64)
