"""Golden model of the `npu` engine: the exact bits of every command, no time.

Transfers and operations are executed in program order. The engines take their commands in order
and waits separate them, so a program that `verify` accepts gives the same bits on the machine.
Ref: docs/npu.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError
from bankside.isa.npu_commands import (
    BUS,
    OPERATIONS,
    TO_MEMORY,
    TO_WEIGHTS,
    Command,
    commands,
)
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine
from bankside.isa.npu_registers import check_regions
from bankside.isa.program import Program
from bankside.sim.engine import Result
from bankside.sim.golden.npu_mac import mac_operation
from bankside.sim.golden.npu_vector import copy, elementwise, norm, softmax

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

_VECTOR = {"ELEMENTWISE": elementwise, "SOFTMAX": softmax, "NORM": norm, "COPY": copy}


class NpuGolden:
    """One machine of the `npu` engine.

    State that lives on between programs: `shared` uint8 [shared_words, 32] and `weights` uint8
    [weight_bytes]. Main memory comes with each program.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self.machine = machine
        self.reset()

    def reset(self) -> None:
        """Power-on state: buffers zero."""
        self.shared = np.zeros((self.machine.shared_words, WORD_BYTES), np.uint8)
        self.weights = np.zeros(self.machine.config.npu.weight_bytes, np.uint8)

    def run(self, program: Program, *, trace: bool = False) -> Result:
        """Execute `program`; outputs are its main memory afterwards, of the shape of `host_in`.

        Raises NpuFault (a ProgramError) where the machine stops with a fault: what was executed
        before stays in the buffers. Raises ProgramError at other things no machine can do.
        """
        image, memory = self._image(program)
        for command in commands(program, self.machine):
            command.check(program.regions)
            if command.name == "DMA":
                self._transfer(command, program.regions, memory)
            elif command.name in _VECTOR:
                _VECTOR[command.name](command, self.shared)
            elif command.name in OPERATIONS:
                mac_operation(command, self.shared, self.weights)
        return Result(image[: len(program.host_in)].copy(), None, clock_domain="npu")

    def _image(self, program: Program) -> tuple[NDArray[np.uint16], U8]:
        """Main memory as rows and as bytes, of the same store."""
        n, size = self.machine.burst_elements, self.machine.config.memory.bytes
        rows, given = size // self.machine.bus_bytes, program.host_in
        if given.ndim != 2 or given.shape[1] != n or len(given) > rows:
            raise ProgramError(
                f"memory image of shape {list(given.shape)}; expected at most {rows} rows of {n} "
                f"elements (memory.bytes = {size})"
            )
        check_regions(program.regions)
        image = np.zeros((rows, n), "<u2")
        image[: len(given)] = given
        return image, image.reshape(-1).view(np.uint8)

    def _transfer(
        self, command: Command, regions: tuple[tuple[int, int], ...], memory: U8
    ) -> None:
        reg, bus = command.reg, self.machine.bus_bytes
        start = regions[reg["region"]][0] + reg["offset"]
        outside = _beats(start, reg["rows"], reg["row_step"], reg["row_bytes"], bus)
        direction = command.fields["direction"]
        buffer = self.weights if direction == TO_WEIGHTS else self.shared.reshape(-1)
        inside = _beats(reg["buf"], reg["rows"], reg["buf_step"], reg["row_bytes"], bus)
        if outside.max() >= len(memory) // bus:
            raise command.fault(
                BUS,
                f"reaches byte {(outside.max() + 1) * bus - 1} of main memory, which has "
                f"{len(memory)}; correct the region or raise memory.bytes",
            )
        beats, words = memory.reshape(-1, bus), buffer.reshape(-1, bus)
        if direction == TO_MEMORY:
            beats[outside] = words[inside]
        else:
            words[inside] = beats[outside]


def _beats(start: int, rows: int, step: int, row_bytes: int, bus: int) -> I64:
    """Beats of a transfer in order."""
    first = start // bus + np.arange(rows)[:, None] * (step // bus)
    return (first + np.arange(row_bytes // bus)).reshape(-1)
