"""Sustained bandwidth of a memory of many channels that moves runs of contiguous bytes.

A map that interleaves the channels burst by burst cuts a run into one piece per channel. The time
of a piece comes from the controllers (`transfer`, pattern `blocks`) at pieces of 1, 2, 4, ...
bursts and is taken to be straight between them, so that more channels are never slower.
"""

from __future__ import annotations

import functools
import math

from bankside.errors import ConfigError
from bankside.isa.dram.table import load_standard
from bankside.sim.memory.model import CHANNEL_BITS
from bankside.sim.memory.transfer import transfer

__all__ = ["BURST_BYTES", "channel_rate", "channels_of", "run_rate"]

#: Of one request, on all standards (a DDR4 channel of 64 bits, a DDR5 one of 32).
BURST_BYTES = 64
#: Bursts of a piece from which on its beginning no longer shows (0.1 % more at the double).
_LONG = 1024
#: Data bits of what a host calls a memory channel: that of a DIMM.
_DIMM_BITS = 64


def channels_of(standard: str, dimm_channels: float) -> float:
    """Controllers of so many channels of 64 bits: two each for DDR5."""
    return dimm_channels * _DIMM_BITS / CHANNEL_BITS[load_standard(standard).family]


def channel_rate(standard: str) -> float:
    """Bytes per second that the data bus of one controller carries at most."""
    return transfer(standard, "blocks", "read").peak_bytes_per_s


def run_rate(
    standard: str, direction: str, run_bytes: float, *, channels: float, ranks: int = 4,
    address_map: str = "group_interleave",
) -> float:  # fmt: skip
    """Bytes per second, sustained, of runs of `run_bytes` at random places.

    `channels` are controllers, any number above 0: the mean piece of a run counts, since runs start
    at all channels equally often. `direction` is one of `transfer.DIRECTIONS`, `ranks` those of one
    channel (a power of two).

    Raises
    ------
    ConfigError, SpecError: a name or number that does not exist or does not fit.
    ToolError: the C++ compiler is missing.
    """
    if run_bytes <= 0 or channels <= 0:
        raise ConfigError(
            f"runs of {run_bytes:g} bytes on {channels:g} channels; expected both above 0; "
            f"correct the size of keys and values, or the host"
        )
    bursts = run_bytes / channels / BURST_BYTES
    one = functools.partial(_piece_seconds, standard, direction, ranks, address_map)
    return run_bytes / _between(one, bursts)


def _between(seconds: functools.partial[float], bursts: float) -> float:
    """Straight between the powers of two; proportional below the first and above the last."""
    if bursts <= 1:
        return bursts * seconds(1)
    if bursts >= _LONG:
        return bursts / _LONG * seconds(_LONG)
    low = 1 << int(math.log2(bursts))
    part = bursts / low - 1
    return (1 - part) * seconds(low) + part * seconds(2 * low)


@functools.lru_cache(maxsize=1024)
def _piece_seconds(
    standard: str, direction: str, ranks: int, address_map: str, bursts: int
) -> float:
    size = bursts * BURST_BYTES
    found = transfer(
        standard, "blocks", direction, ranks=ranks, address_map=address_map, block_bytes=size
    )
    return size / found.bytes_per_s
