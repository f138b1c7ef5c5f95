"""Adaptive chunks: within the bound, or hidden behind what a pass waits for anyway."""

import numpy as np
import pytest
from tests.mapping.serving.plain import Linear, Overlapped
from tests.mapping.serving.test_simulate import random_trace, serve

from bankside.errors import ConfigError
from bankside.mapping.policy.base import POLICIES, Policy
from bankside.mapping.serving.adaptive import MOST, SLACK, Chunks
from bankside.mapping.serving.state import STRATEGIES, Batching
from bankside.mapping.system.system import System
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch

MACHINES = {
    "gpu_only": "dgx-a100", "host_offload": "l3", "hbm_pim": "hbm-pim",
    "hbm_pim_ext": "hbm-pim-ext", "rank_pim": "rank-pim", "l3": "l3", "duplex": "duplex",
}  # fmt: skip


def policy(name: str, model: str = "llama-3-70b") -> Policy:
    return POLICIES.get(name)(Architecture.load(model), System.load(MACHINES[name]))


def seconds(chosen, requests: int, context: int, chunk: float, past: int = 0) -> float:
    batch = Batch.decode(requests, context) + Batch.prefill(1, chunk, past)
    return float(np.asarray(chosen.step(batch).seconds))


def chunk_of(chosen, tbt_s: float, requests: int, context: int, past: int = 0) -> int:
    found = Chunks(chosen, tbt_s, 16)
    return found.tokens(requests, requests * context, context, past)


@pytest.mark.parametrize("name", list(MACHINES))
def test_every_policy_keeps_the_bound(name: str) -> None:
    """And nearly all of it is used: an eighth more work and a quarter more tokens exceed it."""
    chosen = policy(name)
    for requests, context, past in ((0, 0, 0), (16, 1000, 0), (60, 3000, 700)):
        bound = 2.5 * seconds(chosen, requests, context, 1)
        chunk = chunk_of(chosen, bound, requests, context, past)
        assert 16 < chunk < MOST
        assert seconds(chosen, requests, context, chunk, past) <= bound * (1 + 1e-9)
        more = seconds(chosen, requests, 1.1 * context, 1.25 * chunk, 1.5 * past)
        assert more > bound, (requests, chunk)


def test_l3_fills_the_time_of_the_ranks() -> None:
    """Long contexts: without prompts the GPUs wait; the chunk takes the time that they would."""
    chosen = policy("l3")
    requests, context = 256, 65_536
    alone = seconds(chosen, requests, context, 0)
    parts = chosen.step(Batch.decode(requests, context)).parts
    assert float(parts["pim.attention"]) > 0.5 * alone
    chunk = chunk_of(chosen, 0.05, requests, context)
    assert alone > 0.05 and chunk > 1000
    assert seconds(chosen, requests, context, chunk) <= (1 + SLACK) * alone * (1 + 1e-9)
    assert seconds(chosen, requests, context, 1.3 * chunk) > (1 + SLACK) * alone
    beside = chosen.step(Batch.decode(requests, context) + Batch.prefill(1, chunk)).parts
    gpus = sum(float(np.asarray(beside[name])) for name in beside if name.startswith("gpu."))
    assert gpus > 0.8 * alone


def test_where_nothing_overlaps_prompts_go_on_slowly() -> None:
    chosen = policy("hbm_pim", "opt-66b")
    alone = seconds(chosen, 30, 1500, 0)
    chunk = chunk_of(chosen, alone / 2, 30, 1500)
    assert 16 <= chunk < 200
    assert seconds(chosen, 30, 1500, chunk) <= 1.1 * alone


@pytest.mark.parametrize("kind", [Linear, Overlapped])
def test_passes_of_a_run_keep_the_bound(kind) -> None:
    chosen, trace = kind(), random_trace(4, 200, 20.0)
    batching = Batching(strategy="adaptive", tbt_s=0.02, block_tokens=4, max_requests=40)
    found = serve(trace, batching, 100_000, chosen)
    rows = np.array(found.passes)
    assert found.complete == len(trace) and (rows[:, 2] > batching.block_tokens).any()
    within = rows[:, 1] <= batching.tbt_s * (1 + 1e-9)
    least = rows[:, 2] <= batching.block_tokens
    assert (within | least).all() if kind is Linear else within.mean() > 0.5
    fixed = serve(trace, batching.model_copy(update={"strategy": "chunked"}), 100_000, chosen)
    assert max(fixed.gaps) > 1.2 * max(found.gaps)


def test_prices_are_asked_once_for_like_work() -> None:
    chosen = Linear()
    found = serve(random_trace(1, 300, 6.0), Batching(strategy="adaptive"), 50_000, chosen)
    assert chosen.calls < len(found.passes) / 2


def test_it_needs_a_policy() -> None:
    with pytest.raises(ConfigError, match="got none; expected one, or choose chunked"):
        STRATEGIES.get("adaptive")(random_trace(1), Batching(), 1000)
