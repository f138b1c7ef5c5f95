"""Duplex and its baselines in the steady state of continuous batching.

A batch is always full: whoever is complete makes room for a new request, whose prompt passes beside
the others' tokens in the next stage. A request of `outputs` tokens is under way for as many stages,
so of a full batch each one is new with probability 1 / outputs, independently. Contexts are the
mean ones (the paper draws lengths from normal distributions whose deviation it does not print).

Ref: arXiv 2409.01141, sections VI and VII.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bankside.mapping.gpu.model import GpuModel
from bankside.mapping.policy.base import Policy
from bankside.mapping.policy.duplex import Duplex
from bankside.mapping.policy.gpu_only import GpuOnly
from bankside.mapping.system.system import System
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch
from bankside.schema import Section, validate
from bankside.strict_yaml import load_yaml

Model = Literal["mixtral", "glam", "llama3", "opt"]
#: What runs a model: the GPUs, twice as many, one processor at a time, both at once, Bank-PIM.
Kind = Literal["gpu", "two_gpus", "duplex", "both", "bank"]
#: Numbers of new requests that are rarer than this in a stage are left out.
_RARE = 1e-9


class Runs(Section):
    """A model's devices, and its prompts' and answers' tokens (equal)."""

    devices: int
    lengths: list[int] = Field(min_length=1)


class Processor(Section):
    """Bandwidth as a multiple of the HBM's, operations per byte of it."""

    bandwidth: float
    intensity: float


class LogicDie(Processor):
    """And its rate as printed."""

    tflops_per_stack: float
    stacks: int


class Heads(Section):
    """Attention's shape."""

    heads: int
    kv_heads: int
    head_dim: int


class Utilisation(Section):
    """Shares of the GPU's peak, and the lengths of the requests."""

    moe: float
    attention: float
    input: int
    output: int


class Throughput(Section):
    """Most of all runs."""

    duplex: float
    both: float
    both_over_duplex: float


class EndToEnd(Section):
    """Whole requests: times quicker at most; mean shares saved."""

    most: float
    over_gpu: float
    over_two: float


class Tokens(Section):
    """Shares saved of the time between tokens and to the first one."""

    median: float
    p99_over_two: float
    ttft_over_two: float


class Latency(Section):
    """Run of the latencies."""

    batch: int
    input: int


class Queries(Section):
    """Requests per second that a machine keeps up with."""

    input: int
    output: int
    batch: int
    gpu: float
    duplex: float


class At(Section):
    """A speed-up of one run."""

    value: float
    batch: int
    length: int


class BankPim(Section):
    """Mixtral on Bank-PIM."""

    over_gpu: At
    over_gpu_short: At
    duplex_over_gpu_short: float
    duplex_over_bank: float
    duplex_over_bank_mean: float
    batches: list[int]


class Room(Section):
    """Requests that memory holds."""

    length: int
    requests: int


class Published(Section):
    """Everything in duplex.yaml."""

    models: dict[Model, Runs]
    presets: dict[Model, str]
    glam: Architecture
    grok1_attention: Heads
    batches: list[int]
    logic: LogicDie
    bank: Processor
    utilisation: Utilisation
    throughput: Throughput
    end_to_end: EndToEnd
    tbt: Tokens
    latency: Latency
    queries: Queries
    bank_pim: BankPim
    energy: dict[Model, float]
    opt_batch: Room


@cache
def published() -> Published:
    """The parameters, read once."""
    data, locations = load_yaml(Path(__file__).with_name("duplex.yaml"))
    return validate(Published, data, locations)


@dataclass(frozen=True)
class Setting:
    """What the paper leaves open.

    Attributes:
        rooflines: GPUs at their peaks, kernels without a launch; else as calibrated.
        efficient: units at the memory reach its peak bandwidth; else the share of it that the
            GPUs' reads reach as calibrated.
        dense: products of dense layers may go to the logic die.
        half_energy: half the energy per byte that units at the memory read.
    """

    rooflines: bool = False
    efficient: bool = True
    dense: bool = False
    half_energy: bool = False


CALIBRATED = Setting()


class Rooflines(GpuModel):
    """A GPU whose kernels reach its peaks and start at once."""

    @property
    def launch_s(self) -> float:
        return 0.0

    def gemm(self, m, n, k, count=1, bits=16) -> NDArray:
        return np.zeros(np.broadcast_shapes(*map(np.shape, (m, n, k, count))))

    def _kernel(self, op: object) -> NDArray:
        return np.zeros(())


def machine(devices: int, processor: Processor, efficiency: float = 1.0) -> System:
    """GPUs of the preset with one kind of units at their memory, which reach a share of its
    bandwidth and all of their operations.
    """
    system = System.load("duplex")
    assert system.gpu is not None
    system = system.with_("gpus", devices)
    system = system.with_("logic_pim.memory_bytes", devices * system.gpu.memory_bytes)
    rate = devices * processor.bandwidth * system.gpu.memory_gbps * efficiency
    system = system.with_("logic_pim.bandwidth_gbps", rate)
    return system.with_("logic_pim.max_intensity", processor.intensity / efficiency)


@cache
def dram_efficiency() -> float:
    """Share of the memory bandwidth that the calibrated GPU's products reach."""
    gpu = System.load("duplex").gpu
    assert gpu is not None
    return float(GpuModel.load(gpu).fit.gemm.parameters.dram_efficiency)


@cache
def architecture(model: Model) -> Architecture:
    """Of table I."""
    data = published()
    return data.glam if model == "glam" else Architecture.load(data.presets[model])


