"""Error patterns of a campaign: what its faults did to the result of the one operation that its
program is, and which share of the faults with an effect these patterns hold.

Faults that end in silent data corruption are run once more on the referee, which has what a run
delivers. Ref: docs/llm_faults.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bankside.cache import content_hash
from bankside.errors import ConfigError
from bankside.fault_injection.campaign import (
    Found,
    Mismatch,
    OnDone,
    as_dict,
    make_referee,
    nets_of,
)
from bankside.fault_injection.classes import CLASSES, OutcomeClass
from bankside.fault_injection.execution import RefereeExecutor, actions_of, code_hash
from bankside.fault_injection.fault import Fault
from bankside.fault_injection.llm.patterns import (
    PARTS,
    ErrorPattern,
    Recording,
    Represented,
    Tile,
    difference,
    line_of,
)
from bankside.fault_injection.operation import Change, Operation
from bankside.fault_injection.store import CampaignStore
from bankside.fault_injection.strata import share_among

__all__ = ["EFFECTIVE", "Recorded", "record"]

_BATCH = 25
_SOURCES = (
    "fault_injection/recording.py", "fault_injection/operation.py",
    "fault_injection/llm/patterns.py", "fault_injection/sites.py",
)  # fmt: skip
#: Classes of the faults that somebody notices.
EFFECTIVE = (OutcomeClass.SDC, OutcomeClass.HANG, OutcomeClass.DETECTED)


class Recorded(NamedTuple):
    """lines: of the file, one per pattern, by id. mismatches: then nothing else is of use."""

    lines: list[str]
    recording: Recording
    mismatches: list[Mismatch]


def record(found: Found, store: CampaignStore, on_done: OnDone = lambda _: None) -> Recorded:
    """Record the patterns of a campaign, or read those that its store has.

    Every fault that is run again has to end as it did in the campaign.
    """
    campaign = found.prepared.campaign
    if campaign.operation is None:
        raise ConfigError("patterns: the campaign is not of one operation of a language model")
    job = _Job(found, campaign.operation)
    kept, kind, referee = store.texts(job.kind), job.kind, None
    for number in range(0, len(job.repeated), _BATCH):
        ids = job.repeated[number : number + _BATCH]
        if number not in kept:
            referee = referee or make_referee(campaign, nets_of(found, job.repeated))
            text, mismatches = job.run(referee, ids)
            if mismatches:
                return Recorded([], job.recording({}), mismatches)
            store.put_text(kind, number, text)
            kept[number] = text
        on_done(len(ids))
    rows = "".join(kept[n] for n in sorted(kept)).splitlines(keepends=True)
    again = {i: row.partition("\t") for i, row in zip(job.repeated, rows, strict=True)}
    lines = {i: line for i, (part, _, line) in again.items() if part != "unread"}
    lines |= {i: line_of(job.steered(i)) for i in job.of_control}
    parts = {i: part for i, (part, _, _) in again.items()}
    return Recorded([lines[i] for i in sorted(lines)], job.recording(parts), [])


class _Job:
    """What is recorded of a campaign.

    Attributes:
        repeated: ids of SDC faults in data, which the referee runs again. of_control: of the rest
            of the SDC faults.
    """

    def __init__(self, found: Found, operation: Operation) -> None:
        self.found, self.operation = found, operation
        what = found.prepared.campaign.description
        assert what.patterns is not None
        self.change = what.patterns.change
        self.model = what.patterns.model or next(iter(what.models))
        strata = found.prepared.strata
        self._mine = np.array([s.model.name == self.model for s in strata])[found.stratum]
        self._sure = np.array(
            [n == s.population for n, s in zip(found.sizes, strata, strict=True)]
        )[found.stratum]
        sdc = np.flatnonzero(self._mine & (found.classes == CLASSES.index(OutcomeClass.SDC)))
        self.repeated = [i for i in sdc.tolist() if self._role(i) == "data"]
        self.of_control = sorted({*sdc.tolist()} - {*self.repeated})
        rows, columns = operation.places.shape
        self.tile = Tile(row=0, column=0, rows=rows, columns=columns)

    @property
    def kind(self) -> str:
        """Of the store's texts: whatever makes other patterns of the same outcomes has another."""
        places = np.ascontiguousarray(self.operation.places).tobytes()
        what = {"op": self.operation.op, "bits": self.operation.bits, "model": self.model,
                "change": self.change, "places": hashlib.sha256(places).hexdigest(),
                "code": code_hash(*_SOURCES)}  # fmt: skip
        return f"patterns {content_hash(what)[:24]}"

    def _role(self, number: int) -> str:
        return self.found.prepared.sites[self.found.faults[number].site].role

    # --- patterns ---------------------------------------------------------------------------------
    def run(self, referee: Any, ids: Sequence[int]) -> tuple[str, list[Mismatch]]:
        """Part and pattern of some faults, line by line; those that end otherwise than before."""
        assert isinstance(referee, RefereeExecutor)
        faults = [self.found.faults[i] for i in ids]
        rows, delivered = referee.delivered([actions_of(f, referee.sites) for f in faults])
        wrong = [
            Mismatch(i, fault, as_dict(self.found.outcomes[i]), as_dict(row))
            for i, fault, row in zip(ids, faults, rows, strict=True)
            if self.found.outcomes[i] != row
        ]
        if wrong:
            return "", wrong
        changes = map(self.operation.change, delivered)
        return "".join(self._row(i, change) for i, change in zip(ids, changes, strict=True)), []

    def _row(self, number: int, change: Change) -> str:
        """Of a fault in data: its part, a tabulator, its pattern."""
        held = not change.outside and change.whole
        made = difference(
            **self._head(number), golden=change.golden, faulty=change.faulty,
            change=self.change, control=not held, outside=change.outside,
        )  # fmt: skip
        if made is None and held:
            return "unread\t\n"
        made = made or ErrorPattern(**self._head(number), control=True, outside=change.outside)
        return f"{'tile' if held else 'outside'}\t{line_of(made)}"

    def steered(self, number: int) -> ErrorPattern:
        """Of a fault that is not in data."""
        return ErrorPattern(**self._head(number), control=True)

    def _head(self, number: int) -> dict[str, Any]:
        operation = self.operation
        return {
            "fault": _name(self.found.faults[number]), "engine": operation.engine,
            "op": operation.op, "bits": operation.bits, "tile": self.tile, "number": number,
            "weight": float(self.found.weights[number]), "role": self._role(number),
        }  # fmt: skip

    # --- what they stand for ----------------------------------------------------------------------
    def recording(self, repeated: Mapping[int, str]) -> Recording:
        """repeated: part of every fault that was run again."""
        found, what = self.found, self.found.prepared.campaign.description
        parts = self._parts() | repeated
        ids = np.array(list(parts), np.int64)
        weights, total = found.weights, float(found.weights[ids].sum())
        names = np.array(list(parts.values()), "U16")
        shares = {p: float(weights[ids[names == p]].sum()) / (total or 1) for p in PARTS}
        return Recording(
            campaign=found.prepared.campaign.key, name=found.prepared.campaign.name,
            machine=what.machine or "", workload=what.workload or {}, model=self.model,
            faults=int(self._mine.sum()), effective=len(parts),
            effective_share=min(1.0, total / float(weights[self._mine].sum())), parts=shares,
            counts={p: int((names == p).sum()) for p in PARTS},
            represented=self._represented(parts) if parts else None,
        )  # fmt: skip

    def _parts(self) -> dict[int, str]:
        """Part of the faults with an effect that are not run again."""
        parts = dict.fromkeys(self.of_control, "control")
        for outcome, part in ((OutcomeClass.HANG, "hang"), (OutcomeClass.DETECTED, "stopped")):
            mine = self._mine & (self.found.classes == CLASSES.index(outcome))
            parts |= dict.fromkeys(np.flatnonzero(mine).tolist(), part)
        return parts

    def _represented(self, parts: Mapping[int, str]) -> Represented:
        found = self.found
        campaign, level = (
            found.prepared.campaign,
            found.prepared.campaign.description.sampling.level,
        )
        ids = np.array(list(parts), np.int64)
        hits: NDArray[np.bool_] = np.array([part == "tile" for part in parts.values()])
        bound = share_among(hits, found.weights[ids], self._sure[ids], level)
        source = (
            f"campaign {campaign.name} ({campaign.key[:12]}): {int(hits.sum())} of {len(parts)} "
            f"{self.model} faults with an effect, weighted by stratum"
        )
        return Represented(
            share=bound.estimate, low=bound.low, high=bound.high, level=level, source=source
        )


def _name(fault: Fault) -> str:
    """Of a fault for people."""
    word = f"[{fault.word}]" if fault.word else ""
    return f"{fault.site}{word}:{fault.bit}@{fault.cycle}"
