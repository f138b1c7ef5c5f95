"""Short programs and random faults of every kind for the executions with faults."""

import itertools
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from bankside.isa.machines import AnyMachine
from bankside.isa.program import Program
from bankside.sim.faults import Action, Site
from bankside.sim.golden.pim import PimGolden
from bankside.sim.random_programs import random_programs as pim_programs
from bankside.sim.random_programs_npu import random_programs as npu_programs

sys.path.insert(0, str(Path(__file__).parents[2] / "cosim" / "benches"))

from array_top_program import attention_program, random_operands  # noqa: E402

#: Preset of an engine that compiles in half a minute.
MACHINES = {"array": "array_4x4", "npu": "npu_u55_32", "pim": "pim_tiny_ddr4"}
FOREVER = None


def program_of(machine: AnyMachine, seed: int = 1) -> Program:
    """A program of some hundred cycles that delivers something."""
    rng = np.random.default_rng(seed)
    if machine.engine == "array":
        return attention_program(machine, *random_operands(rng, machine.columns, 13))
    if machine.engine == "npu":
        named = itertools.islice(npu_programs(rng, machine), 9)
        return min((program for _, program in named), key=lambda p: len(p.words))
    programs = list(itertools.islice(pim_programs(rng, machine), 40))
    delivering = [p for p in programs if len(np.unique(PimGolden(machine).run(p).outputs)) > 8]
    return min(delivering, key=lambda p: len(p.words))


class RandomFaults:
    """Faults of one to three actions at random sites of `kinds`, in every cycle of a run of
    `cycles` cycles and somewhat behind it.

    sites : by path. used : bytes of the store that the program has.
    """

    def __init__(
        self, sites: Mapping[str, Site], cycles: int, used: int, seed: int,
        kinds: Iterable[str] = ("flop", "memory", "store", "port"),
    ) -> None:  # fmt: skip
        self.cycles, self.used = cycles, used
        self.rng = np.random.default_rng(seed)
        by_kind = {kind: [s for s in sites.values() if s.kind == kind] for kind in kinds}
        self.sites = [found for found in by_kind.values() if found]

    def take(self, count: int) -> list[tuple[Action, ...]]:
        return [self._fault() for _ in range(count)]

    def _fault(self) -> tuple[Action, ...]:
        return tuple(self._action() for _ in range(self.rng.choice((1, 1, 1, 2, 3))))

    def _pick(self, values):
        return values[self.rng.integers(len(values))]

    def _bits(self, width: int) -> int:
        """One bit, or about a quarter of all."""
        one = 1 << int(self.rng.integers(width))
        if self.rng.random() < 0.7:
            return one
        return one | sum(1 << i for i in range(width) if self.rng.random() < 0.25)

    def _first(self) -> int:
        """Mostly within the run; its last cycles and those behind it more often than others."""
        if self.rng.random() < 0.15:
            return max(0, self.cycles + int(self.rng.integers(-3, 3)))
        return int(self.rng.integers(self.cycles))

    def _action(self) -> Action:
        site = self._pick(self._pick(self.sites))
        mask, first = self._bits(site.width), self._first()
        near = {"memory": 64, "store": max(self.used, 1)}.get(site.kind, 1)
        depth = min(site.depth, near) if self.rng.random() < 0.8 else site.depth
        word = int(self.rng.integers(depth))
        if site.kind not in ("port", "net") and self.rng.random() < 0.6:
            return Action("flip", site.path, word, mask, None, first)
        op = "force" if site.kind in ("port", "net") else "hold"
        values = [0, mask, mask & self._bits(site.width), *([None] if op == "force" else [])]
        last = self._pick([first, first + int(self.rng.integers(9)), first + 100, FOREVER])
        return Action(op, site.path, word, mask, self._pick(values), first, last)
