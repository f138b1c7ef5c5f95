"""A serving experiment: description, run, result as plain data. Ref: docs/serving.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from bankside.errors import ConfigError
from bankside.mapping.policy.base import POLICIES, Policy
from bankside.mapping.policy.kv_transfer import KvTransfer
from bankside.mapping.serving.continuous import DecodeOnly
from bankside.mapping.serving.generator import Generate, generate
from bankside.mapping.serving.record import Record, quantiles
from bankside.mapping.serving.simulate import Moves, Prices, simulate
from bankside.mapping.serving.state import STRATEGIES, Batching
from bankside.mapping.serving.trace import Trace, load_trace
from bankside.mapping.system.system import System
from bankside.mapping.workload.architecture import Architecture
from bankside.provenance import collect
from bankside.schema import Section, key_problem, validate
from bankside.strict_yaml import Locations, load_yaml

DISAGGREGATED = "disaggregated"
_POINTS = 400
"""Rows of the timeline of a result; more passes are put together."""


class Goal(Section):
    """When a request counts as served well: first token, mean time per token after it."""

    ttft_s: float = Field(default=1.0, gt=0)
    tpot_s: float = Field(default=0.1, gt=0)


class Machine(Section):
    """A machine of its own for prompts (strategy `disaggregated`)."""

    machine: str
    policy: str
    tp: int | None = Field(default=None, ge=1)
    link_gbps: float = Field(gt=0, description="of keys and values from one to the other, 1e9 B/s")


class Description(Section):
    """What is served, on what, how.

    Attributes:
        model, machine, policy, tp: as for `bankside map`.
        trace: file, relative to the description; or `generate`.
        requests: only the first ones. faster: arrivals at a multiple of the trace's rate.
        prompts: machine for prompts, where the strategy is `disaggregated`.
    """

    model: str
    machine: str
    policy: str
    tp: int | None = Field(default=None, ge=1)
    trace: str | None = None
    generate: Generate | None = None
    requests: int | None = Field(default=None, ge=1)
    faster: float = Field(default=1.0, gt=0)
    batching: Batching = Batching()
    prompts: Machine | None = None
    goal: Goal = Goal()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.trace is None) == (self.generate is None):
            raise key_problem("trace", "expected either trace or generate")
        if (self.prompts is None) == (self.batching.strategy == DISAGGREGATED):
            raise key_problem(
                "prompts", f"belongs to batching.strategy {DISAGGREGATED}, which needs it"
            )
        return self


@dataclass(frozen=True)
class Experiment:
    """A description with everything it names."""

    name: str
    description: Description
    architecture: Architecture
    policy: Policy
    prompts: Policy | None
    trace: Trace


def load_experiment(path: Path) -> Experiment:
    """Raises ConfigError with file and line for whatever cannot be used."""
    data, locations = load_yaml(path)
    what = validate(Description, data, locations)
    strategy = what.batching.strategy
    _named(locations, ("batching", "strategy"), lambda: STRATEGIES.get(strategy))
    model = _beside(path, what.model)
    architecture = _named(locations, ("model",), lambda: Architecture.load(model))
    trace = _trace(path, what, locations)
    policy = _policy(path, architecture, what, locations, ())
    prompts = None
    if what.prompts is not None:
        prompts = _policy(path, architecture, what.prompts, locations, ("prompts",))
    return Experiment(path.stem, what, architecture, policy, prompts, trace)


def _named(locations: Locations, keys: tuple, make: Callable[[], Any]) -> Any:
    """What `make` gives; its ConfigError gains file, line and key."""
    try:
        return make()
    except ConfigError as error:
        raise ConfigError(f"{locations.where(keys)}: {'.'.join(keys)}: {error}") from error


def _beside(path: Path, name: str) -> str:
    """A file beside the description, else the name of a preset."""
    near = path.parent / name
    return str(near) if near.exists() else name


def _trace(path: Path, what: Description, locations: Locations) -> Trace:
    if what.generate is not None:
        asked = what.generate
        trace = _named(locations, ("generate", "preset"), lambda: generate(asked))
    else:
        file = path.parent / str(what.trace)
        trace = _named(locations, ("trace",), lambda: load_trace(file, what.requests))
    if what.requests is not None:
        trace = trace.head(what.requests)
    return trace.faster(what.faster)


def _policy(
    path: Path, architecture: Architecture, what: Description | Machine, locations: Locations,
    inside: tuple,
) -> Policy:  # fmt: skip
    machine = _beside(path, what.machine)
    system = _named(locations, (*inside, "machine"), lambda: System.load(machine))
    kind = _named(locations, (*inside, "policy"), lambda: POLICIES.get(what.policy))
    key = "machine" if what.tp is None else "tp"
    policy = _named(locations, (*inside, key), lambda: kind(architecture, system, tp=what.tp))
    if policy.capacity.kv_tokens < 1:
        raise ConfigError(
            f"{locations.where((*inside, 'machine'))}: {what.machine} has no memory left for keys "
            f"and values of {architecture.name} under policy {what.policy}; choose more memory or "
            f"a smaller model"
        )
    return policy


# --- running ------------------------------------------------------------------------------------


def _moves(experiment: Experiment) -> Moves | None:
    """Keys and values of requests that give way, to the host and back: links or its DRAM."""
    policy, batching = experiment.policy, experiment.description.batching
    if batching.preemption != "swap" and batching.strategy != DISAGGREGATED:
        return None
    if policy.system.host_link is None:
        raise ConfigError(
            f"{policy.system.name} has no link to a host, to which requests that give way would be "
            f"moved; give it a host_link, or choose batching.preemption recompute or none"
        )
    transfer = KvTransfer(experiment.architecture, policy.system, policy.bits.kv)
    each = experiment.architecture.kv_bytes_per_token(policy.bits.kv)
    return lambda out, back: np.asarray(transfer.seconds(back * each, out * each), float)


def run(experiment: Experiment, on_done: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Serve the whole trace; the result as plain data."""
    batching = experiment.description.batching
    if experiment.prompts is not None:
        records, first, done = _two_machines(experiment, on_done)
    else:
        state = STRATEGIES.get(batching.strategy)(
            experiment.trace, batching, int(experiment.policy.capacity.kv_tokens), experiment.policy
        )
        prices = Prices(experiment.policy, _moves(experiment))
        record = simulate(state, prices, on_done=on_done)
        records, first, done = [record], record.first_s, record.done_s
    return _result(experiment, records, first, done)


