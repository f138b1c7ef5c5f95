"""Accesses of FuseMax and its baselines to main memory and buffer, in closed form.

Every count follows from the loop order of a binding and from what the buffer holds. A tensor is
moved once for each iteration of the loops around it, except of those innermost loops that do not
index it; a tile that is broadcast along rows or columns counts once. Sizes are numbers or NumPy
arrays that broadcast against each other.

Ref: docs/fusemax.md; loop orders of FPSG-UIUC/micro24-fusemax-artifact, commit f543beb.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import reduce
from typing import Any

import numpy as np

from bankside.errors import ConfigError
from bankside.mapping.paper.fusemax_data import FlatTiling, Hardware, fusemax

#: A Python number or an array of them.
Size = Any


def larger(*values: Size) -> Size:
    """Elementwise maximum; stays a Python number where all are."""
    if any(isinstance(value, np.ndarray) for value in values):
        return reduce(np.maximum, values)
    return max(values)


@dataclass(frozen=True)
class Attention:
    """Attention of `batch` x `heads` heads: `queries` x `keys` scores, head dimensions e and f.

    Every field is a number or an array. Queries and keys are multiples of `tile`, the rows and
    columns of the 2D array.
    """

    batch: Size
    heads: Size
    queries: Size
    keys: Size
    e: Size
    f: Size
    tile: int = 256

    def __post_init__(self) -> None:
        tile = self.tile
        for name in ("queries", "keys"):
            value = getattr(self, name)
            if np.any(np.asarray(value) % tile) or np.any(np.asarray(value) < tile):
                raise ConfigError(
                    f"{name} is {value}; the idealised model cuts the scores into tiles of {tile} "
                    f"x {tile}, so expected a positive multiple of {tile}"
                )

    @classmethod
    def of(cls, model: str, length: int) -> Attention:
        """The self-attention of a model of fusemax.yaml over `length` tokens."""
        data = fusemax()
        if model not in data.models:
            raise ConfigError(f"unknown model {model!r}; choose from: {', '.join(data.models)}")
        known = data.models[model]
        return cls(data.batch, known.heads, length, length, known.e, known.f)

    @property
    def instances(self) -> Size:
        return self.batch * self.heads

    @property
    def key_tiles(self) -> Size:
        return self.keys // self.tile

    @property
    def query_tiles(self) -> Size:
        return self.queries // self.tile

    @property
    def scores(self) -> Size:
        return self.instances * self.queries * self.keys


@dataclass(frozen=True)
class Counts:
    """Elements moved: main memory, buffer, registers of the 1D array (each read and written)."""

    dram_read: Size = 0
    dram_write: Size = 0
    buffer_read: Size = 0
    buffer_write: Size = 0
    lane_read: Size = 0
    lane_write: Size = 0

    def __add__(self, other: Counts) -> Counts:
        names = [field.name for field in fields(self)]
        return Counts(*(getattr(self, name) + getattr(other, name) for name in names))

    @property
    def dram(self) -> Size:
        """Elements moved to and from main memory."""
        return self.dram_read + self.dram_write


def first_reads(tile: Size, tiles: Size, *, artifact: bool) -> Size:
    """Partial results that are created, not read back: `tiles` tiles of `tile` elements.

    artifact: as in the published energies, where tile^2 x tiles is kept in 64 bits. It wraps from
    256K tokens on (64K for FLAT), and reads of results that nobody reads are added.
    """
    if not artifact:
        return tile * tiles
    if isinstance(tile, np.ndarray) or isinstance(tiles, np.ndarray):
        wide, many = np.asarray(tile, np.uint64), np.asarray(tiles, np.uint64)
        return ((wide * wide * many) // wide).astype(np.int64)
    return (int(tile) * int(tile) * int(tiles)) % 2**64 // int(tile)


def _largest_divisor(number: Size, limit: Size) -> Size:
    """Largest divisor of `number` not above `limit`."""
    if not isinstance(number, np.ndarray) and not isinstance(limit, np.ndarray):
        return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)
    number, limit = np.broadcast_arrays(number, limit)
    found = np.ones_like(number)
    for divisor in range(2, int(np.max(np.minimum(number, limit))) + 1):
        found = np.where((number % divisor == 0) & (divisor <= limit), divisor, found)
    return found


def query_blocks(work: Attention, hardware: Hardware, *, scores_in_buffer: bool) -> Size:
    """P1: query tiles whose queries and running results stay in the buffer over all keys.

    The largest divisor of the query tiles that fits beside one tile of keys and of values.
    """
    data = fusemax()
    fixed = work.tile * (work.e + work.f) * data.element_bytes
    # A query column: query, running maximum, denominator, numerator; +Cascade also scores and
    # exponentials of one tile.
    column = work.e + work.f + 2 + (2 * work.tile if scores_in_buffer else 0)
    limit = (hardware.buffer_bytes - fixed) // (column * data.element_bytes * work.tile)
    if np.any(np.asarray(limit) < 1):
        raise ConfigError(
            f"a buffer of {hardware.buffer_bytes} bytes does not hold one query tile of "
            f"e = {work.e}, f = {work.f}; enlarge buffer_bytes or reduce the head dimensions"
        )
    return _largest_divisor(work.query_tiles, limit)


def one_pass_counts(
    work: Attention, hardware: Hardware, *, scores_in_buffer: bool, artifact: bool
) -> Counts:
    """The 1-pass cascade. Queries are read once, keys and values once per query block.

    scores_in_buffer: scores and exponentials pass through the buffer (+Cascade).
    """
    tile, e, f = work.tile, work.e, work.f
    p1 = query_blocks(work, hardware, scores_in_buffer=scores_in_buffer)
    blocks = work.query_tiles // p1
    query_in = work.instances * work.queries * e
    keys_in = work.instances * work.keys * blocks * (e + f)
    out = work.instances * work.queries * f
    per_tile = work.scores // tile  # columns of all tiles: one running maximum each
    created = first_reads(
        p1 * tile * f, work.instances * blocks * work.key_tiles, artifact=artifact
    )
    counts = Counts(
        dram_read=query_in + keys_in,
        dram_write=out,
        # Q and K for QK, V for SLNV; RM, RD, RNV of the tile before; RNV and RD for AV.
        buffer_read=per_tile * (2 * e + f)
        + per_tile * (2 + f)
        + out + out // f
        + (per_tile * f - created),
        buffer_write=query_in + keys_in + per_tile * (2 + f),
    )  # fmt: skip
    if scores_in_buffer:
        lost = per_tile * tile - first_reads(
            p1 * tile * tile, work.instances * blocks * work.key_tiles, artifact=artifact
        )
        # Scores written and read, exponentials written and read.
        more = Counts(buffer_read=2 * work.scores + 2 * lost, buffer_write=2 * work.scores)
        return counts + more
    # The column results that the 2D array hands over: LM, SLD, SLNV; RM in the other direction.
    return counts + Counts(lane_read=per_tile * (1 + f) - out, lane_write=per_tile * (2 + f))


# --- 3-pass baselines ---------------------------------------------------------------------------


def softmax_counts(work: Attention, *, on_chip: Size, spilled: Size, artifact: bool) -> Counts:
    """Maximum, exponential, sum and division on the 1D array, one query row at a time.

    on_chip: 1 where scores and probabilities stay in the buffer, 0 where they come from and go to
    main memory. spilled: fraction of the buffered part that does not fit and moves both ways.
    """
    scores, off = work.scores, 1 - on_chip
    rows = work.instances * work.queries
    lost = scores - first_reads(work.keys, rows, artifact=artifact)
    # Scores read for M and SN, exponentials for A; written: exponentials, and on chip A, else the
    # scores that come in.
    return Counts(
        dram_read=scores * (off + on_chip * 3 * spilled),
        dram_write=scores * (off + on_chip * 2 * spilled),
        buffer_read=scores * 3 + 2 * rows + (1 + on_chip) * lost,
        buffer_write=scores * 2 + 2 * rows,
    )


@dataclass(frozen=True)
class FlatChoice:
    """A `FlatTiling` as numbers: 1 or 0 (or arrays of them) for each tensor in the buffer."""

    rows: Size
    q: Size
    k: Size
    v: Size
    scores: Size
    av: Size
    weight_stationary: Size

    @classmethod
    def of(cls, tiling: FlatTiling, queries: Size) -> FlatChoice:
        """Numbers of one choice for a number of queries."""
        held = [int(name in tiling.on_chip) for name in ("Q", "K", "V", "QK", "AV")]
        return cls(tiling.rows or queries, *held, int(tiling.weight_stationary))


def flat_tiling(e: int, length: int) -> FlatTiling:
    """What FLAT's search chose for this head dimension and length.

    Raises:
        ConfigError: the artifact has no choice for it.
    """
    table = fusemax().flat_tilings
    if e not in table or length not in table[e]:
        known = "; ".join(f"e {key}: {', '.join(map(str, row))}" for key, row in table.items())
        raise ConfigError(
            f"no tiling of FLAT for e = {e} and length {length}: its search is not part of this "
            f"model; give a FlatChoice, or use one of {known}"
        )
    return table[e][length]


def flat_choice(work: Attention) -> FlatChoice:
    """FLAT's own choice for every shape of `work` (arrays give arrays)."""
    if not any(isinstance(value, np.ndarray) for value in (work.e, work.queries)):
        return FlatChoice.of(flat_tiling(int(work.e), int(work.queries)), work.queries)
    e, queries = np.broadcast_arrays(work.e, work.queries)
    pairs, where = np.unique(np.stack([e.ravel(), queries.ravel()]), axis=1, return_inverse=True)
    picks = [FlatChoice.of(flat_tiling(int(a), int(b)), int(b)) for a, b in pairs.T]
    index = where.reshape(e.shape)
    names = [field.name for field in fields(FlatChoice)]
    return FlatChoice(*(np.array([getattr(pick, name) for pick in picks])[index] for name in names))


