"""Kernel engine of the `npu` engine: when operations start and complete, what their cycles count
as.

Ref: docs/npu.md sections 5 and 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bankside.isa.npu_machine import (
    OUTPUT_LATENCY,
    SETUP,
    VECTOR_LATENCY,
    NpuMachine,
)
from bankside.sim.timing.npu_dma import NEVER
from bankside.sim.timing.npu_mac import SPEC, TABLE_CYCLES, Layer, Plan, Step, Worked, layer_of

MAC_OPERATIONS = ("CONV", "DEPTHWISE", "MATMUL", "POOL")
_LUT = SPEC.enums["elementwise"]["lut"]
_RMS = SPEC.enums["norm"]["rms"]
_SOFTMAX_TABLE = 32
_SOFTMAX_POSITION = 40
_RMS_POSITION = 60
_LAYER_POSITION = 110
_MOST_PLANS = 512


@dataclass(frozen=True)
class Operation:
    """Cycles of one operation: start, end of the last step (vector: of the work), completion.

    outputs: A_end of the last two units before it. worked: of a MAC operation.
    """

    name: str
    opcode: int
    start: int
    end: int
    complete: int
    outputs: tuple[int, int] = (NEVER, NEVER)
    plan: Plan | None = None
    worked: Worked | None = None

    @property
    def begin(self) -> int:
        """t0."""
        return self.start + SETUP

    def steps(self) -> list[Step]:
        """Every step of a MAC operation."""
        log: list[Step] = []
        self.plan.run(self.begin, self.outputs, log)
        return log


class Plans:
    """Plans by layer; they live on between programs."""

    def __init__(self) -> None:
        self._plans: dict[Layer, Plan] = {}

    def of(self, layer: Layer) -> Plan:
        """The plan of `layer`."""
        if layer not in self._plans:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            self._plans[layer] = Plan(layer)
        return self._plans[layer]


class Kernel:
    """The engine: an operation's cycles are known when it is dispatched."""

    def __init__(self, machine: NpuMachine, plans: Plans, skipping: bool) -> None:
        self._machine, self._plans, self._skipping = machine, plans, skipping
        self.operations: list[Operation] = []
        self._outputs = (NEVER, NEVER)

    @property
    def complete(self) -> int:
        """Cycle from which on no operation is outstanding."""
        return self.operations[-1].complete if self.operations else NEVER

    def dispatch(
        self, name: str, mode: int, registers: Mapping[str, int], words: Sequence[int], cycle: int
    ) -> None:
        """An operation that enters the queue in `cycle`.

        mode: operand `op` or `mode`. words: of the tiles of a CONV or DEPTHWISE.
        """
        start = max(cycle + 1, self._ready(name, registers["depend"]))
        opcode = SPEC.commands[name].opcode
        if name in MAC_OPERATIONS:
            plan = self._plans.of(layer_of(self._machine, name, registers, words))
            log = None if self._skipping else []
            worked = plan.run(start + SETUP, self._outputs, log)
            complete = worked.outputs[0] + OUTPUT_LATENCY
            operation = Operation(
                name, opcode, start, worked.end, complete, self._outputs, plan, worked
            )
            self._outputs = worked.outputs
        else:
            end = start + SETUP + self._vector(name, mode, registers)
            operation = Operation(name, opcode, start, end, end + VECTOR_LATENCY)
        self.operations.append(operation)

    def _ready(self, name: str, depend: int) -> int:
        """First cycle in which the operations before allow one to start."""
        if not self.operations:
            return NEVER
        before = self.operations[-1]
        chained = depend and name in MAC_OPERATIONS and before.name in MAC_OPERATIONS
        return before.end if chained else before.complete

    def _vector(self, name: str, mode: int, registers: Mapping[str, int]) -> int:
        """Cycles of the work of a vector operation."""
        positions, channels = registers["ofm_h"] * registers["ofm_w"], registers["ofm_c"]
        words = -(-channels // self._machine.vector_rate)
        match name:
            case "ELEMENTWISE":
                return positions * words + (TABLE_CYCLES if mode == _LUT else 0)
            case "SOFTMAX":
                return _SOFTMAX_TABLE + positions * (words + 2 * channels + _SOFTMAX_POSITION)
            case "NORM" if mode == _RMS:
                return positions * (2 * channels + _RMS_POSITION)
            case "NORM":
                return positions * (3 * channels + _LAYER_POSITION)
            case "COPY":
                return registers["n0"] * registers["n1"] * registers["n2"]
        raise ValueError(f"{name} is not an operation of the vector unit")
