"""`bankside serve`: a request trace on a mapped model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bankside.cli_support import common_options, emit, progress


@click.command("serve")
@click.argument("file", metavar="FILE.yaml", type=click.Path(path_type=Path))
@common_options
def command(file: Path, as_json: bool, out: Path | None) -> None:
    """Serve a request trace as a YAML file says (see examples/serve_*.yaml).

    Requests arrive, wait, are batched with others, and leave; every pass takes what the policy says
    for what it holds. With --out also a page with plots.
    """
    from bankside.mapping.serving.experiment import load_experiment, run

    experiment = load_experiment(file)
    count = len(experiment.trace)
    with progress("serving", count) as step:
        seen = 0

        def on_done(complete: int) -> None:
            nonlocal seen
            step(complete - seen)
            seen = complete

        result = run(experiment, on_done)
    if out is not None:
        from bankside.sim.report_serving import write

        out.mkdir(parents=True, exist_ok=True)
        result["files"] = write(result, out)
    emit(result, as_json=as_json, text=text(result), out=out, name="serve")


def _latency(row: Mapping[str, float | None], scale: float, unit: str) -> str:
    shown = [f"{key} {scale * value:,.4g}" for key, value in row.items() if value is not None]
    return f"{'  '.join(shown)} {unit}" if shown else "none"


def text(result: Mapping[str, Any]) -> str:
    """The result for people."""
    what, trace = result["description"], result["trace"]
    energy = result["energy_j_per_token"]
    goal = what["goal"]
    shown = "not known" if energy is None else f"{energy:,.3g} J per token of an answer"
    rows = {
        "served": f"{result['served']:,} in {result['seconds']:,.1f} s "
        f"({result['rejected']:,} turned away: they never fit)",
        "throughput": f"{result['output_tokens_per_s']:,.1f} tokens/s, "
        f"{result['requests_per_s']:,.3f} requests/s",
        "first token (TTFT)": _latency(result["ttft_s"], 1, "s"),
        "between tokens (TBT)": _latency(result["tbt_s"], 1e3, "ms"),
        "per token of a request": _latency(result["tpot_s"], 1e3, "ms"),
        "whole request": _latency(result["e2e_s"], 1, "s"),
        "served well": f"{result['goodput_share']:.1%} (first token within {goal['ttft_s']} s, "
        f"{1e3 * goal['tpot_s']:g} ms per token): {result['goodput_requests_per_s']:,.3f} "
        f"requests/s",
        "key/value memory": f"{result['kv_tokens']:,} tokens, at most {result['kv_peak']:.1%} in "
        f"use, {result['preemptions']:,} preemptions",
        "energy": shown,
        "passes": f"{result['passes']:,}",
    }
    head = (
        f"{what['model']} on {what['machine']}, policy {what['policy']}, "
        f"{what['batching']['strategy']} batching\n"
        f"{trace['name']}: {result['requests']:,} requests in {trace['span_s']:,.0f} s, prompts "
        f"{trace['input_mean']:,.0f} and answers {trace['output_mean']:,.0f} tokens on average"
    )
    return "\n".join([head, *(f"{name:24} {row}" for name, row in rows.items())])
