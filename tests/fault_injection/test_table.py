"""Shares over strata as they stand in tables."""

from types import SimpleNamespace

import numpy as np
import pytest

from bankside.fault_injection.table import share_of


def share(populations, hits, trials) -> dict:
    strata = [SimpleNamespace(population=p) for p in populations]
    return share_of(strata, hits, trials, 0.95)


def test_a_tiny_stratum_with_hits_only_does_not_hide_what_the_others_say() -> None:
    """One register of 30,000 always hangs, nothing else ever fails in 3 x 100 faults."""
    found = share([10**7, 10**7, 10**7, 10**3], [0, 0, 0, 15], [100, 100, 100, 15])
    assert found["estimate"] == pytest.approx(1000 / 30_001_000)
    assert found["low"] < found["estimate"] < found["high"] < 0.05
    # Not surer than if the three had been drawn from together.
    assert found["high"] > 3 / 300


@pytest.mark.parametrize(
    ("weights", "trials", "shares"),
    [
        ((0.18, 0.02, 0.33, 0.06, 0.33, 0.08), (109, 30, 53, 31, 99, 33),
         (0.004, 0.01, 0.003, 0.0, 0.004, 0.5)),
        ((0.2, 0.2, 0.3, 0.3), (200, 100, 300, 150), (0.1, 0.02, 0.05, 0.2)),
        ((0.25, 0.25, 0.25, 0.25), (50, 50, 50, 50), (0.0, 0.02, 0.05, 0.6)),
    ],
)  # fmt: skip
def test_intervals_cover_the_truth(weights, trials, shares) -> None:
    rng = np.random.default_rng(5)
    populations = [round(10**8 * weight) for weight in weights]
    truth, inside, width, tried = np.dot(weights, shares), 0, 0.0, 600
    for _ in range(tried):
        found = share(populations, rng.binomial(trials, shares).tolist(), trials)
        inside += found["low"] <= truth <= found["high"]
        width += found["high"] - found["low"]
    assert inside / tried > 0.92
    assert width / tried < 4 / np.sqrt(sum(trials))  # not by being wide
