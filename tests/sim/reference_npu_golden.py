"""The npu's operations one element at a time, from the page and the scalar arithmetic.

Feature maps are read byte by byte by the address rule of docs/npu.md section 1. Independent of the
golden model but for the scalar numerics; weights are given as numbers, not as tiles.
"""

from collections.abc import Callable, Mapping
from itertools import product

import numpy as np

from bankside.isa import numerics_npu as n

Shared = np.ndarray
"""uint8, all bytes of the shared buffer."""
Registers = Mapping[str, int]


def address(reg: Registers, name: str, y: int, x: int, c: int) -> tuple[int, int]:
    """(byte, bytes) of an element."""
    size = 1 + reg[f"{name}_bits"]
    word = reg[name] + y * reg[f"{name}_sy"] + x * reg[f"{name}_sx"] + c // (32 // size)
    return word * 32 + c % (32 // size) * size, size


def load(shared: Shared, at: int, size: int) -> int:
    return int.from_bytes(shared[at : at + size].tobytes(), "little", signed=True)


def element(shared: Shared, reg: Registers, name: str, y: int, x: int, c: int) -> int:
    return load(shared, *address(reg, name, y, x, c))


def store(shared: Shared, reg: Registers, y: int, x: int, c: int, value: int) -> None:
    at, size = address(reg, "ofm", y, x, c)
    data = n.wrap(value, 8 * size).to_bytes(size, "little", signed=True)
    shared[at : at + size] = np.frombuffer(data, np.uint8)


def output(reg: Registers) -> n.Output:
    return n.Output(reg["ofm_zero"], reg["ofm_min"], reg["ofm_max"])


def looked_up(shared: Shared, reg: Registers, value: int) -> int:
    return load(shared, reg["lut"] * 32 + (value + 128) % 256, 1)


def window(reg: Registers, y: int, x: int):
    """(ky, kx, row, column) inside of the input."""
    for ky, kx in product(range(reg["kernel_h"]), range(reg["kernel_w"])):
        row = y * reg["stride_y"] + ky * reg["dilation_y"] - reg["pad_top"]
        column = x * reg["stride_x"] + kx * reg["dilation_x"] - reg["pad_left"]
        if 0 <= row < reg["ifm_h"] and 0 <= column < reg["ifm_w"]:
            yield ky, kx, row, column


def _mac(shared: Shared, reg: Registers, sums: Callable[[int, int, int], int]) -> None:
    """Positions and channels of CONV, DEPTHWISE, MATMUL; `sums`: accumulator of one."""
    results = []
    for y, x, o in product(range(reg["ofm_h"]), range(reg["ofm_w"]), range(reg["ofm_c"])):
        acc = n.wrap32(sums(y, x, o))
        if reg["scale_mode"] == 2:
            value = n.clamp(acc, reg["ofm_min"], reg["ofm_max"])
        else:
            at = reg["scale"] * 32 + 16 * (o if reg["scale_mode"] == 1 else 0)
            record = n.Record.unpack(shared[at : at + 16].tobytes())
            value = n.requantise(acc, record, output(reg), reg["rounding"])
        results.append((y, x, o, value))
    for y, x, o, value in results:
        value = looked_up(shared, reg, value) if reg["lut_enable"] else value
        store(shared, reg, y, x, o, value)


def conv(shared: Shared, reg: Registers, w: np.ndarray) -> None:
    def sums(y, x, o):
        return sum(
            (element(shared, reg, "ifm", row, column, i) - reg["ifm_zero"]) * int(w[o, ky, kx, i])
            for ky, kx, row, column in window(reg, y, x)
            for i in range(reg["ifm_c"])
        )

    _mac(shared, reg, sums)


def depthwise(shared: Shared, reg: Registers, w: np.ndarray) -> None:
    def sums(y, x, o):
        return sum(
            (element(shared, reg, "ifm", row, column, o) - reg["ifm_zero"]) * int(w[o, ky, kx])
            for ky, kx, row, column in window(reg, y, x)
        )

    _mac(shared, reg, sums)


def matmul(shared: Shared, reg: Registers) -> None:
    def right(o, i):
        at = (reg["ifm2"] + o * reg["ifm2_sx"] + i // 32) * 32 + i % 32
        return load(shared, at, 1) - reg["ifm2_zero"]

    def sums(y, x, o):
        return sum(
            (element(shared, reg, "ifm", y, x, i) - reg["ifm_zero"]) * right(o, i)
            for i in range(reg["ifm_c"])
        )

    _mac(shared, reg, sums)


def pool(shared: Shared, reg: Registers, mode: int) -> None:
    for y, x, c in product(range(reg["ofm_h"]), range(reg["ofm_w"]), range(reg["ofm_c"])):
        seen = [element(shared, reg, "ifm", r, k, c) for _, _, r, k in window(reg, y, x)]
        value = n.average(sum(seen), len(seen)) if mode else max(seen, default=-128)
        value = n.clamp(value, reg["ofm_min"], reg["ofm_max"])
        store(shared, reg, y, x, c, looked_up(shared, reg, value) if reg["lut_enable"] else value)


def elementwise(shared: Shared, reg: Registers, op: int) -> None:
    flags, rounding = reg["ifm2_broadcast"], reg["rounding"]
    o_scale = (reg["o_mult"], reg["o_shift"])
    scales = n.Scales(
        (reg["a_mult"], reg["a_shift"]), (reg["b_mult"], reg["b_shift"]), o_scale, reg["left_shift"]
    )
    for y, x, c in product(range(reg["ofm_h"]), range(reg["ofm_w"]), range(reg["ofm_c"])):
        a = element(shared, reg, "ifm", y, x, c)
        if op == 3:
            store(shared, reg, y, x, c, looked_up(shared, reg, a))
            continue
        place = [0 if flags >> i & 1 else v for i, v in enumerate((y, x, c))]
        a, b = a - reg["ifm_zero"], element(shared, reg, "ifm2", *place) - reg["ifm2_zero"]
        if op == 2:
            value = n.mul(a, b, o_scale, output(reg), rounding)
        else:
            value = n.add(a, b, scales, output(reg), rounding, sign=1 - 2 * op)
        store(shared, reg, y, x, c, value)


def softmax(shared: Shared, reg: Registers) -> None:
    table = [load(shared, reg["lut"] * 32 + 4 * i, 4) for i in range(256)]
    for y, x in product(range(reg["ofm_h"]), range(reg["ofm_w"])):
        row = [element(shared, reg, "ifm", y, x, c) for c in range(reg["ofm_c"])]
        for c, value in enumerate(n.softmax(row, table, output(reg))):
            store(shared, reg, y, x, c, value)


def norm(shared: Shared, reg: Registers, mode: int) -> None:
    gain = [load(shared, reg["scale"] * 32 + 2 * c, 2) for c in range(reg["ofm_c"])]
    epsilon = reg["epsilon"] << reg["epsilon_shift"]
    for y, x in product(range(reg["ofm_h"]), range(reg["ofm_w"])):
        row = [element(shared, reg, "ifm", y, x, c) - reg["ifm_zero"] for c in range(reg["ofm_c"])]
        values = n.norm(row, gain, epsilon, reg["o_shift"], output(reg), layer=mode == 1)
        for c, value in enumerate(values):
            store(shared, reg, y, x, c, value)


def copy(shared: Shared, reg: Registers) -> None:
    size = 32 if reg["wide"] else 1
    for i in product(range(reg["n0"]), range(reg["n1"]), range(reg["n2"])):
        src, dst = (
            reg[side] + sum(v * reg[f"{side}_s{k}"] for k, v in enumerate(i))
            for side in ("src", "dst")
        )
        shared[dst : dst + size] = shared[src : src + size]