def flat_spilled(work: Attention, choice: FlatChoice, hardware: Hardware, tile: int) -> Size:
    """Fraction of FLAT's buffered tensors that does not fit into the buffer.

    The buffer holds the scores of a block of query rows once (probabilities replace them), the
    other tensors that stay there twice (double buffer), and two tiles of those that do not.
    """
    data, rows, staged = fusemax(), choice.rows, 2 * tile

    def twice(kept: Size, length: Size, width: Size) -> Size:
        return kept * 2 * length * width + (1 - kept) * staged * width

    footprint = (
        choice.scores * rows * work.keys
        + twice(choice.q, rows, work.e)
        + twice(choice.k, work.keys, work.e)
        + twice(choice.v, work.keys, work.f)
        + twice(choice.av, rows, work.f)
    )
    capacity = hardware.buffer_bytes // data.element_bytes
    return 1 - capacity / larger(footprint, capacity)


def flat_counts(
    work: Attention, hardware: Hardware, *, artifact: bool, choice: FlatChoice | None = None
) -> Counts:
    """FLAT: scores of a block of rows stay in the buffer, the rest by its tiling."""
    tile = work.tile
    pick = choice or flat_choice(work)
    spilled = flat_spilled(work, pick, hardware, tile)
    blocks, heads, weight = work.queries // pick.rows, work.instances, pick.weight_stationary
    per_tile, created = work.scores // tile, heads * work.queries * work.f
    reads: Size = 0
    buffer_read: Size = 0
    buffer_write: Size = 0
    # (kept, moved once into the buffer, moved into the PEs). Weight-stationary keys and values stay
    # in the PEs for a whole block.
    once = heads * work.keys * blocks
    for kept, filled, used in (
        (pick.q, heads * work.queries * work.e, per_tile * work.e),
        (pick.k, once * work.e, _either(weight, once, per_tile) * work.e),
        (pick.v, once * work.f, _either(weight, once, per_tile) * work.f),
    ):
        reads = reads + _either(kept, filled * (1 - spilled) + used * spilled, used)
        buffer_read = buffer_read + kept * used
        buffer_write = buffer_write + kept * filled
    # Output-stationary results leave the PEs once, others once per key tile.
    drained = _either(weight, per_tile * work.f, created)
    buffer_write = buffer_write + pick.av * drained
    buffer_read = buffer_read + pick.av * (drained - created)
    softmax = softmax_counts(work, on_chip=pick.scores, spilled=spilled, artifact=artifact)
    lost = work.scores - first_reads(pick.rows * work.keys, heads * blocks, artifact=artifact)
    through = pick.scores * work.scores
    moved = work.scores * _either(pick.scores, spilled, 1)
    return softmax + Counts(
        dram_read=reads + moved,
        dram_write=created + moved,
        buffer_read=buffer_read + through + pick.scores * lost,
        buffer_write=buffer_write + through,
    )


