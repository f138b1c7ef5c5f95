"""Adaptive chunks: within the bound, or hidden by the ranks' attention, or the token budget."""

import numpy as np
import pytest
from tests.mapping.serving.plain import Linear, Overlapped
from tests.mapping.serving.test_simulate import random_trace, serve

from bankside.errors import ConfigError
from bankside.mapping.policy.base import POLICIES, Policy
from bankside.mapping.serving.adaptive import MOST, Chunks
from bankside.mapping.serving.state import STRATEGIES, Batching
from bankside.mapping.serving.trace import make_trace
from bankside.mapping.system.system import System
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch

MACHINES = {
    "gpu_only": "dgx-a100", "host_offload": "l3", "hbm_pim": "hbm-pim",
    "hbm_pim_ext": "hbm-pim-ext", "rank_pim": "rank-pim", "l3": "l3", "duplex": "duplex",
}  # fmt: skip


def policy(name: str, model: str = "llama-3-70b") -> Policy:
    return POLICIES.get(name)(Architecture.load(model), System.load(MACHINES[name]))


def work(requests: int, context: float, chunk: float, past: float = 0) -> Batch:
    return Batch.decode(requests, context) + Batch.prefill(1, chunk, past)


def seconds(chosen: Policy, batch: Batch) -> float:
    return float(np.asarray(chosen.step(batch).seconds))


def chunk_of(chosen, tbt_s: float, requests: int, context: int, past: int = 0) -> int:
    return Chunks(chosen, tbt_s).tokens(requests, requests * context, context, past)


@pytest.mark.parametrize("name", list(MACHINES))
def test_every_policy_keeps_the_bound(name: str) -> None:
    """And nearly all of it is used: a tenth more work and a quarter more tokens exceed it."""
    chosen = policy(name)
    for requests, context, past in ((0, 0, 0), (16, 1000, 0), (60, 3000, 700)):
        bound = 2.5 * seconds(chosen, work(requests, context, 1))
        chunk = chunk_of(chosen, bound, requests, context, past)
        assert 16 < chunk < MOST
        assert seconds(chosen, work(requests, context, chunk, past)) <= bound * (1 + 1e-9)
        more = work(requests, 1.1 * context, 1.25 * chunk, 1.5 * past)
        assert seconds(chosen, more) > bound, (requests, chunk)
        assert chunk_of(chosen, 1e-6, requests, context, past) == 0 or name == "l3"


@pytest.mark.parametrize(("requests", "context"), [(256, 65_000), (3, 100_000), (40, 30_000)])
def test_l3_gives_the_gpus_the_time_of_the_ranks(requests: int, context: int) -> None:
    """Also where few requests decode, whose longest one all ranks wait for."""
    chosen = policy("l3")
    gpus, ranks = chosen.sides(work(requests, context, 0))
    assert ranks > 1.2 * gpus
    chunk = chunk_of(chosen, 1e-3, requests, context)
    gpus, ranks = chosen.sides(work(requests, context, chunk))
    assert 0.75 * ranks < gpus <= ranks
    assert seconds(chosen, work(requests, context, chunk)) <= ranks * (1 + 1e-9)


def test_sides_of_l3_are_what_interleaving_costs() -> None:
    chosen = policy("l3", "opt-66b")
    batch = Batch.decode(np.array([4, 512, 512]), 1500) + Batch.prefill(1, np.array([9, 9, 3000]))
    slower = np.maximum(*chosen.sides(batch))
    # Few requests go through in one.
    assert chosen.step(batch).seconds[0] < slower[0]
    assert chosen.step(batch).seconds[1:] == pytest.approx(slower[1:], rel=1e-9)


def test_the_budget_passes_where_nothing_fits() -> None:
    """A pass takes longer than the bound even without prompts."""
    trace = make_trace("four", [(0.0, 100, 8, ())] * 4)
    batching = Batching(strategy="adaptive", tbt_s=1e-3, token_budget=30, block_tokens=4)
    found = serve(trace, batching, 10_000, Linear())
    prompts = [row[2] for row in found.passes if row[2]]
    assert prompts[0] == 30 and max(prompts) == 30 and found.complete == 4
    assert all(row[2] + row[3] == 30 for row in found.passes[:5])


@pytest.mark.parametrize("kind", [Linear, Overlapped])
def test_passes_of_a_run_keep_the_bound(kind) -> None:
    chosen, trace = kind(), random_trace(4, 200, 20.0)
    batching = Batching(
        strategy="adaptive", tbt_s=0.02, token_budget=1, block_tokens=4, max_requests=40
    )
    found = serve(trace, batching, 100_000, chosen)
    rows = np.array(found.passes)
    assert found.complete == len(trace) and (rows[:, 2] > batching.block_tokens).any()
    within = rows[:, 1] <= batching.tbt_s * (1 + 1e-9)
    least = rows[:, 2] <= batching.block_tokens
    assert (within | least).all() if kind is Linear else within.mean() > 0.5
    other = batching.model_copy(update={"strategy": "chunked", "token_budget": 512})
    assert max(serve(trace, other, 100_000, chosen).gaps) > 1.2 * max(found.gaps)


def test_prices_are_asked_once_for_like_work() -> None:
    chosen = Linear()
    found = serve(random_trace(1, 300, 6.0), Batching(strategy="adaptive"), 50_000, chosen)
    assert chosen.calls < len(found.passes) / 2


def test_it_needs_a_policy() -> None:
    with pytest.raises(ConfigError, match="got none; expected one, or choose chunked"):
        STRATEGIES.get("adaptive")(random_trace(1), Batching(), 1000)
