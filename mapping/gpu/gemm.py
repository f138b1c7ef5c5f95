"""Seconds of a matrix product on a GPU, from tiles, waves, split depth and memory traffic.

A library has kernels of several output tiles; a kernel may split the inner dimension over blocks.
The model prices every pair (tile, split) and takes the cheapest. A pair costs

    start + rounds * wave + max(inner loop, reads of DRAM) + writes of DRAM + reduction of the split

where the inner loop runs in waves of one block per multiprocessor, each as fast as its matrix unit
or its share of the L2 allows, and long kernels are slowed down by the power limit.

Ref: docs/gpu.md, section Matrix products.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from bankside.mapping.gpu.shapes import spread
from bankside.mapping.system.gpu import Gpu
from bankside.schema import Section

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Tiles = tuple[tuple[int, int], ...]

SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_STEP = 32  # inner elements that a kernel loads at a time
_LEAST_DEPTH = 128  # of one part of a split
_LARGEST = 128 * 256  # outputs of a block that fills a multiprocessor
_CHUNK = 96  # points at a time: arrays of all candidates that the allocator keeps and recycles


class GemmParameters(Section):
    """What is calibrated; 11 numbers.

    Attributes:
        start_us: from the start of a kernel to its first block's work, and its end.
        wave_us: of each round of resident blocks: filling the pipeline, leaving it.
        matrix_efficiency: share of the matrix peak that a 128 x 256 block reaches.
        tile_loss: how much smaller blocks lose: the rate falls as 1 / (1 + tile_loss * x), x the
            operands per product of the block above that of a 128 x 256 block.
        dram_efficiency: share of the memory bandwidth that reads reach.
        write_efficiency: the same of writes.
        sm_gbps: what one multiprocessor can read from DRAM.
        l2_sm_gbps: what one multiprocessor can read from the L2.
        split_us: of the reduction of a split inner dimension, beside its traffic.
        throttle: by how much the power limit stretches a very long kernel.
        throttle_ms: length of a kernel that is stretched by half of that.
    """

    start_us: Positive
    wave_us: Positive
    matrix_efficiency: Share
    tile_loss: Positive
    dram_efficiency: Share
    write_efficiency: Share
    sm_gbps: Positive
    l2_sm_gbps: Positive
    split_us: Positive
    throttle: Share
    throttle_ms: Positive


@lru_cache(maxsize=8)
def _candidates(tiles: Tiles) -> tuple[NDArray, NDArray, NDArray]:
    """Rows, columns and split of every candidate."""
    pairs = [(rows, columns, split) for rows, columns in tiles for split in SPLITS]
    rows, columns, split = np.array(pairs, float).T
    return rows, columns, split


def gemm_seconds(
    p: GemmParameters,
    gpu: Gpu,
    tiles: Tiles,
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    count: ArrayLike = 1,
    bits: float = 16,
) -> NDArray:
    """Seconds of `count` equal products (m x k) (k x n) in one kernel, launch excluded.

    Args:
        tiles: output tiles (rows, columns) of the library.
        m, n, k, count: numbers or arrays that broadcast; where one is 0 the result is 0.
        bits: of an element.

    Returns:
        Seconds, of the broadcast shape; never below flops / peak nor bytes / bandwidth.

    Raises:
        ConfigError: a negative size.
    """
    shape, (m, n, k, count) = spread(m=m, n=n, k=k, count=count)
    seconds = np.empty(m.size)
    for first in range(0, m.size, _CHUNK):
        part = slice(first, first + _CHUNK)
        seconds[part] = _cheapest(p, gpu, tiles, (m[part], n[part], k[part], count[part]), bits)
    seconds = seconds * (1 + p.throttle * seconds / (seconds + p.throttle_ms * 1e-3))
    return np.where(m * n * k * count == 0, 0.0, seconds).reshape(shape)


def _cheapest(
    p: GemmParameters, gpu: Gpu, tiles: Tiles, sizes: tuple[NDArray, ...], bits: float
) -> NDArray:
    rows, columns, split = _candidates(tiles)
    m, n, k, count = (size[:, None] for size in sizes)
    size = bits / 8
    blocks = np.ceil(m / rows) * np.ceil(n / columns) * split * count
    waves = np.ceil(blocks / gpu.sms)
    depth = np.ceil(k / (split * _STEP)) * _STEP
    # Candidates grow with m, n and k, but for loads of small products: another tile uses another
    # multiprocessor's.
    depth = np.where(split == 1, depth, np.maximum(depth, _LEAST_DEPTH))
    inner = waves * depth * _step_seconds(p, gpu, rows, columns, bits)
    bandwidth = np.minimum(
        gpu.memory_bandwidth * p.dram_efficiency,
        np.clip(blocks, 1, gpu.sms) * p.sm_gbps * 1e9,
    )
    reads = size * count * k * (m + n) / bandwidth
    writes = size * count * m * n / (gpu.memory_bandwidth * p.write_efficiency)
    rounds = np.ceil(waves / np.maximum(1, _LARGEST / (rows * columns)))
    # FP32 parts are written and read again; they stay in the L2, at half its rate.
    parts = p.split_us * 1e-6 + 16 * split * count * m * n / (p.l2_sm_gbps * 1e9 * gpu.sms)
    seconds = (
        p.start_us * 1e-6 + rounds * (p.wave_us * 1e-6) + np.maximum(inner, reads) + writes
        + np.where(split > 1, parts, 0.0)
    )  # fmt: skip
    return seconds.min(axis=1)


def _step_seconds(
    p: GemmParameters, gpu: Gpu, rows: NDArray, columns: NDArray, bits: float
) -> NDArray:
    """Seconds per inner element of one block, by matrix unit or L2, whichever is slower."""
    operands = (rows + columns) / (rows * columns) - (128 + 256) / _LARGEST
    rate = p.matrix_efficiency / (1 + p.tile_loss * np.maximum(operands, 0.0))
    matrix = 2 * rows * columns / (gpu.matrix_flops(bits) / gpu.sms * rate)
    return np.maximum(matrix, bits / 8 * (rows + columns) / (p.l2_sm_gbps * 1e9))


def gemm_floor(
    gpu: Gpu, m: ArrayLike, n: ArrayLike, k: ArrayLike, count: ArrayLike = 1, bits: float = 16
) -> NDArray:
    """Seconds that no kernel can beat: operations at the peak rate, each operand moved once."""
    m, n, k, count = (np.asarray(x, float) for x in (m, n, k, count))
    moved = bits / 8 * count * (m * k + k * n + m * n)
    return np.maximum(2 * count * m * n * k / gpu.matrix_flops(bits), moved / gpu.memory_bandwidth)
