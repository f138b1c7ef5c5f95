"""A campaign: pilot, allocation, the rest, the referee's sample, the result.

What is injected follows from the description and from what the store already holds, so a campaign
that was killed is simply started again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankside.cache import build_root
from bankside.errors import ConfigError
from bankside.fault_injection.classes import CLASSES, FAILURES, classify
from bankside.fault_injection.description import Campaign
from bankside.fault_injection.execution import (
    FaultExecutor,
    Task,
    actions_of,
    executor_of,
)  # fmt: skip
from bankside.fault_injection.fault import Fault
from bankside.fault_injection.sampling import Stratum, strata_of, windows
from bankside.fault_injection.sites import chosen, grouped
from bankside.fault_injection.store import CampaignStore
from bankside.fault_injection.strata import allocate
from bankside.mapping.explore.workers import Workers
from bankside.sim.faults import OUTCOME, Site

__all__ = ["Found", "Mismatch", "Prepared", "as_dict", "inject", "make_referee", "nets_of",
           "prepare", "store_path"]  # fmt: skip

PILOT, REST, REFEREE = 0, 1, 2
#: Faults that the referee repeats between two writes: each takes a whole run.
_REFEREE_BATCH = 25
OnDone = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A campaign with its design.

    Attributes:
        sites: with blocks and roles. cycles: of the fault-free run.
    """

    campaign: Campaign
    sites: Mapping[str, Site]
    strata: list[Stratum]
    cycles: int
    golden: np.void

    @property
    def most(self) -> int:
        """Faults of both stages."""
        what = self.campaign.description.sampling
        total = 0
        for model, _ in self.campaign.models:
            mine = [s.population for s in self.strata if s.model is model]
            every = sum(p for p in mine if p <= what.exhaustive)
            some = sum(p for p in mine if p > what.exhaustive)
            total += every + min(some, max(what.faults - every, 0))
        return total

    @property
    def first_sizes(self) -> NDArray[np.int64]:
        """Faults of each stratum in the first stage: the pilot, or all."""
        what = self.campaign.description.sampling
        return np.array([s.population if s.population <= what.exhaustive
                         else min(what.pilot, s.population) for s in self.strata],
                        np.int64)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Found:
    """All outcomes of a campaign, in the order of their ids.

    Attributes:
        stratum, sizes: index of each fault's stratum, and faults of each stratum.
        classes: index into `CLASSES`.
    """

    prepared: Prepared
    faults: list[Fault]
    stratum: NDArray[np.int64]
    outcomes: NDArray[np.void]
    classes: NDArray[np.uint8]
    sizes: NDArray[np.int64]

    @property
    def weights(self) -> NDArray[np.float64]:
        """Possible faults that each injected one stands for."""
        population = np.array([s.population for s in self.prepared.strata], np.float64)
        return (population / np.maximum(self.sizes, 1))[self.stratum]


@dataclass(frozen=True)
class Mismatch:
    """A fault on which lanes and referee do not agree."""

    id: int
    fault: Fault
    found: dict[str, int]
    referee: dict[str, int]


def prepare(campaign: Campaign) -> Prepared:
    """Build the design and its strata. Raises ConfigError where the description does not fit it."""
    executor = executor_of(campaign.target)
    what = campaign.description
    sites = grouped(executor.sites, what.blocks)
    cycles = executor.golden.cycles
    models = [(model, options, chosen(sites, options.sites, model.kinds))
              for model, options in campaign.models]  # fmt: skip
    strata = strata_of(sites.values(), models, windows(cycles, what.sampling.phases))
    prepared = Prepared(campaign, sites, strata, cycles, executor.golden.outcome)
    none = np.zeros(len(strata), np.int64)
    _rest(prepared, none, none)  # a budget that does not do is told before anything runs
    return prepared


# --- numbers --------------------------------------------------------------------------------------


