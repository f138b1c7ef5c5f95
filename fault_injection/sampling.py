"""Strata of a campaign, and which of their faults are injected.

A stratum is model x block x role x phase; its faults are numbered, and a keyed permutation of the
numbers is read from its beginning. So a larger sample contains the smaller one, no fault comes
twice, and everybody who knows the seed draws the same. Ref: docs/inject.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError
from bankside.fault_injection.fault import Fault
from bankside.fault_injection.models.base import FaultModel
from bankside.fault_injection.models.dram import depth_of
from bankside.sim.faults import Site

__all__ = ["Phase", "Stratum", "bits_in", "permuted", "strata_of", "windows"]

I64 = NDArray[np.int64]
_ROUNDS = 4
WHOLE_RUN = "run"


class Phase(NamedTuple):
    """Cycles first..end-1 of the fault-free run."""

    name: str
    first: int
    end: int


def windows(cycles: int, phases: int | Mapping[str, int]) -> list[Phase]:
    """Phases of a run: equal windows, or name -> first cycle.

    Raises:
        ConfigError: more windows than cycles, or marks that do not start at 0 and grow below the
            length of the run.
    """
    if isinstance(phases, int):
        if phases > cycles:
            raise ConfigError(f"phases: {phases} windows, but the run has {cycles} cycles")
        edges = [cycles * i // phases for i in range(phases + 1)]
        names = [f"{first}-{end - 1}" for first, end in zip(edges, edges[1:], strict=False)]
        return [Phase(*row) for row in zip(names, edges, edges[1:], strict=False)]
    marks = list(phases.values())
    if not marks or marks[0] != 0 or marks != sorted(set(marks)) or marks[-1] >= cycles:
        raise ConfigError(
            f"phases: {dict(phases)}; expected first cycles that begin with 0, grow and lie below "
            f"the {cycles} cycles of the run"
        )
    return [Phase(*row) for row in zip(phases, marks, [*marks[1:], cycles], strict=True)]


@dataclass(frozen=True, eq=False)
class Stratum:
    """Faults that are drawn together.

    Attributes:
        number: its index in the campaign. places: faults that may begin in one cycle, of each site.
        phase: cycles in which they begin; of models for the whole run: cycle 0 alone.
    """

    number: int
    model: FaultModel
    options: Any
    block: str
    role: str
    phase: Phase
    sites: tuple[Site, ...]
    places: I64

    @property
    def name(self) -> str:
        return f"{self.model.name} / {self.block} / {self.role} / {self.phase.name}"

    @property
    def population(self) -> int:
        """Different faults."""
        return int(self.places.sum()) * (self.phase.end - self.phase.first)

    def fault(self, number: int) -> Fault:
        """A fault by its number, 0 to population - 1: cycles vary slowest."""
        cycle, place = divmod(int(number), int(self.places.sum()))
        ends = np.cumsum(self.places)
        index = int(np.searchsorted(ends, place, side="right"))
        inside = place - int(ends[index] - self.places[index])
        site = self.sites[index]
        return self.model.fault(site, inside, self.phase.first + cycle, self.options)

    def drawn(self, first: int, end: int, seed: int) -> list[Fault]:
        """Faults first..end-1 of its order."""
        key = f"{seed}:{self.name}"
        return [self.fault(n) for n in permuted(np.arange(first, end), self.population, key)]


def bits_in(strata: Iterable[Stratum]) -> int:
    """Bits of the sites of strata, each site once; of main memory those that can be hit."""
    found = {
        site.path: site.width * depth_of(site, s.options.model_dump())
        for s in strata for site in s.sites
    }  # fmt: skip
    return sum(found.values())


def strata_of(
    sites: Iterable[Site],
    models: Sequence[tuple[FaultModel, Any, Sequence[Site]]],
    phases: Sequence[Phase],
) -> list[Stratum]:
    """All strata that are not empty.

    Args:
        models: each with its options and the sites that it is given.

    Raises:
        ConfigError: a model has nothing to hit.
    """
    order = {site.path: i for i, site in enumerate(sites)}
    found: list[Stratum] = []
    for model, options, given in models:
        times = phases if model.when == "cycle" else [Phase(WHOLE_RUN, 0, 1)]
        groups: dict[tuple[str, str], list[tuple[Site, int]]] = {}
        for site in sorted(given, key=lambda s: order[s.path]):
            places = model.places(site, options)
            if places:
                groups.setdefault((site.block, site.role), []).append((site, places))
        if not groups:
            raise ConfigError(
                f"models: {model.name} has nothing to hit: none of the {len(given)} sites given "
                f"has room for it; give it other sites, or leave it out"
            )
        for (block, role), rows in sorted(groups.items()):
            chosen, places = zip(*rows, strict=True)
            for phase in times:
                found.append(Stratum(len(found), model, options, block, role, phase, chosen,
                                     np.array(places, np.int64)))  # fmt: skip
    return found


# --- order ----------------------------------------------------------------------------------------


def permuted(numbers: I64, population: int, key: str) -> I64:
    """Place of each number in a permutation of range(population) that `key` chooses.

    A Feistel network over the next even power of two; what falls outside goes round again.
    Ref: Black, Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002 (cycle walking).
    """
    half = max(1, -(-max(population - 1, 1).bit_length() // 2))
    mask = np.uint64((1 << half) - 1)
    digest = hashlib.blake2b(key.encode(), digest_size=8 * _ROUNDS).digest()
    keys = np.frombuffer(digest, "<u8")
    out = numbers.astype(np.uint64)
    todo = np.ones(len(out), bool)
    while todo.any():
        out[todo] = _feistel(out[todo], np.uint64(half), mask, keys)
        todo = out >= population
    return out.astype(np.int64)


def _feistel(
    x: NDArray[np.uint64], half: np.uint64, mask: np.uint64, keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    left, right = x >> half, x & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right + key) & mask)
    return left << half | right


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finaliser of splitmix64. Ref: Steele, Lea, Flood, OOPSLA 2014."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)
