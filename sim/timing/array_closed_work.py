"""Blocks of queries and key tiles of attention on the `array` engine, counted in closed form.

All sizes of a shape may be NumPy arrays. Ref: docs/array.md section 3 (mask).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bankside.sim.timing.array_closed import Size, choose, floor_sum, larger, smaller


class Work(NamedTuple):
    """Blocks of queries of a shape.

    Attributes:
        heads: key heads of all sequences.
        blocks, tiles: of all heads; tiles count once for each block that meets them.
        last: columns in use in the last block.
        reach: tiles of a head that at least one block meets.
        used: columns in use in all blocks: pairs of query and head.
    """

    heads: Size
    blocks: Size
    tiles: Size
    last: Size
    reach: Size
    used: Size


def up(a: Size, b: Size) -> Size:
    return -(-a // b)


def count(
    rows: int, columns: int, queries: Size, keys: Size, heads: Size, kv_heads: Size,
    batch: Size = 1, causal: Size = False, window: Size = 0, first_position: Size | None = None,
) -> Work:  # fmt: skip
    """Blocks of queries and their key tiles on an array of rows x columns.

    Queries that share key heads fill the columns query by query; masked queries of one position
    are not spread over two blocks unless they need more columns than there are.
    """
    group, key_heads = heads // kv_heads, batch * kv_heads
    pairs, all_tiles = queries * group, up(keys, rows)
    open_blocks = up(pairs, columns)
    masked = (causal != 0) | (window > 0)
    if not isinstance(masked, np.ndarray) and not masked:
        last = pairs - (open_blocks - 1) * columns
        blocks = key_heads * open_blocks
        return Work(key_heads, blocks, blocks * all_tiles, last, all_tiles, key_heads * pairs)
    position = keys - queries if first_position is None else first_position
    fits = group <= columns
    step = choose(fits, columns // smaller(group, columns), 1)  # queries of a block
    split = choose(fits, 1, up(group, columns))  # blocks of a query
    spans = up(queries, step)
    tiles, reach = _masked(rows, queries, keys, causal, window, position, step, spans)
    blocks, tiles = spans * split, tiles * split
    last = choose(fits, pairs - (spans - 1) * step * group, group - (split - 1) * columns)
    open_last = pairs - (open_blocks - 1) * columns
    return Work(
        key_heads,
        key_heads * choose(masked, blocks, open_blocks),
        key_heads * choose(masked, tiles, open_blocks * all_tiles),
        choose(masked, last, open_last),
        choose(masked, reach, all_tiles),
        key_heads * pairs,
    )


def _masked(
    rows: int, queries: Size, keys: Size, causal: Size, window: Size, position: Size, step: Size,
    spans: Size,
) -> tuple[Size, Size]:  # fmt: skip
    """Tiles that the `spans` blocks of a head meet, and those that any of them meets."""
    high = choose(causal != 0, smaller(keys, position + queries), keys)
    # Blocks that end before `high` for want of positions.
    early = larger(0, smaller(spans, up(high - position, step) - 1))
    early = choose(causal != 0, early, 0)
    ends = floor_sum(early, rows, step, position + step + rows - 1)
    ends = ends + (spans - early) * up(high, rows)
    window = choose(window > 0, window, position + queries + 1)
    # Blocks beyond the window of the last key have one tile, of which they meet nothing.
    beyond = larger(0, spans - larger(0, up(keys + window - 1 - position, step)))
    whole = larger(0, (window - 1 - position) // step + 1)  # these begin with tile 0
    moved = larger(0, spans - beyond - whole)
    begins = floor_sum(moved, rows, step, larger(0, step * whole + position - window + 1))
    tiles = ends - begins - beyond * up(high, rows) + beyond
    first = larger(0, position - window + 1) // rows
    return tiles, larger(1, up(high, rows) - first)