def _either(flag: Size, yes: Size, no: Size) -> Size:
    """`yes` where the flag is 1, `no` where it is 0."""
    return flag * yes + (1 - flag) * no


def _reloads(size: Size, width: Size, length: Size, capacity: int, tile: int) -> Size:
    """Times that a second operand is read: blocks of `size` rows of `width` elements that fit.

    A block is a power of two of tiles and shares the buffer with one tile of the second operand.
    """
    room = np.maximum((capacity - tile * width) // (width * tile), 1)
    block = tile * 2 ** np.floor(np.log2(room)).astype(np.int64)
    fits_whole = np.asarray(length * width + tile * width <= capacity)
    return np.where(fits_whole, 1, -(-np.asarray(size) // block))


def unfused_counts(
    work: Attention, hardware: Hardware, *, artifact: bool
) -> tuple[Counts, Counts, Counts]:
    """Scores, softmax and probabilities x values one after the other, through main memory.

    The tiles are the largest that the buffer holds: the least traffic.
    """
    data = fusemax()
    tile, e, f = work.tile, work.e, work.f
    capacity = hardware.buffer_bytes // data.element_bytes
    heads, per_tile = work.instances, work.scores // tile
    queries, keys = heads * work.queries, heads * work.keys
    keys_in = keys * e * _reloads(work.queries, e, work.keys, capacity, tile)
    values_in = keys * f * _reloads(work.queries, f, work.keys, capacity, tile)
    first = Counts(
        dram_read=queries * e + keys_in,
        dram_write=work.scores,
        buffer_read=2 * per_tile * e,
        buffer_write=queries * e + keys_in,
    )
    softmax = softmax_counts(work, on_chip=0, spilled=0, artifact=artifact)
    # The results stay in the buffer and are added up there, once per key tile.
    last = Counts(
        dram_read=work.scores + values_in,
        dram_write=queries * f,
        buffer_read=per_tile * f + per_tile * f - queries * f,
        buffer_write=values_in + per_tile * f,
    )
    return first, softmax, last


# --- linear layers ------------------------------------------------------------------------------


def linear_layers(d: Size, heads: Size, e: Size, s: Size) -> Sequence[tuple[Size, Size]]:
    """(inputs, outputs) of the six products around attention: Q, K, V, Z and the two of the FFN."""
    width = heads * e
    return [(d, width)] * 3 + [(width, d), (d, s), (s, d)]


def linear_counts(tokens: Size, k: Size, n: Size, hardware: Hardware) -> Counts:
    """A [tokens, k] x [k, n] product: weights in the buffer, or the largest block of tokens."""
    data = fusemax()
    tile, capacity = data.tile, hardware.buffer_bytes // data.element_bytes
    weights = k * n * _reloads(tokens, k, n, capacity, tile)
    read = tokens * k + weights
    return Counts(
        dram_read=read,
        dram_write=tokens * n,
        buffer_read=2 * (tokens * k * n // tile),
        buffer_write=read,
    )
