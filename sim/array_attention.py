"""Attention over the prompt of a language model on the `array` engine, on several executions at
once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bankside.isa.array_machine import ArrayMachine
from bankside.mapping.llm.attention import Array16
from bankside.mapping.lower_array import ArrayKernels, AttentionShape
from bankside.sim.compared import Agreements, Compared
from bankside.sim.engine import Engine
from bankside.sim.executions import ARRAY_EXECUTIONS, make_engine


@dataclass(frozen=True)
class PromptCall:
    """Attention of one layer over the prompt. Cycles of the array's clock; `stalls` sum to them."""

    layer: int
    tokens: int
    cycles: int
    stalls: dict[str, int]


class ArrayPrompt:
    """`PromptEngine` (mapping.llm.attention) that runs every program on all chosen executions.

    Attributes
    ----------
    calls: one record per layer. binding: schedule of the work (mapping/binding).
    """

    def __init__(
        self,
        machine: ArrayMachine,
        binding: str = "interleaved",
        executions: Sequence[str] = ("golden", "timing", "rtl"),
        *,
        make: Callable[[str, ArrayMachine], Engine] = make_engine,
    ) -> None:
        self.machine, self.binding = machine, binding
        self._compared = Compared(machine, executions, ARRAY_EXECUTIONS, make)
        self._compared.restart()
        self.calls: list[PromptCall] = []

    @property
    def found(self) -> Agreements:
        """What the comparisons found."""
        return self._compared.found

    @property
    def programs(self) -> int:
        """Programs that ran."""
        return self._compared.programs

    @property
    def program_hash(self) -> str:
        """Hash over all programs, in their order."""
        return self._compared.program_hash

    @property
    def cycles(self) -> int:
        """Cycles of all calls."""
        return sum(call.cycles for call in self.calls)

    @property
    def stalls(self) -> dict[str, int]:
        """Stall reasons of all calls; they sum to `cycles`."""
        reasons = self.calls[0].stalls if self.calls else {}
        return {reason: sum(call.stalls[reason] for call in self.calls) for reason in reasons}

    def attend(self, layer: int, q: Array16, k: Array16, v: Array16) -> Array16:
        """See `PromptEngine.attend`. Raises ConfigError when the array cannot hold the shape."""
        tokens, heads, width = q.shape
        shape = AttentionShape(
            queries=tokens, keys=tokens, heads=heads, kv_heads=k.shape[1], e=width,
            f=v.shape[2], causal=True,
        )  # fmt: skip
        kernels = ArrayKernels(self.machine, shape, self.binding, "fp16")
        cycles, stalls, parts = 0, dict[str, int](), []
        where = f"layer {layer}, prompt of {tokens} tokens"
        for program in kernels.programs(_bits(q)[None], _bits(k)[None], _bits(v)[None]):
            result = self._compared.run(program, where, trace=True)
            cycles += int(result.cycles or 0)
            for reason, count in result.counters.items():
                stalls[reason] = stalls.get(reason, 0) + int(count)
            parts.append(result)
        self.found.note_sum(stalls, cycles, where)
        self.calls.append(PromptCall(layer, tokens, cycles, stalls))
        return kernels.collect(parts)[0].view(np.float16)


def _bits(x: Array16) -> np.ndarray:
    return np.ascontiguousarray(x, np.float16).view(np.uint16)
