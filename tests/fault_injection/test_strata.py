"""Strata: known values, coverage by enumeration, allocation against every other allocation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bankside.errors import ConfigError
from bankside.fault_injection.statistics import lower_bound, upper_bound, wilson, wilson_share
from bankside.fault_injection.strata import Strata, allocate, share_among, weighted_share


def test_estimate_and_variance_by_hand() -> None:
    """W = 1/4, 3/4; p = 0.2, 0.4; variance 1/16 .16/10 + 9/16 .24/20 = 0.00775."""
    strata = Strata.of([100, 300], [2, 8], [10, 20])
    assert strata.estimate() == pytest.approx(0.25 * 0.2 + 0.75 * 0.4)
    assert strata.variance() == pytest.approx(0.00775)


def test_estimate_is_unbiased_with_the_stated_variance() -> None:
    """Over all outcomes of two strata, each with its probability."""
    truth, sizes, trials = (0.3, 0.8), [1, 3], [3, 4]
    mean = square = inner = 0.0
    for k in itertools.product(range(4), range(5)):
        chance = math.prod(chance_of(k[i], trials[i], truth[i]) for i in range(2))
        strata = Strata.of(sizes, k, trials)
        mean += chance * strata.estimate()
        square += chance * strata.estimate() ** 2
        inner += chance * strata.variance()
    assert mean == pytest.approx(0.25 * 0.3 + 0.75 * 0.8)
    # The plug-in variance is short by (n - 1) / n in each stratum.
    parts = [w**2 * p * (1 - p) / n for w, p, n in zip((0.25, 0.75), truth, trials, strict=True)]
    assert square - mean**2 == pytest.approx(sum(parts))
    assert inner == pytest.approx(parts[0] * 2 / 3 + parts[1] * 3 / 4)


def chance_of(k: int, n: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def test_one_stratum_is_the_plain_bound() -> None:
    for method in ("each", "pooled"):
        found = Strata.of([50], [3], [20]).interval(0.95, method)
        assert found.low == pytest.approx(float(lower_bound(3, 20)))
        assert found.high == pytest.approx(float(upper_bound(3, 20)))


def test_exhaustive_strata_add_no_doubt() -> None:
    known = Strata.of([8, 2], [2, 1], [8, 2], [True, True]).interval()
    assert known.low == known.estimate == known.high == pytest.approx(0.3)
    mixed = Strata.of([8, 8], [2, 0], [8, 20], [True, False])
    assert mixed.interval().low == pytest.approx(0.125)
    assert mixed.interval().high == pytest.approx(0.125 + 0.5 * float(upper_bound(0, 20)))


@pytest.mark.parametrize("method", ["each", "pooled"])
@pytest.mark.parametrize("trials", [(4, 4), (3, 6), (6, 2)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_bounds_cover(method: str, trials: tuple[int, int], level: float) -> None:
    """Both bounds, over all outcomes and a grid of truths."""
    sizes = np.array([1, 2])
    outcomes = list(itertools.product(range(trials[0] + 1), range(trials[1] + 1)))
    bounds = [Strata.of(sizes, k, trials).interval(level, method) for k in outcomes]
    for p in itertools.product(np.linspace(0, 1, 26), repeat=2):
        truth = float(sizes / 3 @ np.array(p))
        chances = [
            chance_of(a, trials[0], p[0]) * chance_of(b, trials[1], p[1]) for a, b in outcomes
        ]
        held = zip(chances, bounds, strict=True)
        above, below = (0.0, 0.0)
        for chance, bound in held:
            above += chance * (bound.high >= truth - 1e-12)
            below += chance * (bound.low <= truth + 1e-12)
        assert min(above, below) >= level - 1e-9, p


def test_a_bound_of_the_pooled_share_alone_would_be_noticed() -> None:
    """Known-bad twin: hits of unequal sampling, lumped together, do not cover."""
    p, trials = (0.4, 0.0), (4, 40)
    held = sum(chance_of(k, 4, p[0]) for k in range(5) if upper_bound(k, sum(trials)) >= 0.9 * p[0])
    assert held < 0.5
    good = [Strata.of([9, 1], [k, 0], trials).interval(method="pooled").high for k in range(5)]
    assert sum(chance_of(k, 4, 0.4) for k in range(5) if good[k] >= 0.36) >= 0.95


def test_pooled_is_much_tighter_where_trials_are_proportional() -> None:
    many = Strata.of(np.full(100, 10), np.zeros(100), np.full(100, 300))
    assert many.interval(method="each").high > 20 * many.interval(method="pooled").high
    assert many.interval(method="pooled").high == pytest.approx(float(upper_bound(0, 30_000)))


strata_of_any_kind = st.lists(
    st.integers(0, 60).flatmap(
        lambda n: st.tuples(st.integers(1, 10**9), st.integers(0, n), st.just(n))
    ),
    min_size=1,
    max_size=6,
)


@given(strata_of_any_kind, st.sampled_from(["each", "pooled"]), st.sampled_from([1, 2]))
def test_interval_contains_the_estimate(rows: list, method: str, sided: int) -> None:
    found = Strata.of(*zip(*rows, strict=True)).interval(0.95, method, sided)
    assert -1e-12 <= found.low <= found.estimate + 1e-12
    assert found.estimate <= found.high + 1e-12 and found.high <= 1 + 1e-12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], []), "at least one stratum"),
        (([1, 2], [0], [1]), "2 populations, 1 hits"),
        (([1, 0], [0, 0], [1, 1]), "stratum 1: no possible fault"),
        (([9], [0], [8], [True]), "8 trials of 9 possible faults, but exhaustive"),
        (([9], [3], [2]), "0 <= hits <= trials"),
    ],
)
def test_strata_that_cannot_be(arguments: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Strata.of(*arguments)


# --- allocation -------------------------------------------------------------------------------


def test_allocation_known_value() -> None:
    """sqrt(p (1-p)) = 0.3, 0.4, 0.5 at sizes 2, 3, 1.2: wishes as 0.6 : 1.2 : 0.6."""
    sizes = np.array([2.0, 3.0, 1.2]) * 1e6
    trials = np.array([10**9] * 3)
    found = allocate(4000, sizes, np.array([0.1, 0.2, 0.5]) * 10**9, trials, floor=1)
    assert found.tolist() == [1000, 2000, 1000]


@pytest.mark.parametrize("hits", [(1, 30, 50), (0, 0, 99), (2, 2, 2)])
def test_no_other_allocation_is_better(hits: tuple[int, ...]) -> None:
    """Every split of 60 injections over three strata; whole numbers may cost 1 %."""
    sizes, trials = np.array([700.0, 200.0, 100.0]), np.array([100.0] * 3)
    share = (np.array(hits) + 1) / (trials + 2)

    def variance(n: np.ndarray) -> float:
        return float(((sizes / sizes.sum()) ** 2 * share * (1 - share) / n).sum())

    found = allocate(60, sizes, hits, trials, floor=5)
    others = [np.array([a, b, 60 - a - b]) for a in range(5, 51) for b in range(5, 56 - a)]
    assert len(others) > 1000
    assert variance(found) <= 1.01 * min(map(variance, others))


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 9)), min_size=1, max_size=8),
    st.integers(0, 10**6),
    st.integers(1, 300),
)
def test_allocation_keeps_sum_floor_and_population(rows: list, extra: int, floor: int) -> None:
    sizes = np.array([size for size, _ in rows])
    hits = [k for _, k in rows]
    lowest = np.minimum(floor, sizes)
    total = int(lowest.sum()) + extra
    found = allocate(total, sizes, hits, [9] * len(rows), floor)
    assert found.sum() == min(total, sizes.sum())
    assert (lowest <= found).all() and (found <= sizes).all()


def test_allocation_below_the_floors_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected 250 or more"):
        allocate(249, [50, 10**6], [0, 0], [0, 0])


# --- importance weights -----------------------------------------------------------------------


def test_weighted_share_by_hand() -> None:
    """Values 2, 0, .5, 0: mean .625, sum of squares about it 2.6875; (4.5)^2 / 6.25."""
    found = weighted_share([1, 0, 1, 0], [2.0, 1.0, 0.5, 1.0])
    assert found.estimate == pytest.approx(0.625)
    assert found.variance == pytest.approx(2.6875 / 3 / 4)
    assert found.effective == pytest.approx(4.5**2 / 6.25)


def test_weights_take_the_bias_out() -> None:
    """All samples of three from four faults drawn with unequal chances; also the variance."""
    even, drawn, hit = 1 / 4, (0.1, 0.2, 0.3, 0.4), (1, 1, 0, 0)
    mean = square = inner = 0.0
    for sample in itertools.product(range(4), repeat=3):
        chance = math.prod(drawn[i] for i in sample)
        found = weighted_share([hit[i] for i in sample], [even / drawn[i] for i in sample])
        mean += chance * found.estimate
        square += chance * found.estimate**2
        inner += chance * found.variance
    assert mean == pytest.approx(0.5)
    assert inner == pytest.approx(square - mean**2)


def test_even_weights_lose_nothing() -> None:
    assert weighted_share([1, 0, 0], [1, 1, 1]).effective == pytest.approx(3)
    assert weighted_share([1, 0, 0], [100, 1, 1]).effective < 1.05


@pytest.mark.parametrize("weights", [[1.0, 0.0], [1.0, math.inf], [math.nan, 1.0], [1.0]])
def test_weights_that_cannot_be(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="expected (a positive number|one weight)"):
        weighted_share([1, 0], weights)


# --- shares among faults with an effect -------------------------------------------------------


def test_one_stratum_is_an_even_sample() -> None:
    """9 of 12, whatever each stands for: Wilson's interval."""
    found = share_among([1] * 9 + [0] * 3, [7.5] * 12, False)
    low, high = map(float, wilson(9, 12))
    assert (found.estimate, found.low, found.high) == pytest.approx((0.75, low, high))
    assert wilson_share(9 / 12, 12) == pytest.approx((low, high))


