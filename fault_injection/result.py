"""The result of a campaign: tables, or the mismatches that forbid them; metrics; provenance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bankside.fault_injection.campaign import Found, Mismatch
from bankside.fault_injection.execution import MachineTarget
from bankside.fault_injection.metrics import assessed, block_results, metric_rows
from bankside.fault_injection.safety import Assessment
from bankside.fault_injection.table import tables
from bankside.provenance import collect

__all__ = ["assessment_of", "result_of"]


def assessment_of(found: Found) -> Assessment | None:
    """Metrics of the campaign's own design; None: none were asked for."""
    if found.prepared.campaign.description.safety is None:
        return None
    target = found.prepared.campaign.target
    covered = target.covered() if isinstance(target, MachineTarget) else {}
    return assessed(found, block_results(found, covered))


def result_of(found: Found, mismatches: Sequence[Mismatch], repeated: int) -> dict[str, Any]:
    """Plain data. With a mismatch it holds nothing but that."""
    campaign = found.prepared.campaign
    what = campaign.description
    head = {
        "kind": "inject",
        "name": campaign.name,
        "description": what.model_dump(mode="json"),
        "campaign": campaign.key,
        "injections": len(found.faults),
        "referee_faults": repeated,
        "referee_mismatches": len(mismatches),
        "mismatches": [
            {"id": m.id, "fault": m.fault.to_json(), "found": m.found, "referee": m.referee}
            for m in mismatches
        ],
        "verdicts": [],
        "blocks": [],
        "provenance": collect(config_hash=campaign.key, seed=what.sampling.seed),
    }
    if mismatches:
        return head
    not_counted = [m.name for m, _ in campaign.models if m.name not in campaign.counted]
    return head | tables(found) | {
        "verdicts": metric_rows(assessment_of(found)),
        "not_in_metrics": not_counted,
    }  # fmt: skip
