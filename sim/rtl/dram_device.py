"""A compiled RTL rank (`CommandProbe`) that answers to lists of commands.

Every answer comes from both sides: the device (`accept`, `violation`) and the controller's timers
(`legal`, `stall`).
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError
from bankside.hw.dram.ports import PortWidths
from bankside.hw.dram.probe import CommandProbe
from bankside.isa.dram.standard import DramStandard
from bankside.sim.elaborate import to_verilog
from bankside.sim.rtl.verilate import build_library

__all__ = [
    "ANSWER_DTYPE",
    "COMMIT",
    "EVENT_DTYPE",
    "PEEK",
    "RESET",
    "CompiledRank",
    "compiled_rank",
]

TOP = "bankside_dram_probe"
PEEK, COMMIT, RESET = 0, 1, 2

EVENT_DTYPE = np.dtype(
    [("cycle", "<u8"), ("kind", "<u4"), ("command", "<u4"), ("bank", "<u4"), ("row", "<u4")]
)
ANSWER_DTYPE = np.dtype(
    [
        ("accept", "<u4"),
        ("violation", "<u4"),
        ("legal", "<u4"),
        ("stall", "<u4"),
        ("open_mask", "<u8"),
    ]
)


class CompiledRank:
    """One rank in RTL, compiled by Verilator (cached by content).

    `device` and `timers` replace the table of one side, to show that the comparison of both sides
    can fail. Raises ToolError when the compiler is missing.
    """

    def __init__(
        self,
        std: DramStandard,
        *,
        device: DramStandard | None = None,
        timers: DramStandard | None = None,
        refresh_required: bool = False,
    ) -> None:
        probe = CommandProbe(std, device=device, timers=timers, refresh_required=refresh_required)
        shim = Path(__file__).with_name("dram_shim.cpp")
        # Compile time counts more than speed here: a replay is short.
        self._library = build_library(to_verilog(probe, TOP), TOP, shim, cxxflags=("-O1",))
        self._library.dram_new.restype = ctypes.c_void_p
        self._library.dram_play.restype = ctypes.c_uint64
        width = PortWidths.of(std)
        widths = (ctypes.c_uint32 * 3)(width.command, width.bank, width.row)
        self._handle: ctypes.c_void_p | None = ctypes.c_void_p(self._library.dram_new(widths))

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self._library.dram_delete(self._handle)
            self._handle = None

    def play(self, events: NDArray) -> NDArray:
        """Answers (ANSWER_DTYPE) to `events` (EVENT_DTYPE), which must be in time order.

        PEEK presents a command and withdraws it before the clock edge; COMMIT lets the edge take
        it, so no other event can follow in its cycle; RESET makes the rank idle and its cycle 0.
        The state stays between calls. Raises ProgramError for an event that lies in the past.
        """
        events = np.ascontiguousarray(events, EVENT_DTYPE)
        answers = np.zeros(len(events), ANSWER_DTYPE)
        played = self._library.dram_play(
            self._handle,
            ctypes.c_void_p(events.ctypes.data),
            ctypes.c_uint64(len(events)),
            ctypes.c_void_p(answers.ctypes.data),
        )
        if played < len(events):
            raise ProgramError(
                f"event {played} at cycle {events['cycle'][played]} comes after a later one or "
                f"shares the cycle of a command; expected increasing cycles; sort the events"
            )
        return answers


@lru_cache(maxsize=8)
def compiled_rank(std: DramStandard) -> CompiledRank:
    """The rank of `std`, shared by all callers in a process: start with a RESET event."""
    return CompiledRank(std)
