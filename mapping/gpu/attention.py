"""Seconds of the attention kernels of a GPU: prefill (FlashAttention) and decode.

Ref: docs/gpu.md, section Attention; FlashAttention-2, arXiv 2307.08691; the kernels of decode are
those of TensorRT-LLM, whose measured tables show where one kernel replaces another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bankside.mapping.gpu.gemm import Positive, Share
from bankside.mapping.gpu.shapes import spread
from bankside.mapping.system.gpu import Gpu
from bankside.schema import Section

_ELEMENT = 2  # bytes; queries and results are 16 bit


class PrefillParameters(Section):
    """What is calibrated for prefill; 6 numbers.

    Attributes:
        start_us: of all kernels of the operator together.
        matrix_efficiency: share of the matrix peak that blocks of 128 queries reach.
        small_tile: blocks of 64 queries, relative to those of 128.
        dram_efficiency: share of the memory bandwidth.
        tail: share of the longest block's time that multiprocessors wait for it.
        block_us: start of a wave of blocks.
    """

    start_us: Positive
    matrix_efficiency: Share
    small_tile: Share
    dram_efficiency: Share
    tail: Share
    block_us: Positive


def prefill_seconds(
    p: PrefillParameters,
    gpu: Gpu,
    pairs: ArrayLike,
    context: ArrayLike,
    queries: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: ArrayLike = 128,
    value_dim: ArrayLike | None = None,
    requests: ArrayLike = 1,
    kv_bits: float = 16,
    rotate: ArrayLike = True,
) -> NDArray:
    """Seconds of the causal attention of new tokens.

    Args:
        pairs: (query, key) pairs, sum over the requests.
        context: keys that are read, sum over the requests.
        queries: new tokens, sum over the requests.
        requests: they are taken to be of equal length; blocks and their padding follow from it.
        rotate: with the traffic of rotating queries and keys and of storing keys and values, which
            the measured operator does; False where these are operators of their own.

    Returns:
        Seconds, launch excluded, 0 without queries; never below operations at the peak rate nor
        queries, results, keys and values moved once.
    """
    shape, (pairs, context, queries, heads, kv_heads, qk, value, requests, rotate) = spread(
        pairs=pairs, context=context, queries=queries, heads=heads, kv_heads=kv_heads,
        head_dim=head_dim, value_dim=head_dim if value_dim is None else value_dim,
        requests=requests, rotate=rotate,
    )  # fmt: skip
    many = np.maximum(requests, 1)
    length, past = queries / many, np.maximum(context - queries, 0) / many
    exact = np.maximum(many * (length * past + length * (length + 1) / 2), 1)
    rate = gpu.matrix_flops(16) * p.matrix_efficiency
    options = []
    for rows, relative in ((64, p.small_tile), (128, 1.0)):
        blocks = np.ceil(length / rows)
        # A block works on whole tiles of keys up to its last query.
        padded = many * rows * (blocks * past + rows * blocks * (blocks + 1) / 2)
        scale = np.where(exact > 1, pairs / exact, 1.0)  # other mixes of lengths, windows
        work = 2 * (qk + value) * heads * np.maximum(padded * scale, pairs) / (rate * relative)
        longest = (past + blocks * rows) * rows * 2 * (qk + value) * scale
        longest = longest / (rate * relative / gpu.sms)
        waves = np.ceil(many * heads * blocks / gpu.sms)
        options.append(np.maximum(longest, work + p.tail * longest) + waves * (p.block_us * 1e-6))
    moved = _prefill_bytes(queries, context, heads, kv_heads, qk, value, kv_bits, rotate)
    memory = moved / (gpu.memory_bandwidth * p.dram_efficiency)
    seconds = p.start_us * 1e-6 + np.minimum(*options) + memory
    return np.where(queries * heads == 0, 0.0, seconds).reshape(shape)


def _prefill_bytes(
    queries: NDArray, context: NDArray, heads: NDArray, kv_heads: NDArray,
    qk: NDArray, value: NDArray, kv_bits: float, rotate: NDArray,
) -> NDArray:  # fmt: skip
    """Bytes of attention and, by a kernel before it, of rotation and store.

    Where each head has its own keys, attention reads the packed input in place: one copy less.
    """
    copies = np.where(heads == kv_heads, 1, 2) * rotate
    query = _ELEMENT * queries * heads * ((1 + copies) * qk + value)
    new = np.where(copies > 0, kv_bits / 8, 0) + np.where(copies > 1, _ELEMENT, 0)
    return query + (new * queries + kv_bits / 8 * context) * kv_heads * (qk + value)


def prefill_floor(
    gpu: Gpu,
    pairs: ArrayLike,
    context: ArrayLike,
    queries: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: ArrayLike = 128,
) -> NDArray:
    """Seconds that no kernel can beat: operations at the peak; queries, results, K and V once."""
    width = np.asarray(head_dim, float)
    flops = 4.0 * np.asarray(pairs, float) * heads * width
    moved = 2 * _ELEMENT * width * (np.asarray(queries, float) * heads + context * kv_heads)  # type: ignore[operator]
    return np.maximum(flops / gpu.matrix_flops(16), moved / gpu.memory_bandwidth)


class DecodeParameters(Section):
    """What is calibrated for decode; 10 numbers and one property of the table.

    Two kernels: one block per query head (all heads of their own keys, tiny batches, and more than
    32 heads per group), and one block per group of heads and 128 keys, on matrix units.

    Attributes:
        start_us: of the kernel by heads.
        latency_us: of its first and second wave of blocks.
        head_us: of a block of it, while a multiprocessor has many.
        group_start_us: of the kernel by groups.
        group_us: of each wave of its blocks.
        group_rows_us: the same, for each 8 heads of a group.
        dram_efficiency: share of the memory bandwidth.
        sm_gbps: what one multiprocessor can read from DRAM.
        l2_sm_gbps: what one multiprocessor can read from the L2.
        split_us: of joining the parts of a context.
        table_kv_share: not calibrated but chosen: share of the keys' and values' bytes that DRAM
            had to deliver in the measured table. 0.5: keys and values lay at the same addresses.
            A prediction that is not `as_measured` always reads all of them.
    """

    start_us: Positive
    latency_us: Positive
    head_us: Positive
    group_start_us: Positive
    group_us: Positive
    group_rows_us: Positive
    dram_efficiency: Share
    sm_gbps: Positive
    l2_sm_gbps: Positive
    split_us: Positive
    table_kv_share: Share = 1.0


_KEYS = 128  # keys of a block of the kernel by groups
_MOST_HEADS = 32  # of a group on matrix units
_BLOCKS_PER_SM = 9.25  # up to which the kernel by groups splits contexts
_MOST_PARTS = 64


def decode_seconds(
    p: DecodeParameters,
    gpu: Gpu,
    requests: ArrayLike,
    context: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: ArrayLike = 128,
    value_dim: ArrayLike | None = None,
    kv_dim: ArrayLike | None = None,
    kv_bits: float = 16,
    as_measured: bool = False,
) -> NDArray:
    """Seconds of the attention of one new token per request.

    Args:
        context: sum over the requests of the keys of each; they are taken to be equally long.
        kv_dim: elements of one token that are stored per KV head, where keys and values share them
            (MLA: 576); by default head_dim + value_dim.
        as_measured: what the calibration's table would hold, also where that is faster than DRAM.

    Returns:
        Seconds, launch excluded, 0 without requests.
    """
    value_dim = head_dim if value_dim is None else value_dim
    shared = kv_dim is not None
    stored = kv_dim if shared else np.add(head_dim, value_dim)
    shape, (requests, context, heads, kv_heads, qk, value, stored) = spread(
        requests=requests, context=context, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
        value_dim=value_dim, kv_dim=stored,
    )  # fmt: skip
    length = context / np.maximum(requests, 1)
    width = kv_bits / 8 * stored  # bytes of a token, per KV head
    group = heads / np.maximum(kv_heads, 1)
    by_heads = _by_heads(p, gpu, requests, length, heads, kv_heads, width)
    by_groups = _by_groups(p, gpu, requests, length, heads, kv_heads, width)
    small = (requests * kv_heads < 32) & (length <= _KEYS)
    one_by_one = ((group == 1) | (group > _MOST_HEADS) | small) & ~shared
    seconds = np.where(one_by_one, by_heads, by_groups)
    if not as_measured:
        moved = context * kv_heads * width + _ELEMENT * requests * heads * (qk + value)
        flops = 2 * context * heads * (qk + value) / gpu.matrix_flops(16)
        sustained = gpu.memory_bandwidth * p.dram_efficiency
        seconds = np.maximum(seconds, np.maximum(moved / sustained, flops))
    return np.where(requests * context == 0, 0.0, seconds).reshape(shape)


def _by_heads(
    p: DecodeParameters, gpu: Gpu, requests: NDArray, length: NDArray, heads: NDArray,
    kv_heads: NDArray, width: NDArray,
) -> NDArray:  # fmt: skip
    """A block per query head; contexts are split while multiprocessors are idle."""
    units = np.maximum(requests * heads, 1)
    keys = np.maximum(length, np.minimum(4 * length, 64))  # short contexts fill a tile badly
    idle = 2.0 ** np.floor(np.log2(np.maximum(gpu.sms / units, 1)))
    parts = np.clip(2.0 ** np.floor(np.log2(np.maximum(length / 256, 1))), 1, idle)
    active = np.minimum(units * parts, gpu.sms)
    nominal = requests * kv_heads * keys * width
    cache = gpu.l2_bytes or 0.0
    # The keys of the blocks at work are read before their values: what the two share is read once
    # if it stays in the cache that long.
    resident = np.minimum(units, 4 * gpu.sms) * keys * width / 2 <= cache
    share = np.where(resident, p.table_kv_share, 1.0)
    # A table repeats a measurement: small data stay in the cache from one repetition to the next.
    share = np.where(nominal * p.table_kv_share <= 0.9 * cache, 0.0, share)
    rate = np.minimum(gpu.memory_bandwidth * p.dram_efficiency, active * p.sm_gbps * 1e9)
    # One block has too few loads under way for more than the rate of a multiprocessor from DRAM.
    cached = np.minimum(active * p.l2_sm_gbps, units * parts * p.sm_gbps) * 1e9
    read = np.maximum(share * nominal / rate, units * keys * width / cached)
    waves = units * parts / gpu.sms
    blocks = np.maximum(p.latency_us * np.minimum(np.ceil(waves), 2), p.head_us * waves)
    return (p.start_us + blocks + np.where(parts > 1, p.split_us, 0.0)) * 1e-6 + read


def _by_groups(
    p: DecodeParameters, gpu: Gpu, requests: NDArray, length: NDArray, heads: NDArray,
    kv_heads: NDArray, width: NDArray,
) -> NDArray:  # fmt: skip
    """A block per group of heads and part of the context, 128 keys at a time."""
    units = np.maximum(requests * kv_heads, 1)
    tiles = np.ceil(length / _KEYS)
    most = np.floor(np.maximum(_BLOCKS_PER_SM * gpu.sms / units, 1))
    parts = np.minimum(np.minimum(most, _MOST_PARTS), np.maximum(tiles, 1))
    rows = np.ceil(heads / np.maximum(kv_heads, 1) / 8)
    waves = np.ceil(units * parts / gpu.sms)
    # The first tile of each block hides behind its start.
    read = p.table_kv_share * units * width * _KEYS * np.maximum(tiles - parts, 0)
    blocks = (p.group_us + p.group_rows_us * rows) * waves
    fixed = p.group_start_us + blocks + np.where(parts > 1, p.split_us, 0.0)
    return fixed * 1e-6 + read / (gpu.memory_bandwidth * p.dram_efficiency)


def decode_floor(
    gpu: Gpu,
    requests: ArrayLike,
    context: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: ArrayLike = 128,
) -> NDArray:
    """Seconds that no kernel can beat: operations at the peak, keys and values read once."""
    width = np.asarray(head_dim, float)
    context = np.asarray(context, float)
    flops = 4 * context * heads * width / gpu.matrix_flops(16)
    moved = 2 * _ELEMENT * width * (context * kv_heads + np.asarray(requests, float) * heads)
    return np.maximum(flops, moved / gpu.memory_bandwidth)
