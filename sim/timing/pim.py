"""The `pim` engine in the execution without data: exact cycles, stall reasons and traces.

`cycles` counts cycles 0 to HALT inclusive; each belongs to one stall reason (docs/pim.md sections 4
and 7).
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from bankside.isa.machine import Machine
from bankside.isa.program import Program
from bankside.isa.spec import Instruction
from bankside.sim.engine import COMMAND_DTYPE, MACRO_DTYPE, Result
from bankside.sim.timing.core import Core
from bankside.sim.timing.decode import Decoder
from bankside.sim.timing.runs import Runs, compile_pairs
from bankside.sim.timing.skip import Memo, Skipper, timing_key
from bankside.sim.timing.stalls import STALLS
from bankside.sim.timing.trace import Log

MAX_MEMOS = 64


class PimTiming:
    """Timing model of one machine. Every run starts at cycle 0 with all banks closed and all
    constraints expired.

    `skipping` False simulates every DRAM command (a trace always does); the result is the same.
    """

    def __init__(self, machine: Machine, *, skipping: bool = True) -> None:
        self.machine, self.skipping = machine, skipping
        self._memos: OrderedDict[tuple, Memo] = OrderedDict()

    def run(self, program: Program, *, trace: bool = False) -> Result:
        """Execute `program` without data.

        Returns a Result with `cycles` (up to and including the one of HALT) and `counters`; with
        `trace` also the DRAM commands and the macro-commands. Raises ProgramError on an illegal
        command, a deadlock or more than 15 tokens.
        """
        core = self._core(program, trace)
        cycles = core.run() + 1
        commands, macros = np.zeros(0, COMMAND_DTYPE), np.zeros(0, MACRO_DTYPE)
        if core.log is not None:
            commands = np.array(core.log.commands, COMMAND_DTYPE)
            macros = np.array(sorted(core.log.macros, key=lambda m: (m[2], m[0])), MACRO_DTYPE)
        return Result(None, cycles, dict(zip(STALLS, core.stalls, strict=True)), commands, macros)

    def _core(self, program: Program, trace: bool) -> Core:
        if trace or not self.skipping:
            core = Core(self.machine, program)
            core.log = Log(core.decoder) if trace else None
            return core
        code = program.instructions()
        memo = self._memo(program, code)
        core = Core(self.machine, program, memo.decoder, code)
        core.observer = Skipper(core, memo)
        pairs = compile_pairs(self.machine.std)
        core.runs = Runs(core, pairs) if pairs.usable else None
        return core

    def _memo(self, program: Program, code: list[Instruction]) -> Memo:
        """The memo of programs that behave alike in time; the least recently used makes room."""
        key = timing_key(code)
        memo = self._memos.pop(key, None) or Memo(Decoder(self.machine, program, code))
        self._memos[key] = memo
        if len(self._memos) > MAX_MEMOS:
            self._memos.popitem(last=False)
        return memo

    def memos(self) -> tuple[Memo, ...]:
        """What is remembered of the programs so far, the most recent one last."""
        return tuple(self._memos.values())

    def reset(self) -> None:
        """Nothing to do: no timing state lives on between programs."""
