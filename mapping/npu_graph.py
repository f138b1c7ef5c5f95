"""Graphs of quantised layers for the `npu` engine, with strict checks.

A graph is a list of layers (`npu_layers`) in the order of execution over tensors [rows, columns,
channels]. Ref: docs/npu_compiler.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError
from bankside.isa.npu_machine import WORD_BYTES
from bankside.mapping.llm.quantise import Affine

Shape = tuple[int, int, int]
_DIMENSION_MAX = 65535


@dataclass(frozen=True, eq=False)
class Tensor:
    """A feature map.

    Attributes:
        shape: rows, columns, channels.
        form: scale, zero point, bits (8 or 16).
        data: integers of that shape: the tensor is a constant.
        persistent: stays in the shared buffer from one program to the next (caches). Programs that
            share such tensors list them in the same order with the same shapes.
        of, at: a view of another tensor from (row, column, channel) on; the channel at a word of
            the shared buffer (32 channels of int8, 16 of int16).
    """

    name: str
    shape: Shape
    form: Affine = Affine(1.0)
    data: NDArray | None = None
    persistent: bool = False
    of: Tensor | None = None
    at: Shape = (0, 0, 0)

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or not all(1 <= n <= _DIMENSION_MAX for n in self.shape):
            raise self._refuse(f"shape {self.shape}; expected three of 1..{_DIMENSION_MAX}")
        if self.form.bits not in (8, 16):
            raise self._refuse(f"{self.form.bits} bits; expected 8 or 16")
        if not self.form.low <= self.form.zero <= self.form.high:
            raise self._refuse(
                f"zero point {self.form.zero}; expected {self.form.low}..{self.form.high}"
            )
        if self.data is not None:
            self._check_data(self.data)
        if self.of is not None:
            self._check_view(self.of)

    def _refuse(self, message: str) -> ConfigError:
        return ConfigError(f"tensor {self.name!r}: {message}")

    def _check_data(self, data: NDArray) -> None:
        if data.shape != self.shape or self.of is not None or self.persistent:
            raise self._refuse(
                f"data of shape {data.shape}; expected {self.shape}, and neither a view nor "
                f"persistent"
            )
        if data.min() < self.form.low or data.max() > self.form.high:
            raise self._refuse(
                f"data {data.min()}..{data.max()}; expected {self.form.low}..{self.form.high}"
            )

    def _check_view(self, of: Tensor) -> None:
        if of.of is not None or self.persistent:
            raise self._refuse("a view of a view, or persistent; name the tensor itself")
        if of.form.bits != self.form.bits:
            raise self._refuse(f"{self.form.bits} bits; {of.name!r} has {of.form.bits}")
        ends = tuple(a + n for a, n in zip(self.at, self.shape, strict=True))
        if min(self.at) < 0 or any(e > n for e, n in zip(ends, of.shape, strict=True)):
            raise self._refuse(f"{self.at}..{ends} of {of.name!r}, which has {of.shape}")
        if self.at[2] % self.word_channels:
            raise self._refuse(
                f"begins at channel {self.at[2]}; expected a multiple of {self.word_channels}: "
                f"copy the channels"
            )

    @property
    def base(self) -> Tensor:
        """The tensor itself, or the one it is a view of."""
        return self.of or self

    @property
    def word_channels(self) -> int:
        return WORD_BYTES * 8 // self.form.bits

    @property
    def element_bytes(self) -> int:
        return self.form.bits // 8

    @property
    def words(self) -> int:
        """Words of one position."""
        return -(-self.shape[2] // self.word_channels)

    @property
    def positions(self) -> int:
        return self.shape[0] * self.shape[1]

    def view(self, name: str, at: Shape, shape: Shape, form: Affine | None = None) -> Tensor:
        """Part of it."""
        return Tensor(name, shape, form or self.form, of=self, at=at)


# --- layers -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Layer:
    """One operation. `name` appears in messages and reports."""

    kind: ClassVar[str]
    name: str
    output: Tensor

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        raise NotImplementedError

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return 0

    def refuse(self, message: str) -> ConfigError:
        """The error that names this layer."""
        return ConfigError(f"layer {self.name!r} ({self.kind}): {message}")

    def check(self) -> None:
        """Raise ConfigError that says what is wrong."""

    def expect(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            raise self.refuse(f"{what} is {found}; expected {expected}")

    def check_int8(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            if tensor.form.bits != 8:
                raise self.refuse(f"{tensor.name!r} is int16; expected int8")

    def check_range(self, what: str, values: object, low: int, high: int) -> None:
        found = np.asarray(values)
        if found.size and (found.min() < low or found.max() > high):
            raise self.refuse(f"{what} {found.min()}..{found.max()}; expected {low}..{high}")


# --- graph --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Graph:
    """Layers in the order of execution.

    Attributes:
        inputs: tensors that the caller gives; outputs: that it gets.
        persistent: tensors that stay in the shared buffer, in the order in which they lie there.

    Raises ConfigError that names the layer: wrong shapes, tensors that nothing gives.
    """

    name: str
    inputs: Sequence[Tensor]
    layers: Sequence[Layer]
    outputs: Sequence[Tensor]
    persistent: Sequence[Tensor] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if not self.layers:
            raise ConfigError(f"graph {self.name!r}: no layers")
        self._check_names()
        given = {id(t) for t in (*self.inputs, *self.persistent)}
        for layer in self.layers:
            layer.check()
            for tensor in layer.inputs:
                self._check_given(layer, tensor, given)
            self._check_output(layer, given)
            given.add(id(layer.output.base))
        for tensor in self.outputs:
            if id(tensor) not in given or tensor.of is not None:
                raise ConfigError(f"output {tensor.name!r}: no layer writes it, or it is a view")

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor that is not a view, once."""
        seen: set[int] = set()
        used = (t for layer in self.layers for t in (*layer.inputs, layer.output))
        for tensor in (*self.persistent, *self.inputs, *used, *self.outputs):
            if id(tensor.base) not in seen:
                seen.add(id(tensor.base))
                yield tensor.base

    def _check_names(self) -> None:
        for what, things in (("tensor", self.tensors()), ("layer", self.layers)):
            names: set[str] = set()
            for thing in things:
                if thing.name in names:
                    raise ConfigError(f"graph {self.name!r}: two {what}s are called {thing.name!r}")
                names.add(thing.name)
        for tensor in self.persistent:
            if not tensor.persistent or tensor.of is not None:
                raise ConfigError(f"tensor {tensor.name!r} is not persistent; make it so")
        for tensor in self.inputs:
            if tensor.data is not None or tensor.persistent or tensor.of is not None:
                raise ConfigError(f"input {tensor.name!r}: constant, persistent or a view")

    def _check_given(self, layer: Layer, tensor: Tensor, given: set[int]) -> None:
        if tensor.base.data is None and id(tensor.base) not in given:
            raise layer.refuse(
                f"nothing gives {tensor.base.name!r}; make it an input, a constant, the output of "
                f"a layer before, or list it as persistent"
            )

    def _check_output(self, layer: Layer, given: set[int]) -> None:
        output = layer.output
        if output.base.data is not None or any(output.base is t for t in self.inputs):
            raise layer.refuse(f"writes {output.base.name!r}, a constant or an input")
        if any(output.base is t.base for t in layer.inputs):
            raise layer.refuse(f"reads and writes {output.base.name!r}; copy it first")
        if output.of is None and id(output) in given and not output.persistent:
            raise layer.refuse(f"writes {output.name!r} a second time; name another tensor")
        if output.base.persistent and id(output.base) not in given:
            raise layer.refuse(f"{output.base.name!r} is not in the graph's list of persistent")
