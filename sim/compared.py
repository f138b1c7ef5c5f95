"""One machine on several executions at once: every program goes to each, and what they say is
compared.

The bits that are used further come from the RTL, from the golden model when the RTL is not chosen;
cycles from the RTL, else from the timing model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from bankside.errors import ConfigError, ProgramError
from bankside.isa.program import Program
from bankside.registry import nearest
from bankside.sim.agree import compare_bits, compare_cycles
from bankside.sim.engine import Engine, Result

MAX_DETAILS = 20
M = TypeVar("M")


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

    def note_sum(self, stalls: dict[str, int], cycles: int, where: str) -> None:
        """Stall reasons that do not sum to the cycles: one execution contradicts itself."""
        if sum(stalls.values()) == cycles:
            return
        self.sum_mismatches += 1
        detail = f"reasons sum to {sum(stalls.values())}, the call took {cycles} cycles"
        self._keep("stalls", detail, where)

    def _keep(self, kind: str, detail: str | None, where: str) -> None:
        if detail is not None and len(self.details) < MAX_DETAILS:
            self.details.append(f"{where}: {kind}: {detail}")

    def counts(self) -> dict[str, int | None]:
        """As results show them: None where nothing was compared, for zero would claim an agreement
        that nobody checked.
        """
        return {
            "bits_compared": self.bits_compared,
            "bit_mismatches": self.bit_mismatches if self.bits_compared else None,
            "cycles_compared": self.cycles_compared,
            "cycle_mismatches": self.cycle_mismatches if self.cycles_compared else None,
            "stall_sum_mismatches": self.sum_mismatches,
        }


def check_executions(names: Sequence[str], known: Collection[str]) -> str | None:
    """None when the executions give bits and cycles, else what is wrong with them."""
    unknown = [name for name in names if name not in known]
    if unknown:
        hint = nearest(unknown[0], known)
        return f"unknown execution {unknown[0]!r}{hint}; choose from: {', '.join(known)}"
    if len(set(names)) < len(names):
        return "an execution is named twice; remove one"
    if not {"golden", "rtl"} & set(names):
        return "nothing computes the model's bits; add golden or rtl"
    if not {"timing", "rtl"} & set(names):
        return "nothing counts cycles; add timing or rtl"
    return None


class Recorded(Protocol):
    """One call of an engine: its cycles, and the stall reasons that sum to them."""

    @property
    def cycles(self) -> int: ...

    @property
    def stalls(self) -> dict[str, int]: ...


C = TypeVar("C", bound=Recorded)


class Calls(Generic[C]):
    """Calls of one engine that runs on `compared` executions.

    Attributes
    ----------
    calls: one record per call.
    """

    def __init__(self, compared: Compared) -> None:
        self._compared = compared
        self.calls: list[C] = []

    @property
    def found(self) -> Agreements:
        """What the comparisons found since the start."""
        return self._compared.found

    @property
    def programs(self) -> int:
        """Programs that ran since the start."""
        return self._compared.programs

    @property
    def program_hash(self) -> str:
        """Hash over all programs since the start, in their order."""
        return self._compared.program_hash

    @property
    def cycles(self) -> int:
        """Cycles of all calls."""
        return sum(call.cycles for call in self.calls)

    @property
    def stalls(self) -> dict[str, int]:
        """Stall reasons of all calls; they sum to `cycles`."""
        return sum_stalls(call.stalls for call in self.calls)


def sum_stalls(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Cycles by reason of several results."""
    total: dict[str, int] = {}
    for part in parts:
        for reason, cycles in part.items():
            total[reason] = total.get(reason, 0) + int(cycles)
    return total


class Compared(Generic[M]):
    """One machine on all chosen executions.

    Attributes
    ----------
    found: what the comparisons found since `restart`. programs: how many ran.

    Raises
    ------
    ConfigError: the executions do not give bits and cycles (`check_executions`).
    """

    def __init__(
        self,
        machine: M,
        executions: Sequence[str],
        known: Collection[str],
        make: Callable[[str, M], Engine],
    ) -> None:
        if problem := check_executions(executions, known):
            raise ConfigError(f"executions {', '.join(executions)}: {problem}")
        self.machine, self.executions, self._make = machine, tuple(executions), make
        self._engines: dict[str, Engine] = {}
        self._forget()

    def _forget(self) -> None:
        self.found = Agreements()
        self.programs = 0
        self._digest = hashlib.sha256()

    def restart(self) -> None:
        """All executions back to power-on (made at the first call), nothing compared yet."""
        self._forget()
        for name in self.executions:
            if name in self._engines:
                self._engines[name].reset()
            else:
                self._engines[name] = self._make(name, self.machine)

    @property
    def running(self) -> set[str]:
        """Executions that take part; one that refuses a program is dropped."""
        return set(self._engines)

    @property
    def program_hash(self) -> str:
        """Hash over all programs since `restart`, in their order."""
        return self._digest.hexdigest()[:16]

    def fresh(self, program: Program, where: str) -> dict[str, Result]:
        """Run a program on freshly reset executions and count what differs."""
        for engine in self._engines.values():
            engine.reset()
        return self._results(program, where, trace=True)

    def run(self, program: Program, where: str, *, trace: bool) -> Result:
        """Run on every execution, compare, and join bits and cycles into one result."""
        self._digest.update(program.hash.encode())
        self.programs += 1
        results = self._results(program, where, trace=trace)
        bits = results.get("rtl") or results.get("golden")
        time = results.get("rtl") or results.get("timing")
        if bits is None or time is None:
            raise ProgramError(f"{where}: no execution is left that gives both bits and cycles")
        return Result(
            bits.outputs, time.cycles, time.counters, time.commands, time.macros, time.clock_domain
        )

    def _results(self, program: Program, where: str, *, trace: bool) -> dict[str, Result]:
        results = {}
        for name in tuple(self._engines):
            try:
                results[name] = self._engines[name].run(program, trace=trace)
            except ProgramError as error:
                self._drop(name, f"{name} refuses the program: {error}", where, error)
        # Programs that only fill a cache give no bits; what they wrote shows in later outputs.
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
