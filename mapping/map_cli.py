"""`bankside map`: one forward pass of a model on a machine, operator by operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from bankside.cli_support import common_options, emit
from bankside.errors import ConfigError


@click.command("map")
@click.option("--model", required=True, metavar="NAME|FILE", help="Preset or config.json.")
@click.option("--machine", required=True, metavar="NAME|FILE", help="System preset or YAML file.")
@click.option("--policy", help="Mapping policy; by default the one natural for the machine.")
@click.option(
    "--context", type=click.IntRange(1), default=4096, show_default=True,
    help="Tokens of each request that decodes, the new one included.",
)  # fmt: skip
@click.option(
    "--batch", type=click.IntRange(0), default=1, show_default=True, help="Requests that decode."
)
@click.option("--prefill", type=click.IntRange(0), default=0, help="Prompt tokens beside them.")
@click.option("--past", type=click.IntRange(0), default=0, help="Prompt tokens done before them.")
@click.option("--tp", type=click.IntRange(1), help="Tensor-parallel shares of a copy.")
@common_options
def command(
    model: str, machine: str, policy: str | None, context: int, batch: int, prefill: int, past: int,
    tp: int | None, as_json: bool, out: Path | None,
) -> None:  # fmt: skip
    """Map a language model on a machine: where each operator runs and what it takes.

    Time of one forward pass with a token for each of --batch requests and --prefill prompt tokens,
    tokens per second, the batch that fits, energy.
    """
    from bankside.mapping.workload.batch import Batch

    if not batch and not prefill:
        raise ConfigError("--batch 0 and no --prefill; expected something to compute")
    work = Batch.decode(batch, context)
    if prefill:
        work = work + Batch.prefill(1, prefill, past)
    result = mapped(model, machine, policy, work, context=context, tp=tp)
    emit(result, as_json=as_json, text=text(result), out=out, name="map")


def mapped(
    model: str, machine: str, policy: str | None, batch: Any, *, context: int, tp: int | None = None
) -> dict[str, Any]:
    """Result of `bankside map` as plain data. `context`: of the requests that capacity counts.

    Raises ConfigError when it cannot run there, and why.
    """
    from bankside.mapping.policy.base import POLICIES
    from bankside.mapping.system.system import System
    from bankside.mapping.workload.architecture import Architecture

    arch, system = Architecture.load(model), System.load(machine)
    chosen = policy or system.policy
    mapping = POLICIES.get(chosen)(arch, system, tp=tp)
    plan, capacity = mapping.plan(batch), mapping.capacity
    seconds = float(np.asarray(plan.cost.seconds))
    energy = plan.cost.energy_j
    fits = int(capacity.kv_tokens // context)
    decoded = float(np.asarray(batch.decode_requests))
    return {
        "kind": "map",
        "model": arch.name,
        "machine": system.name,
        "policy": chosen,
        "tensor_parallel": mapping.shares.tp,
        "copies": mapping.shares.copies,
        "decode_requests": decoded,
        "context": context,
        "prefill_tokens": float(np.asarray(batch.prefill_tokens)),
        "seconds": seconds,
        "tbt_s": seconds if decoded else None,
        "tokens_per_s": decoded / seconds,
        "lower_bound_s": float(np.asarray(mapping.lower_bound(batch))),
        "parts_s": {name: float(np.asarray(part)) for name, part in plan.cost.parts.items()},
        "energy_j": None if energy is None else float(np.asarray(energy)),
        "energy_j_per_token": None
        if energy is None or not decoded
        else float(np.asarray(energy)) / decoded,
        "capacity": asdict(capacity) | {"requests": fits, "fits": bool(decoded <= fits)},
        "operators": [asdict(line) for line in plan.lines],
        "carried": dict(mapping.carried),
        "notes": list(system.notes),
    }


def text(result: Mapping[str, Any]) -> str:
    """The result for people."""
    head = (
        f"{result['model']} on {result['machine']}, policy {result['policy']}: "
        f"{result['decode_requests']:,.0f} requests of {result['context']:,} tokens"
    )
    if result["prefill_tokens"]:
        head += f", {result['prefill_tokens']:,.0f} prompt tokens"
    columns = ("operator", "layers", "device", "ms", "bound", "GFLOP", "MB")
    widths = (-18, 6, -10, 12, -8, 12, 12)
    titles = (f"{c:{'<' if w < 0 else '>'}{abs(w)}}" for c, w in zip(columns, widths, strict=True))
    lines = [head, " ".join(titles)]
    lines += [
        f"{op['name']:18} {op['layers']:>6} {op['device']:10} {1e3 * op['seconds']:12.4f} "
        f"{op['bound']:8} {op['layers'] * op['flops'] / 1e9:12,.2f} "
        f"{op['layers'] * op['bytes'] / 1e6:12,.2f}"
        for op in result["operators"]
    ]
    capacity, energy = result["capacity"], result["energy_j_per_token"]
    parts = ", ".join(f"{name} {1e3 * s:,.3f}" for name, s in result["parts_s"].items() if s)
    memory = (
        f"{capacity['weight_bytes'] / 1e9:,.1f} GB of weights in {capacity['weight_place']} "
        f"({result['copies']} copies of {result['tensor_parallel']} shares), "
        f"{capacity['kv_bytes'] / 1e9:,.1f} GB for keys and values in {capacity['kv_place']}: "
        f"{capacity['requests']:,} such requests"
    )
    joules = "not known" if energy is None else f"{energy:,.3g} J per token of an answer"
    lines += [
        "",
        f"pass          {1e3 * result['seconds']:,.3f} ms ({parts})",
        f"at least      {1e3 * result['lower_bound_s']:,.3f} ms on any schedule",
        f"throughput    {result['tokens_per_s']:,.1f} tokens/s",
        f"memory        {memory}{'' if capacity['fits'] else '; THESE DO NOT FIT'}",
        f"energy        {joules}",
    ]
    return "\n".join(lines)
