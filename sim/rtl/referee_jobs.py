"""Programs as the referee's shim takes them, per engine."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from bankside.errors import ProgramError
from bankside.hw.array import host
from bankside.isa.machines import AnyMachine
from bankside.isa.npu_commands import REGIONS
from bankside.isa.npu_registers import addresses, check_regions
from bankside.isa.program import Program
from bankside.sim.rtl.compiled import pointer

__all__ = ["JOBS", "store_bytes"]


class _Timing(ctypes.Structure):
    """`AxiTiming` of axi_bench.h."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in ("read_latency", "write_latency", "beat_cycles", "jitter", "seed")
    ]


def store_bytes(machine: AnyMachine) -> int:
    """Bytes of the main memory beside the design; 0 where there is none."""
    return 0 if machine.engine == "pim" else machine.config.memory.bytes


def _timing(machine: AnyMachine) -> _Timing:
    memory = machine.config.memory
    return _Timing(
        memory.read_latency_cycles,
        memory.write_latency_cycles,
        memory.beat_cycles,
        getattr(memory, "jitter_cycles", 0),
        getattr(memory, "seed", 0),
    )


def _load_axi(referee: Any, program: Program, setups: list[Any], words: Any) -> None:
    machine = referee.machine
    image = np.array(program.host_in, "<u2", order="C")
    if image.nbytes > machine.config.memory.bytes:
        raise ProgramError(
            f"the memory image has {image.nbytes} bytes, but {machine.config.name} has "
            f"{machine.config.memory.bytes}; raise memory.bytes"
        )
    packed = np.array([v for at, values in setups for v in (at, len(values), *values)], "<u8")
    timing = _timing(machine)
    referee._call(
        "load",
        pointer(packed),
        ctypes.c_uint64(len(packed)),
        pointer(image),
        ctypes.c_uint64(image.nbytes),
        pointer(words),
        ctypes.c_uint64(words.nbytes),
        ctypes.c_uint64(machine.config.memory.bytes),
        ctypes.byref(timing),
    )


def _load_array(referee: Any, program: Program) -> None:
    room = referee.machine.config.array.program_words
    if len(program.words) > room:
        raise ProgramError(
            f"{len(program.words)} command words, but {referee.machine.config.name} holds {room}; "
            f"raise array.program_words"
        )
    # An illegal word behind the program, where there is room, as in `ArrayRtl`.
    words = [*program.words, 0][:room]
    _load_axi(referee, program, [(host.PROGRAM, words)], np.zeros(1, "<u8"))


def _load_npu(referee: Any, program: Program) -> None:
    check_regions(program.regions)
    place = addresses()
    bounds = [v for region in program.regions for v in region]
    bounds += [0] * (2 * REGIONS - len(bounds))
    setups = [
        (place["qbase"], [0, len(program.words)]),
        (place["region0.base"], bounds),
    ]
    words = np.array(program.words or [0], "<u8")
    _load_axi(referee, program, setups, words)


def _load_pim(referee: Any, program: Program) -> None:
    machine = referee.machine
    room = machine.config.pim.program_words
    if len(program.words) > room:
        raise ProgramError(
            f"{len(program.words)} command words, but {machine.config.name} holds {room}; raise "
            f"pim.program_words"
        )
    words = np.array(program.words, "<u8")
    bursts = np.ascontiguousarray(program.host_in, "<u2").view("<u8").reshape(-1)
    referee._call(
        "load",
        pointer(words),
        ctypes.c_uint64(len(words)),
        pointer(bursts),
        ctypes.c_uint64(len(program.host_in)),
        ctypes.c_uint64(int(machine.refresh)),
    )


#: Engine -> function (referee, program) that gives the program to the shim. Raises ProgramError.
JOBS: dict[str, Callable[[Any, Program], None]] = {
    "pim": _load_pim,
    "array": _load_array,
    "npu": _load_npu,
}
