"""Intervals, exact bounds, sample sizes, verdicts and how shares are written.

Wilson intervals describe; only exact (Clopper-Pearson) bounds carry a verdict. Counts are numbers
of independent injections; everything takes arrays as well as numbers. Ref: Brown, Cai, DasGupta,
Statistical Science 16(2), 2001.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bankside.errors import ConfigError

__all__ = [
    "Verdict", "binomial_tails", "clopper_pearson", "cluster_bootstrap", "demonstration_size",
    "leveugle_size", "looks_level", "lower_bound", "rate", "split_level", "upper_bound", "verdict",
    "wilson", "wilson_share", "zero_failure_size",
]  # fmt: skip

Floats = NDArray[np.float64]

_STEPS = 100  # of Newton or halvings; a handful is usual


def check_level(level: float) -> None:
    """Raise ConfigError for a confidence level that is not between 0 and 1."""
    if not 0 < level < 1:
        raise ConfigError(f"confidence level {level!r}: expected a number between 0 and 1, as 0.95")


def _counts(k: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats]:
    """Return hits and trials as arrays of one shape; ConfigError unless 0 <= k <= n."""
    hits, trials = np.broadcast_arrays(np.asarray(k, np.float64), np.asarray(n, np.float64))
    wrong = ~((hits >= 0) & (hits <= trials) & (hits == np.floor(hits)) & (trials % 1 == 0))
    if wrong.any():
        at = np.argwhere(wrong)[0]
        raise ConfigError(
            f"{hits[tuple(at)]:g} hits of {trials[tuple(at)]:g} trials at index {at.tolist()}: "
            "expected whole numbers with 0 <= hits <= trials; count each injection once"
        )
    return hits, trials


# --- binomial tails ---------------------------------------------------------------------------


def _log_mass(k: int, n: int, p: float) -> float:
    """Logarithm of the probability of exactly k hits in n trials, 0 < p < 1."""
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return ways + k * math.log(p) + (n - k) * math.log1p(-p)


def _log_tail(k: int, n: int, odds: float) -> float:
    """Logarithm of P(X <= k) / P(X = k), summed downwards; `odds` are p / (1 - p), p >= k / n."""
    # After j steps the terms are below exp(-j*j / 2k): 1e-21 after ten times the square root.
    steps = np.arange(min(k, 50 + 10 * math.isqrt(k)), dtype=np.float64)
    ratios = (k - steps) / ((n - k + 1 + steps) * odds)
    return math.log1p(float(np.cumprod(ratios).sum()))


def _below(k: int, n: int, p: float) -> float:
    """P(X <= k) of X hits in n trials of probability p."""
    if k == n or p <= 0:
        return 1.0
    if p >= 1 or k < 0:
        return 0.0
    if k <= n * p:
        return min(1.0, math.exp(_log_mass(k, n, p) + _log_tail(k, n, p / (1 - p))))
    # Above the mean the other tail is the small one: n - k - 1 misses or fewer.
    other = _log_mass(k + 1, n, p) + _log_tail(n - k - 1, n, (1 - p) / p)
    return 1 - math.exp(other)


def _above(k: int, n: int, p: float) -> float:
    """P(X >= k) of X hits in n trials of probability p, as exact in the small tail as `_below`."""
    if k == 0 or p >= 1:
        return 1.0
    if p <= 0:
        return 0.0
    if k >= n * p:
        return min(1.0, math.exp(_log_mass(k, n, p) + _log_tail(n - k, n, (1 - p) / p)))
    return 1 - _below(k - 1, n, p)


def binomial_tails(k: ArrayLike, n: ArrayLike, p: ArrayLike) -> tuple[Floats, Floats]:
    """P(X <= k) and P(X >= k) of X hits in n trials of probability p.

    Relative error of a tail beyond the mean: below 1e-8 up to a million trials (tests compare with
    exact sums). Ref: NIST DLMF 8.17.5; terms summed from the largest, by their ratios.
    """
    hits, trials = _counts(k, n)
    hits, trials, share = np.broadcast_arrays(hits, trials, np.asarray(p, np.float64))
    return _each(_below, hits, trials, share), _each(_above, hits, trials, share)


def _each(function: Callable[..., float], k: Floats, n: Floats, p: Floats | float) -> Floats:
    """A function of whole numbers k, n and a float, on arrays."""
    call = np.frompyfunc(lambda k, n, p: function(int(k), int(n), float(p)), 3, 1)
    return np.asarray(call(k, n, p), np.float64)


def _solve_upper(k: int, n: int, error: float) -> float:
    """The p with P(X <= k) = error, from above: Newton on logarithms, kept within a bracket."""
    if k == n:
        return 1.0
    if k == 0:
        return -math.expm1(math.log(error) / n)
    reach, target = -math.log(error), math.log(error)
    # Chernoff: no p above `high` leaves so few hits with more than `error`.
    low, high = k / n, min(1.0, (k + reach + math.sqrt(reach * (reach + 2 * k))) / n)
    p = (low + high) / 2
    for _ in range(_STEPS):
        mass, ratio = _log_mass(k, n, p), _log_tail(k, n, p / (1 - p))
        miss = mass + ratio - target
        low, high = (p, high) if miss > 0 else (low, p)
        # d/dp log P(X <= k) = -(n - k) / (1 - p) * P(X = k) / P(X <= k)
        step = miss * math.exp(ratio) * (1 - p) / (n - k)
        if abs(step) < 1e-15 * p:
            break
        p = p + step if low < p + step < high else (low + high) / 2
    return p


def _solve_lower(k: int, n: int, error: float) -> float:
    """The p with P(X >= k) = error: seen from the misses it is an upper bound."""
    return 1 - _solve_upper(n - k, n, error) if k else 0.0


# --- intervals --------------------------------------------------------------------------------


def wilson(k: ArrayLike, n: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """Two-sided score interval of a share, for tables; (0, 1) without trials.

    Its coverage is `level` on average, not at least: no verdict rests on it. Ref: Wilson, Journal
    of the American Statistical Association 22, 1927.
    """
    check_level(level)
    hits, trials = _counts(k, n)
    z = NormalDist().inv_cdf((1 + level) / 2)
    number = np.maximum(trials, 1)
    share, scale = hits / number, 1 + z * z / number
    middle = (share + z * z / (2 * number)) / scale
    half = z * np.sqrt(share * (1 - share) / number + z * z / (4 * number**2)) / scale
    low = np.where(hits == 0, 0.0, np.clip(middle - half, 0, share))
    high = np.where(hits == trials, 1.0, np.clip(middle + half, share, 1))
    return low, high


def wilson_share(share: float, trials: float, level: float = 0.95) -> tuple[float, float]:
    """As `wilson`, of a share and a number of trials that need not be whole (above 0)."""
    check_level(level)
    z = NormalDist().inv_cdf((1 + level) / 2)
    scale = 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / scale
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / scale
    return max(middle - half, 0.0), min(middle + half, 1.0)


def upper_bound(k: ArrayLike, n: ArrayLike, level: float = 0.95) -> Floats:
    """Exact one-sided upper bound of a share: at most `1 - level` that the truth lies above.

    The p with P(X <= k) = 1 - level; 1 without trials. Ref: Clopper, Pearson, Biometrika 26, 1934.
    """
    check_level(level)
    hits, trials = _counts(k, n)
    return _each(_solve_upper, hits, trials, 1 - level)


def lower_bound(k: ArrayLike, n: ArrayLike, level: float = 0.95) -> Floats:
    """Exact one-sided lower bound of a share: at most `1 - level` that the truth lies below.

    The p with P(X >= k) = 1 - level; 0 without trials. Ref: as `upper_bound`.
    """
    check_level(level)
    hits, trials = _counts(k, n)
    return _each(_solve_lower, hits, trials, 1 - level)


def clopper_pearson(k: ArrayLike, n: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """Exact two-sided interval: both one-sided bounds, each with half of the error."""
    check_level(level)
    side = (1 + level) / 2
    return lower_bound(k, n, side), upper_bound(k, n, side)


# --- several claims, several looks ------------------------------------------------------------


def split_level(level: float, claims: int, method: Literal["sidak", "bonferroni"]) -> float:
    """Level of each of `claims` bounds so that all hold together with probability `level`.

    `sidak` for bounds from independent samples (strata); `bonferroni` for any. Ref: Sidak, Journal
    of the American Statistical Association 62, 1967.
    """
    check_level(level)
    if claims < 1:
        raise ConfigError(f"{claims} claims: expected at least one to share the error between")
    return level ** (1 / claims) if method == "sidak" else 1 - (1 - level) / claims


def looks_level(level: float, looks: int) -> float:
    """Level of each look when results are read, and a verdict may be given, `looks` times.

    Looking at an interval of fixed size until it pleases is no test; the number of looks is fixed
    beforehand. Each gets an equal part of the error.
    """
    return split_level(level, looks, "bonferroni")


class Verdict(StrEnum):
    """Whether a target is met, as far as the bounds tell."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


