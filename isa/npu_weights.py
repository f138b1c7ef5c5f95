"""Weights of the `npu` engine as they lie in the weight buffer: tiles, their three formats, both
ways. Ref: docs/npu.md section 3.

A tile is an int8 array: [G, 32] of CONV, [G] of DEPTHWISE (`w4`: [G, 32] of 4-bit numbers with a
scale each for G output channels). Tiles follow each other in the order group, step, each from a
word of the weight port on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError
from bankside.isa.spec import load_spec

U8 = NDArray[np.uint8]
I8 = NDArray[np.int8]
I16 = NDArray[np.int16]

_FORMAT = load_spec("npu").enums["weight_format"]
PACKED, RAW8, W4 = _FORMAT["packed"], _FORMAT["raw8"], _FORMAT["w4"]
STEP_CHANNELS = 32
"""Input channels of a step of CONV."""
HEADER_BYTES = 8
W4_SCALE_MAX = 63
_LANE_BYTES = 8
_WIDTH_MAX = 8


def _padded(size: int, unit: int) -> int:
    return -(-size // unit) * unit


# --- one tile -----------------------------------------------------------------------------------


def _code(values: I8) -> tuple[int, int]:
    """(width, base) of the codes of some weights."""
    if not values.size:
        return 0, 0
    low = int(values.min())
    return (int(values.max()) - low).bit_length(), low


def _code_bytes(count: int, width: int) -> int:
    return _padded(-(-count * width // 8), _LANE_BYTES)


def _write_codes(values: I8, width: int, base: int) -> bytes:
    codes = values.astype(np.int16) - base
    bits = codes[:, None] >> np.arange(width) & 1
    packed = np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()
    return packed.ljust(_code_bytes(values.size, width), b"\0")


def encode_packed(tile: I8) -> bytes:
    """The shortest `packed` form; of two equal ones that without a mask. Multiple of 8 bytes."""
    flat = np.ascontiguousarray(tile, np.int8).reshape(-1)
    kept = flat[flat != 0]
    mask = np.packbits((flat != 0).astype(np.uint8), bitorder="little").tobytes()
    mask = mask.ljust(_padded(len(mask), _LANE_BYTES), b"\0")
    plain, masked = _code(flat), _code(kept)
    use_mask = len(mask) + _code_bytes(kept.size, masked[0]) < _code_bytes(flat.size, plain[0])
    values, (width, base) = (kept, masked) if use_mask else (flat, plain)
    header = bytes((width, base & 0xFF, int(use_mask), *(0,) * 5))
    return header + (mask if use_mask else b"") + _write_codes(values, width, base)


@dataclass(frozen=True)
class PackedTile:
    """Where the parts of one `packed` tile lie: mask present, weights that have codes, bytes."""

    width: int
    base: int
    masked: bool
    coded: int
    size: int


def packed_tile(data: U8, start: int, weights: int, where: str = "packed tile") -> PackedTile:
    """Read the header (and the mask) at byte `start` of `data`, a tile of so many weights.

    Raises ProgramError when it is not one, or `data` ends before it does.
    """
    end = start + HEADER_BYTES
    if end > len(data):
        raise ProgramError(f"{where}: byte {start} is outside the weights ({len(data)} bytes)")
    width, base, flags = (int(v) for v in data[start : start + 3])
    if width > _WIDTH_MAX or flags > 1 or data[start + 3 : end].any():
        header = bytes(data[start:end]).hex(" ")
        raise ProgramError(
            f"{where}: header {header} at byte {start}; expected width 0..8, base, mask 0..1, "
            f"zeros: is `weights` the word of the first tile?"
        )
    coded = weights
    if flags:
        mask_end = end + _padded(-(-weights // 8), _LANE_BYTES)
        coded = int(np.unpackbits(data[end:mask_end], bitorder="little")[:weights].sum())
        end = mask_end
    size = end - start + _code_bytes(coded, width)
    if start + size > len(data):
        raise ProgramError(f"{where}: ends at byte {start + size} of {len(data)}")
    return PackedTile(width, base - (base >> 7 << 8), bool(flags), coded, size)


def decode_packed(data: U8, start: int, weights: int, where: str = "packed tile") -> I8:
    """The weights (flat) of the tile at byte `start`. Raises ProgramError as `packed_tile`."""
    tile = packed_tile(data, start, weights, where)
    codes = start + tile.size - _code_bytes(tile.coded, tile.width)
    bits = np.unpackbits(data[codes : start + tile.size], bitorder="little")
    bits = bits[: tile.coded * tile.width].reshape(tile.coded, tile.width)
    values = (bits.astype(np.int16) << np.arange(tile.width, dtype=np.int16)).sum(1) + tile.base
    if not tile.masked:
        return values.astype(np.int8)
    mask = np.unpackbits(data[start + HEADER_BYTES : codes], bitorder="little")[:weights]
    flat = np.zeros(weights, np.int8)
    flat[mask == 1] = values.astype(np.int8)
    return flat


def encode_w4(tile: I8, scales: U8) -> bytes:
    """4-bit numbers [G, 32], scales [G]. Raises ProgramError outside -8..7 and 1..63."""
    numbers, scale = np.asarray(tile, np.int8), np.asarray(scales, np.int64)
    if numbers.min() < -8 or numbers.max() > 7:
        raise ProgramError(f"w4 weights {numbers.min()}..{numbers.max()}; expected -8..7")
    if scale.min() < 1 or scale.max() > W4_SCALE_MAX:
        raise ProgramError(f"w4 scales {scale.min()}..{scale.max()}; expected 1..{W4_SCALE_MAX}")
    halves = numbers.reshape(-1, 2).view(np.uint8) & 15
    return (halves[:, 0] | halves[:, 1] << 4).tobytes() + scale.astype(np.uint8).tobytes()


def decode_w4(data: U8, group: int) -> I16:
    """q * s of one tile, [G, 32]; of a scale byte the low six bits count."""
    size = group * STEP_CHANNELS // 2
    halves = np.stack([data[:size] & 15, data[:size] >> 4], axis=1).astype(np.int16)
    numbers = ((halves + 8 & 15) - 8).reshape(group, STEP_CHANNELS)
    return numbers * (data[size : size + group] & W4_SCALE_MAX).astype(np.int16)[:, None]


# --- one layer ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightLayout:
    """Tiles of one layer.

    format: PACKED, RAW8 or W4. group: G. port_bytes: of the weight port. outputs: channels of the
    output. kernel: window (rows, columns). inputs: input channels of CONV, None: DEPTHWISE.
    """

    format: int
    group: int
    port_bytes: int
    outputs: int
    kernel: tuple[int, int]
    inputs: int | None

    def __post_init__(self) -> None:
        if self.format == W4 and self.inputs is None:
            raise ProgramError("w4 weights of DEPTHWISE; expected packed or raw8")

    @property
    def groups(self) -> int:
        return -(-self.outputs // self.group)

    @property
    def channel_blocks(self) -> int:
        """Steps per place of the window."""
        return 1 if self.inputs is None else -(-self.inputs // STEP_CHANNELS)

    @property
    def steps(self) -> int:
        """Tiles of a group."""
        return self.kernel[0] * self.kernel[1] * self.channel_blocks

    @property
    def tile_shape(self) -> tuple[int, ...]:
        return (self.group,) if self.inputs is None else (self.group, STEP_CHANNELS)

    @property
    def tile_weights(self) -> int:
        """T: weights of a tile."""
        return self.group * (1 if self.inputs is None else STEP_CHANNELS)

    @cached_property
    def fixed_bytes(self) -> int:
        """Bytes of a `raw8` or `w4` tile."""
        size = self.tile_weights if self.format == RAW8 else self.tile_weights // 2 + self.group
        return _padded(size, self.port_bytes)

    @property
    def fixed_words(self) -> int:
        """The same in words of the weight port."""
        return self.fixed_bytes // self.port_bytes

    # --- order of the tiles -------------------------------------------------------------------
    def tiles(self, weights: NDArray, fill: int = 0) -> NDArray:
        """w[o, ky, kx, i] (DEPTHWISE: w[o, ky, kx]) -> [groups * steps, *tile_shape]; `fill` for
        channels that do not exist.
        """
        expected = (self.outputs, *self.kernel, *(() if self.inputs is None else (self.inputs,)))
        if weights.shape != expected:
            raise ProgramError(f"weights of shape {weights.shape}; expected {expected}")
        padding = [(0, self.groups * self.group - self.outputs), (0, 0), (0, 0)]
        if self.inputs is None:
            padded = np.pad(weights, padding, constant_values=fill)
            split = padded.reshape(self.groups, self.group, -1).transpose(0, 2, 1)
        else:
            inner = self.channel_blocks * STEP_CHANNELS
            padding.append((0, inner - self.inputs))
            padded = np.pad(weights, padding, constant_values=fill)
            split = padded.reshape(self.groups, self.group, self.steps, STEP_CHANNELS)
            split = split.transpose(0, 2, 1, 3)
        return np.ascontiguousarray(split).reshape(-1, *self.tile_shape)

    def weights(self, tiles: NDArray) -> NDArray:
        """Inverse of `tiles`."""
        split = tiles.reshape(self.groups, self.steps, *self.tile_shape)
        ky, kx = self.kernel
        if self.inputs is None:
            flat = split.transpose(0, 2, 1).reshape(-1, ky, kx)
            return flat[: self.outputs]
        flat = split.transpose(0, 2, 1, 3).reshape(-1, ky, kx, self.channel_blocks * STEP_CHANNELS)
        return flat[: self.outputs, :, :, : self.inputs]

    # --- bytes --------------------------------------------------------------------------------
    def encode(self, weights: I8, scales: NDArray | None = None) -> bytes:
        """Content of the weight buffer, whole words.

        weights: as for `tiles`. scales: of W4, [o, ky, kx, ceil(i / 32)].
        """
        tiles = self.tiles(np.asarray(weights, np.int8))
        if self.format == PACKED:
            parts = [encode_packed(tile) for tile in tiles]
        elif self.format == RAW8:
            parts = [tile.tobytes() for tile in tiles]
        else:
            parts = [encode_w4(q, s) for q, s in zip(tiles, self._scales(scales), strict=True)]
        return b"".join(p.ljust(_padded(len(p), self.port_bytes), b"\0") for p in parts)

    def _scales(self, scales: NDArray | None) -> NDArray:
        """[tiles, G]; 1 for channels that do not exist."""
        expected = (self.outputs, *self.kernel, self.channel_blocks)
        if scales is None or scales.shape != expected:
            shape = None if scales is None else scales.shape
            raise ProgramError(f"w4 scales of shape {shape}; expected {expected}")
        padding = [(0, self.groups * self.group - self.outputs), (0, 0), (0, 0), (0, 0)]
        padded = np.pad(scales, padding, constant_values=1)
        split = padded.reshape(self.groups, self.group, self.steps).transpose(0, 2, 1)
        return split.reshape(-1, self.group)

    def _spans(self, data: U8, where: str) -> Iterator[tuple[int, int]]:
        """(first byte, bytes in whole words) of every tile of the layer that begins at byte 0."""
        start = 0
        for tile in range(self.groups * self.steps):
            if self.format == PACKED:
                name = f"{where}, tile {tile}"
                size = packed_tile(data, start, self.tile_weights, name).size
                size = _padded(size, self.port_bytes)
            else:
                size = self.fixed_bytes
            if start + size > len(data):
                raise ProgramError(
                    f"{where}, tile {tile}: ends at byte {start + size} of {len(data)}; is "
                    f"`weights` too high or the weight buffer too small?"
                )
            yield start, size
            start += size

    def tile_words(self, data: U8, where: str = "weights") -> list[int]:
        """Words of the weight port of every tile, for `data` that begins with the layer.

        Raises ProgramError when the layer does not fit or a header is not one.
        """
        return [size // self.port_bytes for _, size in self._spans(data, where)]

    def decode(self, data: U8, where: str = "weights") -> I16:
        """The weights (W4: q * s) of the layer that `data` begins with, shape as for `tiles`.

        Raises ProgramError as `tile_words`.
        """
        tiles = np.empty((self.groups * self.steps, *self.tile_shape), np.int16)
        for i, (start, size) in enumerate(self._spans(data, where)):
            if self.format == PACKED:
                flat = decode_packed(data, start, self.tile_weights, f"{where}, tile {i}")
                tiles[i] = flat.reshape(self.tile_shape)
            elif self.format == RAW8:
                raw = data[start : start + self.tile_weights].view(np.int8)
                tiles[i] = raw.reshape(self.tile_shape)
            else:
                tiles[i] = decode_w4(data[start : start + size], self.group)
        return self.weights(tiles)
