"""Quantised layers as the `npu` engine computes them, with strict checks.

All numbers are integers here: weights, biases, multipliers (mult, shift) as in `mbqm`, tables.
Where they come from real numbers: `npu_quantise`. What they compute: docs/npu.md section 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from bankside.isa.npu_weights import STEP_CHANNELS
from bankside.isa.numerics_npu import EXP_ENTRIES, GEMMLOWP_DOUBLE, LUT_BYTES, SHIFT_MAX, SHIFT_MIN
from bankside.mapping.npu_graph import Layer, Shape, Tensor

Pair = tuple[int, int]
"""(rows, columns), or (mult, shift)."""
_KERNEL_MAX = 255


@dataclass(frozen=True, eq=False, kw_only=True)
class Scaled(Layer):
    """With a multiplier, a clamp and an optional table of 256 int8 behind it.

    mult, shift: int32 [channels], or [1] for all. clamp: lowest and highest result; None: all of
    the output's bits. table: index result + 128, applied last.
    """

    mult: NDArray[np.int32]
    shift: NDArray[np.int32]
    rounding: int = GEMMLOWP_DOUBLE
    clamp: Pair | None = None
    table: NDArray[np.int8] | None = None

    def check(self) -> None:
        channels = self.output.shape[2]
        for what, values in (("mult", self.mult), ("shift", self.shift)):
            if values.shape not in ((channels,), (1,)):
                raise self.refuse(f"{what} of shape {values.shape}; expected ({channels},) or (1,)")
        self.expect("shape of shift", self.shift.shape, self.mult.shape)
        self.check_range("shift", self.shift, SHIFT_MIN, SHIFT_MAX)
        self.check_range("mult", self.mult, -(1 << 31), (1 << 31) - 1)
        self.check_range("rounding", self.rounding, 0, 3)
        if self.table is not None:
            self.check_int8(self.output)
            self.expect("table", (self.table.shape, self.table.dtype), ((LUT_BYTES,), np.int8))

    @property
    def per_channel(self) -> bool:
        return len(self.mult) > 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Windowed(Layer):
    """Over windows (rows, columns); pad: rows above and columns to the left."""

    source: Tensor
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    pad: Pair = (0, 0)
    dilation: Pair = (1, 1)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.source,)

    def check(self) -> None:
        for what in ("kernel", "stride", "dilation"):
            self.check_range(what, getattr(self, what), 1, _KERNEL_MAX)
        self.check_range("pad", self.pad, 0, _KERNEL_MAX)
        self.check_int8(self.source)
        for axis, name in enumerate(("rows", "columns")):
            # The last window begins inside the padded input.
            reach = self.source.shape[axis] + self.pad[axis] - 1
            most = reach // self.stride[axis] + 1
            if self.output.shape[axis] > most:
                raise self.refuse(
                    f"{self.output.shape[axis]} output {name}; at most {most} windows begin in the "
                    f"input of {self.source.shape[axis]} {name}"
                )


@dataclass(frozen=True, eq=False, kw_only=True)
class Conv2d(Scaled, Windowed):
    """Convolution, or a fully connected layer (window 1 x 1).

    weights: int8 [outputs, rows, columns, inputs] (with `scales`: -8..7). bias: int32 [outputs].
    scales: of 4-bit weights, [outputs, rows, columns, ceil(inputs / 32)], 1..63.
    """

    kind: ClassVar[str] = "conv2d"
    weights: NDArray[np.int8]
    bias: NDArray[np.int32]
    scales: NDArray[np.uint8] | None = None

    def check(self) -> None:
        Windowed.check(self)
        Scaled.check(self)
        outputs, inputs = self.output.shape[2], self.source.shape[2]
        self.expect("shape of weights", self.weights.shape, (outputs, *self.kernel, inputs))
        self.expect("shape of bias", self.bias.shape, (outputs,))
        self.check_range("bias", self.bias, -(1 << 31), (1 << 31) - 1)
        if self.scales is not None:
            blocks = -(-inputs // STEP_CHANNELS)
            self.expect("shape of scales", self.scales.shape, (outputs, *self.kernel, blocks))
            self.check_range("weights", self.weights, -8, 7)
            self.check_range("scales", self.scales, 1, 63)

    @property
    def macs(self) -> int:
        return self.output.positions * self.weights.size


@dataclass(frozen=True, eq=False, kw_only=True)
class Depthwise(Scaled, Windowed):
    """weights: int8 [channels, rows, columns]; bias: int32 [channels]."""

    kind: ClassVar[str] = "depthwise"
    weights: NDArray[np.int8]
    bias: NDArray[np.int32]

    def check(self) -> None:
        Windowed.check(self)
        Scaled.check(self)
        channels = self.output.shape[2]
        self.expect("input channels", self.source.shape[2], channels)
        self.expect("shape of weights", self.weights.shape, (channels, *self.kernel))
        self.expect("shape of bias", self.bias.shape, (channels,))

    @property
    def macs(self) -> int:
        return self.output.positions * self.weights.size


@dataclass(frozen=True, eq=False, kw_only=True)
class MatMul(Scaled):
    """a [.., .., k] times b [1, n, k] transposed: [.., .., n]; one multiplier (profile llm)."""

    kind: ClassVar[str] = "matmul"
    a: Tensor
    b: Tensor

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.a, self.b

    def check(self) -> None:
        super().check()
        self.check_int8(self.a, self.b)
        self.expect("multipliers", len(self.mult), 1)
        self.expect(f"rows of {self.b.name!r}", self.b.shape[0], 1)
        self.expect("inner size", self.b.shape[2], self.a.shape[2])
        self.expect("output", self.output.shape, (*self.a.shape[:2], self.b.shape[1]))

    @property
    def macs(self) -> int:
        return self.a.positions * self.a.shape[2] * self.b.shape[1]


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool(Windowed):
    """Maximum or average, input and output of one form."""

    kind: ClassVar[str] = "pool"
    mode: Literal["max", "average"]
    clamp: Pair | None = None

    def check(self) -> None:
        super().check()
        self.check_int8(self.output)
        self.expect("dilation", self.dilation, (1, 1))
        self.expect("output channels", self.output.shape[2], self.source.shape[2])
        if self.mode not in ("max", "average"):
            raise self.refuse(f"mode {self.mode!r}; expected 'max' or 'average'")


@dataclass(frozen=True, eq=False, kw_only=True)
class Elementwise(Layer):
    """add, sub, mul; b may have 1 where a has more. a_scale, b_scale (not mul), o_scale: (mult,
    shift).
    """

    kind: ClassVar[str] = "elementwise"
    op: Literal["add", "sub", "mul"]
    a: Tensor
    b: Tensor
    o_scale: Pair
    a_scale: Pair = (0, 0)
    b_scale: Pair = (0, 0)
    left_shift: int = 0
    rounding: int = GEMMLOWP_DOUBLE
    clamp: Pair | None = None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.a, self.b

    @property
    def broadcast(self) -> int:
        """`ifm2_broadcast`."""
        pairs = zip(self.b.shape, self.output.shape, strict=True)
        return sum(1 << i for i, (n, full) in enumerate(pairs) if n == 1 != full)

    def check(self) -> None:
        if self.op not in ("add", "sub", "mul"):
            raise self.refuse(f"op {self.op!r}; expected 'add', 'sub' or 'mul'")
        self.expect("shape of a", self.a.shape, self.output.shape)
        pairs = zip(self.b.shape, self.output.shape, strict=True)
        if any(n not in (1, full) for n, full in pairs):
            raise self.refuse(f"b of {self.b.shape}; expected {self.output.shape}, or 1 in places")
        self.check_range("left_shift", self.left_shift, 0, 31)
        for _, shift in (self.a_scale, self.b_scale, self.o_scale):
            self.check_range("shift", shift, SHIFT_MIN, SHIFT_MAX)


@dataclass(frozen=True, eq=False, kw_only=True)
class Lut(Layer):
    """table: int8 [256], index input + 128."""

    kind: ClassVar[str] = "lut"
    source: Tensor
    table: NDArray[np.int8]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.source,)

    def check(self) -> None:
        self.check_int8(self.source, self.output)
        self.expect("output", self.output.shape, self.source.shape)
        self.expect("table", (self.table.shape, self.table.dtype), ((LUT_BYTES,), np.int8))


@dataclass(frozen=True, eq=False, kw_only=True)
class Softmax(Layer):
    """Over channels. table: int32 [256] (`softmax_table`)."""

    kind: ClassVar[str] = "softmax"
    source: Tensor
    table: NDArray[np.int32]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.source,)

    def check(self) -> None:
        self.check_int8(self.source, self.output)
        self.expect("output", self.output.shape, self.source.shape)
        self.expect("table", self.table.shape, (EXP_ENTRIES,))


@dataclass(frozen=True, eq=False, kw_only=True)
class Normalisation(Layer):
    """RMSNorm or LayerNorm over channels. gain: int16 [channels]; epsilon << epsilon_shift is added
    to the sum of squares.
    """

    kind: ClassVar[str] = "norm"
    mode: Literal["rms", "layer"]
    source: Tensor
    gain: NDArray[np.int16]
    epsilon: int
    epsilon_shift: int
    o_shift: int

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.source,)

    def check(self) -> None:
        if self.mode not in ("rms", "layer"):
            raise self.refuse(f"mode {self.mode!r}; expected 'rms' or 'layer'")
        self.expect("output", self.output.shape, self.source.shape)
        self.expect("gain", (self.gain.shape, self.gain.dtype), ((self.source.shape[2],), np.int16))
        self.check_range("channels", self.source.shape[2], 1, 4096)
        self.check_range("epsilon", self.epsilon, 0, (1 << 32) - 1)
        self.check_range("epsilon_shift", self.epsilon_shift, 0, 63)
        self.check_range("o_shift", self.o_shift, -128, 127)


@dataclass(frozen=True, eq=False, kw_only=True)
class Copy(Layer):
    """Moves elements: output axis i is axis order[i] of the input (transposition), or, in order,
    another shape of as many elements whose channels divide the other's (reshape). Into views of
    one tensor: concatenation.
    """

    kind: ClassVar[str] = "copy"
    source: Tensor
    order: Shape = (0, 1, 2)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.source,)

    @property
    def reshapes(self) -> bool:
        return self.order == (0, 1, 2) and self.output.shape != self.source.shape

    def check(self) -> None:
        self.expect("bits", self.output.form.bits, self.source.form.bits)
        self.expect("axes", sorted(self.order), [0, 1, 2])
        source, target = self.source.shape, self.output.shape
        if not self.reshapes:
            self.expect("output", target, tuple(source[i] for i in self.order))
            return
        self.expect("elements", math.prod(target), math.prod(source))
        if source[2] % target[2] and target[2] % source[2]:
            raise self.refuse(
                f"{source[2]} to {target[2]} channels; expected one to divide the other"
            )