def _two_machines(
    experiment: Experiment, on_done: Callable[[int], None] | None
) -> tuple[list[Record], NDArray[np.float64], NDArray[np.float64]]:
    """Prompts on the first, then their keys and values over one link, then all other tokens."""
    what, trace, prompts = experiment.description, experiment.trace, experiment.prompts
    assert what.prompts is not None and prompts is not None
    first_machine = STRATEGIES.get(DISAGGREGATED)
    state = first_machine(trace, what.batching, int(prompts.capacity.kv_tokens))
    record = simulate(state, Prices(prompts))
    going = np.flatnonzero(~np.isnan(record.first_s) & (trace.outputs > 1))
    going = going[np.argsort(record.first_s[going], kind="stable")]
    each = experiment.architecture.kv_bytes_per_token(prompts.bits.kv)
    bytes_each = each * trace.inputs[going]
    there = _over_the_link(record.first_s[going], bytes_each / (1e9 * what.prompts.link_gbps))
    later = Trace(trace.name, there, trace.inputs[going], trace.outputs[going])
    batching = what.batching.model_copy(update={"preemption": "swap"})
    second = DecodeOnly(later, batching, int(experiment.policy.capacity.kv_tokens))
    prices = Prices(experiment.policy, _moves(experiment))
    decoded = simulate(second, prices, on_done=on_done, first_s=record.first_s[going])
    first, done = record.first_s.copy(), record.done_s.copy()
    done[going] = decoded.done_s
    return [record, decoded], first, done


