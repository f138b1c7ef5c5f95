"""Page and plot of a serving run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bankside.sim.html import card, e, page, paragraph, section, table
from bankside.sim.plots import SERIES, svg

PAGE = "serve.html"
_SHARES = [i / 100 for i in range(101)]


def write(result: Mapping[str, Any], folder: Path) -> list[str]:
    """Write the page; returns its name."""
    (folder / PAGE).write_text(render(result), encoding="utf-8")
    return [PAGE]


def render(result: Mapping[str, Any]) -> str:
    what = result["description"]
    title = f"{what['model']} on {what['machine']}"
    return page(
        title,
        f"<h1>{e(title)}</h1><p class=sub>Policy {e(what['policy'])}, "
        f"{e(what['batching']['strategy'])} batching; {e(result['trace']['name'])}, "
        f"{result['requests']:,} requests.</p>"
        + _cards(result)
        + section("Latencies", _latencies(result), _distribution(result))
        + "".join(
            section(name, _over_time(part))
            for name, part in zip(_machines(result), result["timeline"], strict=True)
            if part
        )
        + section("The requests", _requests(result))
        + section("What this is", *_limits(result)),
    )


def _machines(result: Mapping[str, Any]) -> list[str]:
    return ["Over time"] if len(result["timeline"]) == 1 else ["Machine for prompts", "Decoding"]


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f} s" if value >= 1 else f"{1e3 * value:,.1f} ms"


def _cards(result: Mapping[str, Any]) -> str:
    goal, energy = result["description"]["goal"], result["energy_j_per_token"]
    cards = [
        card("blue", "Throughput", f"{result['output_tokens_per_s']:,.0f} tokens/s",
             f"{result['served']:,} requests in {result['seconds']:,.0f} s"),
        card("blue", "First token, P50 and P99", _seconds(result["ttft_s"]["p50"]),
             f"P99 {_seconds(result['ttft_s']['p99'])}"),
        card("blue", "Between tokens, P50 and P99", _seconds(result["tbt_s"]["p50"]),
             f"P99 {_seconds(result['tbt_s']['p99'])}"),
        card("good" if result["goodput_share"] > 0.9 else "bad", "Served well",
             f"{result['goodput_share']:.1%}",
             f"first token within {goal['ttft_s']:g} s, {1e3 * goal['tpot_s']:g} ms per token"),
        card("grey", "Key/value memory", f"{result['kv_peak']:.1%}",
             f"of {result['kv_tokens']:,} tokens at most; {result['preemptions']:,} preemptions"),
        card("grey", "Energy", "not known" if energy is None else f"{energy:,.3g} J/token",
             "of the passes, per token of an answer"),
    ]  # fmt: skip
    return f"<div class=cards>{''.join(cards)}</div>"


def _latencies(result: Mapping[str, Any]) -> str:
    names = {"ttft_s": "first token (TTFT)", "tbt_s": "between two tokens (TBT)",
             "tpot_s": "per token of a request (TPOT)", "e2e_s": "whole request"}  # fmt: skip
    return table(
        ("", "mean", "P50", "P90", "P99", "most"),
        [(name, *(_seconds(v) for v in result[key].values())) for key, name in names.items()],
    )


def _distribution(result: Mapping[str, Any]) -> str:
    def draw(figure: Figure) -> None:
        for axes, (key, name), colour in zip(
            figure.subplots(1, 2), (("ttft_s", "first token"), ("tbt_s", "between tokens")), SERIES,
            strict=False,
        ):  # fmt: skip
            values = result["distribution"][key]
            if values:
                axes.step(values, _SHARES, color=colour, where="post")
                axes.set_xscale("log")
            axes.set(xlabel=f"{name}, s", ylabel="share", ylim=(0, 1))

    return svg(9.2, 3.0, draw, "distribution of latencies")


def _over_time(part: Mapping[str, Any]) -> str:
    def draw(figure: Figure) -> None:
        rows = (("prompt_tokens_per_s", "prompt tokens/s"), ("decoding", "decoding requests"),
                ("waiting", "waiting requests"), ("blocks", "blocks in use"))  # fmt: skip
        for axes, (key, name), colour in zip(
            figure.subplots(len(rows), 1, sharex=True), rows, SERIES, strict=False
        ):
            axes.step(part["start_s"], part[key], color=colour, where="post", lw=1.2)
            axes.set_ylabel(name, fontsize=9)
            axes.set_ylim(bottom=0)
        axes.set_xlabel("s")

    return svg(9.2, 6.4, draw, "over time")


def _requests(result: Mapping[str, Any]) -> str:
    trace = result["trace"]
    return table(
        ("tokens", "mean", "median", "P90", "most"),
        [
            (name, *(f"{trace[f'{key}_{part}']:,.0f}" for part in ("mean", "median", "p90", "max")))
            for name, key in (("prompt", "input"), ("answer", "output"))
        ],
    )


def _limits(result: Mapping[str, Any]) -> list[str]:
    lines = [
        (
            "Every pass takes what the policy's cost model says for what it holds; latencies of "
            "engines are those of the timing models that equal the RTL. Nothing is drawn at random "
            "but a generated trace."
        ),
        "Not modelled: tokenisation, sampling on the host, the network in front, failures.",
    ]
    if result["rejected"]:
        lines.append(
            f"{result['rejected']:,} requests need more key/value memory than the machine has and "
            "were turned away when they arrived."
        )
    return [paragraph(e(line)) for line in lines]
