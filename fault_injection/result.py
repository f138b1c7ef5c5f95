"""The result of a campaign: tables, or the mismatches that forbid them; metrics; provenance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bankside.fault_injection.campaign import Found, Mismatch
from bankside.fault_injection.table import tables
from bankside.provenance import collect

__all__ = ["result_of"]


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
    return head if mismatches else head | tables(found)
