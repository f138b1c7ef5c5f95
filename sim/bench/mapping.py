"""Speed of the mapper and of serving, beside what is published of other tools."""

from __future__ import annotations

from typing import Any

import numpy as np

from bankside.errors import ConfigError
from bankside.mapping.policy.base import POLICIES
from bankside.mapping.serving.generator import Generate, generate
from bankside.mapping.serving.simulate import Prices, simulate
from bankside.mapping.serving.state import STRATEGIES, Batching
from bankside.mapping.system.system import System
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch
from bankside.mapping.workload.load import architecture_names
from bankside.sim.bench.common import median_seconds

MODEL, MOE = "llama-3-70b", "mixtral-8x7b"
_POINTS = 20_000
_REQUESTS = 2000
#: Seconds per evaluation, measured on a shared 2-core x86-64 machine with AVX-512: a call for one
#: model and point (GenZ 0.0.16, LLM-Viewer@472f71f), one product of a layer (ZigZag-dse 3.9.1), a
#: toy graph (Stream 1.13.14).
PUBLISHED = {
    "GenZ, one call": (0.04, 0.11), "LLM-Viewer, one call": (5e-5, 1.7e-4),
    "ZigZag, one product": (0.4, 6.0), "Stream, one toy graph": (20.0, 47.0),
}  # fmt: skip


def _policy(name: str, model: str) -> Any:
    machines = {"host_offload": "l3"}
    system = machines.get(name) or next(
        s for s in ("dgx-a100", "hbm-pim", "hbm-pim-ext", "rank-pim", "l3")
        if System.load(s).policy == name
    )  # fmt: skip
    return POLICIES.get(name)(Architecture.load(model), System.load(system))


def sweep(name: str, model: str, repeats: int) -> dict[str, float]:
    """Seconds per point of a whole model in one call with arrays, and of one point alone."""
    policy, n = _policy(name, model), np.arange(1, _POINTS + 1)
    batch = Batch.decode(n % 256 + 1, 6 * n)
    layers = len(policy.arch.layers)
    seconds = median_seconds(lambda: policy.step(batch), repeats) / _POINTS
    return {
        "seconds_per_point": seconds,
        "points_per_s": 1 / seconds,
        "seconds_per_layer_point": seconds / layers,
        "single_s": median_seconds(lambda: policy.step(Batch.decode(64, 4096)), repeats),
    }


def every_preset(repeats: int) -> dict[str, float]:
    """Longest and mean seconds of a policy made and asked once, models known, over all presets."""
    times = []
    for model in architecture_names():
        for name in ("dgx-a100", "l3"):
            system, arch = System.load(name), Architecture.load(model)

            def once(system: System = system, arch: Architecture = arch) -> None:
                try:
                    policy = POLICIES.get(system.policy)(arch, system)
                    policy.step(Batch.decode(4, 4096))
                except ConfigError:
                    pass  # does not fit: found out in the same time

            times.append(median_seconds(once, repeats))
    return {"longest_s": max(times), "mean_s": sum(times) / len(times)}


def serving(repeats: int) -> dict[str, float]:
    """Passes and requests per second of processor time, conversations under l3."""
    policy = _policy("l3", MODEL)
    trace = generate(Generate(requests=_REQUESTS))
    batching = Batching(token_budget=1024, max_requests=512)
    passes = 0

    def once() -> None:
        nonlocal passes
        state = STRATEGIES.get("chunked")(trace, batching, int(policy.capacity.kv_tokens))
        passes = len(simulate(state, Prices(policy)).passes)

    seconds = median_seconds(once, repeats)
    return {
        "passes": passes,
        "passes_per_s": passes / seconds,
        "requests_per_s": _REQUESTS / seconds,
    }


def measure(preset: str, repeats: int, **_: object) -> dict[str, Any]:
    """All figures, medians of processor time."""
    names = ("gpu_only", "host_offload", "hbm_pim", "rank_pim", "l3")
    found: dict[str, Any] = {
        "preset": preset,
        "engine": "mapping",
        "policies": {name: sweep(name, MODEL, repeats) for name in names},
        "experts": sweep("gpu_only", MOE, repeats),
        "presets": every_preset(repeats),
        "serving": serving(min(repeats, 3)),
        "published_s": {name: list(row) for name, row in PUBLISHED.items()},
    }
    quickest = found["policies"]["gpu_only"]["seconds_per_point"]
    found["genz_over_point"] = PUBLISHED["GenZ, one call"][0] / quickest
    return found


def text(result: dict[str, Any]) -> str:
    experts, presets, serve = result["experts"], result["presets"], result["serving"]
    lines = [
        f"mapper: a decode pass of the whole {MODEL}; {_POINTS:,} points, 256 batch sizes, one call"
    ]
    lines += [
        f"  {name:14} {1e6 * row['seconds_per_point']:8.1f} us per point "
        f"({row['points_per_s']:10,.0f} points/s); one point alone {1e3 * row['single_s']:.2f} ms"
        for name, row in result["policies"].items()
    ]
    each = experts["seconds_per_point"]
    asked = f"{1e3 * presets['mean_s']:.1f} ms on average, {1e3 * presets['longest_s']:.1f} ms"
    others = "; ".join(f"{k} {low:g} to {up:g}" for k, (low, up) in result["published_s"].items())
    speed = f"{serve['passes_per_s']:,.0f} passes/s, {serve['requests_per_s']:,.0f} requests/s"
    lines += [
        f"  {MOE} under gpu_only: {1e6 * each:.1f} us per point",
        f"  a policy made and asked once: {asked} at most, over all models on two machines",
        f"  published, seconds: {others}",
        f"serving: {_REQUESTS:,} conversations under l3, {serve['passes']:,} passes: {speed}",
    ]
    return "\n".join(lines)
