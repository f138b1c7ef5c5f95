"""Streams of memory requests: read from files, or made from a pattern."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bankside.errors import ConfigError, ProgramError
from bankside.registry import nearest
from bankside.sim.memory.address import AddressMap
from bankside.sim.memory.kernel import REQUEST_DTYPE

__all__ = ["PATTERNS", "Requests", "pattern", "read_requests"]


@dataclass(frozen=True)
class Requests:
    """A stream in order: `channel` (int64) and `records` (REQUEST_DTYPE) of equal length.

    `records["arrival"]` is the first memory clock at which a request can be offered; `bank` is the
    flat index in the rank.
    """

    channel: NDArray
    records: NDArray

    def __len__(self) -> int:
        return len(self.records)

    @classmethod
    def from_fields(
        cls, fields: dict[str, ArrayLike], banks_per_group: int, *, write: ArrayLike = False,
        arrival: ArrayLike = 0,
    ) -> Requests:  # fmt: skip
        """From arrays called channel, rank, bankgroup, bank, row, column (the length of row)."""
        count = np.asarray(fields["row"]).size
        records = np.zeros(count, REQUEST_DTYPE)
        for name in ("rank", "row", "column"):
            records[name] = np.asarray(fields[name])
        records["bank"] = np.asarray(fields["bankgroup"]) * banks_per_group + fields["bank"]
        records["write"], records["arrival"] = write, arrival
        channel = np.broadcast_to(np.asarray(fields["channel"], np.int64), (count,))
        return cls(channel, records)

    @classmethod
    def from_addresses(
        cls, addresses: ArrayLike, address_map: AddressMap, banks_per_group: int, *,
        write: ArrayLike = False, arrival: ArrayLike = 0,
    ) -> Requests:  # fmt: skip
        """From byte addresses; raises ProgramError for one outside of the memory."""
        fields = address_map.decode(np.ravel(addresses))
        return cls.from_fields(fields, banks_per_group, write=write, arrival=arrival)


_OPERATIONS = {
    "READ": 0, "WRITE": 1, "R": 0, "W": 1, "LD": 0, "ST": 1, "P_MEM_RD": 0, "P_MEM_WR": 1,
    "BOFF": 1,
}  # fmt: skip
_CSV_NEEDED = ("op", "bg", "bank", "row", "burst_col")
_CSV_FIELDS = {"bg": "bankgroup", "burst_col": "column", "channel": "channel", "rank": "rank",
               "bank": "bank", "row": "row", "arrival": "arrival"}  # fmt: skip


def read_requests(
    path: Path | str, address_map: AddressMap, banks_per_group: int, limits: dict[str, int]
) -> Requests:
    """Requests from a file, one a line.

    Flat addresses: `0xADDRESS READ|WRITE [CLOCK]` (DRAMsim3) or `LD|ST|R|W ADDRESS` (Ramulator 2).
    Coordinates: CSV whose header names op (R or W), bg, bank, row, burst_col and perhaps channel,
    rank, arrival; other columns are ignored. `limits` has the number of each coordinate.

    Raises
    ------
    ProgramError: with file and line, for a file that cannot be read, a malformed line or an address
        outside of the memory.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ProgramError(f"{path}: cannot read the requests ({reason}); check the path") from None
    numbered = [(n, text) for n, text in enumerate(lines, 1) if text.strip()]
    if not numbered:
        raise ProgramError(f"{path.name}: no request in the file; expected one a line")
    if "," in numbered[0][1]:
        return _read_csv(path.name, numbered, banks_per_group, limits)
    found = np.array(list(_flat(path.name, numbered)), np.int64)
    return Requests.from_addresses(
        found[:, 0], address_map, banks_per_group, write=found[:, 1], arrival=found[:, 2]
    )


def _flat(name: str, lines: list[tuple[int, str]]) -> Iterator[tuple[int, int, int]]:
    for number, text in lines:
        words = text.split()
        address_first = words[0][:1].isdigit()
        try:
            address = int(words[0 if address_first else 1], 0)
            write = _OPERATIONS[words[1 if address_first else 0].upper()]
            yield address, write, int(words[2], 0) if address_first and len(words) > 2 else 0
        except (ValueError, KeyError, IndexError):
            raise ProgramError(
                f"{name}:{number}: {text.strip()!r}; expected `0xADDRESS READ|WRITE [CLOCK]` or "
                f"`LD|ST|R|W ADDRESS`; correct the line"
            ) from None


