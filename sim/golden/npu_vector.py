"""ELEMENTWISE, SOFTMAX, NORM and COPY of the `npu` golden model. Ref: docs/npu.md section 2."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError
from bankside.isa import numerics_npu_np as fast
from bankside.isa.npu_commands import LUT, MUL, SUB, Command
from bankside.isa.npu_machine import WORD_BYTES
from bankside.isa.numerics_npu import EXP_ENTRIES, Scales
from bankside.isa.spec import load_spec
from bankside.sim.golden.npu_maps import (
    look_up,
    output_of,
    read_bytes,
    read_centred,
    read_map,
    write_map,
)

U8 = NDArray[np.uint8]

_LAYER = load_spec("npu").enums["norm"]["layer"]


def elementwise(command: Command, shared: U8) -> None:
    """add, sub, mul, lut."""
    reg, shape = command.reg, command.ifm_shape()
    if command.op == LUT:
        write_map(
            command, shared, look_up(command, shared, read_map(command, shared, "ifm", shape))
        )
        return
    a = read_centred(command, shared, "ifm", shape)
    b = read_centred(command, shared, "ifm2", command.ifm2_shape())
    output, rounding = output_of(command), reg["rounding"]
    o_scale = (reg["o_mult"], reg["o_shift"])
    if command.op == MUL:
        values = fast.mul(a, b, o_scale, output, rounding)
    else:
        scales = Scales(
            (reg["a_mult"], reg["a_shift"]), (reg["b_mult"], reg["b_shift"]), o_scale,
            reg["left_shift"],
        )  # fmt: skip
        sign = -1 if command.op == SUB else 1
        values = fast.add(a, b, scales, output, rounding, sign=sign)
    write_map(command, shared, values)


def softmax(command: Command, shared: U8) -> None:
    """Over the channels of every position."""
    x = read_map(command, shared, "ifm", command.ifm_shape())
    table = read_bytes(command, shared, "lut", 4 * EXP_ENTRIES).view("<i4")
    write_map(command, shared, fast.softmax(x, table, output_of(command)))


def norm(command: Command, shared: U8) -> None:
    """Over the channels of every position. Raises ProgramError when the sum of squares with the
    epsilon reaches 2^62.
    """
    reg = command.reg
    x = read_centred(command, shared, "ifm", command.ifm_shape())
    channels = x.shape[2]
    gain = read_bytes(command, shared, "scale", 2 * channels).view("<i2")
    epsilon = reg["epsilon"] << reg["epsilon_shift"]
    try:
        values = fast.norm(
            x.reshape(-1, channels), gain, epsilon, reg["o_shift"], output_of(command),
            layer=command.op == _LAYER,
        )  # fmt: skip
    except ValueError as error:
        raise ProgramError(
            f"{command.where}: {error}; lower epsilon or epsilon_shift"
        ) from None
    write_map(command, shared, values)


def copy(command: Command, shared: U8) -> None:
    """Strided copy; source and destination do not meet, so that it is one assignment."""
    reg, size = command.reg, WORD_BYTES if command.reg["wide"] else 1
    units = shared.reshape(-1, size)
    places = []
    for side in ("src", "dst"):
        place = np.asarray(reg[side], np.int64)
        for i in range(3):
            place = place[..., None] + np.arange(reg[f"n{i}"]) * reg[f"{side}_s{i}"]
        places.append((place // size).reshape(-1))
    source, destination = places
    units[destination] = units[source]
