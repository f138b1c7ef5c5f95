"""What `bankside inject` does with a campaign, or with those of several designs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bankside.cache import atomic_write
from bankside.cli_support import progress
from bankside.fault_injection.campaign import Found, Mismatch, inject, prepare, store_path
from bankside.fault_injection.classes import CLASSES, OutcomeClass
from bankside.fault_injection.description import Campaign
from bankside.fault_injection.llm.patterns import file_text
from bankside.fault_injection.metrics import check_rates
from bankside.fault_injection.planning import planned
from bankside.fault_injection.recording import record
from bankside.fault_injection.replay import record_examples
from bankside.fault_injection.result import assessment_of, result_of
from bankside.fault_injection.store import CampaignStore
from bankside.mapping.explore.workers import Workers

__all__ = ["run_all", "run_one"]


class _Disagreement(Exception):
    """Lanes and referee do not agree in the campaign of a protected design."""


def run_one(
    campaign: Campaign, store: Path | None, workers: Workers, out: Path | None,
    waves: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Run, or continue, a campaign with its plan.

    Args:
        out: folder of the report. waves: with waveforms of some faults.
    """
    check_rates(prepare(campaign))
    found, mismatches, repeated = _injected(campaign, store, workers)
    result = result_of(found, mismatches, repeated)
    if mismatches:
        return result
    if campaign.description.patterns is not None:
        result["patterns"], mismatches = _recorded(found, store)
        if mismatches:
            return result_of(found, mismatches, repeated)
    if campaign.description.plan is not None:
        try:
            result["plan"] = _planned(found, store, workers)
        except _Disagreement as error:
            return result_of(*error.args)
    if out is not None:
        from bankside.fault_injection.report import write

        if waves:
            record_examples(campaign, result["examples"], out / "waves")
        result["files"] = write(result, assessment_of(found), out)
    return result


def _planned(found: Found, store: Path | None, workers: Workers) -> dict[str, Any]:
    """The plan of a campaign, with the faults of all campaigns that it took."""
    counts = {"injections": 0, "referee_faults": 0}

    def run(other: Campaign, name: str) -> Found:
        path = store and store.with_name(f"{store.stem}-{name}{store.suffix}")
        inside, wrong, repeated = _injected(other, path, workers)
        if wrong:
            raise _Disagreement(inside, wrong, repeated)
        counts["injections"] += len(inside.faults)
        counts["referee_faults"] += repeated
        return inside

    return planned(found, run) | counts


def _injected(
    campaign: Campaign, store: Path | None, workers: Workers
) -> tuple[Found, list[Mismatch], int]:
    prepared = prepare(campaign)
    total = prepared.most + campaign.description.referee.sample
    with (
        _store(campaign, store) as kept,
        progress(f"injecting into {campaign.name}", total) as step,
    ):
        return inject(prepared, kept, workers, step)


def _store(campaign: Campaign, path: Path | None) -> CampaignStore:
    description = campaign.description.model_dump(mode="json")
    return CampaignStore(path or store_path(campaign), campaign.key, description)


def _recorded(found: Found, store: Path | None) -> tuple[dict[str, Any], list[Mismatch]]:
    """Write the patterns of a campaign: (what they stand for, faults that end otherwise now)."""
    campaign = found.prepared.campaign
    what = campaign.description.patterns
    assert what is not None
    most = int((found.classes == CLASSES.index(OutcomeClass.SDC)).sum())
    with (
        _store(campaign, store) as kept,
        progress(f"recording patterns of {campaign.name}", most) as step,
    ):
        made = record(found, kept, step)
    if not made.mismatches:
        atomic_write(campaign.folder / what.out, file_text(made.lines, made.recording))
    head = {"file": what.out, "patterns": len(made.lines)}
    return head | made.recording.model_dump(), made.mismatches


def run_all(
    name: str, campaigns: Sequence[Campaign], store: Path | None, workers: Workers,
    out: Path | None, waves: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """One campaign after the other: sums, all blocks and verdicts with their design, and under
    `designs` each result. One mismatch anywhere, and there are neither blocks nor verdicts.
    """
    designs = {}
    for campaign in campaigns:
        path = store and store.with_name(f"{store.stem}-{campaign.name}{store.suffix}")
        folder = out and out / campaign.name
        designs[campaign.name] = run_one(campaign, path, workers, folder, waves)
    wrong = sum(r["referee_mismatches"] for r in designs.values())
    merged = {
        key: [] if wrong else [{"design": n} | row for n, r in designs.items() for row in r[key]]
        for key in ("verdicts", "blocks")
    }
    result = {
        "kind": "inject",
        "name": name,
        "injections": sum(r["injections"] for r in designs.values()),
        "referee_faults": sum(r["referee_faults"] for r in designs.values()),
        "referee_mismatches": wrong,
        **merged,
        "designs": designs,
    }
    if out is not None and not wrong:
        from bankside.fault_injection.report import PAGE, overview

        atomic_write(out / PAGE, overview(result))
        result["files"] = [PAGE]
    return result
