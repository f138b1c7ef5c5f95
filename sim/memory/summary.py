"""What a run tells: as plain data and as text; its commands as a trace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bankside.errors import ProgramError
from bankside.isa.dram.trace import TraceCommand
from bankside.sim.memory.energy import command_energy_j, load_currents
from bankside.sim.memory.kernel import COMMANDS
from bankside.sim.memory.model import CHANNEL_BITS, Result
from bankside.units import format_si

__all__ = ["commands", "summary", "text"]

_PERCENTILES = (50, 90, 99)


def commands(result: Result) -> Iterator[TraceCommand]:
    """The commands of a traced run, channel after channel, each in order.

    Raises
    ------
    ProgramError: the run was made without `trace=True`.
    """
    if result.trace is None:
        raise ProgramError("this run has no trace; expected trace=True; run it again with it")
    line = 0
    for channel, issued in enumerate(result.trace):
        for clock, row, column, command, rank, bank, _ in issued.tolist():
            line += 1
            yield TraceCommand(clock, COMMANDS[command], bank, row, column, line, channel, rank)


def summary(result: Result) -> dict[str, Any]:
    """Plain data: memory, counts, cycles, bandwidth, latencies, energy (None: not known)."""
    memory = result.memory
    std = memory.standard
    chips = CHANNEL_BITS[std.family] // 8
    accesses = result.counts["RD"] + result.counts["WR"]
    currents = load_currents().get(std.name)
    return {
        "standard": std.name,
        "options": dict(std.options),
        "channels": memory.channels,
        "ranks": memory.ranks,
        "chips_per_rank": chips,
        "address_map": str(memory.address_map),
        "policy": memory.policy.model_dump(),
        "counts": dict(result.counts),
        "row_hit_rate": result.counts["row_hits"] / accesses if accesses else None,
        "cycles": result.cycles,
        "clock": "memory",
        "seconds": result.seconds,
        "bandwidth_bytes_per_s": result.bytes_per_s,
        "peak_bytes_per_s": memory.peak_bytes_per_s,
        "read_latency_cycles": _latencies(result, write=False),
        "write_latency_cycles": _latencies(result, write=True),
        "command_energy_j": command_energy_j(std, chips, result.counts),
        "command_energy_source": currents.source if currents else None,
    }


def _latencies(result: Result, *, write: bool) -> dict[str, float] | None:
    cycles = result.latency(write=write)
    if not len(cycles):
        return None
    found = {"mean": float(cycles.mean()), "max": float(cycles.max())}
    return found | {f"p{p}": float(np.percentile(cycles, p)) for p in _PERCENTILES}


def text(found: dict[str, Any]) -> str:
    """The summary for people."""
    counts, peak = found["counts"], found["peak_bytes_per_s"]
    share = found["bandwidth_bytes_per_s"] / peak
    hits = found["row_hit_rate"]
    shape = f"{found['channels']} channel(s) of {found['ranks']} rank(s)"
    kinds = f"{counts['reads']:,} reads, {counts['writes']:,} writes"
    time = f"{found['cycles']:,} memory-clock cycles ({format_si(found['seconds'], 's')})"
    reached = format_si(found["bandwidth_bytes_per_s"], "B/s")
    lines = [
        f"{found['standard']}, {shape}, {found['address_map']}",
        f"  {counts['requests']:,} requests ({kinds}) in {time}",
        f"  bandwidth {reached}, {share:.1%} of {format_si(peak, 'B/s')}",
        f"  row hits {counts['row_hits']:,}" + (f" ({hits:.1%})" if hits is not None else ""),
        "  commands " + ", ".join(f"{name} {counts[name]:,}" for name in COMMANDS),
    ]
    for kind in ("read", "write"):
        if cycles := found[f"{kind}_latency_cycles"]:
            shown = ", ".join(f"{name} {value:,.1f}" for name, value in cycles.items())
            lines.append(f"  {kind} latency, cycles: {shown}")
    odd = [f"{name} {counts[name]:,}" for name in ("forwarded", "merged", "left") if counts[name]]
    if odd:
        lines.append("  " + ", ".join(odd))
    energy = found["command_energy_j"]
    known = f"{format_si(energy['total'], 'J')} (above standby)" if energy else "not known"
    return "\n".join([*lines, f"  energy of the commands: {known}"])
