"""A host memory: channels of ranks behind controllers; serves requests and tells how it went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bankside.errors import ConfigError
from bankside.isa.dram.standard import DramStandard
from bankside.isa.dram.table import load_standard
from bankside.sim.memory.address import AddressMap
from bankside.sim.memory.kernel import COMMANDS, ISSUED_DTYPE, parameters, serve
from bankside.sim.memory.policy import Policy
from bankside.sim.memory.requests import Requests, read_requests

__all__ = ["CHANNEL_BITS", "Memory", "Result"]

#: Data bits of a channel: a DDR4 DIMM has one of 64, a DDR5 DIMM two of 32.
CHANNEL_BITS = {"ddr4": 64, "ddr5": 32}


@dataclass(frozen=True)
class Result:
    """What happened to a stream of requests. Clocks are memory clocks; -1: never.

    accepted: clock at which each request entered the controller.
    finished: end of its last data beat (a write that is left in a queue at the end: -1).
    cycles: the last of these.
    counts: requests, reads, writes, row_hits (accesses to a row that was used before since it was
        opened), forwarded (reads answered from, and writes joined with, a write that waits), merged
        (reads that share an access), left (writes still waiting), and every command.
    trace: per channel, the commands (ISSUED_DTYPE), if asked for.
    """

    accepted: NDArray
    finished: NDArray
    write: NDArray
    cycles: int
    counts: Mapping[str, int]
    memory: Memory = field(repr=False)
    trace: tuple[NDArray, ...] | None = field(default=None, repr=False)

    @property
    def seconds(self) -> float:
        return self.cycles * self.memory.standard.tck_ps * 1e-12

    @property
    def bytes_per_s(self) -> float:
        """Requested bytes over the whole time; 0.0 for no request."""
        served = int((self.finished >= 0).sum())
        return served * self.memory.burst_bytes / self.seconds if self.cycles else 0.0

    def latency(self, *, write: bool = False) -> NDArray:
        """Cycles from acceptance to the last data beat, of the served reads (or writes)."""
        chosen = (self.write == write) & (self.finished >= 0)
        return self.finished[chosen] - self.accepted[chosen]


@dataclass(frozen=True)
class Memory:
    """`channels` equal channels of `ranks` ranks each; make one with `Memory.of`.

    Each channel takes its requests in order, at most one per clock.
    """

    standard: DramStandard
    policy: Policy
    address_map: AddressMap
    channels: int
    ranks: int

    @classmethod
    def of(
        cls, standard: str = "ddr4_3200", *, policy: str | Policy = "fr_fcfs",
        address_map: str = "group_interleave", channels: int = 1, ranks: int = 1,
        options: Mapping[str, object] | None = None, **changes: object,
    ) -> Memory:  # fmt: skip
        """A memory from names: `options` of the DRAM standard, `changes` of the policy.

        Raises
        ------
        ConfigError, SpecError: a name, option or number that does not exist or does not fit.
        """
        chosen = Policy.of(policy, changes) if isinstance(policy, str) else policy
        if not isinstance(policy, str) and changes:
            raise ConfigError(f"options {sorted(changes)} for a policy object; give a policy name")
        if "rd_to_wr" not in (options or {}):
            p = load_standard(standard).params
            cycles = p["nCL"] + p["nBL"] + chosen.rd_to_wr - p["nCWL"]
            options = {**(options or {}), "rd_to_wr": cycles}
        std = load_standard(standard, options=options)
        parsed = AddressMap.parse(
            address_map, std.geometry, channels=channels, ranks=ranks,
            burst_bytes=_burst_bytes(std),
        )  # fmt: skip
        return cls(std, chosen, parsed, channels, ranks)

    @property
    def burst_bytes(self) -> int:
        return _burst_bytes(self.standard)

    @property
    def bytes(self) -> int:
        """Capacity."""
        return 1 << self.address_map.bits

    @property
    def peak_bytes_per_s(self) -> float:
        """What the data buses of all channels can carry."""
        cycle = self.standard.tck_ps * 1e-12
        return self.channels * self.burst_bytes / (self.standard.params["nBL"] * cycle)

    @cached_property
    def limits(self) -> dict[str, int]:
        """How many there are of each coordinate."""
        g = self.standard.geometry
        return {"channel": self.channels, "rank": self.ranks, "bankgroup": g.bank_groups,
                "bank": g.banks_per_group, "row": g.rows, "column": g.columns}  # fmt: skip

    def requests(
        self, addresses: ArrayLike, *, write: ArrayLike = False, arrival: ArrayLike = 0
    ) -> Requests:
        """Requests for byte addresses; `write` and `arrival` (clock) each one value or as many."""
        return Requests.from_addresses(
            addresses, self.address_map, self.standard.geometry.banks_per_group, write=write,
            arrival=arrival,
        )  # fmt: skip

    def read(self, path: Path | str) -> Requests:
        """Requests from a file; see `read_requests`."""
        per_group = self.standard.geometry.banks_per_group
        return read_requests(path, self.address_map, per_group, self.limits)

    def run(
        self, requests: Requests, *, trace: bool = False, max_outstanding: int | None = None
    ) -> Result:
        """Serves the requests from an idle memory with closed banks.

        `max_outstanding` limits the requests of a channel that wait for their answer; the end of a
        read is its data, that of a write its acceptance (`per_bank`) or its command (`shared`).

        Raises
        ------
        ProgramError: the policy cannot serve them.
        ToolError: the C++ compiler is missing.
        """
        block = parameters(
            self.standard, self.policy, ranks=self.ranks, max_outstanding=max_outstanding
        )
        accepted = np.full(len(requests), -1, np.int64)
        finished = accepted.copy()
        parts, traces = [], []
        for channel in range(self.channels):
            mine = np.flatnonzero(requests.channel == channel)
            accepted[mine], finished[mine], stats, issued = serve(
                block, requests.records[mine], per_bank=self.policy.queues == "per_bank",
                trace=trace,
            )  # fmt: skip
            parts.append(stats)
            traces.append(issued if issued is not None else np.zeros(0, ISSUED_DTYPE))
        write = requests.records["write"].astype(bool)
        cycles = max(int(part["clocks"]) for part in parts)
        return Result(
            accepted, finished, write, cycles, _counts(parts, write), self,
            tuple(traces) if trace else None,
        )  # fmt: skip


def _burst_bytes(std: DramStandard) -> int:
    return CHANNEL_BITS[std.family] // 8 * 2 * std.params["nBL"]


def _counts(parts: list[NDArray], write: NDArray) -> dict[str, int]:
    def total(name: str) -> int:
        return sum(int(part[name]) for part in parts)

    counts = {"requests": len(write), "reads": int((~write).sum()), "writes": int(write.sum()),
              "row_hits": total("hits")}  # fmt: skip
    counts |= {name: total(name) for name in ("forwarded", "merged", "left")}
    for index, name in enumerate(COMMANDS):
        counts[name] = sum(int(part["commands"][index]) for part in parts)
    return counts
