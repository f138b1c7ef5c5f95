"""Tensor-parallel shares: the default, what memory changes, what they hold twice."""

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.mapping.policy.base import POLICIES
from bankside.mapping.system.system import System
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch

BATCH = Batch.decode(np.array([1, 64, 400]), 2000) + Batch.prefill(np.array([0, 1, 3]), 1000)


def made(policy: str, system: System, model: str = "llama-3-70b", tp: int | None = None):
    return POLICIES.get(policy)(Architecture.load(model), system, tp=tp)


@pytest.mark.parametrize(("policy", "machine"), [("gpu_only", "dgx-a100"), ("l3", "l3")])
def test_more_memory_takes_neither_room_nor_time(policy: str, machine: str) -> None:
    """The fewest shares that fit would be 4 at 83 GB and 2 at 84 GB, with a fifth of the room."""
    systems = [System.load(machine).with_("gpu.memory_bytes", gb * 1e9) for gb in range(40, 180, 4)]
    found = [made(policy, system) for system in systems]
    room = np.array([chosen.capacity.kv_tokens for chosen in found])
    seconds = np.array([chosen.step(BATCH).seconds for chosen in found])
    assert (np.diff(room) >= 0).all()
    assert (np.diff(seconds, axis=0) <= 1e-12 * seconds[1:]).all()


@pytest.mark.parametrize(
    ("model", "gpus", "shares"),
    [("llama-3-70b", 8, 8), ("gpt2", 8, 4), ("opt-66b", 16, 8), ("qwen2.5-7b", 8, 4)],
)
def test_by_default_as_many_as_divide_model_and_devices(model: str, gpus: int, shares: int) -> None:
    chosen = made("gpu_only", System.load("dgx-a100").with_("gpus", gpus), model)
    assert (chosen.shares.tp, chosen.shares.copies) == (shares, gpus // shares)


def test_without_a_link_each_device_holds_a_copy() -> None:
    alone = System.load("dgx-a100").with_("gpu_link", None)
    assert made("gpu_only", alone, "llama-3-8b").shares.copies == 8
    with pytest.raises(ConfigError, match=r"of 1 GPUs of \S+ \(a copy each: \S+ has no gpu_link"):
        made("gpu_only", alone)
    with pytest.raises(ConfigError, match="has no gpu_link between its GPUs"):
        made("gpu_only", alone, "llama-3-8b", tp=2)


def test_shares_beyond_the_key_heads_hold_them_again() -> None:
    """Eight key heads on sixteen GPUs; DIMM-PIM holds them once."""
    many = System.load("l3").with_("gpus", 16)
    each = Architecture.load("llama-3-70b").kv_bytes_per_token()
    for policy, repeats in (("gpu_only", 2), ("l3", 1)):
        chosen = made(policy, many)
        assert chosen.shares.tp == 16
        assert chosen.capacity.kv_tokens == pytest.approx(chosen.kv_bytes / each / repeats)
    eight = made("gpu_only", many, tp=8)
    assert eight.capacity.kv_tokens == pytest.approx(eight.kv_bytes / each)


def test_latent_keys_are_every_shares() -> None:
    large = System.load("dgx-h200").with_("gpu.memory_bytes", 400e9)
    chosen = made("gpu_only", large, "deepseek-v3")
    each = chosen.arch.kv_bytes_per_token()
    assert chosen.capacity.kv_tokens == pytest.approx(chosen.kv_bytes / each / chosen.shares.tp)
