"""Attention as programs of the `array` engine.

`ArrayKernels` packs queries into columns, places keys, values and results, and emits LOAD, RUN and
STORE commands under a binding. Ref: docs/array.md; docs/cascades.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bankside.errors import ConfigError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.array_schedule import FORMATS
from bankside.isa.program import Program
from bankside.mapping.binding.loader import load_binding
from bankside.mapping.lower_array_emit import Emitter
from bankside.mapping.lower_array_plan import RESIDENCIES, Memory, Planner, refuse
from bankside.mapping.lower_array_shape import (
    U16,
    AttentionShape,
    RowBlock,
    row_blocks,
    scaled_queries,
    to_bits,
)
from bankside.mapping.lower_array_unfused import UnfusedEmitter

__all__ = ["ArrayKernels", "AttentionShape", "scaled_queries", "to_bits"]


class ArrayKernels:
    """Programs for attention of one shape under one binding.

    Args:
        binding: name, or path of a YAML file.
        format: `fp16` or `bf16`.
        residency: `resident` keeps the keys of a head in the row banks, `stream` passes them
            through a ring for every block of queries, `auto` chooses.

    Raises:
        ConfigError: a buffer is too small; the message says which, and what would fit.
    """

    def __init__(
        self,
        machine: ArrayMachine,
        shape: AttentionShape,
        binding: str | Path = "interleaved",
        format: str = "fp16",
        residency: str = "auto",
    ) -> None:
        _check_choice("format", format, FORMATS)
        _check_choice("residency", residency, RESIDENCIES)
        self.machine, self.shape, self.format, self.residency = machine, shape, format, residency
        self.binding = load_binding(binding)
        self._check_lanes()
        solved = [k.schedule(machine, shape.e, shape.f, format) for k in self.binding.kernels]
        self.schedules = [schedule for schedule, _ in solved]
        self.solutions = [solution for _, solution in solved]
        self.planner = Planner(machine, shape, self.binding, self.schedules)
        self.blocks = row_blocks(shape, machine.rows, machine.columns)
        self.parts = list(self._parts())

    def _check_lanes(self) -> None:
        if self.shape.f > self.machine.config.array.lane_words:
            raise refuse(
                self.machine, "lane_words", self.shape.f, f"a value of {self.shape.f} elements",
                "use shorter values",
            )  # fmt: skip

    # --- parts ------------------------------------------------------------------------------------
    def _parts(self) -> Iterator[list[RowBlock]]:
        """Blocks of each program: as many as the program memory and the main memory hold."""
        part: list[RowBlock] = []
        costs: dict[int, int] = {}
        words, room = 0, self.machine.config.array.program_words
        for block in self.blocks:
            if block.tiles not in costs:
                costs[block.tiles] = len(self._emit([block])[0].build().words)
            cost = costs[block.tiles]
            if cost > room:
                raise refuse(
                    self.machine, "program_words", cost, f"a block of {block.tiles} key tiles",
                    "use fewer keys",
                )  # fmt: skip
            full = self.planner.memory([*part, block]).end > self.machine.config.memory.bytes
            if part and (words + cost > room or full):
                yield part
                part, words = [], 0
            elif full:
                raise self._no_memory(block)
            part.append(block)
            words += cost
        yield part

    def _no_memory(self, block: RowBlock) -> ConfigError:
        needed = self.planner.memory([block]).end
        return ConfigError(
            f"{self.machine.config.name}: memory.bytes is {self.machine.config.memory.bytes}, "
            f"{self.shape.keys} keys and {block.used} queries of one head need {needed}; use fewer "
            f"keys or raise memory.bytes"
        )

    def _emit(self, part: Sequence[RowBlock]) -> tuple[Any, Memory]:
        memory = self.planner.memory(part)
        emitter = UnfusedEmitter if self.binding.scores == "memory" else Emitter
        places = self.planner.places(part, self.residency)
        return emitter(self.planner, part, places, memory).emit(), memory

    # --- data -------------------------------------------------------------------------------------
    def programs(self, q: U16, k: U16, v: U16) -> list[Program]:
        """Programs for one attention; run them in any order on one machine, then `collect`.

        Args:
            q: bits [batch, queries, heads, e], scaled by log2(e) / sqrt(e) (`scaled_queries`).
            k, v: bits [batch, keys, kv_heads, e] and [batch, keys, kv_heads, f].
        """
        self._check_data(q, k, v)
        return [self._program(part, q, k, v) for part in self.parts]

    def _check_data(self, q: U16, k: U16, v: U16) -> None:
        s = self.shape
        expected = {
            "q": (q, (s.batch, s.queries, s.heads, s.e)),
            "k": (k, (s.batch, s.keys, s.kv_heads, s.e)),
            "v": (v, (s.batch, s.keys, s.kv_heads, s.f)),
        }
        for name, (data, shape) in expected.items():
            if data.shape != shape or data.dtype != np.uint16:
                raise ConfigError(
                    f"{name}: {data.dtype} {list(data.shape)}; expected uint16 bits {list(shape)}"
                )

    def _program(self, part: Sequence[RowBlock], q: U16, k: U16, v: U16) -> Program:
        builder, memory = self._emit(part)
        image = np.zeros((memory.end // memory.bus_bytes, self.machine.bus_elements), np.uint16)
        self._place_keys(image, memory, k, v)
        pairs = self._pairs(q)
        for block, address in zip(part, memory.queries, strict=True):
            rows = pairs[block.head][block.first : block.first + block.used]
            _place(image, address // memory.bus_bytes, rows)
        builder.host_in.append(image)
        value = self.planner.sizes.value
        for number, (block, address) in enumerate(zip(part, memory.results, strict=True)):
            builder.outputs[f"o{number}"] = (address // memory.bus_bytes, block.used * value)
        return builder.build()

    def _place_keys(self, image: U16, memory: Memory, k: U16, v: U16) -> None:
        """Rows of a head: the key, then the value, each from the start of a bus word."""
        sizes, s, n = self.planner.sizes, self.shape, self.machine.bus_elements
        for head, address in memory.heads.items():
            batch, kv_head = divmod(head, s.kv_heads)
            rows = np.zeros((s.keys, sizes.row * n), np.uint16)
            rows[:, : s.e] = k[batch, :, kv_head]
            rows[:, sizes.key * n : sizes.key * n + s.f] = v[batch, :, kv_head]
            _place(image, address // memory.bus_bytes, rows)

    def _pairs(self, q: U16) -> U16:
        """Queries as [key head, (query, head of the group), e]."""
        s = self.shape
        grouped = q.reshape(s.batch, s.queries, s.kv_heads, s.group, s.e).transpose(0, 2, 1, 3, 4)
        return grouped.reshape(s.key_heads, s.queries * s.group, s.e)

    def collect(self, results: Sequence[Any]) -> U16:
        """Results of `programs` (or their main memories) -> bits [batch, queries, heads, f]."""
        s, value = self.shape, self.planner.sizes.value
        out = np.zeros((s.key_heads, s.queries * s.group, s.f), np.uint16)
        for part, result in zip(self.parts, results, strict=True):
            memory = getattr(result, "outputs", result)
            places = self.planner.memory(part)
            for block, address in zip(part, places.results, strict=True):
                first = address // places.bus_bytes
                rows = memory[first : first + block.used * value].reshape(block.used, -1)
                out[block.head, block.first : block.first + block.used] = rows[:, : s.f]
        grouped = out.reshape(s.batch, s.kv_heads, s.queries, s.group, s.f)
        return grouped.transpose(0, 2, 1, 3, 4).reshape(s.batch, s.queries, s.heads, s.f)


def _check_choice(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ConfigError(f"{name} {value!r} is not known; choose from: {', '.join(valid)}")


def _place(image: U16, first: int, rows: U16) -> None:
    """Write rows from bus word `first` on, each from the start of a bus word."""
    n = image.shape[1]
    words = -(-rows.shape[1] // n)
    padded = np.zeros((len(rows), words * n), np.uint16)
    padded[:, : rows.shape[1]] = rows
    image[first : first + len(rows) * words] = padded.reshape(-1, n)
