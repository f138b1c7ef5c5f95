"""Duplex: which processor takes what, and when both work."""

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.mapping.policy.base import POLICIES, Policy
from bankside.mapping.system.system import System
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch


def duplex(model: str = "mixtral-8x7b") -> Policy:
    return POLICIES.get("duplex")(Architecture.load(model), System.load("duplex"))


def parts(chosen: Policy, batch: Batch) -> dict[str, float]:
    return {name: float(np.asarray(part)) for name, part in chosen.step(batch).parts.items()}


def devices(chosen: Policy, batch: Batch) -> dict[str, str]:
    return {line.name: line.device for line in chosen.plan(batch).lines}


def test_few_operations_per_byte_go_to_the_logic_die() -> None:
    chosen = duplex("llama-3-70b")
    assert devices(chosen, Batch.decode(1, 8192))["qkv"] == "logic_pim"
    many = devices(chosen, Batch.decode(1024, 8192))
    assert many["qkv"] == "gpu" and many["attention_decode"] == "logic_pim"
    assert devices(chosen, Batch.prefill(1, 4096))["attention_prefill"] == "gpu"


def test_experts_are_divided_where_both_together_are_quicker() -> None:
    """In the middle: with few tokens the banks' bandwidth decides, with many the GPU."""
    chosen = duplex()
    found = {n: devices(chosen, Batch.decode(n, 512))["expert_down"] for n in (1, 64, 128, 1024)}
    assert found[1] == "logic_pim"
    assert "both" in found.values()


def test_prompts_attend_beside_the_requests_that_decode() -> None:
    chosen = duplex("llama-3-70b")
    prompt, others = Batch.prefill(1, 4096), Batch.decode(64, 8192)
    mixed = parts(chosen, prompt + others)
    apart = [parts(chosen, part) for part in (prompt, others)]
    assert mixed["both.attention"] == pytest.approx(
        max(apart[0]["gpu.attention"], apart[1]["pim.attention"]), rel=1e-9
    )
    assert mixed["gpu.attention"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("model", ["llama-3-70b", "mixtral-8x7b"])
def test_never_slower_than_the_same_gpus_alone(model: str) -> None:
    arch, system = Architecture.load(model), System.load("duplex")
    batch = Batch.decode(np.array([1, 8, 64, 512]), np.array([100, 4096, 2000, 9000]))
    alone = POLICIES.get("gpu_only")(arch, system).step(batch).seconds
    assert (duplex(model).step(batch).seconds <= np.asarray(alone) * (1 + 1e-9)).all()


def test_one_processor_at_a_time() -> None:
    arch, system = Architecture.load("mixtral-8x7b"), System.load("duplex")
    apart = POLICIES.get("duplex")(arch, system, co_process=False)  # type: ignore[call-arg]
    batch = Batch.prefill(1, 2048) + Batch.decode(np.array([16, 64, 128]), 2000)
    found = apart.step(batch)
    assert not np.any(found.parts["both.experts"]) and not np.any(found.parts["both.attention"])
    together = duplex().step(batch)
    assert np.any(together.parts["both.attention"])
    assert (np.asarray(together.seconds) < np.asarray(found.seconds)).all()


def test_dense_products_stay_on_the_gpu_where_asked() -> None:
    arch, system = Architecture.load("mixtral-8x7b"), System.load("duplex")
    published = POLICIES.get("duplex")(arch, system, dense=False)  # type: ignore[call-arg]
    batch = Batch.decode(4, 4096)
    there = devices(published, batch)
    assert there["qkv"] == there["out"] == there["router"] == "gpu"
    assert there["attention_decode"] == there["expert_down"] == "logic_pim"
    assert devices(duplex(), batch)["qkv"] == "logic_pim"
    assert published.step(batch).seconds > duplex().step(batch).seconds


def test_a_machine_without_logic_pim_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no logic_pim"):
        POLICIES.get("duplex")(Architecture.load("llama-3-70b"), System.load("dgx-a100"))


@pytest.mark.parametrize("past", [0, 1500])
def test_a_quicker_logic_die_is_never_slower(past: int) -> None:
    """Also where it takes the prompt's attention from the GPU, which could overlap."""
    arch, system = Architecture.load("llama-3-70b"), System.load("duplex")
    batch = Batch.prefill(np.array([1, 1, 4, 4]), np.array([30, 100, 300, 700]), past)
    batch = batch + Batch.decode(np.array([4, 64, 20, 100]), np.array([500, 8192, 9000, 2000]))
    old = system.logic_pim.bandwidth_gbps
    found = []
    for factor in np.geomspace(1, 16, 60):
        chosen = POLICIES.get("duplex")(
            arch, system.with_("logic_pim.bandwidth_gbps", old * factor)
        )
        found.append(chosen.step(batch))
    seconds = np.array([cost.seconds for cost in found])
    assert (np.diff(seconds, axis=0) <= 1e-12 * seconds[1:]).all()
    both = np.array([cost.parts["both.attention"] for cost in found]) > 0
    assert both[0].any() and not both[-1].all()


def test_attention_that_overlaps_is_listed_where_it_runs() -> None:
    chosen = duplex("llama-3-70b")
    batch = Batch.prefill(1, 30) + Batch.decode(64, 8192)
    assert devices(chosen, Batch.prefill(1, 30))["attention_prefill"] == "logic_pim"
    assert parts(chosen, batch)["both.attention"] > 0
    assert devices(chosen, batch)["attention_prefill"] == "gpu"
    energy = chosen.step(batch).energy_j
    assert energy is not None and energy > 0
