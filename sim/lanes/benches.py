"""What the engines' benches in lanes are built from (engine.py)."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from bankside.errors import ProgramError
from bankside.isa.program import Program
from bankside.sim.faults import TRACE_PORTS
from bankside.sim.lanes.engine import _Bench


def _words(values: Any) -> tuple[ctypes.Array, ctypes.c_uint64]:
    array = np.asarray(values, "<u8").reshape(-1)
    return (ctypes.c_uint64 * max(len(array), 1))(*array.tolist()), ctypes.c_uint64(len(array))


def _npu_arguments(machine: Any, program: Program) -> tuple[Any, ...]:
    from bankside.sim.rtl.npu import memory_timing

    regions, _ = _words(program.regions)
    words = _words(program.words)
    return (
        ctypes.byref(memory_timing(machine)),
        *words,
        regions,
        ctypes.c_uint64(len(program.regions)),
    )


def _array_arguments(machine: Any, program: Program) -> tuple[Any, ...]:
    memory, size = machine.config.memory, machine.config.array.program_words
    # Without jitter.
    timing = (memory.read_latency_cycles, memory.write_latency_cycles, memory.beat_cycles, 0, 0)
    words = _words([*program.words, 0][:size])
    return ((ctypes.c_uint64 * 5)(*timing), *words, None, ctypes.c_uint64(0))


def _npu_defines(machine: Any) -> dict[str, int]:
    from bankside.sim.rtl.npu import defines

    return defines(machine)


def _array_defines(machine: Any) -> dict[str, int]:
    from bankside.sim.rtl.array import defines

    return defines(machine)


def _pim_arguments(machine: Any, program: Program) -> tuple[Any, ...]:
    size = machine.config.pim.program_words
    if len(program.words) > size:
        raise ProgramError(
            f"{len(program.words)} command words, but {machine.config.name} holds {size}; raise "
            f"pim.program_words"
        )
    words = _words(program.words)
    return ctypes.c_uint64(int(machine.refresh)), *words, None, ctypes.c_uint64(0)


def _pim_defines(machine: Any) -> dict[str, int]:
    from bankside.sim.rtl.pim import defines

    return defines(machine)


NPU = _Bench(
    "lanes_npu.cpp",
    ("axi_bench.h", "ports.h", "npu_bench.h"),
    _npu_defines,
    ("events",),
    _npu_arguments,
)
ARRAY = _Bench(
    "lanes_array.cpp",
    ("axi_bench.h", "ports.h", "array_bench.h"),
    _array_defines,
    ("events",),
    _array_arguments,
)
PIM = _Bench(
    "lanes_pim.cpp",
    ("ports.h", "pim_bench.h"),
    _pim_defines,
    TRACE_PORTS["pim"],
    _pim_arguments,
)
