"""From counts to FIT and to the metrics of ISO 26262: SPFM, LFM, PMHF, with bounds and verdicts.

Evidence for an analysis, not a certificate: soft errors only, unless permanent rates are given. No
rate is built in. Terms and formulae: ISO 26262-5 annex C and 26262-10 clause 8, read in secondary
sources; standing of each target in `TARGETS`. FIT: failures per 1e9 hours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bankside.errors import ConfigError
from bankside.fault_injection.blocks import (
    BlockFit,
    BlockResult,
    Reading,
    StratumResult,
    level_of_each,
)
from bankside.fault_injection.rates import RawRate, RawRates
from bankside.fault_injection.statistics import Floats, Verdict, verdict
from bankside.fault_injection.strata import Bound

__all__ = [
    "TARGETS", "Assessment", "BlockResult", "Metric", "RawRate", "RawRates", "Reading",
    "StratumResult", "Target", "assess", "measure", "overall",
]  # fmt: skip


@dataclass(frozen=True)
class Target:
    """What an ASIL asks for; None: nothing quantitative.

    spfm, lfm: at least. pmhf: FIT of the whole item, below. standing: how sure the numbers are.
    """

    asil: str
    spfm: float | None
    lfm: float | None
    pmhf: float | None
    standing: str


_MEMORY = "from memory, unverified: compare with ISO 26262-5 tables 4 to 6 before use"
TARGETS = {
    "A": Target(
        "A",
        None,
        None,
        None,
        "the standard has no quantitative requirement for ASIL A (from memory)",
    ),
    "B": Target("B", 0.90, 0.60, 100.0, _MEMORY),
    "C": Target("C", 0.97, 0.80, 100.0, _MEMORY),
    "D": Target("D", 0.99, 0.90, 10.0, "two secondary guides to ISO 26262-5 agree"),
}


@dataclass(frozen=True)
class Metric:
    """A metric with bounds; `verdict` None where the target asks for nothing."""

    name: str
    estimate: float
    low: float
    high: float
    target: float | None
    verdict: Verdict | None

    @property
    def worst(self) -> float:
        """The unfavourable bound: of PMHF the upper one, of the others the lower."""
        return self.high if self.name == "PMHF" else self.low


def _extreme(part: Floats, whole: Floats, low: Floats, high: Floats, largest: bool) -> float | None:
    """Largest (or least) sum(r part) / sum(r whole) over low <= r <= high; None if all is 0.

    The ratio is a mean of part / whole with weights r whole: at the extreme, those beyond a
    threshold have all the weight they may have and the others the least.
    """
    some = whole > 0
    part, whole, low, high = part[some], whole[some], low[some], high[some]
    if not len(whole):
        return None
    order = np.argsort(part / whole)
    order = order[::-1] if largest else order
    ends = []
    for split in range(len(order) + 1):
        rates = low.copy()
        rates[order[:split]] = high[order[:split]]
        ends.append(float(rates @ part / (rates @ whole)))
    return max(ends) if largest else min(ends)


class _Groups:
    """Sums over blocks that share a raw rate: what is uncertain in common cancels in a ratio."""

    def __init__(self, fits: Sequence[BlockFit]) -> None:
        self.fits = fits
        keys = [(fit.result.mode, fit.result.kind) for fit in fits]
        names = list(dict.fromkeys(keys))
        self.member = np.array([[key == name for key in keys] for name in names], np.float64)
        rates = [fits[keys.index(name)].rate.per_bit for name in names]
        self.rates = {
            end: np.array([getattr(r, end) for r in rates]) for end in ("estimate", "low", "high")
        }
        bits = [f.result.bits * f.result.duty * f.result.rate_factor for f in fits]
        self.bits = np.array(bits)

    def shares(self, end: str) -> tuple[Floats, Floats]:
        """Shares (dangerous, latent) of each block at one end of their bounds, sum at most 1.

        LFM falls with both, and faster with the latent one, which therefore keeps its bound.
        """
        bad = np.array([getattr(f.dangerous, end) for f in self.fits])
        latent = np.array([getattr(f.shares["latent"], end) for f in self.fits])
        if end == "high":
            return bad, latent
        return bad, np.minimum(latent, 1 - bad)

    def ratio(self, end: str, kind: str) -> float:
        """1 - SPFM or 1 - LFM at one end; 1, the worst, where there is nothing to divide by."""
        bad, latent = self.shares(end)
        if kind == "SPFM":
            part, whole = bad, np.ones_like(bad)
        else:
            part, whole = latent, 1 - np.minimum(bad, 1 - latent)
        part, whole = self.member @ (self.bits * part), self.member @ (self.bits * whole)
        if end == "estimate":
            low = high = self.rates["estimate"]
        else:
            low, high = self.rates["low"], self.rates["high"]
        found = _extreme(part, whole, low, high, largest=end != "low")
        return found if found is not None else float(end != "low")

    def fit(self, end: str, latent: bool = False) -> float:
        """FIT of dangerous (or latent) faults at one end."""
        share = self.shares(end)[latent]
        return float(self.rates[end] @ (self.member @ (self.bits * share)))


def measure(fits: Sequence[BlockFit], lifetime_hours: float | None = None) -> dict[str, Bound]:
    """SPFM, LFM (shares) and PMHF (FIT) of blocks, worst case of shares and raw rates together.

    SPFM = 1 - sum(SPF + RF) / sum(all); LFM = 1 - sum(latent) / sum(all - SPF - RF); PMHF = sum(SPF
    + RF), plus latent x all x lifetime for two faults that meet, if a lifetime is given (from
    above: any second fault counts). Ref: ISO 26262-5 annex C, 26262-10 clause 8 (from memory).
    """
    groups = _Groups(fits)
    ratios = {
        kind: Bound(*(1 - groups.ratio(end, kind) for end in ("estimate", "high", "low")))
        for kind in ("SPFM", "LFM")
    }
    single = {end: groups.fit(end) for end in ("estimate", "low", "high")}
    if lifetime_hours is not None:
        for end in ("estimate", "high"):
            total = sum(getattr(f.total, end) for f in fits)
            single[end] += groups.fit(end, latent=True) * total * lifetime_hours * 1e-9
    return {**ratios, "PMHF": Bound(**single)}


def overall(verdicts: Sequence[Verdict | None]) -> Verdict | None:
    """FAIL if any fails, PASS if all that is asked for passes; None if nothing is asked for."""
    asked = [v for v in verdicts if v is not None]
    if not asked:
        return None
    for found in (Verdict.FAIL, Verdict.INCONCLUSIVE):
        if found in asked:
            return found
    return Verdict.PASS


def _judge(name: str, bound: Bound, target: float | None) -> Metric:
    if target is None:
        found = None
    elif name == "PMHF":
        found = verdict(bound.low, bound.high, target, strict=True)
    else:
        found = verdict(-bound.high, -bound.low, -target)
    return Metric(name, bound.estimate, bound.low, bound.high, target, found)


@dataclass(frozen=True)
class Assessment:
    """All blocks against one target.

    level: with which all bounds hold together. level_each: of one bound. scope: faults counted.
    """

    target: Target
    level: float
    level_each: float
    fits: tuple[BlockFit, ...]
    metrics: tuple[Metric, ...]
    verdict: Verdict | None
    scope: str


def assess(
    results: Sequence[BlockResult],
    rates: RawRates,
    target: Target,
    reading: Reading | None = None,
    level: float = 0.95,
    looks: int = 1,
    lifetime_hours: float | None = None,
    pmhf_share: float = 1.0,
) -> Assessment:
    """Judge blocks. A wrong PASS has at most the probability 1 - level, and so has a wrong FAIL.

    looks: how often results of this campaign are judged, fixed beforehand. lifetime_hours: for the
    part of PMHF from two faults. pmhf_share: part of the item's budget that the design may use.

    Raises:
        ConfigError: no block, or a raw rate that the user did not give.
    """
    if not results or not 0 < pmhf_share <= 1:
        raise ConfigError(
            f"{len(results)} blocks, pmhf_share {pmhf_share!r}: expected at least one block and a "
            "share above 0, at most 1"
        )
    each = level_of_each(results, level, looks)
    fits = tuple(BlockFit.of(r, rates, reading or Reading(), each) for r in results)
    budget = None if target.pmhf is None else target.pmhf * pmhf_share
    limits = {"SPFM": target.spfm, "LFM": target.lfm, "PMHF": budget}
    bounds = measure(fits, lifetime_hours)
    metrics = tuple(_judge(name, bounds[name], limit) for name, limit in limits.items())
    modes = sorted({r.mode for r in results}, reverse=True)
    scope = " and ".join(modes) + " faults"
    return Assessment(
        target, level, each, fits, metrics, overall([m.verdict for m in metrics]), scope
    )