def verdict(low: float, high: float, limit: float, strict: bool = False) -> Verdict:
    """Judge a quantity between `low` and `high` that has to be at most `limit`.

    strict: it has to be below. PASS only if the upper bound is within, FAIL only if the lower bound
    is not: each is wrong with at most the error of that one bound.
    """
    if high < limit or (high == limit and not strict):
        return Verdict.PASS
    if low > limit or (low == limit and strict):
        return Verdict.FAIL
    return Verdict.INCONCLUSIVE


# --- sizes ------------------------------------------------------------------------------------


def leveugle_size(
    population: int | None, margin: float, level: float = 0.95, share: float = 0.5
) -> int:
    """Injections after which a share is known to +- `margin`, out of `population` possible ones.

    The margin is absolute: of no use for rare events. population None: without end. share: expected
    one, 0.5 the worst. Ref: Leveugle, Calvez, Maistri, Vanhauwaert, DATE 2009.
    """
    check_level(level)
    if not 0 < margin < 1 or not 0 < share < 1 or (population is not None and population < 1):
        raise ConfigError(
            f"margin {margin!r}, share {share!r}, population {population!r}: expected margin and "
            "share between 0 and 1 and a population of at least 1 (or None)"
        )
    t = NormalDist().inv_cdf((1 + level) / 2)
    free = t * t * share * (1 - share) / margin**2
    if population is None:
        return math.ceil(free)
    return min(population, math.ceil(population / (1 + (population - 1) / free)))


