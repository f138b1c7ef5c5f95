"""The `rtl` execution of the `pim` engine: the Amaranth RTL compiled by Verilator, driven through a
C++ shim.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError, ToolError
from bankside.hw.pim.controller.stalls import COUNTER_BITS
from bankside.hw.pim.layouts import command_codes, command_layout
from bankside.hw.pim.top import PimTop
from bankside.isa.machine import Machine
from bankside.isa.program import Program
from bankside.isa.spec import load_spec
from bankside.sim.elaborate import to_verilog
from bankside.sim.engine import COMMAND_DTYPE, MACRO_DTYPE, Result
from bankside.sim.rtl.compiled import CompiledModel, pointer
from bankside.sim.rtl.verilate import CXXFLAGS, build_library

TOP = "bankside_pim_top"
_SPEC = load_spec("pim")
#: Last field of a DRAM command that the trace shows.
_LAST_SHOWN = "header"


class _Report(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "cycles",
            "error",
            "pc",
            "violation",
            "unrefreshable",
            "taken",
            "sent",
            "finished",
        )
    ] + [("counts", ctypes.c_uint64 * len(_SPEC.stalls))]


def defines(machine: Machine) -> dict[str, int]:
    """Macros of pim_bench.h and of the shim."""
    layout = command_layout(machine)
    return {
        "BURST_BITS": machine.burst_elements * 16,
        "REASONS": len(_SPEC.stalls),
        "COUNTER_BITS": COUNTER_BITS,
        "ENGINES": len(_SPEC.engines),
        "COMMAND_BITS": layout[_LAST_SHOWN].offset + layout[_LAST_SHOWN].width,
    }


def _load(machine: Machine, waves: bool) -> ctypes.CDLL:
    library = build_library(
        to_verilog(PimTop(machine), TOP),
        TOP,
        Path(__file__).with_name("pim_shim.cpp"),
        cxxflags=(*CXXFLAGS, *(f"-D{key}={value}" for key, value in defines(machine).items())),
        trace=waves,
    )
    for name in ("pim_command_count", "pim_macro_count"):
        getattr(library, name).restype = ctypes.c_uint64
    return library


def _words(data: NDArray[np.uint16]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(data, dtype="<u2").view("<u8").reshape(-1)


class PimRtl(CompiledModel):
    """One rank in RTL. The first use of a machine compiles it (cached by content)."""

    PREFIX = "pim"

    def __init__(self, machine: Machine, *, waves: bool = False) -> None:
        self.machine = machine
        self.rtl_cycles = 0
        super().__init__(_load(machine, waves))

    def _new_arguments(self) -> tuple[Any, ...]:
        return (int(self.machine.refresh),)

    def run(self, program: Program, *, trace: bool = False, limit: int = 100_000_000) -> Result:
        """Execute `program`. Raises ProgramError when the RTL refuses a command word or does not
        finish.
        """
        self._prepare(program)
        received = sum(count for _, count in program.outputs.values())
        host_in = _words(program.host_in)
        host_out = np.zeros(max(1, received) * self.machine.burst_elements // 4, "<u8")
        report = _Report()
        self._call(
            "run",
            pointer(host_in),
            ctypes.c_uint64(len(program.host_in)),
            pointer(host_out),
            ctypes.c_uint64(received),
            ctypes.c_uint64(limit),
            int(trace),
            ctypes.byref(report),
        )
        self.rtl_cycles += report.cycles
        self._check(program, report, received)
        outputs = host_out.view("<u2").reshape(-1, self.machine.burst_elements)[:received].copy()
        counters = dict(zip(_SPEC.stalls, report.counts, strict=True))
        commands, macros = (
            self._traces() if trace else (np.zeros(0, COMMAND_DTYPE), np.zeros(0, MACRO_DTYPE))
        )
        return Result(outputs, report.cycles, counters, commands, macros)

    def _prepare(self, program: Program) -> None:
        size = self.machine.config.pim.program_words
        if len(program.words) > size:
            raise ProgramError(
                f"{len(program.words)} command words, but {self.machine.config.name} holds "
                f"{size}; raise pim.program_words"
            )
        if not self._call("wait_ready", ctypes.c_uint64(100_000)):
            raise ToolError(
                "the RTL does not become ready; the program before did not finish: reset() the "
                "engine"
            )
        words = np.array(program.words, "<u8")
        self._call("program", pointer(words), ctypes.c_uint64(len(words)))

    def _check(self, program: Program, report: _Report, received: int) -> None:
        if report.violation:
            raise ProgramError(
                f"the DRAM refused a command: violation code {report.violation} (see isa/dram)"
            )
        if report.unrefreshable and self.machine.refresh:
            raise ProgramError(
                "rows stayed open for 8 nREFI, so no refresh could come; CLOSE them in between"
            )
        if report.error:
            raise ProgramError(
                f"command {report.pc}: the front end refuses word {program.words[report.pc]:#018x}"
            )
        if not report.finished:
            raise ProgramError(
                f"not finished after {report.cycles} cycles, front end at command {report.pc}"
            )
        if report.sent != received:
            raise ProgramError(
                f"the RTL sent {report.sent} bursts, the program declares {received}"
            )

    def _traces(self) -> tuple[NDArray[np.void], NDArray[np.void]]:
        raw = np.zeros((self._call("command_count"), 2), "<u8")
        self._call("commands", pointer(raw))
        commands = self._commands(raw)
        events = np.zeros((self._call("macro_count"), 2), "<u8")
        self._call("macros", pointer(events))
        return commands, self._macros(events)

    def _commands(self, raw: NDArray[np.uint64]) -> NDArray[np.void]:
        """Decode the command bus. `col` is the column, or the buffer word where the command
        addresses a buffer.
        """
        layout = command_layout(self.machine)

        def field(name: str) -> NDArray[np.uint64]:
            place = layout[name]
            return raw[:, 1] >> np.uint64(place.offset) & np.uint64((1 << place.width) - 1)

        commands = np.zeros(len(raw), COMMAND_DTYPE)
        commands["cycle"] = raw[:, 0]
        for name in ("code", "bank", "row"):
            commands[name] = field(name)
        codes = command_codes(self.machine)
        buffer_word = np.where(field("header") == 1, 0, field("sb"))
        column = np.where(commands["code"] == codes["WRSB"], buffer_word, field("col"))
        commands["col"] = np.where(
            commands["code"] == codes["RDRB"], 2 * field("rb") + field("half"), column
        )
        return commands

    def _macros(self, events: NDArray[np.uint64]) -> NDArray[np.void]:
        """Pair loads with last actions; completions follow from the fixed latencies."""
        delay = self.machine.completions
        rows, open_rows = [], {}
        for cycle, code in events.tolist():
            engine, opcode, last = code & 255, code >> 8 & 255, code >> 16
            if last:
                row = open_rows.pop(engine)
                row[3] = cycle
                row[4] = cycle + delay[_SPEC.by_opcode[row[1]].name]
            else:
                open_rows[engine] = row = [engine, opcode, cycle, 0, 0]
                rows.append(row)
        return np.array([tuple(row) for row in rows], MACRO_DTYPE)
