"""Weights in tiles, cut into chunks of output channels that fit the weight buffer.

Ref: docs/npu.md section 3; docs/npu_compiler.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.npu_weights import PACKED, RAW8, W4, WeightLayout
from bankside.mapping.lower_npu.cost import Choice, MacShape, choose, transfer_cycles
from bankside.mapping.lower_npu.storage import Chunk
from bankside.mapping.npu_layers import Conv2d, Depthwise

#: Chunks that the weight buffer should hold at a time: one in use, the others on their way.
_CHUNKS = 4


@dataclass(frozen=True)
class Piece:
    """Output channels [first, stop) and their tiles."""

    first: int
    stop: int
    chunk: Chunk


@dataclass(frozen=True)
class WeightPlan:
    """How a layer with weights is computed.

    format: `weight_format`. scattered: channels of a piece, when pieces are less than a word of the
    output, so that a COPY joins them; None: pieces are whole words.
    """

    choice: Choice
    format: int
    pieces: tuple[Piece, ...]
    scattered: int | None = None

    @property
    def size(self) -> int:
        return sum(len(piece.chunk.data) for piece in self.pieces)


class WeightPlanner:
    """Plans of layers for one machine; remembers what it has encoded."""

    def __init__(self, machine: NpuMachine) -> None:
        self.machine = machine
        self._encoded: dict[tuple, tuple[NDArray, list[bytes]]] = {}

    def plan(self, layer: Conv2d | Depthwise) -> WeightPlan:
        """Mode, block and pieces of a layer. Raises ConfigError when not even a group fits."""
        form = self._format(layer)
        shape = mac_shape(layer)
        words = tuple(self._mean_words(layer, form, row) for row in (False, True))
        moved = tuple(self._moved(layer, form, row, words[row]) for row in (False, True))
        shape = replace(shape, tile_words=words, moved=moved, packed=form == PACKED)
        choice = choose(self.machine, shape)
        groups = self._groups(layer, form, choice.row)
        size, scattered = self._size(layer, groups, shape, choice)
        group = self.machine.group(choice.row)
        pieces = []
        outputs = layer.output.shape[2]
        for first in range(0, outputs, size):
            stop = min(first + size, outputs)
            data = b"".join(groups[first // group : -(-stop // group)])
            key = (id(layer.weights), choice.row, first, stop)
            pieces.append(Piece(first, stop, Chunk(key, data)))
        return WeightPlan(choice, form, tuple(pieces), scattered)

    def _format(self, layer: Conv2d | Depthwise) -> int:
        scales = layer.scales if isinstance(layer, Conv2d) else None
        if not self.machine.wide:
            if scales is not None:
                raise layer.refuse("4-bit weights; profile u55 has 8 bits, use profile llm")
            return PACKED
        return RAW8 if scales is None else W4

    def _layout(
        self, layer: Conv2d | Depthwise, form: int, row: bool, outputs: int
    ) -> WeightLayout:
        inputs = layer.source.shape[2] if isinstance(layer, Conv2d) else None
        return WeightLayout(
            form, self.machine.group(row), self.machine.weight_port_bytes, outputs, layer.kernel,
            inputs,
        )  # fmt: skip

    def _groups(self, layer: Conv2d | Depthwise, form: int, row: bool) -> list[bytes]:
        """Bytes of every group."""
        key = (id(layer.weights), form, row)
        if key not in self._encoded:
            group, outputs = self.machine.group(row), layer.output.shape[2]
            parts = []
            for first in range(0, outputs, group):
                own = slice(first, min(first + group, outputs))
                layout = self._layout(layer, form, row, own.stop - own.start)
                scales = layer.scales[own] if isinstance(layer, Conv2d) and form == W4 else None
                parts.append(layout.encode(layer.weights[own], scales))
            # The array is kept with its encoding: its identity is the key.
            self._encoded[key] = layer.weights, parts
        return self._encoded[key][1]

    def _mean_words(self, layer: Conv2d | Depthwise, form: int, row: bool) -> float:
        """Words of a tile; only `packed` ones differ."""
        layout = self._layout(layer, form, row, layer.output.shape[2])
        if form != PACKED:
            return layout.fixed_words
        if row:
            return 0
        groups = self._groups(layer, form, row)
        size = sum(len(part) for part in groups)
        return size / self.machine.weight_port_bytes / (layout.groups * layout.steps)

    def _moved(self, layer: Conv2d | Depthwise, form: int, row: bool, words: float) -> float:
        """Cycles of the transfers of a layer."""
        layout = self._layout(layer, form, row, layer.output.shape[2])
        size = layout.groups * layout.steps * words * self.machine.weight_port_bytes
        return transfer_cycles(self.machine, math.ceil(size))

    # --- sizes of pieces ------------------------------------------------------------------------
    def _size(
        self, layer: Conv2d | Depthwise, groups: list[bytes], shape: MacShape, choice: Choice
    ) -> tuple[int, int | None]:
        """Channels of a piece, and the same again when it must be scattered."""
        room = self.machine.config.npu.weight_bytes
        group, outputs = self.machine.group(choice.row), layer.output.shape[2]
        word = layer.output.word_channels
        if isinstance(layer, Depthwise):
            # A piece reads its own input channels, from a word on.
            word = max(word, layer.source.word_channels)
        step = math.lcm(group, word)
        for size in range(-(-outputs // step) * step, 0, -step):
            if _widest(groups, size, group) <= room // _CHUNKS:
                return size, None
        one = _widest(groups, step, group)
        if 2 * one <= room:
            return step, None
        small = self._small(layer, groups, group, word)
        if small is None:
            if one <= room:
                return step, None
            raise self._too_large(layer, groups)
        moved = transfer_cycles(self.machine, sum(map(len, groups)))
        alone = moved + choice.cycles
        joined = max(moved, choice.cycles) + shape.positions * outputs
        return (step, None) if one <= room and alone <= joined else (small, small)

    def _small(
        self, layer: Conv2d | Depthwise, groups: list[bytes], group: int, word: int
    ) -> int | None:
        """Channels of a piece smaller than a word of the output: most that fit twice, or once."""
        room = self.machine.config.npu.weight_bytes
        if isinstance(layer, Depthwise):
            return None
        sizes = [s for s in (16, 8, 4) if s < word and s % group == 0]
        for share in (2, 1):
            for size in sizes:
                if _widest(groups, size, group) <= room // share:
                    return size
        return None

    def _too_large(self, layer: Conv2d | Depthwise, groups: list[bytes]) -> ConfigError:
        machine = self.machine
        return layer.refuse(
            f"one group of output channels takes {max(map(len, groups))} bytes of the weight "
            f"buffer; {machine.config.name} has weight_bytes = {machine.config.npu.weight_bytes}: "
            f"use fewer input channels, a smaller window, or raise weight_bytes"
        )


def _widest(groups: list[bytes], channels: int, group: int) -> int:
    """Bytes of the largest piece of so many channels."""
    each = channels // group
    return max(sum(map(len, groups[at : at + each])) for at in range(0, len(groups), each))


def mac_shape(layer: Conv2d | Depthwise) -> MacShape:
    """What the time of a layer depends on, but for its tiles."""
    return MacShape(
        positions=layer.output.positions,
        outputs=layer.output.shape[2],
        places=int(np.prod(layer.kernel)),
        inputs=layer.source.shape[2] if isinstance(layer, Conv2d) else 0,
        tile_words=(0, 0),
        per_channel=True,
        table=layer.table is not None,
    )
