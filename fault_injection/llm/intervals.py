"""Intervals of the tables. Ref: facts of fault injection, section 3."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray


def wilson(count: int, number: int, level: float) -> tuple[float, float]:
    """Interval of a share, for independent trials. Ref: E. B. Wilson, 1927."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, scale = count / number, 1 + z * z / number
    middle = (share + z * z / (2 * number)) / scale
    half = z * math.sqrt(share * (1 - share) / number + z * z / (4 * number**2)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def none_seen_below(number: int, level: float) -> float:
    """One-sided upper bound of a share after `number` independent trials without a hit."""
    return 1 - (1 - level) ** (1 / number)


def cluster_bootstrap(
    values: NDArray[np.float64], clusters: NDArray[np.int64], seed: int, draws: int, level: float
) -> tuple[float, float]:
    """Percentile interval of the mean; whole clusters are drawn, with replacement."""
    _, index = np.unique(clusters, return_inverse=True)
    sums = np.bincount(index, weights=values)
    sizes = np.bincount(index)
    chosen = np.random.default_rng(seed).integers(len(sizes), size=(draws, len(sizes)))
    means = sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
