"""Every formula against published values or exact enumeration; coverage counted, not sampled."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bankside.errors import ConfigError
from bankside.fault_injection.statistics import (
    Verdict,
    binomial_tails,
    clopper_pearson,
    cluster_bootstrap,
    demonstration_size,
    leveugle_size,
    looks_level,
    lower_bound,
    rate,
    split_level,
    upper_bound,
    verdict,
    wilson,
    zero_failure_size,
)

counts = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
levels = st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.9999])


def mass(k: int, n: int, p: Fraction) -> Fraction:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


# --- tails ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 40])
@pytest.mark.parametrize(
    "p", [Fraction(1, 1000), Fraction(1, 7), Fraction(1, 2), Fraction(99, 100)]
)
def test_tails_are_the_sums_of_exact_fractions(n: int, p: Fraction) -> None:
    masses = [mass(k, n, p) for k in range(n + 1)]
    below, above = binomial_tails(np.arange(n + 1), n, float(p))
    assert below == pytest.approx([float(sum(masses[: k + 1])) for k in range(n + 1)], rel=1e-11)
    assert above == pytest.approx([float(sum(masses[k:])) for k in range(n + 1)], rel=1e-11)


@pytest.mark.parametrize("k", [0, 1, 5, 20])
def test_small_tails_of_a_million_trials(k: int) -> None:
    """By logarithms of exact binomial coefficients, term by term."""
    n, p = 1_000_000, 4e-5
    terms = [math.log(math.comb(n, i)) + i * math.log(p) + (n - i) * math.log1p(-p)
             for i in range(k + 1)]  # fmt: skip
    assert binomial_tails(k, n, p)[0] == pytest.approx(math.fsum(map(math.exp, terms)), rel=1e-8)


def test_tails_at_the_ends() -> None:
    below, above = binomial_tails([0, 3, 5], 5, [[0.0], [1.0]])
    assert below.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert above.tolist() == [[1, 0, 0], [1, 1, 1]]


# --- intervals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (4, 20, 0.057334, 0.436614),  # R: binom.test(4, 20)
        (0, 10, 0, 0.3084971),  # R: binom.test(0, 10); closed form 1 - 0.025 ** 0.1
        (10, 10, 0.6915029, 1),  # its mirror image
        (682, 925, 0.7076683, 0.7654066),  # R: example of ?binom.test (Mendel's peas)
    ],
)
def test_clopper_pearson_known_values(k: int, n: int, low: float, high: float) -> None:
    assert np.allclose(clopper_pearson(k, n), (low, high), atol=6e-7, rtol=0)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17, 1998, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_known_values(k: int, n: int, low: float, high: float) -> None:
    assert np.allclose(wilson(k, n), (low, high), atol=6e-5, rtol=0)


@given(counts, levels)
def test_bounds_solve_their_equations(count: tuple[int, int], level: float) -> None:
    k, n = count
    low, high = lower_bound(k, n, level), upper_bound(k, n, level)
    assert low <= k / n <= high
    if k < n:
        assert binomial_tails(k, n, high)[0] == pytest.approx(1 - level, rel=1e-8)
    if k > 0:
        assert binomial_tails(k, n, low)[1] == pytest.approx(1 - level, rel=1e-8)


@given(counts, levels)
def test_intervals_contain_the_share_and_mirror(count: tuple[int, int], level: float) -> None:
    k, n = count
    for interval in (wilson, clopper_pearson):
        low, high = interval(k, n, level)
        assert 0 <= low <= k / n <= high <= 1 and low < high
        other = interval(n - k, n, level)
        assert np.allclose((low, high), (1 - other[1], 1 - other[0]), atol=1e-12)


@given(counts, levels)
def test_bounds_grow_with_hits_and_level_and_shrink_with_trials(
    count: tuple[int, int], level: float
) -> None:
    k, n = count
    high = upper_bound(k, n, level)
    assert upper_bound(k, n + 1, level) < high or k == n
    assert upper_bound(k, n, (1 + level) / 2) > high or k == n
    if k < n:
        assert upper_bound(k + 1, n, level) > high


@pytest.mark.parametrize("n", [1, 5, 12, 30])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_exact_bounds_cover_at_least_their_level(n: int, level: float) -> None:
    """Coverage summed over all outcomes, for truths on a grid."""
    k = np.arange(n + 1)
    low, high = lower_bound(k, n, level), upper_bound(k, n, level)
    both = clopper_pearson(k, n, level)
    for p in np.linspace(0.003, 0.997, 143):
        share = np.array([math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in k])
        for holds in (high >= p, low <= p, (both[0] <= p) & (p <= both[1])):
            assert share[holds].sum() >= level - 1e-12


def coverage(low: np.ndarray, high: np.ndarray, p: float) -> float:
    n = len(low) - 1
    share = [math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(n + 1)]
    return sum(s for s, a, b in zip(share, low, high, strict=True) if a <= p <= b)


def test_wald_collapses_and_would_be_noticed() -> None:
    """The known-bad twin: at rare events the textbook interval covers next to nothing."""
    n, p, z = 30, 0.01, 1.959964
    share = np.arange(n + 1) / n
    half = z * np.sqrt(share * (1 - share) / n)
    assert half[0] == 0
    assert coverage(share - half, share + half, p) < 0.30
    assert coverage(*clopper_pearson(np.arange(n + 1), n), p) >= 0.95


def test_bounds_stay_valid_without_replacement() -> None:
    """Campaigns never draw a fault twice: coverage over the hypergeometric distribution."""
    population, n, level = 24, 10, 0.95
    high = upper_bound(np.arange(n + 1), n, level)
    for bad in range(population + 1):
        ways = [math.comb(bad, i) * math.comb(population - bad, n - i) for i in range(n + 1)]
        held = sum(w for w, h in zip(ways, high, strict=True) if h >= bad / population)
        assert held / math.comb(population, n) >= level


def test_no_trials_tell_nothing() -> None:
    for interval in (wilson, clopper_pearson):
        assert [float(end) for end in interval(0, 0)] == [0, 1]


def test_arrays_are_numbers_one_by_one() -> None:
    k, n = np.array([[0, 3], [7, 90]]), np.array([10, 100])
    for function in (upper_bound, lower_bound):
        whole = function(k, n, 0.99)
        for at in np.ndindex(k.shape):
            assert whole[at] == function(int(k[at]), int(n[at[1]]), 0.99)


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (0.5, 5), (1, 2.5), (math.nan, 3)])
def test_what_is_no_count_is_refused(k: float, n: float) -> None:
    with pytest.raises(ConfigError, match="expected whole numbers with 0 <= hits <= trials"):
        upper_bound([0, k], [1, n])


@pytest.mark.parametrize("level", [0, 1, 95, -0.1, math.nan])
def test_what_is_no_level_is_refused(level: float) -> None:
    for call in (wilson, upper_bound, lower_bound, clopper_pearson):
        with pytest.raises(ConfigError, match="expected a number between 0 and 1"):
            call(1, 10, level)


# --- sizes ------------------------------------------------------------------------------------


def test_leveugle_known_values() -> None:
    """For N without end t^2 / 4 e^2; for a finite N Krejcie and Morgan's table (1970)."""
    assert [leveugle_size(None, 0.05), leveugle_size(None, 0.01)] == [385, 9604]
    assert leveugle_size(None, 0.01, 0.99) == 16_588
    assert leveugle_size(None, 0.001) == 960_365  # 960,400 with t rounded to 1.96
    table = {100: 80, 1000: 278, 10_000: 370, 100_000: 383}
    assert {n: leveugle_size(n, 0.05) for n in table} == pytest.approx(table, abs=1)


