"""Steady states of L3 and its baselines: as many requests as memory holds, in the middle of their
answers. Means over many such states.

Lengths are log-normal with the published means and deviations. A request is under way for as many
passes as its answer has tokens, so contexts under way are drawn with that weight and at any point
of the answer; prompts come at the rate at which requests end. Ref: CHIME (ISCA 2026), section VII.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankside.mapping.policy.base import POLICIES, Policy
from bankside.mapping.system.system import System
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch
from bankside.strict_yaml import load_yaml

SEED = 20260626
#: Requests that contexts are drawn from; states that a steady state is averaged over.
_DRAWN, _STATES = 20_000, 200


@lru_cache(maxsize=1)
def published() -> dict[str, Any]:
    """Everything in l3.yaml."""
    data, _ = load_yaml(Path(__file__).with_name("l3.yaml"))
    assert isinstance(data, dict)
    return data


@dataclass(frozen=True)
class Steady:
    """Means over states. batch: requests under way. seconds: of a pass. tokens_per_s: of all."""

    batch: float
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        return self.batch / self.seconds


def log_normal(
    rng: np.random.Generator, mean: float, deviation: float, count: int
) -> NDArray[np.float64]:
    """Numbers of at least 1."""
    spread = math.sqrt(math.log(1 + (deviation / mean) ** 2))
    return np.maximum(
        np.exp(math.log(mean) - spread**2 / 2 + spread * rng.standard_normal(count)), 1
    )


@lru_cache(maxsize=16)
def contexts(dataset: str) -> tuple[NDArray[np.float64], float, float]:
    """(contexts of requests under way, one state per row; mean prompt; mean answer)."""
    data = published()
    shape = data["datasets"][dataset]
    rng = np.random.default_rng(SEED)
    inputs = log_normal(rng, *shape["input"], _DRAWN)
    outputs = log_normal(rng, *shape["output"], _DRAWN)
    size = (_STATES, data["requests"])
    chosen = rng.choice(_DRAWN, size, p=outputs / outputs.sum())
    now = inputs[chosen] + outputs[chosen] * rng.random(size)
    return np.ceil(now), float(inputs.mean()), float(outputs.mean())


def steady(policy: Policy, dataset: str) -> Steady:
    """The batches that fit in each state, one request at least, and their passes.

    Tokens per second are those of all states over the time of all: where memory holds few requests
    a single state says little (a factor of 4 to either side).
    """
    return _steady(policy, dataset, SEED)


@lru_cache(maxsize=1024)
def _steady(policy: Policy, dataset: str, _seed: int) -> Steady:
    drawn, prompt, answer = contexts(dataset)
    held = np.cumsum(drawn, axis=1) <= policy.capacity.kv_tokens
    held[:, 0] = True
    batch = held.sum(axis=1).astype(float)
    part = np.where(held, drawn, 0.0)
    work = Batch(
        decode_requests=batch, decode_context=part.sum(axis=1), decode_longest=part.max(axis=1)
    )
    arriving = batch / answer
    work = work + Batch(
        arriving * prompt, arriving, arriving * prompt * (prompt + 1) / 2, arriving * prompt
    )
    return Steady(float(batch.mean()), float(np.mean(policy.step(work).seconds)))


@lru_cache(maxsize=512)
def policy(model: str, system: str, name: str, tp: int | None, change: tuple = ()) -> Policy:
    """A policy on a preset; change: (path, value) pairs."""
    machine = System.load(system)
    for path, value in change:
        machine = machine.with_(path, value)
    return POLICIES.get(name)(Architecture.load(model), machine, tp=tp)


def points() -> list[tuple[str, str]]:
    """(model, data set) of every run."""
    data = published()
    return [(model, dataset) for model in data["models"] for dataset in data["datasets"]]


@dataclass(frozen=True)
class Setting:
    """What the paper leaves open.

    Attributes:
        gpu_tflops: of each GPU on 16-bit numbers; None: the data sheet's.
        one_copy: baselines hold one copy of the weights on all GPUs, not one per tensor-parallel
            group.
        run: `min` or `max`: which of the runs that may be meant counts; None: as the cell says.
    """

    gpu_tflops: float | None = None
    one_copy: bool = False
    run: Callable[[Iterable[float]], float] | None = None

    @property
    def change(self) -> tuple:
        if self.gpu_tflops is None:
            return ()
        return tuple((f"gpu.matrix_tflops.{kind}", self.gpu_tflops) for kind in ("fp16", "bf16"))


DATA_SHEET = Setting()
#: CHIME's table I: 156 TFLOP/s of all eight GPUs together.
TABLE_I = Setting(gpu_tflops=156 / 8)
ONE_COPY = Setting(one_copy=True)
LEAST, MOST = Setting(run=min), Setting(run=max)


def ours(model: str, dataset: str, setting: Setting = DATA_SHEET, change: tuple = ()) -> Steady:
    """L3 on its machine."""
    data = published()
    tp = data["models"][model]["tp"]
    return steady(policy(model, "l3", "l3", tp, (*change, *setting.change)), dataset)


def baseline(model: str, dataset: str, name: str, setting: Setting = DATA_SHEET) -> Steady:
    """A baseline on its machine."""
    data = published()
    system = data["systems"][name]
    tp = System.load(system).gpus if setting.one_copy else data["models"][model]["tp"]
    return steady(policy(model, system, name, tp, setting.change), dataset)


def speedups(name: str, setting: Setting = DATA_SHEET) -> dict[tuple[str, str], float]:
    """Throughput of L3 over a baseline's, by model and data set."""
    return {
        (model, dataset): ours(model, dataset, setting).tokens_per_s
        / baseline(model, dataset, name, setting).tokens_per_s
        for model, dataset in points()
    }


def over_cpus(model: str, dataset: str, setting: Setting = DATA_SHEET) -> float:
    """Throughput of L3 over that of attention on the host's CPUs, which read its memory at the
    channels' bandwidth.
    """
    data = published()
    change = (("rank_pim.bandwidth_gbps", data["cpu_v1"]["gbps"]), *setting.change)
    tp = System.load("rank-pim").gpus if setting.one_copy else data["models"][model]["tp"]
    cpus = steady(policy(model, "rank-pim", "rank_pim", tp, change), dataset)
    return ours(model, dataset, setting).tokens_per_s / cpus.tokens_per_s


def scaling(model: str, dataset: str, setting: Setting = DATA_SHEET) -> dict[str, float]:
    """Throughput with `factor` times bandwidth, capacity or both over one rankset's."""
    rows = published()["scaling"]
    factor, memory = rows["factor"], rows["base_bytes"]

    def run(ranks: int, bytes_: float) -> float:
        change = (
            ("dimm_pim.ranksets", 1), ("dimm_pim.dimms_per_channel", ranks),
            ("dimm_pim.ranks_per_dimm", 1), ("dimm_pim.memory_bytes", bytes_),
        )  # fmt: skip
        return ours(model, dataset, setting, change).tokens_per_s

    base = run(1, memory)
    return {
        "bandwidth": run(factor, memory) / base,
        "capacity": run(1, factor * memory) / base,
        "both": run(factor, factor * memory) / base,
    }
