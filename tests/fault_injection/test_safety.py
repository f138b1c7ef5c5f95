"""FIT and metrics by hand, worst cases against a search, verdicts against enumerated samples."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bankside.errors import ConfigError
from bankside.fault_injection.blocks import BUCKETS, BlockFit, level_of_each
from bankside.fault_injection.classes import CLASSES
from bankside.fault_injection.safety import (
    TARGETS,
    BlockResult,
    RawRate,
    RawRates,
    Reading,
    StratumResult,
    Target,
    assess,
    measure,
    overall,
)
from bankside.fault_injection.statistics import Verdict, upper_bound
from bankside.fault_injection.strata import Bound


def raw(value: float, spread: float = 1.0) -> RawRate:
    low, high = value / spread, value * spread
    return RawRate(fit_per_bit=value, low=low, high=high, source="made up for a test")


def known(block: str, bits: int, kind: str = "flop", mechanism: str = "none", **counts: int):
    """A block whose every possible fault was tried."""
    named = {name.replace("_", "-"): count for name, count in counts.items()}
    strata = (StratumResult(sum(named.values()), named, exhaustive=True),)
    return BlockResult(block, kind, bits, strata, mechanism)


def values(results, rates, **options) -> dict[str, tuple[float, float, float]]:
    found = assess(results, rates, TARGETS["D"], **options)
    return {m.name: (m.estimate, m.low, m.high) for m in found.metrics}


# --- FIT and metrics by hand ------------------------------------------------------------------


def test_metrics_by_hand() -> None:
    """Block a: 1000 bits at 0.01 FIT = 10 FIT, 10 % SDC, 20 % latent; block b: 2000 bits = 20 FIT,
    5 % hang past a mechanism, 45 % detected. SPF 1, RF 1, latent 2 of 30 FIT."""
    results = [
        known("a", 1000, SDC=10, latent=20, masked=70),
        known("b", 2000, mechanism="parity", hang=5, detected_uncorrected=45, masked=50),
    ]
    found = assess(results, RawRates(transient={"flop": raw(0.01)}), TARGETS["D"])
    spfm, lfm, pmhf = found.metrics
    assert [m.estimate for m in found.metrics] == pytest.approx([1 - 2 / 30, 1 - 2 / 28, 2.0])
    for metric in found.metrics:  # nothing was sampled and the rate has no spread
        assert metric.low == pytest.approx(metric.estimate) == pytest.approx(metric.high)
    assert [m.verdict for m in (spfm, lfm, pmhf)] == [Verdict.FAIL, Verdict.PASS, Verdict.PASS]
    assert found.verdict is Verdict.FAIL
    first, second = found.fits
    by_hand = {"safe": (7, 10), "single_point": (1, 0), "residual": (0, 1), "detected": (0, 9),
               "perceived": (0, 0), "latent": (2, 0)}  # fmt: skip
    for bucket, fits in by_hand.items():
        assert (first.fit(bucket).estimate, second.fit(bucket).estimate) == pytest.approx(fits)
    assert first.coverage == 0 and second.coverage == pytest.approx(0.9)


@given(
    st.lists(st.integers(0, 50), min_size=7, max_size=7).filter(any),
    st.sampled_from(["none", "parity", "hardened"]),
    st.sampled_from(["latent", "safe"]),
    st.sampled_from(["safe", "dangerous"]),
    st.sampled_from(["dangerous", "perceived"]),
)
def test_buckets_hold_every_fault_once(counts, mechanism, latent, timing, hang) -> None:
    named = dict(zip(CLASSES, counts, strict=True))
    result = BlockResult("b", "flop", 10, (StratumResult(sum(counts), named, True),), mechanism)
    reading = Reading(latent=latent, timing_only=timing, hang=hang)
    fit = BlockFit.of(result, RawRates(transient={"flop": raw(0.01)}), reading, 0.95)
    assert sum(fit.shares[b].estimate for b in BUCKETS) == pytest.approx(1)
    bad = fit.shares["single_point"].estimate + fit.shares["residual"].estimate
    assert fit.dangerous.estimate == pytest.approx(bad)
    other = "residual" if mechanism in ("none", "hardened") else "single_point"
    assert fit.shares[other].estimate == 0


def test_readings_move_faults() -> None:
    result = known("b", 10, hang=1, latent=2, timing_only=3, masked=4)
    rates = RawRates(transient={"flop": raw(0.01)})

    def share(bucket: str, **reading: str) -> float:
        return BlockFit.of(result, rates, Reading(**reading), 0.95).shares[bucket].estimate

    assert share("single_point") == pytest.approx(0.1)
    assert share("single_point", hang="perceived") == 0
    assert share("perceived", hang="perceived") == pytest.approx(0.1)
    assert share("single_point", timing_only="dangerous") == pytest.approx(0.4)
    assert share("safe", latent="safe") == pytest.approx(0.9)


def test_fit_scales_with_bits_duty_factor_and_unit() -> None:
    result = known("b", 3_000_000, SDC=1, masked=3)
    per_mbit = RawRate(fit_per_mbit=700.0, low=500.0, high=900.0, source="x")
    rates = RawRates(transient={"flop": per_mbit})
    fit = BlockFit.of(result, rates, Reading(), 0.95)
    assert (fit.total.low, fit.total.estimate, fit.total.high) == pytest.approx((1500, 2100, 2700))
    single = fit.fit("single_point")
    assert (single.low, single.estimate, single.high) == pytest.approx((375, 525, 675))
    less = BlockFit.of(replace(result, duty=0.5, rate_factor=0.1), rates, Reading(), 0.95)
    assert less.total.estimate == pytest.approx(105)


def test_two_faults_that_meet() -> None:
    """10 FIT, 2 of them latent; 1e5 hours: 2 x 10 x 1e5 x 1e-9 FIT beside 1 FIT."""
    results = [known("a", 1000, SDC=10, latent=20, masked=70)]
    rates = RawRates(transient={"flop": raw(0.01)})
    assert values(results, rates)["PMHF"][0] == pytest.approx(1)
    estimate, low, high = values(results, rates, lifetime_hours=1e5)["PMHF"]
    assert (estimate, low, high) == pytest.approx((1.002, 1, 1.002))


# --- worst cases ------------------------------------------------------------------------------

shares = st.integers(0, 20).flatmap(lambda bad: st.tuples(st.just(bad), st.integers(0, 40 - bad)))


@given(st.lists(st.tuples(st.integers(1, 99), shares), min_size=1, max_size=4), st.floats(1, 9))
def test_ratios_at_raw_rates_are_the_extremes_of_all_corners(blocks, spread: float) -> None:
    """Each block has a raw rate of its own; a mean has its extremes at corners of the box."""
    results, rates = [], {}
    for i, (bits, (bad, latent)) in enumerate(blocks):
        counts = {"SDC": bad, "latent": latent, "masked": 40 - bad - latent}
        results.append(known(f"b{i}", bits, f"k{i}", **counts))
        rates[f"k{i}"] = raw(0.01 * (i + 1), spread)
    found = values(results, RawRates(transient=rates))
    corners, bits = [], np.array([b for b, _ in blocks])
    for factors in itertools.product((1 / spread, spread), repeat=len(blocks)):
        fit = bits * 0.01 * np.arange(1, len(blocks) + 1) * factors
        bad = [s[0] / 40 for _, s in blocks]
        latent = [s[1] / 40 for _, s in blocks]
        rest = np.dot(fit, 1 - np.array(bad))
        corners.append((1 - np.dot(fit, bad) / sum(fit), 1 - np.dot(fit, latent) / rest))
    for at, name in enumerate(("SPFM", "LFM")):
        ends = [corner[at] for corner in corners]
        assert found[name][1:] == pytest.approx((min(ends), max(ends)), abs=1e-12)


def test_one_raw_rate_for_all_cancels_in_ratios() -> None:
    results = [known("a", 10, SDC=1, masked=1), known("b", 90, latent=1, masked=9)]
    found = values(results, RawRates(transient={"flop": raw(0.01, spread=5)}))
    for name in ("SPFM", "LFM"):
        assert found[name][1] == pytest.approx(found[name][0]) == pytest.approx(found[name][2])
    assert found["PMHF"][2] == pytest.approx(25 * found["PMHF"][1])


def sampled(block: str, bits: int, kind: str = "flop", **counts: int) -> BlockResult:
    return BlockResult(block, kind, bits, (StratumResult(1e9, counts),))


def between(bounds: list[Bound], at: np.ndarray) -> np.ndarray:
    return np.array([b.low + a * (b.high - b.low) for b, a in zip(bounds, at, strict=True)])


@given(st.lists(shares, min_size=1, max_size=3), st.floats(1, 3))
def test_bounds_hold_wherever_shares_and_rates_lie(blocks, spread: float) -> None:
    """Truths drawn inside the bounds of every block never give a metric outside its bounds."""
    kinds = [f"k{i}" for i in range(len(blocks))]
    results = [
        sampled(k, 10 + i, k, SDC=bad, latent=latent, masked=40 - bad - latent)
        for i, (k, (bad, latent)) in enumerate(zip(kinds, blocks, strict=True))
    ]
    rates = RawRates(transient={k: raw(0.01, spread) for k in kinds})
    each = level_of_each(results, 0.95)
    fits = [BlockFit.of(r, rates, Reading(), each) for r in results]
    found = measure(fits)
    assert all(b.low <= b.estimate <= b.high for b in found.values())
    generator = np.random.default_rng(len(blocks))
    for _ in range(20):
        at = generator.choice([0.0, 1.0, generator.random()], size=(3, len(fits)))
        bad = between([f.dangerous for f in fits], at[0])
        latent = between([f.shares["latent"] for f in fits], at[1])
        latent = np.minimum(latent, 1 - bad)
        rate = 0.01 * spread ** (2 * at[2] - 1)
        fit = rate * np.array([r.bits for r in results])
        truth = {"SPFM": 1 - fit @ bad / fit.sum(), "PMHF": fit @ bad}
        if fit @ (1 - bad) > 1e-9:
            truth["LFM"] = 1 - fit @ latent / (fit @ (1 - bad))
        for name, value in truth.items():
            assert found[name].low - 1e-9 <= value <= found[name].high + 1e-9


# --- verdicts ---------------------------------------------------------------------------------


def test_a_wrong_pass_is_as_rare_as_promised() -> None:
    """Two blocks, truth just outside SPFM 90 %; probability of PASS over all samples."""
    target = Target("test", 0.90, None, None, "test")
    rates = RawRates(transient={"flop": raw(0.01)})
    n, p, passed = 60, (0.15, 0.0501), 0.0
    for k in itertools.product(range(8), repeat=2):
        results = [sampled(f"b{i}", 100, SDC=k[i], masked=n - k[i]) for i in range(2)]
        chance = math.prod(math.comb(n, k[i]) * p[i] ** k[i] * (1 - p[i]) ** (n - k[i])
                           for i in range(2))  # fmt: skip
        passed += chance * (assess(results, rates, target).verdict is Verdict.PASS)
    assert passed <= 0.05


def test_few_injections_are_inconclusive_and_enough_are_not() -> None:
    rates = RawRates(transient={"flop": raw(1e-4)})
    verdicts = [
        assess([sampled("b", 1000, masked=n)], rates, TARGETS["D"]).verdict for n in (100, 1000)
    ]
    assert verdicts == [Verdict.INCONCLUSIVE, Verdict.PASS]
    wrong = assess([sampled("b", 1000, SDC=100, masked=900)], rates, TARGETS["D"])
    assert wrong.verdict is Verdict.FAIL


def test_zero_hits_are_judged_by_their_bound() -> None:
    """The known-bad twin: with the estimate alone, 20 injections would pass ASIL D."""
    found = assess([sampled("b", 1000, masked=20)], RawRates(transient={"flop": raw(1e-4)}),
                   TARGETS["D"])  # fmt: skip
    spfm = found.metrics[0]
    assert spfm.estimate == 1.0 and spfm.worst == spfm.low < 0.99
    assert spfm.low == pytest.approx(1 - float(upper_bound(0, 20, 0.975)))
    assert spfm.verdict is Verdict.INCONCLUSIVE


def test_levels_are_split() -> None:
    results = [sampled("a", 1, masked=1), sampled("b", 1, masked=1), known("c", 1, masked=1)]
    assert level_of_each(results[2:], 0.95) == pytest.approx(0.975)
    assert level_of_each(results, 0.95) == pytest.approx(1 - (1 - 0.95**0.5) / 2)
    assert level_of_each(results, 0.95, looks=5) == pytest.approx(1 - (1 - 0.99**0.5) / 2)


def test_a_block_that_was_never_hit_counts_as_dangerous() -> None:
    found = assess([sampled("b", 1000)], RawRates(transient={"flop": raw(1e-4)}), TARGETS["B"])
    spfm, lfm, _ = found.metrics
    assert (spfm.estimate, spfm.low, spfm.high) == (0, 0, 1)
    assert lfm.low == 0 and found.verdict is Verdict.INCONCLUSIVE


def test_targets() -> None:
    numbers = {name: (t.spfm, t.lfm, t.pmhf) for name, t in TARGETS.items()}
    assert numbers == {"A": (None, None, None), "B": (0.90, 0.60, 100), "C": (0.97, 0.80, 100),
                       "D": (0.99, 0.90, 10)}  # fmt: skip
    for name in "ABC":
        assert "from memory" in TARGETS[name].standing
    found = assess([sampled("b", 9, SDC=9)], RawRates(transient={"flop": raw(1e9)}), TARGETS["A"])
    assert found.verdict is None and [m.verdict for m in found.metrics] == [None] * 3


def test_pmhf_has_to_be_below_its_share_of_the_budget() -> None:
    results = [known("b", 100, SDC=1, masked=9)]
    exact = RawRates(transient={"flop": raw(1.0)})  # 10 FIT of single-point faults
    assert assess(results, exact, TARGETS["D"]).metrics[2].verdict is Verdict.FAIL
    less = RawRates(transient={"flop": raw(0.9)})
    assert assess(results, less, TARGETS["D"]).metrics[2].verdict is Verdict.PASS
    half = assess(results, less, TARGETS["D"], pmhf_share=0.5).metrics[2]
    assert half.target == 5 and half.verdict is Verdict.FAIL


def test_overall() -> None:
    good, bad, open_ = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE
    assert overall([good, open_, bad]) is bad and overall([good, open_]) is open_
    assert overall([good, None]) is good and overall([None]) is None


# --- what the user gives ----------------------------------------------------------------------


def test_missing_rates_are_told() -> None:
    rates = RawRates(transient={"flop": raw(1.0)})
    with pytest.raises(ConfigError) as error:
        assess([known("core.mac", 1, "flip", masked=1)], rates, TARGETS["D"])
    for part in ("core.mac", "'flip'", "did you mean 'flop'?", "none is built in", "source"):
        assert part in str(error.value)
    with pytest.raises(ConfigError, match="no permanent rate"):
        assess([replace(known("a", 1, masked=1), mode="permanent")], rates, TARGETS["D"])


def test_scope_tells_whether_permanent_faults_are_in() -> None:
    rates = RawRates(transient={"flop": raw(1.0)}, permanent={"flop": raw(2.0)})
    soft = known("a", 1, SDC=1, masked=1)
    assert assess([soft], rates, TARGETS["D"]).scope == "transient faults"
    both = assess([soft, replace(soft, mode="permanent")], rates, TARGETS["D"])
    assert both.scope == "transient and permanent faults"
    assert both.metrics[2].estimate == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "exactly one"),
        ({"fit_per_bit": 1.0, "fit_per_mbit": 1.0}, "exactly one"),
        ({"fit_per_bit": 3.0}, "this order"),
        ({"fit_per_bit": 0.0}, "greater than 0"),
        ({"fit_per_bit": 1.0, "source": " "}, "name where the rate is from"),
        ({"fit_per_bit": 1.0, "high": math.inf}, "finite"),
    ],
)
def test_rates_that_cannot_be(values: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RawRate(**{"low": 0.5, "high": 2.0, "source": "x", **values})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 0}, "expected at least one"),
        ({"strata": ()}, "expected at least one"),
        ({"duty": 0.0}, "duty 0.0"),
        ({"rate_factor": 1.5}, "rate_factor 1.5"),
        ({"strata": (StratumResult(9, {"SCD": 1}),)}, "did you mean 'SDC'?"),
    ],
)
def test_blocks_that_cannot_be(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        replace(known("b", 1, masked=1), **change)


def test_nothing_to_judge() -> None:
    with pytest.raises(ConfigError, match="at least one block"):
        assess([], RawRates(), TARGETS["D"])