def zero_failure_size(bound: float, level: float = 0.95) -> int:
    """Injections without a hit that show a share of at most `bound`: ln(1-level) / ln(1-bound)."""
    check_level(level)
    if not 0 < bound < 1:
        raise ConfigError(f"bound {bound!r}: expected a share above 0 and below 1")
    return math.ceil(math.log(1 - level) / math.log1p(-bound))


def demonstration_size(bound: float, level: float = 0.95, hits: int = 0) -> int:
    """Smallest number of injections with `hits` hits that shows a share of at most `bound`.

    Ref: Wang, Trivedi, 1994 (least number of injections for a bound on coverage); for order
    statistics Wilks, Annals of Mathematical Statistics 12, 1941.
    """
    low, high = hits, max(zero_failure_size(bound, level), hits + 1)
    while upper_bound(hits, high, level) > bound:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if upper_bound(hits, middle, level) > bound:
            low = middle
        else:
            high = middle
    return high


# --- clusters ---------------------------------------------------------------------------------


def cluster_bootstrap(
    values: ArrayLike, clusters: ArrayLike, seed: int, draws: int = 10_000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean when values of a cluster (an input, a prompt) hang together.

    Whole clusters are drawn with replacement. values, clusters: one each per observation.
    Descriptive; with few clusters too narrow. Ref: Davison, Hinkley, Bootstrap Methods, 1997, 3.8.
    """
    check_level(level)
    data, names = np.asarray(values, np.float64), np.asarray(clusters)
    if data.ndim != 1 or data.shape != names.shape or not len(data) or draws < 1:
        raise ConfigError(
            f"values of shape {data.shape}, clusters of shape {names.shape}, {draws} draws: "
            "expected one cluster per value, at least one value and one draw"
        )
    _, index = np.unique(names, return_inverse=True)
    sums, sizes = np.bincount(index, weights=data), np.bincount(index)
    generator = np.random.default_rng(seed)
    # Multinomial counts instead of indices: draws x clusters numbers, whatever is in a cluster.
    drawn = generator.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=draws)
    low, high = np.quantile(drawn @ sums / (drawn @ sizes), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


# --- text -------------------------------------------------------------------------------------


def _percent(share: float, digits: int, direction: int) -> str:
    """Percent with `digits` significant ones, rounded up (1), down (-1) or to the nearest (0)."""
    if share <= 0:
        return "0"
    percent = 100 * share
    rest = min(percent, 100 - percent) if percent < 100 else 100.0
    # Near 100 % it is the distance from 100 that has to stay visible.
    places = max(0, digits - 1 - math.floor(math.log10(rest)))
    scaled = percent * 10**places
    whole = (round, math.ceil, math.floor)[direction](scaled - direction * 1e-9 * scaled)
    return f"{whole / 10**places:.{places}f}"


def rate(k: int, n: int, level: float = 0.95, exhaustive: bool = False) -> str:
    """A share as it stands in tables, always with what is known about it.

    "3.1 % (2.2-4.4 %)" with the Wilson interval; without hits "< 0.30 %" and with hits only
    "> 99.70 %" with the exact one-sided bound, rounded away from the data; "not tested" for n = 0.
    exhaustive: every possibility was tried, "3.1 % (all)", "none of 96 (all)", "all of 96".
    """
    _counts(k, n)
    if n == 0:
        return "not tested"
    if exhaustive:
        ends = {0: f"none of {n} (all)", n: f"all of {n}"}
        return ends.get(k) or f"{_percent(k / n, 2, 0)} % (all)"
    if k == 0:
        return f"< {_percent(float(upper_bound(k, n, level)), 2, 1)} %"
    if k == n:
        return f"> {_percent(float(lower_bound(k, n, level)), 2, -1)} %"
    low, high = (float(end) for end in wilson(k, n, level))
    return f"{_percent(k / n, 2, 0)} % ({_percent(low, 2, -1)}-{_percent(high, 2, 1)} %)"
