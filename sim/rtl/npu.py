"""The `rtl` execution of the `npu` engine: the Amaranth RTL compiled by Verilator, driven through a
C++ shim that is its host, its main memory and the memory of its commands.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError, ToolError
from bankside.hw.npu.top import NpuTop, trace_layout
from bankside.isa.npu_commands import REGIONS, NpuFault
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.npu_registers import CONTROL, STATUS, addresses, check_regions
from bankside.isa.program import Program
from bankside.isa.spec import load_spec
from bankside.sim.elaborate import to_verilog
from bankside.sim.engine import COMMAND_DTYPE, MACRO_DTYPE, Result
from bankside.sim.rtl.compiled import CompiledModel, pointer
from bankside.sim.rtl.verilate import CXXFLAGS, build_library

TOP = "bankside_npu_top"
_SPEC = load_spec("npu")
DMA, KERNEL = (_SPEC.engines.index(name) for name in ("dma", "kernel"))
_FIELDS = {field.name: field for field in STATUS.fields}
_FAULTS = (
    "no fault",
    "an illegal command, or no STOP at the end",
    "an operation that the machine cannot do",
    "a transfer outside its region",
    "a misaligned transfer",
    "an error response of the memory",
    "an overlap of what is read and written",
    "an address outside a buffer",
)


class _Timing(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in ("read_latency", "write_latency", "beat_cycles", "jitter", "seed")
    ]


class _Job(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_uint64)
            for name in ("bytes", "words", "image", "regions", "limit", "trace")
        ),
        ("timing", _Timing),
    ]


class _Report(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint64) for name in ("cycles", "refused", "stuck", "status", "counted")),
        ("counts", ctypes.c_uint64 * len(_SPEC.stalls)),
    ]


def defines(machine: NpuMachine) -> dict[str, int]:
    """Macros of npu_bench.h and of the shim."""
    trace, place = trace_layout(), addresses()
    kernel = trace["kernel"]
    return {
        "BUS_BITS": 8 * machine.bus_bytes,
        "REASONS": len(_SPEC.stalls),
        "REGIONS": REGIONS,
        **{name.upper(): place[name] for name in ("control", "status", "qbase", "cycles")},
        "REGION": place["region0.base"],
        "COUNTERS": place[f"counters.{_SPEC.stalls[0]}"],
        **{field.name.upper(): 1 << field.lsb for field in CONTROL.fields},
        "BURSTS": machine.config.memory.outstanding,
        **{
            f"STATUS_{name.upper()}": 1 << _FIELDS[name].lsb
            for name in ("running", "done", "fault")
        },
        **{f"TRACE_{name.upper()}": trace[name].offset for name in ("running", "dma", "kernel")},
        "TRACE_OPCODE": kernel.offset + kernel.shape["opcode"].offset,
    }


def memory_timing(machine: NpuMachine) -> _Timing:
    """Times of the main memory, as the shim takes them."""
    memory = machine.config.memory
    return _Timing(
        memory.read_latency_cycles,
        memory.write_latency_cycles,
        memory.beat_cycles,
        memory.jitter_cycles,
        memory.seed,
    )


def _load(machine: NpuMachine, waves: bool) -> ctypes.CDLL:
    library = build_library(
        to_verilog(NpuTop(machine), TOP),
        TOP,
        Path(__file__).with_name("npu_shim.cpp"),
        cxxflags=(*CXXFLAGS, *(f"-D{key}={value}" for key, value in defines(machine).items())),
        trace=waves,
    )
    library.npu_event_count.restype = ctypes.c_uint64
    return library


def _status(report: _Report, name: str) -> int:
    field = _FIELDS[name]
    return report.status >> field.lsb & (1 << field.width) - 1


class NpuRtl(CompiledModel):
    """One machine in RTL. The first use of a machine compiles it (cached by content); machines that
    differ in the times of their memory share what is compiled.
    """

    PREFIX = "npu"

    def __init__(self, machine: NpuMachine, *, waves: bool = False) -> None:
        self.machine = machine
        self.rtl_cycles = 0
        super().__init__(_load(machine, waves))

    def run(self, program: Program, *, trace: bool = False, limit: int = 100_000_000) -> Result:
        """Execute `program`; its `host_in` ([rows, n] of uint16) is the main memory before,
        `Result.outputs` afterwards.

        Raises NpuFault (a ProgramError) where the machine stops with a fault: what was executed
        before stays in the buffers. Raises ProgramError when the program or its memory does not
        fit, and when there is no STOP within `limit` cycles, after which the machine is reset.
        """
        self._check_sizes(program)
        image = np.array(program.host_in, "<u2", order="C")
        words, report = np.array(program.words, "<u8"), _Report()
        regions = np.array(program.regions, "<u8").reshape(-1)
        job = self._job(program, image, limit, trace)
        self._call(
            "run",
            ctypes.byref(job),
            pointer(words),
            pointer(image),
            pointer(regions),
            ctypes.byref(report),
        )
        self.rtl_cycles += report.cycles
        self._check(program, report)
        counters = dict(zip(_SPEC.stalls, report.counts, strict=True))
        macros = self._macros() if trace else np.zeros(0, MACRO_DTYPE)
        commands = np.zeros(0, COMMAND_DTYPE)
        domain = self.machine.clock_domain
        return Result(image, report.cycles, counters, commands, macros, domain)

    def _job(self, program: Program, image: NDArray[np.uint16], limit: int, trace: bool) -> _Job:
        return _Job(
            self.machine.config.memory.bytes,
            len(program.words),
            image.nbytes,
            len(program.regions),
            limit,
            int(trace),
            memory_timing(self.machine),
        )

    def _check_sizes(self, program: Program) -> None:
        config, n = self.machine.config, self.machine.burst_elements
        shape = program.host_in.shape
        if len(shape) != 2 or shape[1] != n or program.host_in.nbytes > config.memory.bytes:
            raise ProgramError(
                f"memory image of shape {list(shape)}; expected at most "
                f"{config.memory.bytes // self.machine.bus_bytes} rows of {n} elements "
                f"(memory.bytes = {config.memory.bytes})"
            )
        check_regions(program.regions)

    def _check(self, program: Program, report: _Report) -> None:
        if report.stuck:
            self.reset()
        if report.refused:
            raise ToolError(f"the RTL refused {report.refused} host registers; report this")
        position = _status(report, "position")
        if _status(report, "fault"):
            raise self._fault(program, _status(report, "fault_code"), position)
        if not _status(report, "done"):
            self.reset()
            raise ProgramError(
                f"not finished after {report.cycles} cycles, at command {position}; raise the limit"
            )
        if report.cycles != report.counted:
            raise ToolError(
                f"the program ran {report.cycles} cycles, the RTL counted {report.counted}; report "
                f"this"
            )

    def _fault(self, program: Program, code: int, position: int) -> ProgramError:
        if position >= len(program.words):
            return ProgramError(
                f"command {position}: the program runs past its end; end it with STOP"
            )
        word, reason = program.words[position], _FAULTS[code]
        return NpuFault(code, position, f"command {position} ({word:#018x}): {reason}")

    def _macros(self) -> NDArray[np.void]:
        """Every engine works on its commands in order, so the k-th event of each kind belongs to
        its k-th command.
        """
        raw = np.zeros((self._call("event_count"), 4), "<u8")
        self._call("events", pointer(raw))
        rows = []
        for engine in (DMA, KERNEL):
            begin, last, complete = (
                raw[(raw[:, 1] == engine) & (raw[:, 2] == kind)] for kind in range(3)
            )
            opcodes = begin[:, 3].tolist()
            if engine == DMA:
                opcodes = [_SPEC.commands["DMA"].opcode] * len(begin)
            # Work of an operation ends after its last cycle; complete is what is not outstanding.
            times = (begin[:, 0], last[:, 0] + (engine == KERNEL), complete[:, 0] + 1)
            columns = (opcodes, *(column.tolist() for column in times))
            rows += [(engine, *row) for row in zip(*columns, strict=True)]
        return np.array(sorted(rows, key=lambda row: (row[2], row[0])), MACRO_DTYPE)
