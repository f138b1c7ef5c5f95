"""The plan against every other plan of small instances; what binds; what choosing costs."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bankside.errors import ConfigError, ToolError
from bankside.fault_injection import plan as plan_module
from bankside.fault_injection.blocks import BlockFit, Reading, level_of_each
from bankside.fault_injection.plan import Candidate, NoPlan, Plan, least_area
from bankside.fault_injection.safety import (
    TARGETS,
    BlockResult,
    RawRate,
    RawRates,
    StratumResult,
    Target,
    assess,
    measure,
)
from bankside.fault_injection.statistics import Verdict

MECHANISMS = ("none", "parity", "tmr")
RATES = RawRates(
    transient={
        "flop": RawRate(fit_per_bit=1e-3, low=5e-4, high=2e-3, source="made up for a test"),
        "memory": RawRate(fit_per_bit=2e-3, low=1e-3, high=8e-3, source="made up for a test"),
    }
)
TARGET = Target("test", 0.90, 0.85, 4.0, "for a test")


def result(
    block: str, mechanism: str, bits: int, bad: int, latent: int, kind: str = "flop", n: int = 2000
) -> BlockResult:
    counts = {"SDC": bad, "latent": latent, "masked": n - bad - latent}
    return BlockResult(block, kind, bits, (StratumResult(1e9, counts),), mechanism)


def every_plan(candidates: list[Candidate], target: Target) -> tuple[float, dict[str, float]]:
    """Least area that meets the target (inf: none), and the best of each metric, by trying all."""
    each = level_of_each([r for c in candidates for r in c.results], 0.95)
    blocks: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        blocks.setdefault(candidate.block, []).append(candidate)
    area, best = math.inf, {"SPFM": -math.inf, "LFM": -math.inf, "PMHF": math.inf}
    for chosen in itertools.product(*blocks.values()):
        fits = [BlockFit.of(r, RATES, Reading(), each) for c in chosen for r in c.results]
        found = measure(fits)
        best["SPFM"] = max(best["SPFM"], found["SPFM"].low)
        best["LFM"] = max(best["LFM"], found["LFM"].low)
        best["PMHF"] = min(best["PMHF"], found["PMHF"].high)
        if (
            found["SPFM"].low >= target.spfm
            and found["LFM"].low >= target.lfm
            and found["PMHF"].high < target.pmhf
        ):
            area = min(area, sum(c.area for c in chosen))
    return area, best


@st.composite
def instances(draw: st.DrawFn) -> list[Candidate]:
    """Up to four blocks of two kinds of sites with up to three candidates each."""
    candidates = []
    for i in range(draw(st.integers(1, 4))):
        for mechanism in MECHANISMS[: draw(st.integers(1, 3))]:
            worst = 500 if mechanism == "none" else 60
            results = tuple(
                result(f"b{i}", mechanism, draw(st.integers(1, 900)), draw(st.integers(0, worst)),
                       draw(st.integers(0, 300)), kind)
                for kind in draw(st.sampled_from([("flop",), ("memory",), ("flop", "memory")]))
            )  # fmt: skip
            candidates.append(
                Candidate(f"b{i}", mechanism, float(draw(st.integers(1, 1000))), results)
            )
    return candidates


@settings(max_examples=60, deadline=None)
@given(instances())
def test_no_other_plan_is_smaller(candidates: list[Candidate]) -> None:
    area, best = every_plan(candidates, TARGET)
    found = least_area(candidates, RATES, TARGET)
    if math.isinf(area):
        assert isinstance(found, NoPlan)
        assert dict(found.reachable) == pytest.approx(best, abs=1e-9)
        missed = {"SPFM": best["SPFM"] < 0.90, "LFM": best["LFM"] < 0.85, "PMHF": best["PMHF"] >= 4}
        assert found.binding == tuple(name for name, miss in missed.items() if miss)
        return
    assert isinstance(found, Plan)
    assert found.area == area
    assert [c.block for c in found.chosen] == sorted({c.block for c in candidates})
    assert found.metrics["SPFM"].low >= 0.90 and found.metrics["LFM"].low >= 0.85
    assert found.metrics["PMHF"].high < 4


def test_a_plan_that_large_coefficients_lost() -> None:
    """CP-SAT called 14 the least area when its numbers had 40 bits."""
    rows = [
        ("b0", "none", 1, [(304, 86, 241, "memory")]), ("b0", "parity", 2, [(579, 0, 0, "flop")]),
        ("b0", "tmr", 1, [(387, 0, 0, "flop")]),
        ("b1", "none", 1, [(808, 378, 0, "flop"), (1, 47, 0, "memory")]),
        ("b1", "parity", 2, [(1, 0, 0, "flop"), (1, 0, 0, "memory")]),
        ("b1", "tmr", 1, [(2, 0, 0, "flop"), (1, 41, 0, "memory")]),
        ("b2", "none", 11, [(1, 163, 60, "flop")]), ("b2", "parity", 1, [(1, 0, 0, "memory")]),
        ("b2", "tmr", 12, [(838, 44, 0, "flop")]),
    ]  # fmt: skip
    candidates = [
        Candidate(b, m, float(area), tuple(result(b, m, *numbers) for numbers in results))
        for b, m, area, results in rows
    ]
    found = least_area(candidates, RATES, TARGET)
    assert isinstance(found, Plan)
    assert found.area == every_plan(candidates, TARGET)[0] == 3


def test_the_instances_reach_both_answers_and_real_choices() -> None:
    """Guards the test above: a cheap block stays bare, a bad one gets the cheapest that does."""
    candidates = [
        Candidate("a", "none", 10.0, (result("a", "none", 100, 0, 0),)),
        Candidate("a", "tmr", 31.0, (result("a", "tmr", 300, 0, 0),)),
        Candidate("b", "none", 20.0, (result("b", "none", 900, 900, 0),)),
        Candidate("b", "parity", 25.0, (result("b", "parity", 900, 300, 0),)),
        Candidate("b", "tmr", 62.0, (result("b", "tmr", 2700, 0, 0),)),
    ]
    found = least_area(candidates, RATES, TARGET, duplicated_area=66.0)
    assert isinstance(found, Plan)
    assert [c.mechanism for c in found.chosen] == ["none", "tmr"]
    assert (found.area, found.base_area) == (72.0, 30.0)
    assert found.overhead == pytest.approx(1.4) and found.duplicated_overhead == pytest.approx(1.2)
    again = least_area(candidates, RATES, TARGET)
    assert isinstance(again, Plan) and again.duplicated_overhead == pytest.approx(1.0)
    assert every_plan(candidates, TARGET)[0] == found.area


def test_what_is_chosen_passes_when_judged_alone() -> None:
    candidates = [
        Candidate(b, m, a, (result(b, m, 500, bad, 5),))
        for b in "abc"
        for m, a, bad in (("none", 10.0, 400), ("parity", 14.0, 3), ("tmr", 30.0, 0))
    ]
    found = least_area(candidates, RATES, TARGET)
    assert isinstance(found, Plan)
    alone = assess([r for c in found.chosen for r in c.results], RATES, TARGET)
    assert alone.verdict is Verdict.PASS
    for metric in alone.metrics:  # fewer claims share the error: nothing gets worse
        assert metric.low >= found.metrics[metric.name].low - 1e-12
        assert metric.high <= found.metrics[metric.name].high + 1e-12


def test_a_plan_on_estimates_would_be_noticed() -> None:
    """Known-bad twin: without a failure in 30 injections the estimate is perfect, the bound not."""
    candidates = [Candidate("a", "none", 10.0, (result("a", "none", 10, 0, 0, n=30),)),
                  Candidate("a", "tmr", 30.0, (result("a", "tmr", 30, 0, 0),))]  # fmt: skip
    target = Target("test", 0.99, 0.90, 10.0, "for a test")
    found = least_area(candidates, RATES, target)
    assert isinstance(found, Plan) and found.chosen[0].mechanism == "tmr"


def test_metrics_that_are_only_together_out_of_reach() -> None:
    """One candidate has errors, the other latent faults; each metric alone is within reach."""
    candidates = [Candidate("a", "none", 1.0, (result("a", "none", 10, 400, 0),)),
                  Candidate("a", "parity", 2.0, (result("a", "parity", 10, 0, 900),))]  # fmt: skip
    found = least_area(candidates, RATES, TARGET)
    assert isinstance(found, NoPlan) and found.binding == ()
    assert found.reachable["SPFM"] >= 0.90 and found.reachable["LFM"] >= 0.85


def test_asil_a_asks_for_nothing_and_gets_the_bare_design() -> None:
    candidates = [Candidate("a", "tmr", 30.0, (result("a", "tmr", 30, 0, 0),)),
                  Candidate("a", "none", 10.0, (result("a", "none", 10, 900, 0),))]  # fmt: skip
    found = least_area(candidates, RATES, TARGETS["A"])
    assert isinstance(found, Plan) and found.area == 10 and found.overhead == 0


def test_a_hundred_blocks_are_planned_to_the_proven_optimum() -> None:
    """Each block alike: as many bare ones as the target allows, counted by hand from the bounds."""
    candidates = [
        Candidate(f"b{i:03}", m, a, (result(f"b{i:03}", m, 10, bad, 0, n=20_000),))
        for i in range(100)
        for m, a, bad in (("none", 10.0, 4000), ("tmr", 40.0, 0))
    ]
    target = Target("test", 0.95, None, None, "for a test")
    found = least_area(candidates, RATES, target)
    assert isinstance(found, Plan)
    each = level_of_each([r for c in candidates for r in c.results], 0.95)
    bad, good = (BlockFit.of(c.results[0], RATES, Reading(), each).dangerous.high
                 for c in candidates[:2])  # fmt: skip
    bare = math.floor((0.05 - good) * 100 / (bad - good))
    assert 10 < bare < 30
    assert found.area == bare * 10 + (100 - bare) * 40


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([], "no candidates"),
        (
            [Candidate("a", "tmr", 1.0, (result("a", "tmr", 1, 0, 0),))],
            "candidates of a: none with",
        ),
        ([Candidate("a", "none", 1.0, ())], "0 results"),
        ([Candidate("a", "none", -1.0, (result("a", "none", 1, 0, 0),))], "area -1.0"),
        ([Candidate("a", "none", 1.0, (result("a", "none", 1, 0, 0),))] * 2, "given twice"),
        ([Candidate("a", "none", 1.0, (result("a", "none", 1, 0, 0, "net"),))], "kind 'net'"),
    ],
)
def test_candidates_that_are_no_choice(candidates: list[Candidate], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        least_area(candidates, RATES, TARGET)


def test_an_unproven_plan_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = [Candidate("a", "none", 1.0, (result("a", "none", 10, 0, 0),))]
    monkeypatch.setattr(
        plan_module.cp_model.CpSolver, "solve", lambda self, model: plan_module.cp_model.FEASIBLE
    )
    monkeypatch.setattr(plan_module.cp_model.CpSolver, "status_name", lambda self, status: "x")
    with pytest.raises(ToolError, match="expected a proven optimum"):
        least_area(candidates, RATES, TARGET)


@pytest.mark.parametrize("metric", ["SPFM", "LFM", "PMHF"])
@pytest.mark.parametrize("distance", [-1e-9, 1e-9])
def test_targets_are_met_to_the_ninth_digit(metric: str, distance: float) -> None:
    """A target just this side of what the only choice reaches is met, just beyond it is not."""
    candidates = [Candidate(b, "none", 1.0, (result(b, "none", 77, 31, 17, kind),))
                  for b, kind in (("a", "flop"), ("b", "memory"))]  # fmt: skip
    bounds = least_area(candidates, RATES, TARGETS["A"]).metrics[metric]
    limit = (bounds.high if metric == "PMHF" else bounds.low) * (1 + distance)
    target = Target("test", *(limit if m == metric else None for m in ("SPFM", "LFM", "PMHF")), "")
    met = distance > 0 if metric == "PMHF" else distance < 0
    assert isinstance(least_area(candidates, RATES, target), Plan if met else NoPlan)