@given(st.integers(1, 10**12), st.sampled_from([0.001, 0.01, 0.05]), levels)
def test_leveugle_stays_below_both_limits(population: int, margin: float, level: float) -> None:
    size = leveugle_size(population, margin, level)
    assert 1 <= size <= min(population, leveugle_size(None, margin, level))
    assert leveugle_size(population + 1, margin, level) >= size


def test_zero_failure_known_values() -> None:
    assert [zero_failure_size(p) for p in (0.01, 0.001, 1e-4)] == [299, 2995, 29_956]
    for bound in (0.3, 0.01, 1e-4):
        size = zero_failure_size(bound)
        assert upper_bound(0, size) <= bound < upper_bound(0, size - 1)


def test_demonstration_known_values() -> None:
    """Orders of Wilks' formula for 95 % / 95 %, as used in nuclear safety: 59, 93, 124, ..."""
    assert [demonstration_size(0.05, 0.95, k) for k in range(6)] == [59, 93, 124, 153, 181, 208]


@given(st.integers(0, 6), st.sampled_from([0.5, 0.1, 0.01]), levels)
def test_demonstration_is_the_smallest(hits: int, bound: float, level: float) -> None:
    size = demonstration_size(bound, level, hits)
    assert upper_bound(hits, size, level) <= bound
    assert size == max(hits, 1) or upper_bound(hits, size - 1, level) > bound


