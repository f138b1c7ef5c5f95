"""The `rtl` execution of the `array` engine: the Amaranth RTL compiled by Verilator, driven through
a C++ shim that is its host and its main memory.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError, ToolError
from bankside.hw.array import host
from bankside.hw.array.top import ArrayTop, trace_layout
from bankside.isa.array_machine import ELEMENT_BYTES, ArrayMachine
from bankside.isa.program import Program
from bankside.isa.spec import load_spec
from bankside.sim.elaborate import to_verilog
from bankside.sim.engine import COMMAND_DTYPE, MACRO_DTYPE, Result
from bankside.sim.rtl.compiled import CompiledModel, pointer
from bankside.sim.rtl.verilate import CXXFLAGS, build_library

TOP = "bankside_array_top"
_SPEC = load_spec("array")
# The wires between PEs end up in a few functions; above some thousand statements g++ takes minutes
# for one of them (32 x 32 PEs: 43 s with the limit, over 8 minutes without).
_VERILATOR_FLAGS = ("--output-split-cfuncs", "1000")
_STATUS = {name: 1 << bit for bit, name in enumerate(host.STATUS_BITS)}


class _Timing(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in ("bytes", "read_latency", "write_latency", "beat_cycles")
    ]


class _Report(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in ("cycles", "refused", "stuck", "status", "counted", "pc")
    ] + [("counts", ctypes.c_uint64 * len(_SPEC.stalls))]


def defines(machine: ArrayMachine) -> dict[str, int]:
    """Macros of array_bench.h and of the shim."""
    trace = trace_layout()
    passes = trace["compute"]
    compute = {
        f"TRACE_{name.upper()}": passes.offset + field.offset for name, field in passes.shape
    }
    addresses = ("CONTROL", "STATUS", "CYCLES", "POSITION", "COUNTERS", "PROGRAM", "START", "CLEAR")
    return {
        "BUS_BITS": 8 * ELEMENT_BYTES * machine.bus_elements,
        "REASONS": len(_SPEC.stalls),
        "BURSTS": machine.config.memory.outstanding,
        **{f"STATUS_{name.upper()}": bit for name, bit in _STATUS.items()},
        **{name: getattr(host, name) for name in addresses},
        **compute,
        "TRACE_TILE_BITS": passes.shape["tile"].width,
        **{f"TRACE_{name.upper()}": trace[name].offset for name in ("running", "load", "store")},
    }


def memory_timing(machine: ArrayMachine) -> _Timing:
    """Size and times of the main memory, as the shim takes them."""
    memory = machine.config.memory
    return _Timing(
        memory.bytes, memory.read_latency_cycles, memory.write_latency_cycles, memory.beat_cycles
    )


def _load(machine: ArrayMachine, waves: bool) -> ctypes.CDLL:
    library = build_library(
        to_verilog(ArrayTop(machine), TOP),
        TOP,
        Path(__file__).with_name("array_shim.cpp"),
        cxxflags=(*CXXFLAGS, *(f"-D{key}={value}" for key, value in defines(machine).items())),
        verilator_flags=_VERILATOR_FLAGS,
        trace=waves,
    )
    for name in ("array_pass_count", "array_event_count"):
        getattr(library, name).restype = ctypes.c_uint64
    return library


class ArrayRtl(CompiledModel):
    """One machine in RTL. The first use of a machine compiles it (cached by content)."""

    PREFIX = "array"

    def __init__(self, machine: ArrayMachine, *, waves: bool = False) -> None:
        self.machine = machine
        self.rtl_cycles = 0
        super().__init__(_load(machine, waves))

    def _new_arguments(self) -> tuple[Any, ...]:
        return (ctypes.byref(memory_timing(self.machine)),)

    def run(self, program: Program, *, trace: bool = False, limit: int = 100_000_000) -> Result:
        """Execute `program`; its `host_in` ([rows, n] of uint16) is the main memory before,
        `Result.outputs` afterwards.

        Raises ProgramError when the program or its memory does not fit, when the RTL refuses a
        command word, when the memory answers with an error, and when there is no HALT within
        `limit` cycles.
        """
        self._check_sizes(program)
        image = np.array(program.host_in, "<u2", order="C")
        words, report = self._words(program), _Report()
        self._call(
            "run",
            pointer(words),
            ctypes.c_uint64(len(words)),
            pointer(image),
            ctypes.c_uint64(image.nbytes),
            ctypes.c_uint64(limit),
            int(trace),
            ctypes.byref(report),
        )
        self.rtl_cycles += report.cycles
        if report.stuck:
            self.reset()
        self._check(program, report)
        counters = dict(zip(_SPEC.stalls, report.counts, strict=True))
        commands, macros = (
            (self._commands(), self._macros())
            if trace
            else (np.zeros(0, COMMAND_DTYPE), np.zeros(0, MACRO_DTYPE))
        )
        return Result(image, report.cycles, counters, commands, macros, "array")

    def _words(self, program: Program) -> NDArray[np.uint64]:
        """Command words, with an illegal one behind them where there is room: what an earlier
        program left there must not be executed.
        """
        size = self.machine.config.array.program_words
        return np.array([*program.words, 0][:size], "<u8")

    def _check_sizes(self, program: Program) -> None:
        config = self.machine.config
        if len(program.words) > config.array.program_words:
            raise ProgramError(
                f"{len(program.words)} command words, but {config.name} holds "
                f"{config.array.program_words}; raise array.program_words"
            )
        shape, elements = program.host_in.shape, self.machine.bus_elements
        if len(shape) != 2 or shape[1] != elements:
            raise ProgramError(
                f"the memory image has the shape {shape}; {config.name} has bus words of "
                f"{elements} elements: expected [rows, {elements}]"
            )
        if program.host_in.nbytes > config.memory.bytes:
            raise ProgramError(
                f"the memory image has {program.host_in.nbytes} bytes, but {config.name} has "
                f"{config.memory.bytes}; raise memory.bytes"
            )

    def _check(self, program: Program, report: _Report) -> None:
        if report.refused:
            raise ToolError(f"the RTL refused {report.refused} program words; report this")
        if report.status & _STATUS["bus_error"]:
            raise ProgramError(
                f"the memory answered with an error, front end at command {report.pc}; addresses "
                f"end at {self.machine.config.memory.bytes}: correct mem and its steps"
            )
        if report.status & _STATUS["error"]:
            raise ProgramError(
                f"command {report.pc}: the front end refuses word {program.words[report.pc]:#018x}"
                if report.pc < len(program.words)
                else f"command {report.pc}: the program runs past its end; end it with HALT"
            )
        if report.status != _STATUS["done"]:
            raise ProgramError(
                f"not finished after {report.cycles} cycles, front end at command {report.pc}"
            )
        if report.cycles != report.counted:
            raise ToolError(
                f"the program ran {report.cycles} cycles, the RTL counted {report.counted}; report "
                f"this"
            )

    def _commands(self) -> NDArray[np.void]:
        raw = np.zeros((self._call("pass_count"), 3), "<u8")
        self._call("passes", pointer(raw))
        commands = np.zeros(len(raw), COMMAND_DTYPE)
        for column, name in enumerate(("cycle", "code", "row")):
            commands[name] = raw[:, column]
        return commands

    def _macros(self) -> NDArray[np.void]:
        """Every engine works on its commands in order, so the k-th event of each kind belongs to
        its k-th command.
        """
        raw = np.zeros((self._call("event_count"), 3), "<u8")
        self._call("events", pointer(raw))
        opcodes = {command.engine: command.opcode for command in _SPEC.commands.values()}
        rows = []
        for engine, name in enumerate(_SPEC.engines):
            events = raw[raw[:, 1] == engine]
            times = [events[events[:, 2] == kind, 0].tolist() for kind in range(3)]
            rows += [(engine, opcodes[name], *row) for row in zip(*times, strict=True)]
        return np.array(sorted(rows, key=lambda row: (row[2], row[0])), MACRO_DTYPE)