def _read_csv(
    name: str, lines: list[tuple[int, str]], banks_per_group: int, limits: dict[str, int]
) -> Requests:
    header = [word.strip().lower() for word in lines[0][1].split(",")]
    missing = [word for word in _CSV_NEEDED if word not in header]
    if missing:
        raise ProgramError(
            f"{name}:{lines[0][0]}: no column {', '.join(missing)}; expected a header with "
            f"{', '.join(_CSV_NEEDED)}; add it"
        )
    places = {field: header.index(word) for word, field in _CSV_FIELDS.items() if word in header}
    operation = header.index("op")
    rows, writes = [], []
    for number, text in lines[1:]:
        words = [word.strip() for word in text.split(",")]
        try:
            rows.append([int(words[place]) for place in places.values()])
            writes.append(_OPERATIONS[words[operation].upper()])
        except (ValueError, KeyError, IndexError):
            raise ProgramError(
                f"{name}:{number}: {text!r}; expected {len(header)} values, op R or W and whole "
                f"numbers; correct the line"
            ) from None
    values = np.array(rows, np.int64).reshape(len(rows), len(places))
    fields = {"channel": np.zeros(len(rows), np.int64), "rank": 0, "arrival": 0}
    fields |= {field: values[:, i] for i, field in enumerate(places)}
    _check_limits(name, lines, fields, limits)
    arrival = fields.pop("arrival")
    return Requests.from_fields(fields, banks_per_group, write=writes, arrival=arrival)


def _check_limits(
    name: str, lines: list[tuple[int, str]], fields: dict[str, NDArray], limits: dict[str, int]
) -> None:
    for field, limit in limits.items():
        values = np.broadcast_to(fields[field], len(lines) - 1)
        odd = np.flatnonzero((values < 0) | (values >= limit))
        if odd.size:
            raise ProgramError(
                f"{name}:{lines[1 + odd[0]][0]}: {field} {values[odd[0]]} does not exist; expected "
                f"0..{limit - 1}; correct the line or change the memory"
            )


def _stream(count: int, bursts: int, block: int, rng: np.random.Generator) -> NDArray:
    return np.arange(count, dtype=np.int64) % bursts


def _random(count: int, bursts: int, block: int, rng: np.random.Generator) -> NDArray:
    return rng.integers(0, bursts, count)


def _blocks(count: int, bursts: int, block: int, rng: np.random.Generator) -> NDArray:
    blocks = -(-count // block)
    starts = rng.integers(0, max(bursts // block, 1), blocks) * block
    return (starts[:, None] + np.arange(block)).ravel()[:count]


#: Pattern -> burst numbers of (count, bursts in the memory, bursts per block, random generator):
#: `stream` is contiguous, `blocks` are contiguous blocks at random places (pages of a KV cache),
#: `random` are single bursts.
PATTERNS: dict[str, Callable[[int, int, int, np.random.Generator], NDArray]] = {
    "stream": _stream, "blocks": _blocks, "random": _random,
}  # fmt: skip


def pattern(
    name: str, count: int, *, memory_bytes: int, burst_bytes: int, block_bytes: int = 4096,
    seed: int = 1,
) -> NDArray:  # fmt: skip
    """Byte addresses (int64, `count` long) of a pattern of `PATTERNS`.

    Raises
    ------
    ConfigError: an unknown pattern, or a block that is no multiple of a burst or does not fit.
    """
    if name not in PATTERNS:
        raise ConfigError(
            f"unknown pattern {name!r}{nearest(name, PATTERNS)}; choose from: {', '.join(PATTERNS)}"
        )
    if not burst_bytes <= block_bytes <= memory_bytes or block_bytes % burst_bytes:
        raise ConfigError(
            f"block_bytes {block_bytes}: expected a multiple of the burst ({burst_bytes} bytes) up "
            f"to the memory ({memory_bytes} bytes); choose another size"
        )
    bursts = memory_bytes // burst_bytes
    rng = np.random.default_rng(seed)
    return PATTERNS[name](count, bursts, block_bytes // burst_bytes, rng) * burst_bytes