def _over_the_link(ready: NDArray[np.float64], seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """When each transfer ends; one at a time, in order."""
    ends, free = np.empty(len(ready)), 0.0
    for i, (at, takes) in enumerate(zip(ready, seconds, strict=True)):
        free = ends[i] = max(free, at) + takes
    return ends


# --- result -------------------------------------------------------------------------------------


def _result(
    experiment: Experiment, records: list[Record], first: NDArray, done: NDArray
) -> dict[str, Any]:
    trace, what, last = experiment.trace, experiment.description, records[-1]
    served = np.flatnonzero(~np.isnan(done))
    end = max(record.end_s for record in records)
    tokens = int(trace.outputs[served].sum())
    ttft = (first - trace.arrival_s)[served]
    tpot = ((done - first) / np.maximum(trace.outputs - 1, 1))[served]
    well = (ttft <= what.goal.ttft_s) & (tpot <= what.goal.tpot_s)
    energy = [record.energy_j for record in records]
    known = None if None in energy else float(sum(e for e in energy if e is not None))
    return {
        "kind": "serve",
        "name": experiment.name,
        "description": what.model_dump(mode="json", exclude_none=True),
        "trace": trace.statistics() | {"name": trace.name},
        "requests": len(trace),
        "served": len(served),
        "rejected": len(trace) - len(served),
        "seconds": end,
        "output_tokens": tokens,
        "output_tokens_per_s": tokens / end if end else 0.0,
        "requests_per_s": len(served) / end if end else 0.0,
        "ttft_s": quantiles(ttft),
        "tbt_s": quantiles(np.array(last.gaps), np.array(last.counts)),
        "tpot_s": quantiles(tpot[trace.outputs[served] > 1]),
        "e2e_s": quantiles((done - trace.arrival_s)[served]),
        "goodput_requests_per_s": int(well.sum()) / end if end else 0.0,
        "goodput_share": float(well.sum() / len(trace)),
        "energy_j": known,
        "energy_j_per_token": known / tokens if known is not None and tokens else None,
        "passes": sum(len(record.passes) for record in records),
        "preemptions": sum(record.preemptions for record in records),
        "moved_tokens": sum(record.moved_tokens for record in records),
        "kv_tokens": int(experiment.policy.capacity.kv_tokens),
        "kv_peak": _peak(last, what.batching, int(experiment.policy.capacity.kv_tokens)),
        "timeline": [_timeline(record) for record in records],
        "distribution": {
            "ttft_s": np.quantile(ttft, _GRID).tolist() if len(ttft) else [],
            "tbt_s": _weighted(last),
        },
        "provenance": collect(config_hash=experiment.policy.system.content_hash),
    }


_GRID = np.linspace(0, 1, 101)


def _weighted(record: Record) -> list[float]:
    """Percentiles 0 to 100 of the gaps between tokens."""
    if not record.gaps:
        return []
    gaps, counts = np.array(record.gaps), np.array(record.counts, float)
    order = np.argsort(gaps, kind="stable")
    below = np.cumsum(counts[order])
    at = np.searchsorted(below, _GRID * below[-1] * (1 - 1e-12))
    return gaps[order][at].tolist()


def _peak(record: Record, batching: Batching, kv_tokens: int) -> float:
    """Largest share of the key/value memory that was in use."""
    total = kv_tokens // batching.block_tokens
    return max((row[5] for row in record.passes), default=0) / total if total else 0.0


def _timeline(record: Record) -> dict[str, list[float]]:
    """Over equal parts of the time: prompt tokens per second, mean of requests that decode and
    wait, blocks in use.
    """
    if not record.passes:
        return {}
    rows = np.array(record.passes)
    edges = np.linspace(0, record.end_s, min(_POINTS, len(rows)) + 1)
    part = np.clip(np.searchsorted(edges, rows[:, 0], "right") - 1, 0, len(edges) - 2)
    busy = np.bincount(part, rows[:, 1], len(edges) - 1)
    mean = {
        name: (np.bincount(part, rows[:, 1] * rows[:, column], len(edges) - 1)
               / np.maximum(busy, 1e-12)).tolist()
        for name, column in (("decoding", 3), ("waiting", 4), ("blocks", 5))
    }  # fmt: skip
    width = edges[1] - edges[0]
    prompt = np.bincount(part, rows[:, 2], len(edges) - 1) / width
    return {"start_s": edges[:-1].tolist(), "prompt_tokens_per_s": prompt.tolist(), **mean}