def _rest(
    prepared: Prepared, done: NDArray[np.int64], hits: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Faults that each stratum gets in the second stage."""
    what, strata = prepared.campaign.description.sampling, prepared.strata
    more = np.zeros(len(strata), np.int64)
    for model, _ in prepared.campaign.models:
        mine = [s for s in strata if s.model is model]
        every = [s for s in mine if s.population <= what.exhaustive]
        some = np.array([s.number for s in mine if s.population > what.exhaustive], np.int64)
        if not len(some):
            continue
        population = np.array([strata[i].population for i in some], np.float64)
        total = what.faults - sum(s.population for s in every)
        try:
            wanted = allocate(total, population, hits[some], done[some], floor=what.pilot)
        except ConfigError as error:
            raise ConfigError(
                f"sampling: model {model.name}: {what.faults} faults less {what.faults - total} of "
                f"{len(every)} exhaustive strata leave {error}"
            ) from error
        more[some] = np.maximum(wanted - done[some], 0)
    return more


# --- running --------------------------------------------------------------------------------------


def inject(
    prepared: Prepared, store: CampaignStore, workers: Workers, on_done: OnDone = lambda _: None
) -> tuple[Found, list[Mismatch], int]:
    """Run, or continue, a campaign: (outcomes, mismatches, faults that the referee repeated)."""
    none = np.zeros(len(prepared.strata), np.int64)
    first = prepared.first_sizes
    _stage(PILOT, prepared, none, first, store, workers, on_done)
    pilot = _read(prepared, store, [PILOT], [first])
    failing = np.isin(pilot.classes, [CLASSES.index(c) for c in FAILURES])
    hits = np.bincount(pilot.stratum, failing, minlength=len(none)).astype(np.int64)
    more = _rest(prepared, first, hits)
    _stage(REST, prepared, first, more, store, workers, on_done)
    found = _read(prepared, store, [PILOT, REST], [first, more])
    mismatches, repeated = _refereed(found, store, on_done)
    return found, mismatches, repeated


def _stage(
    stage: int, prepared: Prepared, first: NDArray[np.int64], count: NDArray[np.int64],
    store: CampaignStore, workers: Workers, on_done: OnDone,
) -> None:  # fmt: skip
    """Run the batches of a stage that the store does not have."""
    what = prepared.campaign.description.sampling
    ends = first + count
    drawn: list[Fault] = []
    for s in prepared.strata:
        drawn += s.drawn(int(first[s.number]), int(ends[s.number]), what.seed)
    offset = int(first.sum())
    order = sorted(range(len(drawn)), key=lambda i: (drawn[i].cycle, i))
    batches = [order[at : at + what.batch] for at in range(0, len(order), what.batch)]
    done = store.done(stage)
    missing = [n for n in range(len(batches)) if n not in done]
    on_done(sum(len(batches[n]) for n in done if n < len(batches)))
    texts = [[drawn[i].to_json() for i in batches[n]] for n in missing]
    task: Any = Task(prepared.campaign.target, prepared.campaign.target.digest)
    for index, outcomes in workers.run(task, texts):  # type: ignore[arg-type]
        batch = batches[missing[index]]
        store.put(stage, missing[index], [offset + i for i in batch], texts[index], outcomes)  # type: ignore[arg-type]
        on_done(len(batch))


def _read(
    prepared: Prepared, store: CampaignStore, stages: Sequence[int],
    sizes: Sequence[NDArray[np.int64]],
) -> Found:  # fmt: skip
    faults: list[str] = []
    outcomes, numbers = [np.zeros(0, OUTCOME)], [np.zeros(0, np.int64)]
    for stage, size in zip(stages, sizes, strict=True):
        ids, texts, rows = store.read(stage)
        expected = np.arange(len(faults), len(faults) + int(size.sum()))
        if not np.array_equal(ids, expected):
            raise store.damaged(f"stage {stage} has {len(ids)} of {len(expected)} faults")
        faults += texts
        outcomes.append(rows)
        numbers.append(np.repeat(np.arange(len(size)), size))
    rows = np.concatenate(outcomes)
    return Found(
        prepared, [Fault.from_json(text) for text in faults], np.concatenate(numbers), rows,
        classify(rows, prepared.cycles), sum(sizes, np.zeros(len(prepared.strata), np.int64)),
    )  # fmt: skip


# --- referee --------------------------------------------------------------------------------------


def _refereed(found: Found, store: CampaignStore, on_done: OnDone) -> tuple[list[Mismatch], int]:
    """Repeat a random sample on the referee: (mismatches, faults repeated)."""
    campaign = found.prepared.campaign
    wanted = campaign.description.referee.sample
    done = store.done(REFEREE)
    if not wanted:
        return [], 0
    referee = None
    sample = _sample(found, wanted)
    batches = [sample[at : at + _REFEREE_BATCH] for at in range(0, len(sample), _REFEREE_BATCH)]
    for number, ids in enumerate(batches):
        if number not in done:
            referee = referee or make_referee(campaign, nets_of(found, sample))
            outcomes = _repeat(referee, [found.faults[i] for i in ids])
            texts = [found.faults[i].to_json() for i in ids]
            store.put(REFEREE, number, ids, texts, outcomes)
        on_done(len(ids))
    ids, _, rows = store.read(REFEREE)
    differ = found.outcomes[ids] != rows
    mismatches = [
        Mismatch(int(i), found.faults[i], as_dict(found.outcomes[i]), as_dict(row))
        for i, row, wrong in zip(ids, rows, differ, strict=True) if wrong
    ]  # fmt: skip
    return mismatches, len(ids)


def _sample(found: Found, wanted: int) -> list[int]:
    """Ids of a random sample."""
    seed = found.prepared.campaign.description.sampling.seed
    random = np.random.default_rng([seed, REFEREE])
    count = min(wanted, len(found.faults))
    return sorted(random.choice(len(found.faults), count, replace=False).tolist())


def nets_of(found: Found, sample: Sequence[int]) -> list[str]:
    """Nets that faults, given by their ids, force."""
    paths = {found.faults[i].site for i in sample}
    return sorted(p for p in paths if found.prepared.sites[p].kind == "net")


def make_referee(campaign: Campaign, nets: Sequence[str]) -> FaultExecutor:
    """The referee of a campaign. Raises ConfigError where its target has none."""
    referee = campaign.target.referee(nets)
    if referee is None:
        raise ConfigError(
            "referee.sample: the target has no referee; give it one, or write sample: 0 to report "
            "what nobody has checked"
        )
    return referee


def _repeat(referee: FaultExecutor, faults: Sequence[Fault]) -> NDArray[np.void]:
    return referee.run([actions_of(fault, referee.sites) for fault in faults])


def as_dict(row: np.void) -> dict[str, int]:
    """A row of `OUTCOME` as plain data."""
    return {name: int(row[name]) for name in OUTCOME.names or ()}


def store_path(campaign: Campaign) -> Path:
    """Where the outcomes of a campaign are kept by default."""
    return build_root() / "inject" / f"{campaign.key[:24]}.sqlite"
