"""How long a host memory takes to move a KV cache: sustained, from the cycle-exact controllers.

A transfer of n bytes takes `latency + n / bandwidth`. Both numbers come from two simulated samples
that cover several refresh intervals; they are kept in memory and in the build cache.
"""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bankside.cache import cache_entry, file_hash
from bankside.errors import ConfigError
from bankside.sim.memory.kernel import SOURCES
from bankside.sim.memory.model import Memory
from bankside.sim.memory.requests import pattern

__all__ = ["DIRECTIONS", "Transfer", "transfer", "transfer_seconds"]

#: Direction -> fraction of the bursts that are written. `read` takes blocks from the host to the
#: accelerator, `write` brings them to the host, `both` does each half of the time.
DIRECTIONS = {"read": 0.0, "write": 1.0, "both": 0.5}
_INTERVALS = 4  # refresh intervals in the shorter sample, at the speed of the data bus


@dataclass(frozen=True)
class Transfer:
    """`latency_s` until the first data of an idle memory, then `bytes_per_s`."""

    latency_s: float
    bytes_per_s: float
    peak_bytes_per_s: float

    def seconds(self, bytes_moved: ArrayLike) -> NDArray:
        """Seconds for so many bytes (any shape); no time for no bytes."""
        size = np.asarray(bytes_moved, float)
        if (size < 0).any():
            raise ConfigError(f"{size.min():g} bytes to transfer; expected 0 or more")
        return np.where(size > 0, self.latency_s + size / self.bytes_per_s, 0.0)


@functools.lru_cache(maxsize=256)
def transfer(
    standard: str = "ddr4_3200", pattern: str = "blocks", direction: str = "read", *,
    channels: int = 1, ranks: int = 1, policy: str = "fr_fcfs",
    address_map: str = "group_interleave", block_bytes: int = 4096,
) -> Transfer:  # fmt: skip
    """Latency and sustained bandwidth of `channels` equal channels together.

    `pattern` is one of `PATTERNS`: contiguous (`stream`), blocks of `block_bytes` at random places
    (`blocks`), or single bursts (`random`). Blocks are spread over the channels evenly, each with
    its own stream of whole blocks. `direction` is one of `DIRECTIONS`.

    Raises
    ------
    ConfigError, SpecError: a name or number that does not exist or does not fit.
    ToolError: the C++ compiler is missing.
    """
    if direction not in DIRECTIONS:
        raise ConfigError(f"unknown direction {direction!r}; choose from: {', '.join(DIRECTIONS)}")
    if channels < 1:
        raise ConfigError(f"{channels} channels; expected 1 or more")
    one = Memory.of(standard, policy=policy, address_map=address_map, ranks=ranks)
    key = {
        "kernel": [file_hash(path) for path in SOURCES],
        "standard": one.standard.digest(),
        "policy": one.policy.model_dump(),
        "map": str(one.address_map),
        "stream": [pattern, direction, ranks, block_bytes, _INTERVALS],
    }
    with cache_entry("transfer", key) as entry:
        if not entry.hit:
            found = _measure(one, pattern, direction, block_bytes)
            (entry.path / "transfer.json").write_text(json.dumps(asdict(found)))
    kept = json.loads((entry.path / "transfer.json").read_text())
    return Transfer(
        kept["latency_s"], kept["bytes_per_s"] * channels, kept["peak_bytes_per_s"] * channels
    )


def transfer_seconds(
    standard: str, bytes_moved: ArrayLike, pattern: str = "blocks", direction: str = "read",
    **memory: object,
) -> NDArray:  # fmt: skip
    """Seconds to move `bytes_moved` (any shape, total over all channels); see `transfer`."""
    return transfer(standard, pattern, direction, **memory).seconds(bytes_moved)


def _measure(memory: Memory, name: str, direction: str, block_bytes: int) -> Transfer:
    """From the end of the first burst, and from what a sample twice as long takes more."""
    std = memory.standard
    bursts = _INTERVALS * std.params["nREFI"] // std.params["nBL"]
    addresses = pattern(
        name, 2 * bursts, memory_bytes=memory.bytes, burst_bytes=memory.burst_bytes,
        block_bytes=block_bytes,
    )  # fmt: skip
    write = _directions(2 * bursts, DIRECTIONS[direction], block_bytes // memory.burst_bytes)
    ends = [
        memory.run(memory.requests(addresses[:count], write=write[:count])).cycles
        for count in (1, bursts, 2 * bursts)
    ]
    cycle = std.tck_ps * 1e-12
    speed = bursts * memory.burst_bytes / ((ends[2] - ends[1]) * cycle)
    # The affine time is never below what any of the samples took to begin with.
    latency = max(ends[0] * cycle - memory.burst_bytes / speed, 0.0)
    return Transfer(latency, min(speed, memory.peak_bytes_per_s), memory.peak_bytes_per_s)


def _directions(count: int, writes: float, block: int) -> NDArray:
    """Whole blocks of writes among whole blocks of reads, in turn."""
    if writes in (0.0, 1.0):
        return np.full(count, bool(writes))
    return np.arange(count) // block % 2 == 1
