"""Attention on the `array` engine: its shape, and the blocks of queries that the columns hold.

Ref: docs/array.md section 3 (mask).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError
from bankside.isa.numerics_array_np import round16
from bankside.isa.spec import load_spec

U16 = NDArray[np.uint16]
_POSITIONS = 1 << 23


@dataclass(frozen=True)
class AttentionShape:
    """softmax(Q K^T) V of some queries over some keys, for every head of every sequence.

    Attributes:
        heads, kv_heads: query head h reads key head h // (heads / kv_heads).
        e, f: elements of a query and key, of a value.
        batch: sequences.
        causal: a query meets keys up to its own position.
        window: a query meets only the last `window` keys up to its position; 0: all.
        first_position: position of query 0 among the keys; by default the queries are the last.
    """

    queries: int
    keys: int
    heads: int
    kv_heads: int
    e: int
    f: int
    batch: int = 1
    causal: bool = False
    window: int = 0
    first_position: int | None = None

    def __post_init__(self) -> None:
        for name in ("queries", "keys", "heads", "kv_heads", "e", "f", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"attention shape: {name} is {getattr(self, name)}; expected at least 1"
                )
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"attention shape: {self.heads} query heads do not divide into {self.kv_heads} "
                f"key heads; use a multiple"
            )
        if self.window < 0 or (self.masked and self.position < 0):
            raise ConfigError(
                f"attention shape: {self.queries} queries after {self.keys} keys begin at position "
                f"{self.position} with a window of {self.window}; give first_position and a window "
                f"of 0 or more"
            )
        if max(self.keys, self.position + self.queries, self.window) >= _POSITIONS:
            raise ConfigError(f"attention shape: keys and positions end at {_POSITIONS - 1}")

    @property
    def masked(self) -> bool:
        """Whether what a query meets depends on its position."""
        return self.causal or self.window > 0

    @property
    def position(self) -> int:
        """Position of query 0."""
        return self.keys - self.queries if self.first_position is None else self.first_position

    @property
    def group(self) -> int:
        """Query heads that share one key head."""
        return self.heads // self.kv_heads

    @property
    def key_heads(self) -> int:
        """Key heads of all sequences."""
        return self.batch * self.kv_heads


@dataclass(frozen=True)
class RowBlock:
    """Queries that occupy the columns together.

    Attributes:
        head: key head, over all sequences.
        first, used: first of its (query, head of the group) pairs, query-major, and how many.
        position, group: registers.
        first_tile, tiles: key tiles that at least one of the queries meets.
    """

    head: int
    first: int
    used: int
    position: int
    group: int
    first_tile: int
    tiles: int


def row_blocks(shape: AttentionShape, rows: int, columns: int) -> list[RowBlock]:
    """All blocks of queries of a shape on an array of rows x columns, head by head."""
    spans = list(_spans(shape, columns))
    return [
        RowBlock(head, first, used, position, group, *_tiles(shape, rows, first, used))
        for head in range(shape.key_heads)
        for first, used, position, group in spans
    ]


def _spans(shape: AttentionShape, columns: int):
    """(first pair, pairs, position of column 0, columns per position) of one head's blocks."""
    group, pairs = shape.group, shape.queries * shape.group
    if not shape.masked:
        # Without a mask no column needs to know its position.
        for first in range(0, pairs, columns):
            yield first, min(columns, pairs - first), 0, 1
    elif group <= columns:
        step = columns // group * group
        for first in range(0, pairs, step):
            yield first, min(step, pairs - first), shape.position + first // group, group
    else:
        for query in range(shape.queries):
            for first in range(0, group, columns):
                used = min(columns, group - first)
                yield query * group + first, used, shape.position + query, columns


def _tiles(shape: AttentionShape, rows: int, first: int, used: int) -> tuple[int, int]:
    """First key tile that a block of queries meets, and how many. One tile where there is none."""
    low, high = 0, shape.keys
    if shape.causal:
        last = shape.position + (first + used - 1) // shape.group
        high = min(high, last + 1)
    if shape.window:
        low = max(0, shape.position + first // shape.group - shape.window + 1)
    if low >= high:
        return 0, 1
    return low // rows, -(-high // rows) - low // rows


def to_bits(x: NDArray[np.floating], format: str) -> U16:
    """Numbers rounded to the 16-bit `format` (`fp16`, `bf16`), nearest even, saturating."""
    single = np.ascontiguousarray(x, dtype=np.float32)
    return round16(single, load_spec("array").enums["format"][format])


def scaled_queries(q: NDArray[np.floating], format: str) -> U16:
    """q [..., e] times log2(e) / sqrt(e), rounded: queries as the array expects them."""
    scale = np.log2(np.e) / np.sqrt(q.shape[-1])
    return to_bits(np.asarray(q, np.float64) * scale, format)
