"""Error patterns of a campaign: what its faults did to the result of the one operation that its
program is, and which share of the faults with an effect these patterns hold.

Faults that end in silent data corruption are run once more on the referee, which has what a run
delivers. Ref: docs/llm_faults.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from enum import StrEnum
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
    ErrorPattern,
    Recording,
    Represented,
    Tile,
    difference,
    line_of,
)
from bankside.fault_injection.operation import Operation
from bankside.fault_injection.store import CampaignStore
from bankside.fault_injection.strata import share_among

__all__ = ["EFFECTIVE", "Part", "Recorded", "record"]

_BATCH = 25
_SOURCES = (
    "fault_injection/recording.py", "fault_injection/operation.py",
    "fault_injection/llm/patterns.py", "fault_injection/sites.py",
)  # fmt: skip
#: Classes of the faults that somebody notices.
EFFECTIVE = (OutcomeClass.SDC, OutcomeClass.HANG, OutcomeClass.DETECTED)


class Part(StrEnum):
    """Where the effect of a fault is."""

    TILE = "tile"
    """In the result alone: a pattern holds all of it."""
    OUTSIDE = "outside"
    """Also, or only, elsewhere in what the run delivers."""
    CONTROL = "control"
    """The site steers (role control or configuration), whatever it has changed this time."""
    HANG = "hang"
    STOPPED = "stopped"
    """An alarm, or an error of the machine itself."""


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
    lines = dict(zip(job.repeated, "".join(kept[n] for n in sorted(kept)).splitlines(True),
                     strict=True))  # fmt: skip
    lines |= {i: line_of(job.steered(i)) for i in job.of_control}
    return Recorded([lines[i] for i in sorted(lines)], job.recording(lines), [])


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
        """Lines of the patterns of some faults, and those that do not end as in the campaign."""
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
        return "".join(line_of(self._pattern(i, c)) for i, c in zip(ids, changes, strict=True)), []

    def _pattern(self, number: int, change: Any) -> ErrorPattern:
        """Of a fault in data."""
        all_of = not change.outside and change.whole
        made = difference(
            **self._head(number), golden=change.golden, faulty=change.faulty,
            change=self.change, control=not all_of, outside=change.outside,
        )  # fmt: skip
        return made or ErrorPattern(**self._head(number), control=True, outside=change.outside)

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
    def recording(self, lines: Mapping[int, str]) -> Recording:
        """lines: by id, of all SDC faults."""
        found, what = self.found, self.found.prepared.campaign.description
        parts = self._parts(lines)
        ids = np.array(list(parts), np.int64)
        weights, total = found.weights, float(found.weights[ids].sum())
        shares = {
            str(p): float(weights[[i for i in parts if parts[i] is p]].sum()) / total
            if total
            else 0
            for p in Part
        }
        counts = {str(p): sum(part is p for part in parts.values()) for p in Part}
        return Recording(
            campaign=found.prepared.campaign.key, name=found.prepared.campaign.name,
            machine=what.machine or "", workload=what.workload or {}, model=self.model,
            faults=int(self._mine.sum()), effective=len(parts), parts=shares, counts=counts,
            represented=self._represented(parts) if parts else None,
        )  # fmt: skip

    def _parts(self, lines: Mapping[int, str]) -> dict[int, Part]:
        """Part of every fault with an effect."""
        parts: dict[int, Part] = {}
        for outcome, part in (
            (OutcomeClass.HANG, Part.HANG), (OutcomeClass.DETECTED, Part.STOPPED),
        ):  # fmt: skip
            mine = self._mine & (self.found.classes == CLASSES.index(outcome))
            parts |= dict.fromkeys(np.flatnonzero(mine).tolist(), part)
        parts |= dict.fromkeys(self.of_control, Part.CONTROL)
        for number in self.repeated if lines else ():
            control = ErrorPattern.model_validate_json(lines[number]).control
            parts[number] = Part.OUTSIDE if control else Part.TILE
        return parts

    def _represented(self, parts: Mapping[int, Part]) -> Represented:
        found = self.found
        campaign, level = (
            found.prepared.campaign,
            found.prepared.campaign.description.sampling.level,
        )
        ids = np.array(list(parts), np.int64)
        hits: NDArray[np.bool_] = np.array([part is Part.TILE for part in parts.values()])
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
