"""The `pim` engine in the execution without data: exact cycles, stall reasons and traces.

The counters sum to cycles + 1: cycles 0 to HALT inclusive belong to one reason each (docs/pim.md section 7).
"""

from __future__ import annotations

import numpy as np

from bankside.isa.machine import Machine
from bankside.isa.program import Program
from bankside.sim.engine import COMMAND_DTYPE, MACRO_DTYPE, Result
from bankside.sim.timing.core import STALLS, Core, Log


class PimTiming:
    """Timing model of one machine. Every run starts at cycle 0 with all banks closed and all constraints expired."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def run(self, program: Program, *, trace: bool = False) -> Result:
        """Execute `program` without data.

        Returns a Result with `cycles` (cycle in which HALT executes) and `counters`; with `trace` also the DRAM commands
        and the macro-commands. Raises ProgramError on an illegal command, a deadlock or more than 15 tokens.
        """
        core = Core(self.machine, program)
        if trace:
            core.log = Log(core.decoder)
        cycles = core.run()
        commands, macros = np.zeros(0, COMMAND_DTYPE), np.zeros(0, MACRO_DTYPE)
        if core.log is not None:
            commands = np.array(core.log.commands, COMMAND_DTYPE)
            macros = np.array(sorted(core.log.macros, key=lambda m: (m[2], m[0])), MACRO_DTYPE)
        return Result(None, cycles, dict(zip(STALLS, core.stalls, strict=True)), commands, macros)

    def reset(self) -> None:
        """Nothing to do: no timing state lives on between programs."""