@cache
def policy(model: Model, kind: Kind, setting: Setting = CALIBRATED) -> Policy:
    """All devices hold one copy, as tensor-parallel shares."""
    data, arch = published(), architecture(model)
    devices = data.models[model].devices * (2 if kind == "two_gpus" else 1)
    share = 1.0 if setting.efficient else dram_efficiency()
    system = machine(devices, data.bank if kind == "bank" else data.logic, share)
    if setting.half_energy:
        assert system.logic_pim is not None and system.logic_pim.energy_per_byte_pj is not None
        less = system.logic_pim.energy_per_byte_pj / 2
        system = system.with_("logic_pim.energy_per_byte_pj", less)
    made: Policy
    if kind in ("gpu", "two_gpus"):
        made = GpuOnly(arch, system, tp=devices)
    else:
        made = Duplex(arch, system, tp=devices, co_process=kind == "both", dense=setting.dense)
    if setting.rooflines:
        made.gpu = Rooflines(made.gpu.gpu, made.gpu.fit)
    return made


@dataclass(frozen=True)
class Stages:
    """Stages of a full batch, by the number of new requests in them.

    Attributes:
        share: [k] of stages. new: [k] requests. seconds, energy_j: [k] of one stage.
        batch: requests. outputs: tokens of an answer.
    """

    share: NDArray[np.float64]
    new: NDArray[np.float64]
    seconds: NDArray[np.float64]
    energy_j: NDArray[np.float64]
    batch: int
    outputs: int

    @property
    def mean_s(self) -> float:
        """Seconds of a stage."""
        return float(self.share @ self.seconds)

    @property
    def tokens_per_s(self) -> float:
        return self.batch / self.mean_s

    @property
    def joules_per_token(self) -> float:
        return float(self.share @ self.energy_j) / self.batch

    @property
    def requests_per_s(self) -> float:
        """What the machine keeps up with."""
        return self.tokens_per_s / self.outputs

    def between_tokens(self, q: float) -> float:
        """q-quantile of the seconds between two tokens of a request."""
        return self._quantile(self.share * (self.batch - self.new), q)

    def first_token(self, q: float) -> float:
        """q-quantile of the seconds of the stage that a prompt passes in."""
        return self._quantile(self.share * self.new, q)

    def _quantile(self, weights: NDArray[np.float64], q: float) -> float:
        order = np.argsort(self.seconds, kind="stable")
        below = np.cumsum(weights[order])
        return float(self.seconds[order][np.searchsorted(below, q * below[-1] * (1 - 1e-12))])


@cache
def stages(
    model: Model, kind: Kind, batch: int, inputs: int, outputs: int, setting: Setting = CALIBRATED
) -> Stages:
    """The steady state of one run."""
    new = np.arange(batch + 1)
    share = np.array([
        math.comb(batch, k) * outputs**-k * (1 - 1 / outputs) ** (batch - k) for k in new.tolist()
    ])  # fmt: skip
    new, share = new[share > _RARE], share[share > _RARE]
    # The newest of those that decode has one token, the oldest all but the last.
    work = Batch.decode(batch - new, inputs + (outputs + 1) / 2)
    cost = policy(model, kind, setting).step(work + Batch.prefill(new, inputs))
    assert cost.energy_j is not None
    return Stages(
        share / share.sum(), new.astype(float), np.asarray(cost.seconds),
        np.asarray(cost.energy_j), batch, outputs,
    )  # fmt: skip


def faster(
    model: Model, kind: Kind, other: Kind, batch: int, length: int, setting: Setting = CALIBRATED
) -> float:
    """Throughput of one machine over another's."""
    one, two = (stages(model, each, batch, length, length, setting) for each in (kind, other))
    return one.tokens_per_s / two.tokens_per_s


def request_batch(model: Model, kind: Kind, inputs: int, outputs: int) -> int:
    """Requests whose prompts and answers memory holds in full."""
    return int(policy(model, kind).capacity.kv_tokens / (inputs + outputs))


def runs(*models: Model, batches: list[int] | None = None) -> list[tuple[Model, int, int]]:
    """(model, batch, length) of figures 11 and 14."""
    data = published()
    return [
        (model, batch, length)
        for model in models
        for batch in batches or data.batches
        for length in data.models[model].lengths
    ]


# --- utilisation of the GPU -----------------------------------------------------------------------


def moe_utilisation(setting: Setting = CALIBRATED) -> float:
    """Largest share of the GPU's peak that experts reach where all requests decode."""
    data = published()
    found = []
    for model in ("mixtral", "glam"):
        made = policy(model, "gpu", setting)
        for batch in data.batches:
            work = Batch.decode(batch, data.utilisation.input + data.utilisation.output / 2)
            ops = [op for _, op in made.operators(work) if op.name.startswith("expert_")]
            busy = sum(float(np.asarray(made.gpu_seconds(op))) for op in ops)
            done = sum(float(np.asarray(op.flops)) for op in ops)
            found.append(done / busy / made.gpu.gpu.matrix_flops(16))
    return max(found)


def attention_utilisation(setting: Setting = CALIBRATED) -> float:
    """The same of attention with Grok1's heads, which share a key most often."""
    data, made = published(), policy("mixtral", "gpu", setting)
    shape = data.grok1_attention
    arch = architecture("mixtral").model_copy(update=shape.model_dump())
    context = data.utilisation.input + data.utilisation.output / 2
    work = Batch.decode(max(data.batches), context)
    other = GpuOnly(arch, made.system, tp=made.shares.tp)
    other.gpu = made.gpu
    ops = [op for _, op in other.operators(work) if op.kind == "attention"]
    busy = sum(float(np.asarray(other.gpu_seconds(op))) for op in ops)
    return sum(float(np.asarray(op.matrix_flops)) for op in ops) / (
        busy * other.gpu.gpu.matrix_flops(16)
    )
