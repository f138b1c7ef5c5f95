"""The `npu` engine in the execution without data: exact cycles, counters and traces.

Ref: docs/npu.md sections 4 to 8 and 10.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from bankside.isa.npu_machine import NpuMachine
from bankside.isa.npu_registers import check_regions
from bankside.isa.program import Program
from bankside.sim.engine import COMMAND_DTYPE, MACRO_DTYPE, Result
from bankside.sim.timing.npu_control import Control
from bankside.sim.timing.npu_kernel import Operation, Plans
from bankside.sim.timing.npu_mac import SPEC
from bankside.sim.timing.npu_weight_buffer import WeightBuffer

_DMA, _KERNEL = (SPEC.engines.index(name) for name in ("dma", "kernel"))
I64 = NDArray[np.int64]


class NpuTiming:
    """Timing model of one machine. Every run starts at cycle 0 with idle engines; the weight buffer
    keeps what it holds from one program to the next.

    `skipping` False works out every step (a PMU bracket that cuts an operation does so for it); the
    result is the same.
    """

    def __init__(self, machine: NpuMachine, *, skipping: bool = True) -> None:
        self.machine, self.skipping = machine, skipping
        self._plans = Plans()
        self.reset()

    def run(self, program: Program, *, trace: bool = False) -> Result:
        """Execute `program` without data.

        Returns a Result with `cycles` (up to and including the one of STOP) and `counters`, which
        sum to the cycles that the PMU counts; with `trace` also the macro-commands (docs/npu.md
        section 10). Raises ProgramError when the program does not end or its operands or regions
        make no sense.
        """
        check_regions(program.regions)
        self._weights.begin(program.host_in)
        control = Control(self.machine, program, self._weights, self._plans, self.skipping)
        cycles = control.run()
        counters = _counters(control)
        macros = np.array(_macros(control), MACRO_DTYPE) if trace else np.zeros(0, MACRO_DTYPE)
        commands = np.zeros(0, COMMAND_DTYPE)
        return Result(None, cycles, counters, commands, macros, self.machine.clock_domain)

    def reset(self) -> None:
        """The weight buffer is zero again."""
        self._weights = WeightBuffer(self.machine)


def _macros(control: Control) -> list[tuple[int, int, int, int, int]]:
    found = [(_DMA, t.opcode, t.first, t.last, t.complete) for t in control.dma.transfers]
    found += [(_KERNEL, o.opcode, o.start, o.end, o.complete) for o in control.kernel.operations]
    return sorted(found, key=lambda macro: (macro[2], macro[0]))


# --- counters -----------------------------------------------------------------------------------


class Spans:
    """Sorted disjoint intervals of cycles, to be intersected with others."""

    def __init__(self, spans: Iterable[tuple[int, int]]) -> None:
        kept = np.array([s for s in spans if s[0] < s[1]], np.int64).reshape(-1, 2)
        self.spans = kept
        lengths = kept[:, 1] - kept[:, 0]
        self._before = np.concatenate([[0], np.cumsum(lengths)])

    def below(self, cycles: I64) -> I64:
        """How many of its cycles are lower than each of `cycles`."""
        if not len(self.spans):
            return np.zeros_like(cycles)
        index = np.maximum(np.searchsorted(self.spans[:, 0], cycles, "right") - 1, 0)
        inside = np.clip(cycles, *self.spans[index].T) - self.spans[index, 0]
        return self._before[index] + inside

    def within(self, spans: Iterable[tuple[int, int]]) -> int:
        """How many of its cycles lie in `spans`; an empty or reversed one has none."""
        bounds = np.array(list(spans), np.int64).reshape(-1, 2)
        bounds = bounds[bounds[:, 0] < bounds[:, 1]]
        return int((self.below(bounds[:, 1]) - self.below(bounds[:, 0])).sum())

    def without(self, others: Spans) -> Spans:
        """Its cycles that are not in `others`."""
        cuts = others.spans.reshape(-1)
        found = []
        for first, end in self.spans:
            inner = cuts[(cuts > first) & (cuts < end)]
            edges = np.concatenate([[first], inner, [end]])
            outside = np.searchsorted(cuts, edges[:-1], "right") % 2 == 0
            found += zip(edges[:-1][outside], edges[1:][outside], strict=True)
        return Spans(found)

    def contains(self, first: int, end: int) -> bool:
        """Every cycle of [first, end) is one of it."""
        return self.within([(first, end)]) == end - first


def _counters(control: Control) -> dict[str, int]:
    """Cycles by reason while the PMU counts."""
    counters, enabled = dict.fromkeys(SPEC.stalls, 0), Spans(map(tuple, control.enabled))
    busy = []
    operations = control.kernel.operations
    for operation, after in zip_longest(operations, operations[1:]):
        end = operation.complete if after is None else min(operation.complete, after.start)
        busy.append((operation.start, end))
        for reason, cycles in _of_operation(operation, end, enabled).items():
            counters[reason] += cycles
    free = enabled.without(Spans(busy))
    for reason in ("dma", "fetch", "control"):
        spans = ((i.first, i.end) for i in control.idle if i.reason == reason)
        counters[reason] += free.within(spans)
    return counters


def _of_operation(operation: Operation, end: int, enabled: Spans) -> dict[str, int]:
    """Cycles of an operation from its start to `end`, its completion or the start of the next."""
    if operation.worked is None:
        return {operation.name.lower(): enabled.within([(operation.start, end)])}
    worked = operation.worked
    if enabled.contains(operation.begin, operation.end):
        mac, weights = worked.mac, worked.weights
    else:
        mac, weights = _cut(operation, enabled)
    body = enabled.within([(operation.begin, operation.end)])
    return {
        "mac": mac,
        "weights": weights,
        "output": body - mac - weights + enabled.within([(operation.end, end)]),
        "setup": enabled.within([(operation.start, operation.begin)]),
    }


def _cut(operation: Operation, enabled: Spans) -> tuple[int, int]:
    """Cycles of `mac` and `weights` of an operation that is counted in part."""
    steps = operation.steps()
    ends = [operation.begin, *(step.end for step in steps[:-1])]
    lacking = [
        (before, step.there)
        for before, step in zip(ends, steps, strict=True)
        if step.there is not None
    ]
    return enabled.within((s.start, s.end) for s in steps), enabled.within(lacking)
