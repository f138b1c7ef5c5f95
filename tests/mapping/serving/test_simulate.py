"""Serving runs: equal to a plain simulation, whatever is guessed; what must hold for every run."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.mapping.serving.plain import Linear, Overlapped, Plain

from bankside.errors import ConfigError, ToolError
from bankside.mapping.serving import simulate as simulate_module
from bankside.mapping.serving.record import quantiles
from bankside.mapping.serving.simulate import Prices, simulate
from bankside.mapping.serving.state import STRATEGIES, Batching
from bankside.mapping.serving.trace import Trace, make_trace

NAMES = ("chunked", "adaptive", "continuous", "layered")


def random_trace(seed: int, count: int = 60, rate: float = 8.0) -> Trace:
    rng = np.random.default_rng(seed)
    rows = [
        (float(t), int(rng.integers(1, 200)), int(rng.integers(1, 60)), ())
        for t in np.cumsum(rng.exponential(1 / rate, count))
    ]
    return make_trace(f"random {seed}", rows)


def serve(trace, batching, kv_tokens, policy=None, **keys):
    policy = policy or Linear()
    state = STRATEGIES.get(batching.strategy)(trace, batching, kv_tokens, policy)
    return simulate(state, Prices(policy, **keys))


def gaps_of(plain) -> np.ndarray:
    return np.sort(np.concatenate([np.diff(o.times) for o in plain.all if o.times]))


@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize("kv_tokens", [600, 2000, 100_000])
def test_equals_the_plain_simulation(strategy: str, kv_tokens: int) -> None:
    preempted = 0
    for seed in range(6):
        trace = random_trace(seed)
        # What always passes must not hide what the adaptive strategy finds.
        budget = 4 * seed + 1 if strategy == "adaptive" else 96 + 40 * seed
        batching = Batching(
            strategy=strategy, token_budget=budget, max_requests=5 + 9 * seed,
            block_tokens=(1, 4, 16)[seed % 3], groups=1 + seed, tbt_s=0.018 + 0.004 * seed,
        )  # fmt: skip
        slow = strategy == "adaptive" and kv_tokens == 100_000 and seed % 2
        policy = Overlapped(4e-5) if slow else Linear()
        found = serve(trace, batching, kv_tokens, policy)
        plain = Plain(trace, batching, kv_tokens, policy).run()
        assert found.preemptions == plain.preemptions
        preempted += found.preemptions
        assert list(found.rejected) == [o.number for o in plain.rejected]
        for one in plain.all:
            if one.times:
                assert len(one.times) == one.answer
                assert found.first_s[one.number] == pytest.approx(one.times[0], abs=1e-9)
                assert found.done_s[one.number] == pytest.approx(one.times[-1], abs=1e-9)
        ours = np.sort(np.repeat(found.gaps, found.counts))
        assert len(ours) == len(gaps_of(plain))
        assert ours == pytest.approx(gaps_of(plain), abs=1e-9)
        assert max(row[5] for row in found.passes) == plain.peak
    assert (preempted > 0) == (kv_tokens == 600)


@pytest.mark.parametrize("strategy", NAMES)
def test_does_not_depend_on_the_guesses(strategy: str, monkeypatch) -> None:
    trace, batching = random_trace(3), Batching(strategy=strategy, token_budget=128)
    usual = serve(trace, batching, 3000)
    for wrong in (0.0, 1e-4, 0.5):
        monkeypatch.setattr(simulate_module._Guess, "of", lambda self, plan, w=wrong: w)
        other = serve(trace, batching, 3000)
        assert other.passes == usual.passes and other.gaps == usual.gaps
        assert np.array_equal(other.done_s, usual.done_s)


def test_many_passes_are_priced_in_one_call() -> None:
    policy = Linear()
    found = serve(random_trace(1, 400, 4.0), Batching(token_budget=256), 50_000, policy)
    assert policy.calls < len(found.passes) / 5


def test_swapping_costs_time_but_computes_nothing_twice() -> None:
    trace = random_trace(2)
    kinds = {
        kind: serve(
            trace, Batching(preemption=kind, block_tokens=4), 700,
            moves=lambda out, back: 1e-6 * (out + back),
        )
        for kind in ("recompute", "swap", "none")
    }  # fmt: skip
    prompts = {kind: sum(row[2] for row in found.passes) for kind, found in kinds.items()}
    assert kinds["swap"].preemptions and kinds["recompute"].preemptions
    assert kinds["none"].preemptions == kinds["none"].moved_tokens == 0
    accepted = sorted(set(range(len(trace))) - set(kinds["none"].rejected))
    assert prompts["swap"] == prompts["none"] == trace.inputs[accepted].sum() < prompts["recompute"]
    assert kinds["swap"].moved_tokens % 2 == 0 < kinds["swap"].moved_tokens


def test_shared_prefixes_are_computed_once() -> None:
    rows = [(0.1 * i, 1000, 5, (1, 2 + i % 2)) for i in range(20)]
    trace = make_trace("shared", rows, prefix_tokens=400)
    with_cache = serve(trace, Batching(prefix_cache_tokens=4000), 50_000)
    without = serve(trace, Batching(), 50_000)
    prompts = [sum(row[2] for row in found.passes) for found in (without, with_cache)]
    assert prompts == [20_000, 20_000 - 400 * 19 - 400 * 18]


def test_who_comes_back_does_not_give_way_in_the_same_pass() -> None:
    """Three requests whose contexts all fill their blocks at once, in four blocks."""
    trace = make_trace("edge", [(0.0, 1, 17, ()), (0.0, 16, 18, ()), (0.0, 1, 17, ())])
    batching = Batching(strategy="continuous", token_budget=8, block_tokens=16, preemption="swap")
    state, now, seen = STRATEGIES.get("continuous")(trace, batching, 64), 0.0, 0
    while (plan := state.next(now)) is not None:
        assert not set(plan.back + plan.back_later) & set(plan.gave_way)
        now, seen = now + 1.0, seen + len(plan.gave_way)
    assert seen and serve(trace, batching, 64).complete == 3


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.floats(0, 3), st.integers(1, 150), st.integers(1, 40)), min_size=1, max_size=25
    ),
    strategy=st.sampled_from(NAMES),
    kv=st.integers(60, 900),
    budget=st.integers(8, 300),
    block=st.sampled_from([1, 3, 16]),
    kind=st.sampled_from(["recompute", "swap", "none"]),
)
def test_every_run(rows, strategy, kv, budget, block, kind) -> None:
    """Requests and tokens are conserved; nothing is served before it arrives; memory holds."""
    trace = make_trace("any", [(*row, ()) for row in rows])
    batching = Batching(
        strategy=strategy, token_budget=budget, tbt_s=budget / 4000, block_tokens=block,
        preemption=kind, max_requests=12,
    )  # fmt: skip
    found = serve(trace, batching, kv, Overlapped() if budget % 2 else Linear())
    accepted = np.setdiff1d(np.arange(len(trace)), found.rejected)
    assert found.complete == len(accepted)
    assert found.tokens == trace.outputs[accepted].sum()
    assert sum(found.counts) == (trace.outputs[accepted] - 1).sum()
    assert (found.first_s[accepted] > trace.arrival_s[accepted]).all()
    assert (found.done_s[accepted] >= found.first_s[accepted]).all()
    assert all(row[5] * block <= kv for row in found.passes)
    starts = [row[0] for row in found.passes]
    assert starts == sorted(starts)
    for request in found.rejected:
        assert trace.inputs[request] + trace.outputs[request] - 1 > kv // block * block
    if strategy != "continuous":
        # Who came first gets the first token first, whatever happens later.
        first = found.first_s[accepted]
        assert found.preemptions or (np.diff(first) >= 0).all()


def test_a_faster_machine_never_ends_later_without_preemption() -> None:
    trace, batching = random_trace(5), Batching(max_requests=1)
    slow, fast = (serve(trace, batching, 10_000, Linear(fixed=f)) for f in (0.02, 0.01))
    assert fast.end_s <= slow.end_s and (fast.done_s <= slow.done_s).all()


def test_a_policy_that_gives_nonsense_is_named() -> None:
    with pytest.raises(ConfigError, match="policy Linear gives a pass of"):
        serve(random_trace(1), Batching(), 10_000, Linear(fixed=-1.0))


def test_a_lost_request_is_noticed() -> None:
    found = serve(random_trace(1), Batching(), 10_000)
    found.complete -= 1
    with pytest.raises(ToolError, match="60 requests arrived, 59 are complete"):
        found.finish(1.0, [])


def test_quantiles() -> None:
    assert quantiles(np.array([]))["p50"] is None
    values = np.arange(1.0, 101)
    found = quantiles(values)
    assert (found["p50"], found["p90"], found["p99"], found["max"]) == (50, 90, 99, 100)
    assert found["mean"] == 50.5
    weighted = quantiles(np.array([2.0, 1.0]), np.array([1, 9]))
    assert (weighted["p50"], weighted["p90"], weighted["p99"]) == (1, 1, 2)
