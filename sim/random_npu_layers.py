"""Random operations of the `npu` engine: registers of every kind of operation with its operands in
an arena of the shared buffer.

Ref: docs/npu.md sections 1 to 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bankside.isa.npu_machine import WORD_BYTES, NpuMachine
from bankside.isa.npu_weights import PACKED, RAW8, W4, WeightLayout
from bankside.isa.numerics_npu import (
    EXP_ENTRIES,
    LUT_BYTES,
    RECORD_BYTES,
    SHIFT_MAX,
    SHIFT_MIN,
    Record,
    softmax_table,
)
from bankside.isa.spec import load_spec

Rng = np.random.Generator
U8 = NDArray[np.uint8]
SPEC = load_spec("npu")
CHANNELS = 64
_LUT = SPEC.enums["elementwise"]["lut"]
_LUT_WORDS = LUT_BYTES // WORD_BYTES
_SOFTMAX_WORDS = 4 * EXP_ENTRIES // WORD_BYTES
_RECORD_WORDS = CHANNELS * RECORD_BYTES // WORD_BYTES
_GAIN_WORDS = 2 * CHANNELS // WORD_BYTES
PARAMETER_WORDS = _LUT_WORDS + _SOFTMAX_WORDS + _RECORD_WORDS + _GAIN_WORDS
_OFTEN = {"CONV": 6, "MATMUL": 4, "DEPTHWISE": 2, "POOL": 2}
#: Products of a CONV's weights: bytes of the largest raw layer.
_MOST_WEIGHTS = 4000


class NoRoom(Exception):
    """Operands that do not fit the arena; draw others."""


@dataclass(frozen=True)
class Arena:
    """Words of the shared buffer that a program uses, all of them loaded at its beginning.

    windows: first word of each, one in a bank. words: of each window. parameters: first word of
    table, softmax table, records and gains, in a bank of their own.
    """

    windows: tuple[int, ...]
    words: int
    parameters: int

    @property
    def softmax(self) -> int:
        return self.parameters + _LUT_WORDS

    @property
    def records(self) -> int:
        return self.softmax + _SOFTMAX_WORDS

    @property
    def gains(self) -> int:
        return self.records + _RECORD_WORDS


@dataclass(frozen=True)
class Drawn:
    """An operation: command, operands, registers; `weights`: content of the weight buffer that
    it needs (None: none).
    """

    name: str
    operands: dict[str, int]
    registers: dict[str, int]
    weights: bytes | None = None


def integer(rng: Rng, low: int, high: int) -> int:
    """Uniform in low..high inclusive."""
    return int(rng.integers(low, high + 1))


def maybe(rng: Rng, chance: float = 0.5) -> int:
    return int(rng.random() < chance)


# --- data ---------------------------------------------------------------------------------------


def random_bytes(rng: Rng, count: int) -> U8:
    """Activations: any, small, or extreme."""
    kind = rng.integers(4)
    if kind == 0:
        return rng.choice(np.array([0, 127, 128, 255], np.uint8), count)
    if kind == 1:
        return rng.integers(-8, 9, count).astype(np.int8).view(np.uint8)
    return rng.integers(0, 256, count, dtype=np.uint8)


def _scale(rng: Rng) -> tuple[int, int]:
    """(mult, shift): as quantised models have them, or any."""
    if maybe(rng, 0.8):
        return integer(rng, 1 << 30, (1 << 31) - 1), integer(rng, -14, 0)
    return integer(rng, -(1 << 31), (1 << 31) - 1), integer(rng, SHIFT_MIN, SHIFT_MAX)


def parameters(rng: Rng) -> U8:
    """Bytes of the parameters of an arena."""
    records = []
    for _ in range(CHANNELS):
        bias = integer(rng, -(1 << 31), (1 << 31) - 1) if maybe(rng, 0.1) else (
            integer(rng, -20000, 20000)
        )  # fmt: skip
        records.append(Record(bias, *_scale(rng)).pack())
    table = softmax_table(integer(rng, 1 << 30, (1 << 31) - 1), integer(rng, 15, 26), -255)
    parts = (
        rng.integers(0, 256, LUT_BYTES, dtype=np.uint8).tobytes(),
        np.array(table, "<i4").tobytes(),
        b"".join(records),
        rng.integers(-(1 << 15), 1 << 15, CHANNELS).astype("<i2").tobytes(),
    )
    return np.frombuffer(b"".join(parts), np.uint8)


def _weights(rng: Rng, shape: tuple[int, ...]) -> NDArray[np.int8]:
    """Uniform, narrow, sparse or constant: packed tiles of all widths, with masks and without."""
    kind = rng.integers(5)
    if kind == 0:
        return np.full(shape, integer(rng, -128, 127), np.int8)
    reach = (127, 127, 20, 3, 1)[kind]
    drawn = rng.integers(-reach - 1, reach + 1, shape)
    if maybe(rng, 0.5):
        drawn = drawn * (rng.random(shape) < rng.choice([0.05, 0.4, 0.8]))
    return drawn.astype(np.int8)


# --- operations ---------------------------------------------------------------------------------


class Layers:
    """Draws operations for one arena."""

    def __init__(self, rng: Rng, machine: NpuMachine, arena: Arena) -> None:
        self.rng, self.machine, self.arena = rng, machine, arena
        self._kinds: dict[str, Callable[[], Drawn]] = {
            "CONV": self._conv, "DEPTHWISE": self._depthwise, "POOL": self._pool,
            "ELEMENTWISE": self._elementwise, "SOFTMAX": self._softmax, "NORM": self._norm,
            "COPY": self._copy,
        }  # fmt: skip
        if machine.wide:
            self._kinds["MATMUL"] = self._matmul

    def draw(self) -> Drawn:
        """An operation that fits the arena (whether its operands overlap is not looked at)."""
        names = list(self._kinds)
        weights = np.array([_OFTEN.get(name, 1) for name in names], float)
        while True:
            name = str(self.rng.choice(names, p=weights / weights.sum()))
            try:
                return self._kinds[name]()
            except NoRoom:
                continue

    # --- parts --------------------------------------------------------------------------------
    def _int(self, low: int, high: int) -> int:
        return integer(self.rng, low, high)

    def _maybe(self, chance: float = 0.5) -> int:
        return maybe(self.rng, chance)

    def _channels(self) -> int:
        """1..64, often beside a multiple of what works in parallel."""
        if self._maybe(0.4):
            return min(max(int(self.rng.choice([4, 8, 16, 32, 64])) + self._int(-1, 1), 1), 64)
        return int(2 ** self.rng.uniform(0, 6.01))

    def _place(self, words: int) -> int:
        """First of `words` words in some window."""
        if words > self.arena.words:
            raise NoRoom
        window = int(self.rng.choice(self.arena.windows))
        return window + self._int(0, self.arena.words - words)

    def _map(self, name: str, h: int, w: int, c: int, bits: int) -> dict[str, int]:
        """Address and strides of a feature map."""
        words = -(-c * (1 + bits) // WORD_BYTES)
        sx = words + int(self.rng.choice([0, 0, 0, 1]))
        sy = w * sx + int(self.rng.choice([0, 0, 0, 2]))
        first = self._place((h - 1) * sy + (w - 1) * sx + words)
        zero = self._int(-(1 << 7 + 8 * bits), (1 << 7 + 8 * bits) - 1) if self._maybe(0.7) else 0
        return {name: first, f"{name}_sy": sy, f"{name}_sx": sx, f"{name}_bits": bits,
                f"{name}_zero": zero}  # fmt: skip

    def _output(self, h: int, w: int, c: int, bits: int) -> dict[str, int]:
        half = 1 << 7 + 8 * bits
        low, high = (-half, half - 1) if self._maybe(0.6) else sorted(
            (self._int(-half, half - 1), self._int(-half, half - 1))
        )  # fmt: skip
        shape = {"ofm_h": h, "ofm_w": w, "ofm_c": c, "ofm_min": low, "ofm_max": high}
        return self._map("ofm", h, w, c, bits) | shape

    def _shape(self) -> tuple[int, int]:
        """Rows and columns of the output; sometimes one row of positions."""
        if self._maybe(0.3):
            return 1, self._int(1, int(self.rng.choice([1, 4, 40])))
        return self._int(1, 6), self._int(1, 6)

    def _blocks(self, h: int, w: int, bits: int) -> dict[str, int]:
        """Registers that the MAC operations share; a table only for int8 results."""
        most = self.machine.config.npu.accumulators
        return {
            "block": min(self._int(1, max(h * w, 1) + 2), most),
            "weight_mode": self._maybe() if self.machine.wide else 0,
            "lut_enable": self._maybe(0.3) if not bits else 0, "lut": self.arena.parameters,
        }  # fmt: skip

    def _scaling(self, channels: int) -> dict[str, int]:
        """Records: some of the arena's, in range for every mode."""
        first = self._int(0, (CHANNELS - channels) // 2)
        mode = int(self.rng.choice([0, 1, 1, 1, 2]))
        scale = {"scale": self.arena.records + first, "scale_mode": mode}
        return scale | {"rounding": self._int(0, 3)}

    def _window(self, h: int, w: int) -> dict[str, int]:
        """Kernel, strides, padding and an input size that fits more or less."""
        registers = {}
        for axis, size, side, pad in (("h", h, "y", "pad_top"), ("w", w, "x", "pad_left")):
            kernel = int(self.rng.choice([1, 1, 2, 3, 3, 4]))
            stride, dilation = self._int(1, 3), int(self.rng.choice([1, 1, 2]))
            reach = (size - 1) * stride + (kernel - 1) * dilation + 1
            before = self._int(0, kernel * dilation - 1)
            registers |= {
                f"kernel_{axis}": kernel, f"stride_{side}": stride, f"dilation_{side}": dilation,
                pad: before, f"ifm_{axis}": max(reach - before - self._int(-1, 2), 1),
            }  # fmt: skip
        return registers

    # --- MAC operations -----------------------------------------------------------------------
    def _windowed(self, name: str, h: int, w: int, c_in: int, c: int, bits: int) -> dict[str, int]:
        window = self._window(h, w)
        return (
            window
            | {"ifm_c": c_in}
            | self._map("ifm", window["ifm_h"], window["ifm_w"], c_in, 0)
            | self._output(h, w, c, bits)
            | self._blocks(h, w, bits)
        )

    def _encoded(self, name: str, registers: dict[str, int]) -> Drawn:
        """With random weights in a format that the machine has."""
        narrow = name == "DEPTHWISE"
        format = PACKED if not self.machine.wide else RAW8 if narrow else self._int(RAW8, W4)
        inputs = None if narrow else registers["ifm_c"]
        kernel = (registers["kernel_h"], registers["kernel_w"])
        group = self.machine.group(bool(registers["weight_mode"]))
        port, outputs = self.machine.weight_port_bytes, registers["ofm_c"]
        layout = WeightLayout(format, group, port, outputs, kernel, inputs)
        if layout.groups * layout.steps * layout.tile_weights > 4 * _MOST_WEIGHTS:
            raise NoRoom
        shape = (outputs, *kernel, *(() if inputs is None else (inputs,)))
        weights, scales = _weights(self.rng, shape), None
        if format == W4:
            weights = np.clip(weights, -8, 7).astype(np.int8)
            scales = self.rng.integers(1, 64, (*shape[:3], layout.channel_blocks))
        data = layout.encode(weights, scales)
        return Drawn(name, {}, registers | {"weight_format": format}, data)

    def _conv(self) -> Drawn:
        (h, w), c_in, c = self._shape(), self._channels(), self._channels()
        bits = self._maybe(0.3)
        registers = self._windowed("CONV", h, w, c_in, c, bits) | self._scaling(c)
        if c_in * c * registers["kernel_h"] * registers["kernel_w"] > _MOST_WEIGHTS:
            raise NoRoom
        return self._encoded("CONV", registers)

    def _depthwise(self) -> Drawn:
        (h, w), c, bits = self._shape(), self._channels(), self._maybe(0.3)
        registers = self._windowed("DEPTHWISE", h, w, c, c, bits) | self._scaling(c)
        return self._encoded("DEPTHWISE", registers)

    def _pool(self) -> Drawn:
        (h, w), c = self._shape(), self._channels()
        return Drawn("POOL", {"mode": self._maybe()}, self._windowed("POOL", h, w, c, c, 0))

    def _matmul(self) -> Drawn:
        (h, w), inner, c, bits = self._shape(), self._channels(), self._channels(), self._maybe(0.3)
        registers = (
            self._map("ifm", h, w, inner, 0)
            | self._map("ifm2", 1, c, inner, 0)
            | self._output(h, w, c, bits)
            | self._blocks(h, w, bits)
            | self._scaling(c)
            | {"ifm_c": inner}
        )
        return Drawn("MATMUL", {}, registers)

    # --- vector operations --------------------------------------------------------------------
    def _elementwise(self) -> Drawn:
        (h, w), c, op = self._shape(), self._channels(), self._int(0, 3)
        if op == _LUT:
            registers = self._map("ifm", h, w, c, 0) | self._output(h, w, c, 0)
            return Drawn("ELEMENTWISE", {"op": op}, registers | {"lut": self.arena.parameters})
        broadcast = self._int(0, 7) if self._maybe(0.5) else 0
        second = [1 if broadcast >> i & 1 else n for i, n in enumerate((h, w, c))]
        registers = (
            self._map("ifm", h, w, c, self._maybe(0.3))
            | self._map("ifm2", *second, self._maybe(0.3))
            | self._output(h, w, c, self._maybe(0.3))
            | {"ifm2_broadcast": broadcast, "rounding": self._int(0, 3),
               "left_shift": int(self.rng.choice([0, 7, 20]))}
        )  # fmt: skip
        for operand in "abo":
            registers |= dict(zip((f"{operand}_mult", f"{operand}_shift"), _scale(self.rng),
                                  strict=True))  # fmt: skip
        return Drawn("ELEMENTWISE", {"op": op}, registers)

    def _softmax(self) -> Drawn:
        (h, w), c = self._shape(), self._channels()
        registers = self._map("ifm", h, w, c, 0) | self._output(h, w, c, 0)
        return Drawn("SOFTMAX", {}, registers | {"lut": self.arena.softmax})

    def _norm(self) -> Drawn:
        h, w, c = self._int(1, 3), self._int(1, 4), self._channels()
        bits = self._maybe(0.4)
        shift = self._int(36, 56) - 8 * bits if self._maybe(0.9) else self._int(-128, 127)
        registers = (
            self._map("ifm", h, w, c, self._maybe(0.4))
            | self._output(h, w, c, bits)
            | {"scale": self.arena.gains, "epsilon": self._int(0, 1 << 20),
               "epsilon_shift": self._int(0, 40), "o_shift": shift}
        )  # fmt: skip
        return Drawn("NORM", {"mode": self._maybe()}, registers)

    def _copy(self) -> Drawn:
        """A transposition of bytes or words, or a part of one; its destination is without gaps or
        with gaps, but never written twice.
        """
        wide = self._maybe()
        most, size = (3, WORD_BYTES) if wide else (6, 1)
        counts = [self._int(1, most) for _ in range(3)]
        registers = {f"n{i}": count for i, count in enumerate(counts)} | {"wide": wide}
        for side in ("src", "dst"):
            step, strides = size, [0, 0, 0]
            for i in self.rng.permutation(3):
                strides[i] = step
                step *= counts[i] + int(self.rng.choice([0, 0, 1]))
            if side == "src" and self._maybe(0.2):
                strides[self._int(0, 2)] = 0
            reach = sum((n - 1) * s for n, s in zip(counts, strides, strict=True)) + size
            words = -(-reach // WORD_BYTES)
            first = WORD_BYTES * self._place(words + (not wide))
            first += 0 if wide else self._int(0, WORD_BYTES - 1)
            flipped = self._maybe(0.2)
            # Negative strides: the same places from the other end.
            at = first + (reach - size if flipped else 0)
            registers |= {f"{side}_s{i}": -s if flipped else s for i, s in enumerate(strides)}
            registers[side] = at
        return Drawn("COPY", {}, registers)
