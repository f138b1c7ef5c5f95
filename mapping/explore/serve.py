"""Evaluator `serve`: a request trace served on a system, as `bankside serve`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from bankside.errors import ConfigError
from bankside.mapping.explore.evaluate import checked
from bankside.mapping.explore.systems import OnSystem, beside, model_files
from bankside.mapping.policy.base import POLICIES, Policy
from bankside.mapping.serving.experiment import DISAGGREGATED, Description, Experiment, run
from bankside.mapping.serving.generator import PRESETS, Generate, generate
from bankside.mapping.serving.state import STRATEGIES
from bankside.mapping.serving.trace import Trace, load_trace
from bankside.mapping.system.system import System
from bankside.mapping.workload.architecture import Architecture

_LATENCIES = ("ttft_s", "tbt_s", "tpot_s", "e2e_s")
_QUANTILES = ("mean", "p50", "p90", "p99", "max")
_NUMBERS = (
    "output_tokens_per_s", "requests_per_s", "goodput_requests_per_s", "goodput_share", "served",
    "rejected", "seconds", "energy_j", "energy_j_per_token", "preemptions", "moved_tokens",
    "passes", "kv_tokens", "kv_peak",
)  # fmt: skip


class Serve(OnSystem):
    """What `bankside serve` reports of the base; names are the paths in its result.

    The workload is a serving description (docs/serving.md) without `machine`; `policy` is by
    default the system's, `prompts` counts only where the strategy is `disaggregated`. A machine
    that turns requests away has less to do for the rest: it is infeasible unless the description
    bounds `rejected` otherwise.
    """

    metrics = (*_NUMBERS, *(f"{name}.{q}" for name in _LATENCIES for q in _QUANTILES))
    bounds = {"rejected": {"at_most": 0}}

    def check_workload(self, workload: Mapping[str, Any], folder: Path) -> None:
        what = _described(workload, None)
        STRATEGIES.entry(what.batching.strategy)
        if "policy" in workload:
            POLICIES.entry(what.policy)
        if what.generate is not None:
            PRESETS.entry(what.generate.preset)
        Architecture.load(beside(folder, what.model))
        _trace(what, folder)
        if what.prompts is not None:
            POLICIES.entry(what.prompts.policy)
            System.load(beside(folder, what.prompts.machine))

    def files(self, workload: Mapping[str, Any], folder: Path) -> Sequence[Path]:
        prompts = workload.get("prompts")
        named = [workload.get("trace"), prompts.get("machine") if prompts else None]
        near = (folder / name for name in named if isinstance(name, str))
        model = model_files(folder, str(workload.get("model", "")))
        return (*model, *(path for path in near if path.is_file()))

    def run(
        self, base: dict[str, Any], workload: dict[str, Any], folder: Path
    ) -> Mapping[str, float]:
        """Raises ConfigError where the model does not fit or nothing is served."""
        system = checked(System, base, "system")
        what = _described(workload, system)
        architecture = Architecture.load(beside(folder, what.model))
        policy = _policy(what.policy, architecture, system)
        prompts = None
        if what.prompts is not None:
            other = System.load(beside(folder, what.prompts.machine))
            prompts = _policy(what.prompts.policy, architecture, other)
        trace = _trace(what, folder)
        result = run(Experiment(system.name, what, architecture, policy, prompts, trace))
        if not result["served"]:
            raise ConfigError(
                f"no request fits into the memory for keys and values: {result['kv_tokens']} tokens"
            )
        return _flat(result)


def _described(workload: Mapping[str, Any], system: System | None) -> Description:
    if "machine" in workload:
        raise ConfigError("machine: is the base of the exploration; remove it")
    given: dict[str, Any] = {
        "machine": "base",
        "policy": system.policy if system else "",
        **workload,
    }
    batching = given.get("batching", {})
    strategy = batching.get("strategy") if isinstance(batching, dict) else None
    if strategy != DISAGGREGATED:
        given.pop("prompts", None)
    return checked(Description, given, "workload")


def _policy(name: str, architecture: Architecture, system: System) -> Policy:
    policy = POLICIES.get(name)(architecture, system)
    if policy.capacity.kv_tokens < 1:
        raise ConfigError(
            f"{system.name} has no memory left for keys and values of {architecture.name} under "
            f"policy {name}"
        )
    return policy


def _trace(what: Description, folder: Path) -> Trace:
    if what.generate is not None:
        trace = _generated(what.generate)
    else:
        trace = _read(folder / str(what.trace), what.requests)
    if what.requests is not None:
        trace = trace.head(what.requests)
    return trace.faster(what.faster)


@lru_cache(maxsize=4)
def _generated(what: Generate) -> Trace:
    return generate(what)


@lru_cache(maxsize=4)
def _read(file: Path, requests: int | None) -> Trace:
    return load_trace(file, requests)


def _flat(result: Mapping[str, Any]) -> dict[str, float]:
    """What is known of it: energy may not be, and a gap between tokens needs two of them."""
    found = {name: result[name] for name in _NUMBERS}
    found |= {f"{name}.{q}": result[name][q] for name in _LATENCIES for q in _QUANTILES}
    return {name: value for name, value in found.items() if value is not None}


SERVE = Serve()
