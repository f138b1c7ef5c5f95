"""Strata: how many injections each gets, and what all of them say together; importance weights.

A stratum is a set of possible faults (block x role x phase) from which injections are drawn evenly,
or of which every one is tried. Near coverage 1 normal limits of stratified estimates are wrong:
bounds here are exact. Ref: Cukier, Powell, Arlat, IEEE Transactions on Computers 48(7), 1999.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from bankside.errors import ConfigError
from bankside.fault_injection.statistics import (
    Floats,
    check_level,
    lower_bound,
    split_level,
    upper_bound,
    wilson_share,
)

__all__ = ["PILOT", "Bound", "Strata", "Weighted", "allocate", "share_among", "weighted_share"]

PILOT = 200  # injections per stratum before any allocation by what they showed


@dataclass(frozen=True)
class Bound:
    """An estimate between a lower and an upper bound."""

    estimate: float
    low: float
    high: float

    def __mul__(self, factor: float) -> Bound:
        return Bound(self.estimate * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Strata:
    """Results of injections into strata; arrays of one entry each.

    weights: share of a stratum in all possible faults; sum 1. hits, trials: counts.
    exhaustive: every possible fault of the stratum was tried, its share is known.
    """

    weights: Floats
    hits: Floats
    trials: Floats
    exhaustive: np.ndarray

    @classmethod
    def of(
        cls,
        populations: ArrayLike,
        hits: ArrayLike,
        trials: ArrayLike,
        exhaustive: Sequence[bool] | None = None,
    ) -> Strata:
        """Build from the number of possible faults of each stratum.

        Raises:
            ConfigError: lengths differ, a stratum is empty, or it is called exhaustive but another
                number of faults than it has was tried.
        """
        sizes, k, n = (
            np.atleast_1d(np.asarray(a, np.float64)) for a in (populations, hits, trials)
        )
        every = np.zeros(len(sizes), bool) if exhaustive is None else np.asarray(exhaustive, bool)
        if not len(sizes) == len(k) == len(n) == len(every) or not len(sizes):
            raise ConfigError(
                f"{len(sizes)} populations, {len(k)} hits, {len(n)} trials, {len(every)} flags: "
                "expected one of each per stratum and at least one stratum"
            )
        if (sizes <= 0).any():
            raise ConfigError(f"stratum {int(np.argmin(sizes))}: no possible fault; leave it out")
        if (wrong := every & (n != sizes)).any():
            at = int(np.argmax(wrong))
            raise ConfigError(
                f"stratum {at}: {n[at]:g} trials of {sizes[at]:g} possible faults, but exhaustive; "
                "expected each fault exactly once"
            )
        upper_bound(k, np.maximum(n, 0), 0.5)  # refuses counts that are none
        return cls(sizes / sizes.sum(), k, n, every)

    @property
    def sampled(self) -> int:
        """Number of strata whose share is only known from a sample."""
        return int((~self.exhaustive).sum())

    def estimate(self) -> float:
        """Share over all possible faults; a stratum without trials counts as 1, the worst."""
        shares = np.where(self.trials > 0, self.hits / np.maximum(self.trials, 1), 1.0)
        return float(self.weights @ shares)

    def variance(self) -> float:
        """Variance of `estimate`, sum W^2 p (1-p) / n. Ref: Cochran, Sampling Techniques, 5.4."""
        n = np.maximum(self.trials, 1)
        shares = self.hits / n
        each = np.where(self.exhaustive, 0.0, self.weights**2 * shares * (1 - shares) / n)
        return float(each.sum())

    def bound(self, level_each: float) -> Bound:
        """Weighted sums of exact one-sided bounds of each stratum, each of level `level_each`."""
        shares = self.hits / np.maximum(self.trials, 1)
        low = np.where(self.exhaustive, shares, lower_bound(self.hits, self.trials, level_each))
        high = np.where(self.exhaustive, shares, upper_bound(self.hits, self.trials, level_each))
        return Bound(self.estimate(), float(self.weights @ low), float(self.weights @ high))

    def interval(
        self, level: float = 0.95, method: Literal["each", "pooled"] = "each", sided: int = 1
    ) -> Bound:
        """Estimate with bounds that hold with at least `level`.

        sided: 1 (either bound on its own) or 2 (both together). method, to be chosen before
        looking: `each` adds bounds of all strata with Sidak's split; `pooled` bounds the sum of all
        hits, which is tight where trials are nearly proportional to weights.

        With n_h of n trials and v_h = n_h / n, all hits together are fewer than binomial ones of
        the mean share sum(v_h p_h) at most as often as the binomial says (Hoeffding, Annals of
        Mathematical Statistics 27, 1956, theorem 5), and W_h <= max(W_h / v_h) v_h.
        """
        side = level if sided == 1 else (1 + level) / 2
        check_level(side)
        if not self.sampled:
            return self.bound(side)
        if method == "each":
            return self.bound(split_level(side, self.sampled, "sidak"))
        return self._pooled(side)

    def _pooled(self, level: float) -> Bound:
        some = ~self.exhaustive
        known = float(self.weights[~some] @ (self.hits / np.maximum(self.trials, 1))[~some])
        total, rest = self.trials[some].sum(), float(self.weights[some].sum())
        if (self.trials[some] == 0).any():
            return Bound(self.estimate(), known, known + rest)
        over = self.weights[some] * total / self.trials[some]
        hits = self.hits[some].sum()
        # The theorem holds for one hit or more beside the mean.
        low = min(float(lower_bound(hits, total, level)), max(0.0, (hits - 1) / total))
        high = max(float(upper_bound(hits, total, level)), min(1.0, (hits + 1) / total))
        low, high = known + over.min() * low, known + over.max() * high
        return Bound(self.estimate(), low, min(high, known + rest))


def allocate(
    total: int, populations: ArrayLike, hits: ArrayLike, trials: ArrayLike, floor: int = PILOT
) -> np.ndarray:
    """Injections of each stratum, pilot included: least variance for `total` (Neyman).

    n_h ~ W_h sqrt(p_h (1 - p_h)) with p_h from the pilot, (hits + 1) / (trials + 2) so that no
    stratum looks certain; at least `floor` each, at most its population (then it is exhaustive).

    Returns:
        whole numbers whose sum is `total`, or the sum of the populations if that is less.

    Raises:
        ConfigError: `total` is less than the floors need.

    Ref: Neyman, Journal of the Royal Statistical Society 97, 1934.
    """
    sizes = np.atleast_1d(np.asarray(populations, np.float64))
    k, n = (np.asarray(a, np.float64) for a in (hits, trials))
    lowest = np.minimum(floor, sizes)
    total = int(min(total, sizes.sum()))
    if lowest.sum() > total:
        raise ConfigError(
            f"{total} injections for {len(sizes)} strata of at least {floor}: expected "
            f"{int(lowest.sum())} or more; raise the total, lower the floor or join strata"
        )
    share = (k + 1) / (n + 2)
    wish = sizes * np.sqrt(share * (1 - share))
    low, high = 0.0, float((sizes / wish).max())
    for _ in range(200):
        scale = (low + high) / 2
        enough = np.clip(scale * wish, lowest, sizes).sum() >= total
        low, high = (low, scale) if enough else (scale, high)
    return _whole(np.clip(high * wish, lowest, sizes), lowest, sizes, total)


def _whole(wanted: Floats, lowest: Floats, highest: Floats, total: int) -> np.ndarray:
    """Round to whole numbers of a given sum, largest remainder first, within the limits."""
    given = np.clip(np.floor(wanted + 1e-9), lowest, highest)
    for at in np.argsort(given - wanted, kind="stable"):
        if given.sum() >= total:
            break
        given[at] += given[at] < highest[at]
    return given.astype(np.int64)


@dataclass(frozen=True)
class Weighted:
    """Share from injections that were not drawn evenly.

    estimate, variance: of the mean of weight x hit. effective: (sum w)^2 / sum w^2, the number of
    even injections that would be worth as much; a few large weights make it small. A description:
    no verdict rests on it.
    """

    estimate: float
    variance: float
    effective: float


def weighted_share(hits: ArrayLike, weights: ArrayLike) -> Weighted:
    """Unbiased share from importance sampling.

    hits: 0 or 1 per injection. weights: even probability / probability with which it was drawn.

    Raises:
        ConfigError: fewer than two injections, or a weight that is not a positive number.

    Ref: Kish, Survey Sampling, 1965, 11.7; Owen, Monte Carlo theory, chapter 9.
    """
    hit, weight = np.asarray(hits, np.float64), np.asarray(weights, np.float64)
    if hit.shape != weight.shape or hit.ndim != 1 or len(hit) < 2:
        raise ConfigError(
            f"hits of shape {hit.shape}, weights of shape {weight.shape}: expected one weight per "
            "injection, at least two injections"
        )
    if not (np.isfinite(weight) & (weight > 0)).all():
        raise ConfigError(
            f"weight of injection {int(np.argmin(np.nan_to_num(weight, nan=-1, posinf=-1)))}: "
            "expected a positive number; every fault that can hit needs a chance to be drawn"
        )
    values = hit * weight
    variance = float(values.var(ddof=1) / len(values))
    return Weighted(float(values.mean()), variance, float(weight.sum() ** 2 / (weight**2).sum()))


def share_among(hits: ArrayLike, weights: ArrayLike, sure: ArrayLike, level: float = 0.95) -> Bound:
    """Share of hits among injections of one kind (those with an effect), whose number is itself
    found by the sample, with a two-sided interval that describes.

    Wilson's with as many even injections as the linearised variance of the ratio is worth; where
    all or none are hits, the exact one-sided bound for Kish's effective number.

    Args:
        hits: 0 or 1 per injection of the kind. weights: possible faults that each stands for.
        sure: its stratum was tried completely.

    Raises:
        ConfigError: no injection, or a weight that is not above 0.

    Ref: Cochran, Sampling Techniques, 2.11 (ratio estimate); Kish, Survey Sampling, 1965, 11.7.
    """
    hit, weight, known = np.broadcast_arrays(
        np.asarray(hits, np.float64), np.asarray(weights, np.float64), np.asarray(sure, bool)
    )
    if not len(hit) or not (weight > 0).all():
        raise ConfigError(
            f"{len(hit)} injections, least weight {weight.min(initial=0)}: expected at least one, "
            "and weights above 0"
        )
    total, free = weight.sum(), np.where(known, 0.0, weight)
    share = float(hit @ weight / total)
    if known.all():
        return Bound(share, share, share)
    if hit.all() or not hit.any():
        trials = max(1, int(total**2 / (free @ free)))
        if hit.any():
            return Bound(1.0, float(lower_bound(trials, trials, level)), 1.0)
        return Bound(0.0, 0.0, float(upper_bound(0, trials, level)))
    variance = float(((free * (hit - share)) ** 2).sum() / total**2)
    return Bound(share, *wilson_share(share, share * (1 - share) / variance, level))
