"""Decode attention of a language model on the `pim` engine, on several executions at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bankside.isa.machine import Machine
from bankside.isa.program import Program
from bankside.mapping.llm.attention import Array16
from bankside.mapping.lower_pim import KvLayout, PimKernels, Shape
from bankside.sim.compared import Calls, Compared, sum_stalls
from bankside.sim.engine import Engine, Result
from bankside.sim.executions import PIM_EXECUTIONS, make_engine

_BUS_COMMANDS = ("RD", "WR", "RDRB", "WRSB")


@dataclass(frozen=True)
class Call:
    """One attention call of one layer. Cycles of the memory clock; `stalls` sum to `cycles`.

    tokens: context length with the newest token. macs: all-bank MAC columns. bursts: bursts on the
    rank's data bus.
    """

    layer: int
    tokens: int
    cycles: int
    stalls: dict[str, int]
    macs: int
    bursts: int


@dataclass(frozen=True)
class Trace:
    """One program of an attention call with everything that happened in it."""

    layer: int
    tokens: int
    program: Program
    result: Result


class PimAttention(Calls[Call]):
    """`AttentionEngine` (mapping.llm.attention) that runs every program on all chosen executions.

    Attributes
    ----------
    calls: one record per attention call. found: what the comparisons found.
    append_cycles, append_programs: filling the cache with the prompt.
    traces: programs of the newest token, of all layers.
    """

    def __init__(
        self,
        machine: Machine,
        executions: Sequence[str] = ("golden", "timing", "rtl"),
        *,
        nhc: int | None = None,
        make: Callable[[str, Machine], Engine] = make_engine,
    ) -> None:
        self.machine, self._nhc = machine, nhc
        super().__init__(Compared(machine, executions, PIM_EXECUTIONS, make))
        self._mac = machine.std.code("MAC")
        self._bus = [machine.std.code(name) for name in _BUS_COMMANDS]

    @property
    def kernels(self) -> PimKernels:
        """Programs of the current sequence; there are none before `start`."""
        return self._kernels

    def start(
        self, *, layers: int, kv_heads: int, query_heads: int, head_dim: int, max_tokens: int
    ) -> None:
        """See `AttentionEngine.start`. ConfigError when the rank cannot hold the context."""
        shape = Shape(layers, kv_heads, query_heads, head_dim, max_tokens)
        # Before any engine is made: a context that does not fit is refused without compiling.
        layout = KvLayout.of(self.machine, shape, nhc=self._nhc)
        self._kernels = PimKernels(layout)
        self._used = [0] * layers
        self.calls = []
        self.append_programs = self.append_cycles = 0
        self.traces: deque[Trace] = deque(maxlen=layers * layout.passes * layout.lane_passes)
        self._compared.restart()

    def prefill(self, layer: int, k: Array16, v: Array16) -> None:
        """See `AttentionEngine.prefill`."""
        first = self._used[layer]
        for program in self._kernels.append(layer, first, _bits(k), _bits(v)):
            result = self._compared.run(program, f"layer {layer}, tokens from {first}", trace=False)
            self.append_cycles += result.cycles or 0
            self.append_programs += 1
        self._used[layer] += len(k)

    def decode(self, layer: int, q: Array16, k: Array16, v: Array16) -> Array16:
        """See `AttentionEngine.decode`."""
        self._used[layer] += 1
        tokens, where = self._used[layer], f"layer {layer}, {self._used[layer]} tokens"
        outputs, results = [], []
        for program in self._kernels.decode(layer, tokens, _bits(q), _bits(k), _bits(v)):
            result = self._compared.run(program, where, trace=True)
            outputs.append(result.output(program, "o"))
            results.append(result)
            self.traces.append(Trace(layer, tokens, program, result))
        self.calls.append(self._record(layer, tokens, results, where))
        return self._kernels.collect(outputs).view(np.float16)

    @property
    def running(self) -> set[str]:
        """Executions that take part; one that refuses a program is dropped."""
        return self._compared.running

    def compare(self, program: Program, where: str) -> dict[str, Result]:
        """Run a program of one's own on freshly reset executions and count what differs.

        It replaces the sequence in the DRAM: `start` again before the next token.
        """
        return self._compared.fresh(program, where)

    def _record(self, layer: int, tokens: int, results: list[Result], where: str) -> Call:
        stalls = sum_stalls(result.counters for result in results)
        codes = np.concatenate([result.commands["code"] for result in results])
        call = Call(
            layer,
            tokens,
            sum(int(result.cycles or 0) for result in results),
            stalls,
            int((codes == self._mac).sum()),
            int(np.isin(codes, self._bus).sum()),
        )
        self.found.note_sum(stalls, call.cycles, where)
        return call


def _bits(x: Array16) -> NDArray[np.uint16]:
    return np.ascontiguousarray(x, np.float16).view(np.uint16)
