"""Decode attention of a language model on the `pim` engine, on several executions at once.

Every program goes to each chosen execution. The bits that continue the model come from the RTL
(from the golden model when the RTL is not chosen); what the executions say is compared.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError, ProgramError
from bankside.isa.machine import Machine
from bankside.isa.program import Program
from bankside.mapping.llm.attention import Array16
from bankside.mapping.lower_pim import KvLayout, PimKernels, Shape
from bankside.registry import nearest
from bankside.sim.agree import compare_bits, compare_cycles
from bankside.sim.engine import Engine, Result
from bankside.sim.executions import PIM_EXECUTIONS, make_engine

_BUS_COMMANDS = ("RD", "WR", "RDRB", "WRSB")
MAX_DETAILS = 20


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


@dataclass
class Agreements:
    """What the comparisons found. Mismatches count programs; details describe the first few."""

    bits_compared: int = 0
    bit_mismatches: int = 0
    cycles_compared: int = 0
    cycle_mismatches: int = 0
    sum_mismatches: int = 0
    details: list[str] = field(default_factory=list)

    def note_bits(self, detail: str | None, where: str) -> None:
        """Count one comparison of bits; `detail` says what differs."""
        self.bits_compared += 1
        self.bit_mismatches += detail is not None
        self._keep("bits", detail, where)

    def note_cycles(self, detail: str | None, where: str) -> None:
        """Count one comparison of cycles; `detail` says what differs."""
        self.cycles_compared += 1
        self.cycle_mismatches += detail is not None
        self._keep("cycles", detail, where)

    def note_sum(self, detail: str, where: str) -> None:
        """Stall reasons that do not sum to the cycles: one execution contradicts itself."""
        self.sum_mismatches += 1
        self._keep("stalls", detail, where)

    def _keep(self, kind: str, detail: str | None, where: str) -> None:
        if detail is not None and len(self.details) < MAX_DETAILS:
            self.details.append(f"{where}: {kind}: {detail}")


def check_executions(names: Sequence[str]) -> str | None:
    """None when the executions give bits and cycles, else what is wrong with them."""
    unknown = [name for name in names if name not in PIM_EXECUTIONS]
    if unknown:
        hint = nearest(unknown[0], PIM_EXECUTIONS)
        return f"unknown execution {unknown[0]!r}{hint}; choose from: {', '.join(PIM_EXECUTIONS)}"
    if len(set(names)) < len(names):
        return "an execution is named twice; remove one"
    if not {"golden", "rtl"} & set(names):
        return "nothing computes the model's bits; add golden or rtl"
    if not {"timing", "rtl"} & set(names):
        return "nothing counts cycles; add timing or rtl"
    return None


class PimAttention:
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
        if problem := check_executions(executions):
            raise ConfigError(f"executions {', '.join(executions)}: {problem}")
        self.machine, self.executions, self._nhc, self._make = machine, tuple(executions), nhc, make
        self._engines: dict[str, Engine] = {}
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
        self.calls: list[Call] = []
        self.found = Agreements()
        self._digest = hashlib.sha256()
        self.programs = self.append_programs = self.append_cycles = 0
        self.traces: deque[Trace] = deque(maxlen=layers * layout.passes * layout.lane_passes)
        for name in self.executions:
            if name in self._engines:
                self._engines[name].reset()
            else:
                self._engines[name] = self._make(name, self.machine)

    def prefill(self, layer: int, k: Array16, v: Array16) -> None:
        """See `AttentionEngine.prefill`."""
        first = self._used[layer]
        for program in self._kernels.append(layer, first, _bits(k), _bits(v)):
            result = self._run(program, f"layer {layer}, tokens from {first}", trace=False)
            self.append_cycles += result.cycles or 0
            self.append_programs += 1
        self._used[layer] += len(k)

    def decode(self, layer: int, q: Array16, k: Array16, v: Array16) -> Array16:
        """See `AttentionEngine.decode`."""
        self._used[layer] += 1
        tokens, where = self._used[layer], f"layer {layer}, {self._used[layer]} tokens"
        outputs, results = [], []
        for program in self._kernels.decode(layer, tokens, _bits(q), _bits(k), _bits(v)):
            result = self._run(program, where, trace=True)
            outputs.append(result.output(program, "o"))
            results.append(result)
            self.traces.append(Trace(layer, tokens, program, result))
            self.programs += 1
        self.calls.append(self._record(layer, tokens, results, where))
        return self._kernels.collect(outputs).view(np.float16)

    @property
    def running(self) -> set[str]:
        """Executions that take part; one that refuses a program is dropped."""
        return set(self._engines)

    def compare(self, program: Program, where: str) -> dict[str, Result]:
        """Run a program of one's own on freshly reset executions and count what differs.

        It replaces the sequence in the DRAM: `start` again before the next token.
        """
        for engine in self._engines.values():
            engine.reset()
        return self._results(program, where, trace=True)

    def _run(self, program: Program, where: str, *, trace: bool) -> Result:
        """Run on every execution, compare, and join bits and cycles into one result."""
        self._digest.update(program.hash.encode())
        results = self._results(program, where, trace=trace)
        bits = results.get("rtl") or results.get("golden")
        time = results.get("rtl") or results.get("timing")
        if bits is None or time is None:
            raise ProgramError(f"{where}: no execution is left that gives both bits and cycles")
        return Result(bits.outputs, time.cycles, time.counters, time.commands, time.macros)

    def _results(self, program: Program, where: str, *, trace: bool) -> dict[str, Result]:
        results = {}
        for name in tuple(self._engines):
            try:
                results[name] = self._engines[name].run(program, trace=trace)
            except ProgramError as error:
                self._drop(name, f"{name} refuses the program: {error}", where, error)
        # Programs that only fill the cache give no bits; what they wrote shows in later outputs.
        if {"golden", "rtl"} <= results.keys() and program.outputs:
            self.found.note_bits(compare_bits(results["golden"], results["rtl"]), where)
        if {"timing", "rtl"} <= results.keys():
            self.found.note_cycles(compare_cycles(results["timing"], results["rtl"]), where)
        return results

    def _drop(self, name: str, detail: str, where: str, error: ProgramError) -> None:
        """An execution that refuses a program has lost its state: the others go on without it."""
        if name == "golden" or len(self._engines) == 1:
            raise error
        if name == "rtl":
            self.found.note_bits(detail, where)
        self.found.note_cycles(detail, where)
        del self._engines[name]

    def _record(self, layer: int, tokens: int, results: list[Result], where: str) -> Call:
        stalls: dict[str, int] = {}
        for result in results:
            for reason, cycles in result.counters.items():
                stalls[reason] = stalls.get(reason, 0) + int(cycles)
        codes = np.concatenate([result.commands["code"] for result in results])
        call = Call(
            layer,
            tokens,
            sum(int(result.cycles or 0) for result in results),
            stalls,
            int((codes == self._mac).sum()),
            int(np.isin(codes, self._bus).sum()),
        )
        if sum(stalls.values()) != call.cycles:
            sums = f"reasons sum to {sum(stalls.values())}, the call took {call.cycles} cycles"
            self.found.note_sum(sums, where)
        return call

    @property
    def program_hash(self) -> str:
        """Hash over all programs of the sequence, in their order."""
        return self._digest.hexdigest()[:16]

    @property
    def cycles(self) -> int:
        """Cycles of all attention calls."""
        return sum(call.cycles for call in self.calls)

    @property
    def stalls(self) -> dict[str, int]:
        """Stall reasons of all attention calls; they sum to `cycles`."""
        reasons = self.calls[0].stalls if self.calls else {}
        return {reason: sum(call.stalls[reason] for call in self.calls) for reason in reasons}


def _bits(x: Array16) -> NDArray[np.uint16]:
    return np.ascontiguousarray(x, np.float16).view(np.uint16)
