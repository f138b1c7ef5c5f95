"""Metrics of ISO 26262 of a campaign: what goes into `safety.assess`, what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bankside.fault_injection.blocks import BlockResult, StratumResult
from bankside.fault_injection.campaign import Found, Prepared
from bankside.fault_injection.classes import CLASSES
from bankside.fault_injection.description import COUNTED
from bankside.fault_injection.safety import TARGETS, Assessment, Metric, assess
from bankside.fault_injection.sampling import Stratum, bits_in

__all__ = ["assessed", "block_results", "check_rates", "metric_rows"]


def check_rates(prepared: Prepared) -> None:
    """Raise ConfigError for the first raw rate that the user did not give, before anything runs."""
    safety = prepared.campaign.description.safety
    if safety is None:
        return
    for stratum in prepared.strata:
        if stratum.model.name in prepared.campaign.counted:
            safety.rates.of(*COUNTED[stratum.model.name], stratum.block)


def block_results(found: Found, covered: Mapping[str, str] | None = None) -> list[BlockResult]:
    """One per block and counted model.

    Args:
        covered: path of a register, memory or instance -> its mechanism (`protect.Netlist`).
    """
    safety = found.prepared.campaign.description.safety
    counts = np.zeros((len(found.sizes), len(CLASSES)), np.int64)
    np.add.at(counts, (found.stratum, found.classes), 1)
    groups: dict[tuple[str, str], list[Stratum]] = {}
    for stratum in found.prepared.strata:
        if stratum.model.name in found.prepared.campaign.counted:
            groups.setdefault((stratum.block, stratum.model.name), []).append(stratum)
    results = []
    for (block, model), strata in groups.items():
        mode, kind = COUNTED[model]
        results.append(
            BlockResult(
                block, kind, bits_in(strata),
                tuple(_result(found, s, counts[s.number]) for s in strata),
                mechanism=_mechanism(strata, covered or {}), mode=mode,
                duty=1.0 if safety is None else safety.duty,
                rate_factor=_rate_factor(block, found),
            )
        )  # fmt: skip
    return results


def _result(found: Found, stratum: Stratum, counts: np.ndarray) -> StratumResult:
    by_class = {str(c): int(n) for c, n in zip(CLASSES, counts, strict=True) if n}
    every = int(found.sizes[stratum.number]) == stratum.population
    return StratumResult(stratum.population, by_class, every)


def _mechanism(strata: Sequence[Stratum], covered: Mapping[str, str]) -> str:
    """Names of the mechanisms of a block's sites; "none" where no site has one."""
    found = set()
    for stratum in strata:
        for site in stratum.sites:
            parts = site.path.split(".")
            ways = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
            found.add(next((covered[way] for way in ways if way in covered), covered.get("", "")))
    return "+".join(sorted(found - {""})) or "none"


def _rate_factor(block: str, found: Found) -> float:
    """Of hardened cells, where the whole block has them."""
    from bankside.fault_injection.protect.plan import read_plan

    plan = read_plan(found.prepared.campaign.description.protection or {})
    uses = plan.get("" if block == "top" else block, ())
    factors = [use.options.rate_factor for use in uses if use.name == "hardened"]  # type: ignore[attr-defined]
    return factors[0] if factors else 1.0


def assessed(found: Found, results: Sequence[BlockResult]) -> Assessment | None:
    """The campaign against its target; None: nothing was asked for."""
    safety = found.prepared.campaign.description.safety
    if safety is None or not results:
        return None
    return assess(
        results, safety.rates, TARGETS[safety.asil], safety.reading, safety.level, safety.looks,
        safety.lifetime_hours, safety.pmhf_share,
    )  # fmt: skip


def metric_rows(assessment: Assessment | None) -> list[dict[str, Any]]:
    """Verdicts as plain data: one row per metric, the last one for all together."""
    if assessment is None:
        return []
    rows = [
        {"metric": m.name, "asil": assessment.target.asil, "estimate": m.estimate, "low": m.low,
         "high": m.high, "worst": m.worst, "target": m.target,
         "verdict": str(m.verdict or "no requirement"), "text": _text(m)}
        for m in assessment.metrics
    ]  # fmt: skip
    rows.append(
        {"metric": f"ASIL {assessment.target.asil}", "asil": assessment.target.asil,
         "verdict": str(assessment.verdict or "no requirement"),
         "text": f"{assessment.scope}; all bounds together {assessment.level:.0%}; "
         f"{assessment.target.standing}"}
    )  # fmt: skip
    return rows


def _text(m: Metric) -> str:
    if m.name == "PMHF":
        wanted = "" if m.target is None else f", target < {m.target:g} FIT"
        return f"{m.estimate:.3g} FIT ({m.low:.3g}-{m.high:.3g}){wanted}"
    wanted = "" if m.target is None else f", target >= {m.target:.0%}"
    return f"{m.estimate:.2%} ({m.low:.2%}-{m.high:.2%}){wanted}"
