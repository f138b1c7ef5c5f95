"""The front end of the `pim` engine: control commands and dispatch, at most one command per cycle.

Ref: docs/pim.md section 4.
"""

from __future__ import annotations

from collections import deque

from bankside.errors import ProgramError
from bankside.isa.program import ADDRESS_MASK
from bankside.isa.spec import Instruction
from bankside.sim.timing.decode import ARRAY, Decoder, Op
from bankside.sim.timing.trace import Log

# Front end: one command per cycle, blocked by a full queue, waiting for an idle machine, halted.
RUNNING, FULL, IDLE, HALTED = range(4)


class FrontEnd:
    """The part of `Core` that executes control commands; it only shares the state below."""

    code: list[Instruction]
    decoder: Decoder
    queues: list[deque[Op]]
    stack: list[list[int]]
    registers: list[int]
    log: Log | None
    pc: int
    executed: int  # last command, executed or tried
    lanes: int
    depth: int
    loop_depth: int
    loop_event: bool

    def _front_end(self) -> None:
        if self.pc >= len(self.code):
            raise ProgramError(
                f"command {self.pc}: the program runs past its end; end it with HALT"
            )
        ins = self.code[self.pc]
        self.executed = self.pc
        if ins.name in CONTROL_COMMANDS:
            CONTROL_COMMANDS[ins.name](self, ins)
            return
        op = self.decoder.op(self.pc, self.lanes)
        queue = self.queues[op.engine]
        if len(queue) == self.depth:
            self.front, self.front_engine = FULL, op.engine
            return
        if self.log is not None and op.engine == ARRAY:
            row = ins.fields.get("row", 0)
            row += self.registers[ins.areg] if ins.fields.get("areg_en") else 0
            self.log.rows.append(row & ADDRESS_MASK)
        queue.append(op)
        self.pc += 1
        if op.name == "OPEN" and self.stack:
            self.loop_event = True
        if len(queue) == 1:
            self._consider(op.engine)

    def execute_control(self) -> None:
        """Executes the control command at the program counter."""
        self.executed = self.pc
        ins = self.code[self.pc]
        CONTROL_COMMANDS[ins.name](self, ins)

    def _halt(self, ins) -> None:
        if self._wait_idle():
            self.front = HALTED

    def _barrier(self, ins) -> None:
        if self._wait_idle():
            self.pc += 1

    def _geom(self, ins) -> None:
        if self._wait_idle():
            self.lanes = ins.lanes
            self.pc += 1

    def _wait_idle(self) -> bool:
        if self._is_idle():
            return True
        self.front = IDLE
        return False

    def _seta(self, ins) -> None:
        self.registers[ins.areg] = ins.value
        self.pc += 1

    def _adda(self, ins) -> None:
        self.registers[ins.areg] += ins.value
        self.pc += 1

    def _loop(self, ins) -> None:
        if len(self.stack) == self.loop_depth:
            raise ProgramError(
                f"command {self.pc}: LOOP nested deeper than {self.loop_depth}; "
                f"unroll the inner loop"
            )
        self.pc += 1
        self.stack.append([self.pc, ins.count])
        self.loop_event = True

    def _endloop(self, ins) -> None:
        if not self.stack:
            raise ProgramError(f"command {self.pc}: ENDLOOP without LOOP; remove it")
        top = self.stack[-1]
        top[1] -= 1
        self.loop_event = True
        # The entry of a loop that ends stays until the observer has seen it.
        self.pc = top[0] if top[1] else self.pc + 1
        if not top[1] and self.observer is None:
            self.stack.pop()


CONTROL_COMMANDS = {
    "HALT": FrontEnd._halt,
    "BARRIER": FrontEnd._barrier,
    "GEOM": FrontEnd._geom,
    "SETA": FrontEnd._seta,
    "ADDA": FrontEnd._adda,
    "LOOP": FrontEnd._loop,
    "ENDLOOP": FrontEnd._endloop,
}
