"""What every execution of a program returns, and the protocol that all engines share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bankside.isa.program import Program

#: One entry of the command trace, by cycle of the result's clock domain. `pim`: a DRAM command, its
#: code (order of the DRAM table) and operands. `array`: a pass of the schedule, in the cycle of its
#: slot 0; code 1 if it starts an iteration, of key tile `row`.
COMMAND_DTYPE = np.dtype(
    [("cycle", "<i8"), ("code", "u1"), ("bank", "u1"), ("row", "<u4"), ("col", "<u2")]
)
#: One macro-command: engine index, opcode, cycle of its load (`array`: of its first address or of
#: the decision that starts it), of its last action, of its completion.
MACRO_DTYPE = np.dtype(
    [("engine", "u1"), ("opcode", "u1"), ("load", "<i8"), ("last", "<i8"), ("complete", "<i8")]
)


@dataclass(frozen=True)
class Result:
    """Result of one program.

    outputs: uint16 rows (None: execution without data); `pim`: bursts that the host received,
    [n, C*NE]; `array`: the main memory afterwards, of the shape of `Program.host_in`. cycles: of
    `clock_domain` (None: execution without time). counters: stall reason -> cycles, summing to
    `cycles`. commands, macros: traces ordered by cycle (macros by load cycle, then engine), empty
    when not asked for.
    """

    outputs: NDArray[np.uint16] | None
    cycles: int | None
    counters: dict[str, int] = field(default_factory=dict)
    commands: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, COMMAND_DTYPE))
    macros: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, MACRO_DTYPE))
    clock_domain: str = "mem"

    def output(self, program: Program, name: str) -> NDArray[np.uint16]:
        """Rows that the program calls `name`."""
        if self.outputs is None:
            raise ValueError("this execution carries no data; use golden or rtl")
        first, count = program.outputs[name]
        return self.outputs[first : first + count]


class Engine(Protocol):
    """One machine in one execution. What its memories hold (DRAM, buffers) lives on between
    programs until `reset`; the main memory of an `array` machine comes with each program.
    """

    def run(self, program: Program, *, trace: bool = False) -> Result:
        """Execute `program`. Raises ProgramError when the machine refuses it."""

    def reset(self) -> None:
        """Back to the power-on state, memories zero."""
