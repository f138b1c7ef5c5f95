"""Strict reader of safetensors folders: every byte of a file must be accounted for.

Ref: the safetensors format: 8 bytes little-endian header length, a JSON header that gives each
tensor its dtype, shape and [begin, end) in the data, then the data without holes or overlaps.
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError

WIDTHS = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}
WEIGHT_TYPES = ("F16", "BF16", "F32", "F64")
# The format caps its header so that a corrupt length cannot make a reader allocate the machine.
HEADER_LIMIT = 100_000_000
AGAIN = "download or convert the model again"


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; ConfigError when absent, not JSON or with a repeated key."""
    try:
        return parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object strictly; `where` names it in the message."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                raise ConfigError(f"{where}: the key {key!r} appears twice; keep one of them")
            seen[key] = value
        return seen

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"{where}: not valid JSON ({error}); {AGAIN}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected a JSON object, found {type(value).__name__}; {AGAIN}")
    return value


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: `begin` and `end` count bytes from the start of the file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _is_count(value: object) -> bool:
    """A non-negative integer (JSON `true` is an int in Python and is none here)."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _entry(path: Path, name: str, value: Any, data_start: int) -> Entry:
    """Check one header entry in itself."""
    where = f"{path}: tensor {name!r}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ConfigError(f"{where}: expected dtype, shape and data_offsets in the header; {AGAIN}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise ConfigError(f"{where}: unknown dtype {dtype!r}; expected one of {', '.join(WIDTHS)}")
    if not isinstance(shape, list) or not all(_is_count(n) for n in shape):
        raise ConfigError(f"{where}: shape {shape!r} is not a list of sizes; {AGAIN}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(n) for n in offsets):
        raise ConfigError(f"{where}: data_offsets {offsets!r} are not [begin, end]; {AGAIN}")
    begin, end = offsets
    expected = math.prod(shape) * WIDTHS[dtype]
    if end - begin != expected:
        raise ConfigError(
            f"{where}: data_offsets {offsets} hold {end - begin} bytes, but {dtype} {shape} needs "
            f"{expected}; {AGAIN}"
        )
    return Entry(path, dtype, tuple(shape), data_start + begin, data_start + end)


def _check_tiling(path: Path, entries: dict[str, Entry], data_start: int, size: int) -> None:
    """Tensors must tile the data area: no overlap, no hole, nothing beyond the end of the file."""
    previous, position = "the header", data_start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            kind = "overlaps" if entry.begin < position else "leaves a hole after"
            raise ConfigError(
                f"{path}: tensor {name!r} starts at data byte {entry.begin - data_start} and "
                f"{kind} {previous}, which ends at {position - data_start}; {AGAIN}"
            )
        previous, position = f"tensor {name!r}", entry.end
    if position != size:
        what = "is truncated" if size < position else "has bytes that no tensor owns"
        raise ConfigError(
            f"{path}: the file {what}: {size} bytes, but its header describes {position}; {AGAIN}"
        )


def read_header(path: Path) -> dict[str, Entry]:
    """Tensor entries of one safetensors file, fully checked.

    Errors: ConfigError for a truncated or corrupt header, unknown dtype, overlap, hole or
    truncated data.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            text = file.read(length) if length <= min(HEADER_LIMIT, size) else b""
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if len(prefix) < 8:
        raise ConfigError(f"{path}: {size} bytes are too few for a safetensors header; {AGAIN}")
    if len(text) < length:
        raise ConfigError(
            f"{path}: the header is truncated: it announces {length} bytes, "
            f"{size - 8} follow; {AGAIN}"
        )
    header = parse_json(text, f"{path}: safetensors header")
    header.pop("__metadata__", None)
    entries = {name: _entry(path, name, value, 8 + length) for name, value in header.items()}
    _check_tiling(path, entries, 8 + length, size)
    return entries


class TensorFolder:
    """All tensors of a model folder: `model.safetensors`, or shards named by its index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries = _find(folder)
        self.taken: set[str] = set()

    def take(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The tensor as a C-ordered float32 array of exactly `shape`.

        Errors: ConfigError when it is missing, has another shape, is not floating point or not
        finite.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise ConfigError(
                f"{self.folder}: tensor {name!r} {list(shape)} is missing; config.json asks for "
                "it: check that weights and config.json belong together"
            )
        where = f"{entry.path}: tensor {name!r}"
        if entry.shape != shape:
            raise ConfigError(
                f"{where} has shape {list(entry.shape)}, expected {list(shape)} from config.json; "
                "check that weights and config.json belong together"
            )
        if entry.dtype not in WEIGHT_TYPES:
            raise ConfigError(
                f"{where} is {entry.dtype}, expected one of {', '.join(WEIGHT_TYPES)}; "
                "convert the weights to floating point (quantised models are not supported)"
            )
        values = _as_float32(entry)
        if not np.isfinite(values).all():
            raise ConfigError(f"{where} holds infinities or NaN, expected finite weights; {AGAIN}")
        self.taken.add(name)
        return values

    def finish(self, ignored: tuple[str, ...]) -> None:
        """Refuse tensors that nobody took, unless their name ends with one of `ignored`.

        An unknown tensor means another architecture than the one named, hence wrong results.
        """
        left = sorted(n for n in self.entries if n not in self.taken and not n.endswith(ignored))
        if left:
            raise ConfigError(
                f"{self.entries[left[0]].path}: tensor {left[0]!r} and {len(left) - 1} more are "
                "not part of this architecture; check model_type in config.json"
            )


def _as_float32(entry: Entry) -> NDArray[np.float32]:
    """Read and widen (or, for F64, round) one tensor."""
    with entry.path.open("rb") as file:
        file.seek(entry.begin)
        data = file.read(entry.end - entry.begin)
    if entry.dtype == "BF16":
        # numpy has no bfloat16: its bits are the upper half of a float32.
        return (
            (np.frombuffer(data, "<u2").astype(np.uint32) << 16)
            .view(np.float32)
            .reshape(entry.shape)
        )
    source = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[entry.dtype]
    with np.errstate(over="ignore"):
        return np.frombuffer(data, source).astype(np.float32).reshape(entry.shape)


def _find(folder: Path) -> dict[str, Entry]:
    """Entries of the single file or of every shard of the index."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return read_header(single)
    if index.is_file():
        return _read_shards(folder, index)
    pickles = sorted(
        p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt")
    )
    if pickles:
        raise ConfigError(
            f"{folder}: {pickles[0]} is a pickle file, which can run code when loaded and is "
            "refused; convert it to model.safetensors"
        )
    raise ConfigError(
        f"{folder}: neither model.safetensors nor model.safetensors.index.json; give a Hugging "
        "Face model folder with safetensors weights"
    )


def _read_shards(folder: Path, index: Path) -> dict[str, Entry]:
    """Follow `weight_map`; each tensor must be where the index says."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConfigError(f"{index}: no weight_map from tensor to file; {AGAIN}")
    shards: dict[str, dict[str, Entry]] = {}
    for name, file in weight_map.items():
        # A shard named with a folder could point anywhere on the disk.
        if (
            not isinstance(file, str)
            or Path(file).name != file
            or not file.endswith(".safetensors")
        ):
            raise ConfigError(
                f"{index}: tensor {name!r}: {file!r} is no .safetensors file name; {AGAIN}"
            )
        if file not in shards:
            shards[file] = read_header(folder / file)
        if name not in shards[file]:
            raise ConfigError(f"{index}: tensor {name!r} is not in {folder / file}; {AGAIN}")
    return {name: shards[file][name] for name, file in weight_map.items()}