@pytest.mark.parametrize("margin", [0, 1, -0.1])
def test_sizes_refuse_what_cannot_be(margin: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        leveugle_size(100, margin)
    with pytest.raises(ConfigError, match="above 0 and below 1"):
        zero_failure_size(margin)


# --- several claims, several looks ------------------------------------------------------------


def test_split_known_values() -> None:
    assert split_level(0.95, 10, "sidak") == pytest.approx(0.994884, abs=1e-6)  # 1 - .95 ** .1
    assert split_level(0.95, 10, "bonferroni") == pytest.approx(0.995)
    assert looks_level(0.95, 5) == pytest.approx(0.99)
    assert split_level(0.9, 1, "sidak") == split_level(0.9, 1, "bonferroni") == pytest.approx(0.9)
    with pytest.raises(ConfigError, match="at least one"):
        split_level(0.95, 0, "sidak")


def wrong_pass(sizes: list[int], limit: float, level: float) -> float:
    """Probability that a truth at the limit passes at some look, by enumerating all paths."""
    paths, passed, before = {0: 1.0}, 0.0, 0
    for size in sizes:
        grown: dict[int, float] = {}
        for k, chance in paths.items():
            for more in range(size - before + 1):
                p = math.comb(size - before, more) * limit**more
                p *= (1 - limit) ** (size - before - more)
                grown[k + more] = grown.get(k + more, 0) + chance * p
        hits = np.array(list(grown))
        good = set(hits[upper_bound(hits, size, level) <= limit].tolist())
        passed += sum(chance for k, chance in grown.items() if k in good)
        paths, before = {k: c for k, c in grown.items() if k not in good}, size
    return passed


def test_planned_looks_keep_the_error_and_looking_at_will_does_not() -> None:
    sizes = list(range(20, 121, 10))
    assert wrong_pass(sizes, 0.1, looks_level(0.95, len(sizes))) <= 0.05
    assert wrong_pass(sizes, 0.1, 0.95) > 0.08


def test_verdicts() -> None:
    assert verdict(0, 0.01, 0.01) is Verdict.PASS
    assert verdict(0, 0.01, 0.01, strict=True) is Verdict.INCONCLUSIVE
    assert verdict(0.01, 0.02, 0.01) is Verdict.INCONCLUSIVE
    assert verdict(0.01, 0.02, 0.01, strict=True) is Verdict.FAIL
    assert verdict(0.011, 0.02, 0.01) is Verdict.FAIL


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_verdict_is_true_of_every_value_between(a: float, b: float, limit: float) -> None:
    low, high = sorted((a, b))
    found = verdict(low, high, limit)
    met = {value <= limit for value in (low, high)}
    assert found is {(True,): Verdict.PASS, (False,): Verdict.FAIL}.get(
        tuple(met), Verdict.INCONCLUSIVE
    )


# --- clusters ---------------------------------------------------------------------------------


def test_bootstrap_is_that_of_all_resamples() -> None:
    """Four clusters: 256 equally likely resamples, enumerated."""
    values, clusters = [0.0, 2.0, 10.0, 31.0, 29.0, 77.0], list("aabccd")
    groups = [(2.0, 2), (10.0, 1), (60.0, 2), (77.0, 1)]
    means = sorted(
        sum(groups[i][0] for i in drawn) / sum(groups[i][1] for i in drawn)
        for drawn in itertools.product(range(4), repeat=4)
    )
    found = cluster_bootstrap(values, clusters, seed=3, draws=40_000, level=0.8)
    # Ends lie within the neighbouring resamples: quantiles of a sample waver by half a percent.
    for end, share in zip(found, (0.1, 0.9), strict=True):
        assert np.quantile(means, share - 0.02) <= end <= np.quantile(means, share + 0.02)
    assert found == cluster_bootstrap(values, clusters, seed=3, draws=40_000, level=0.8)
    assert len({cluster_bootstrap(values, clusters, seed, draws=9) for seed in range(9)}) > 1


def test_bootstrap_sees_that_values_hang_together() -> None:
    """Fifty copies of each of ten inputs are ten observations, not five hundred."""
    inputs = np.array([0, 0, 1, 0, 1, 1, 0, 0, 1, 0], np.float64)
    values, clusters = np.repeat(inputs, 50), np.repeat(np.arange(10), 50)
    low, high = cluster_bootstrap(values, clusters, seed=1)
    blind = cluster_bootstrap(values, np.arange(500), seed=1)
    assert high - low > 5 * (blind[1] - blind[0])
    once = cluster_bootstrap(inputs, np.arange(10), seed=1)
    assert (low, high) == pytest.approx(once)


def test_bootstrap_refuses_what_does_not_fit() -> None:
    with pytest.raises(ConfigError, match="one cluster per value"):
        cluster_bootstrap([1.0, 2.0], [1], seed=1)


# --- text -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "n", "text"),
    [
        (0, 1000, "< 0.30 %"),
        (1000, 1000, "> 99.70 %"),
        (31, 1000, "3.1 % (2.1-4.4 %)"),
        (1, 1_000_000, "0.00010 % (0.000017-0.00057 %)"),
        (0, 0, "not tested"),
    ],
)
def test_rate(k: int, n: int, text: str) -> None:
    assert rate(k, n) == text


def test_rate_of_all() -> None:
    assert rate(0, 96, exhaustive=True) == "none of 96 (all)"
    assert rate(96, 96, exhaustive=True) == "all of 96"
    assert rate(3, 96, exhaustive=True) == "3.1 % (all)"


@settings(max_examples=300)
@given(st.integers(1, 10**7).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_rate_never_claims_certainty(count: tuple[int, int]) -> None:
    text = rate(*count)
    numbers = [float(t) for t in text.replace("-", " ").replace("(", " ").split() if t[0].isdigit()]
    assert all(0 < number < 100 for number in numbers), text
    if len(numbers) == 3:
        low, high = (float(end) * 100 for end in wilson(*count))
        assert numbers[1] <= low * (1 + 1e-8) and numbers[2] >= high * (1 - 1e-8)
