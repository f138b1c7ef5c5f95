"""The compiled controllers (kernel.cpp) and their view of a DRAM standard."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bankside.cache import cache_entry, file_hash
from bankside.errors import ProgramError
from bankside.isa.dram.standard import DramStandard
from bankside.sim.memory.policy import Policy
from bankside.sim.rtl.tools import find_cxx, run_tool, tool_version

__all__ = [
    "COMMANDS", "ISSUED_DTYPE", "REQUEST_DTYPE", "SOURCES", "STATS_DTYPE", "other_rank",
    "parameters", "serve",
]  # fmt: skip

COMMANDS = ("ACT", "PRE", "PREA", "RD", "WR", "REF")
_WINDOWS = 4
_SHAPE = (len(COMMANDS), len(COMMANDS))
#: What the compiled controllers are made from.
SOURCES = [Path(__file__).with_name(name) for name in ("kernel.cpp", "kernel.h")]
_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared")

REQUEST_DTYPE = np.dtype(
    [("arrival", "<i8"), ("rank", "<i4"), ("bank", "<i4"), ("row", "<i4"), ("column", "<i4"),
     ("write", "<i4"), ("unused", "<i4")]
)  # fmt: skip
ISSUED_DTYPE = np.dtype(
    [("clock", "<i8"), ("row", "<i4"), ("column", "<i4"), ("command", "<i2"), ("rank", "<i2"),
     ("bank", "<i2"), ("unused", "<i2")]
)  # fmt: skip
STATS_DTYPE = np.dtype(
    [("clocks", "<i8"), ("hits", "<i8"), ("forwarded", "<i8"), ("merged", "<i8"), ("left", "<i8"),
     ("commands", "<i8", len(COMMANDS))]
)  # fmt: skip
_WINDOW_DTYPE = np.dtype([(name, "<i8") for name in ("depth", "latency", "preceding", "following")])
_SCALARS = (
    "ranks", "groups", "banks_per_group", "read_latency", "write_latency", "refresh_interval",
    "close_row", "row_cap", "refresh", "in_order", "read_queue", "write_queue", "bank_queue",
    "write_high", "write_low", "merge_reads", "max_outstanding", "drain_rest",
)  # fmt: skip
_PARAMS_DTYPE = np.dtype(
    [(name, "<i8") for name in _SCALARS]
    + [("cycles", "<i8", len(COMMANDS))]
    + [(name, "<i8", _SHAPE) for name in ("rank", "group", "bank", "other_rank")]
    + [("windows", _WINDOW_DTYPE, _WINDOWS)]
)


@functools.cache
def _library() -> ctypes.CDLL:
    key = {
        "sources": [file_hash(path) for path in SOURCES],
        "flags": list(_FLAGS),
        "tool": tool_version(find_cxx()),
    }
    with cache_entry("memory", key) as entry:
        if not entry.hit:
            target = entry.path / "memory.so"
            run_tool([find_cxx(), *_FLAGS, "-o", target, SOURCES[0]], "compile kernel.cpp")
    library = ctypes.CDLL(str(entry.path / "memory.so"))
    library.memory_run.restype = ctypes.c_void_p
    library.memory_trace.restype = ctypes.c_int64
    library.memory_free.restype = None
    return library


def other_rank(std: DramStandard, policy: Policy) -> dict[tuple[str, str], int]:
    """Least cycles between data commands of different ranks, by (first, second); see `Policy`."""
    burst, latency = std.params["nBL"], {"RD": std.params["nCL"], "WR": std.params["nCWL"]}
    gap = policy.switch_cycles
    found = {
        (a, b): latency[a] + burst + gap - latency[b] for a in latency for b in latency
    }  # no overlap on the data bus and `gap` cycles between the bursts
    if policy.rank_switch != "bus":
        found["WR", "WR"] = burst
    if policy.rank_switch == "ramulator2":
        found["RD", "WR"] = burst + gap
    return {pair: cycles for pair, cycles in found.items() if cycles > 0}


def parameters(
    std: DramStandard, policy: Policy, *, ranks: int, max_outstanding: int | None
) -> NDArray:
    """The parameter block of the kernel: a scalar of its structured type."""
    block = np.zeros((), _PARAMS_DTYPE)
    per_bank = policy.queues == "per_bank"
    scalars = {
        "ranks": ranks,
        "groups": std.geometry.bank_groups,
        "banks_per_group": std.geometry.banks_per_group,
        "read_latency": std.params["nCL"] + std.params["nBL"],
        "write_latency": std.params["nCWL"] + std.params["nBL"],
        "refresh_interval": std.params["nREFI"],
        "close_row": ("ready", "no_older_hit", "row_cap").index(policy.close_row),
        "row_cap": policy.row_cap,
        "refresh": policy.refresh != "none",
        "in_order": policy.order == "fifo",
        "read_queue": policy.read_queue,
        "write_queue": policy.write_queue,
        "bank_queue": policy.bank_queue,
        "write_high": policy.write_queue if per_bank else policy.high_count,
        "write_low": policy.low_count,
        "merge_reads": policy.merge_reads,
        "max_outstanding": max_outstanding or 0,
        "drain_rest": policy.rest == "drained",
    }
    for name, value in scalars.items():
        block[name] = value
    block["cycles"] = [std.command(name).cycles for name in COMMANDS]
    _fill_table(block, std)
    for (first, second), cycles in other_rank(std, policy).items():
        block["other_rank"][COMMANDS.index(first), COMMANDS.index(second)] = cycles
    return block


def _fill_table(block: NDArray, std: DramStandard) -> None:
    """Rows of the constraint table; one with a rank-wide command on a side acts in the rank."""
    for name in ("rank", "group", "bank", "other_rank"):
        block[name] = -1
    windows = 0
    for row in std.constraints:
        before = [c for c in row.preceding if c in COMMANDS]
        after = [c for c in row.following if c in COMMANDS]
        if row.window > 1:
            masks = [sum(1 << COMMANDS.index(c) for c in names) for names in (before, after)]
            block["windows"][windows] = (row.window, row.latency, *masks)
            windows += 1
            continue
        for a in before:
            for b in after:
                wide = "rank" in (std.command(a).scope, std.command(b).scope)
                level = "rank" if wide else {"bankgroup": "group"}.get(row.level, row.level)
                cell = block[level][COMMANDS.index(a)]
                cell[COMMANDS.index(b)] = max(cell[COMMANDS.index(b)], row.latency)


def serve(
    block: NDArray, requests: NDArray, *, per_bank: bool, trace: bool
) -> tuple[NDArray, NDArray, NDArray, NDArray | None]:
    """Serves the requests of one channel.

    Returns acceptance clock and end of the data per request (int64; -1 for what is left), the
    statistics (STATS_DTYPE) and, if asked, the commands (ISSUED_DTYPE).

    Raises
    ------
    ProgramError: the controller can make no progress.
    ToolError: the C++ compiler is missing.
    """
    library = _library()
    requests = np.ascontiguousarray(requests, REQUEST_DTYPE)
    accepted = np.full(len(requests), -1, np.int64)
    finished = np.full(len(requests), -1, np.int64)
    stats = np.zeros((), STATS_DTYPE)

    def pointer(array: NDArray) -> ctypes.c_void_p:
        return ctypes.c_void_p(array.ctypes.data)

    handle = library.memory_run(
        pointer(block), pointer(requests), ctypes.c_int64(len(requests)),
        ctypes.c_int64(per_bank), ctypes.c_int64(trace), pointer(accepted), pointer(finished),
        pointer(stats),
    )  # fmt: skip
    if not handle:
        served = int((accepted >= 0).sum())
        raise ProgramError(
            f"the controller stops after {served} of {len(requests)} requests: none that waits can "
            f"ever be served; expected progress; change the policy"
        )
    stats["left"] = (finished < 0).sum()
    return (
        accepted,
        finished,
        stats,
        _take_trace(library, handle) if trace else _drop(library, handle),
    )


def _take_trace(library: ctypes.CDLL, handle: int) -> NDArray:
    first = ctypes.c_void_p()
    count = library.memory_trace(ctypes.c_void_p(handle), ctypes.byref(first))
    size = count * ISSUED_DTYPE.itemsize
    raw = ctypes.string_at(first.value, size) if count else b""
    _drop(library, handle)
    return np.frombuffer(raw, ISSUED_DTYPE)


def _drop(library: ctypes.CDLL, handle: int) -> None:
    library.memory_free(ctypes.c_void_p(handle))
