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
from bankside.sim.compared import Calls, Compared, sum_stalls
from bankside.sim.engine import Engine
from bankside.sim.executions import ARRAY_EXECUTIONS, make_engine


@dataclass(frozen=True)
class PromptCall:
    """Attention of one layer over the prompt. Cycles of the array's clock; `stalls` sum to them."""

    layer: int
    tokens: int
    cycles: int
    stalls: dict[str, int]


class ArrayPrompt(Calls[PromptCall]):
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
        super().__init__(Compared(machine, executions, ARRAY_EXECUTIONS, make))
        self._compared.restart()

    def attend(self, layer: int, q: Array16, k: Array16, v: Array16) -> Array16:
        """See `PromptEngine.attend`. Raises ConfigError when the array cannot hold the shape."""
        tokens, heads, width = q.shape
        shape = AttentionShape(
            queries=tokens, keys=tokens, heads=heads, kv_heads=k.shape[1], e=width,
            f=v.shape[2], causal=True,
        )  # fmt: skip
        kernels = ArrayKernels(self.machine, shape, self.binding, "fp16")
        where = f"layer {layer}, prompt of {tokens} tokens"
        parts = [
            self._compared.run(program, where, trace=True)
            for program in kernels.programs(_bits(q)[None], _bits(k)[None], _bits(v)[None])
        ]
        cycles = sum(int(part.cycles or 0) for part in parts)
        stalls = sum_stalls(part.counters for part in parts)
        self.found.note_sum(stalls, cycles, where)
        self.calls.append(PromptCall(layer, tokens, cycles, stalls))
        return kernels.collect(parts)[0].view(np.float16)


def _bits(x: Array16) -> np.ndarray:
    return np.ascontiguousarray(x, np.float16).view(np.uint16)