def test_two_strata_by_hand() -> None:
    """Weights 3, 3, 1, 1: share 6/8; variance (2 x (3/4)^2 + 2 x (3/4)^2) / 64 = 2.25 / 64."""
    found = share_among([1, 1, 0, 0], [3, 3, 1, 1], False)
    variance = (9 / 16 + 9 / 16 + 9 / 16 + 9 / 16) / 64
    assert found.estimate == 0.75
    assert (found.low, found.high) == pytest.approx(wilson_share(0.75, 0.1875 / variance))


def test_what_is_known_completely_adds_no_doubt() -> None:
    known = share_among([1, 0, 1], [1, 1, 1], True)
    assert known.low == known.estimate == known.high == pytest.approx(2 / 3)
    some = share_among([1, 0, 1, 0, 1], [50, 50, 1, 1, 1], [1, 1, 0, 0, 0])
    none = share_among([1, 0, 1, 0, 1], [50, 50, 1, 1, 1], False)
    assert none.low < some.low < some.estimate < some.high < none.high


def test_all_or_none_carry_the_exact_bound() -> None:
    """Weights 2, 1, 1: worth 16 / 6 even ones, so two."""
    assert share_among([1, 1, 1], [2, 1, 1], False).low == pytest.approx(lower_bound(2, 2))
    assert share_among([0, 0, 0], [2, 1, 1], False).high == pytest.approx(upper_bound(0, 2))
    assert share_among([1, 1, 1], [2, 1, 1], False).high == 1


def test_the_interval_holds_the_truth() -> None:
    """Three strata with other weights, shares and rates of effects; 2,000 samples."""
    rng = np.random.default_rng(5)
    sizes, effect, held = (np.array(v) for v in ([1e6, 2e5, 4e4], [0.1, 0.5, 0.9], [0.8, 0.3, 0.6]))
    drawn = np.array([400, 150, 60])
    truth = (sizes * effect * held).sum() / (sizes * effect).sum()
    inside = 0
    for _ in range(2000):
        some = rng.binomial(drawn, effect)
        hits = np.concatenate([rng.random(n) < p for n, p in zip(some, held, strict=True)])
        found = share_among(hits, np.repeat(sizes / drawn, some), False)
        inside += found.low <= truth <= found.high
    assert 0.93 < inside / 2000 < 0.985  # 0.95 and what is on the safe side


@pytest.mark.parametrize(("hits", "weights"), [([], []), ([1, 0], [1.0, 0.0])])
def test_shares_among_nothing_are_refused(hits: list[int], weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="expected at least one, and weights above 0"):
        share_among(hits, weights, False)
