"""Page and plot of an exploration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bankside.sim.html import card, e, page, paragraph, section, table
from bankside.sim.plots import SERIES, svg

PAGE, PLOT = "explore.html", "pareto.png"
_ROWS = 40


def write(result: Mapping[str, Any], folder: Path) -> list[str]:
    """Write page and plot; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PAGE).write_text(render(result), encoding="utf-8")
    figure = Figure(figsize=(8, 5), layout="constrained")
    draw_pareto(result, figure)
    # Without the version of the library: equal results, equal bytes.
    figure.savefig(folder / PLOT, dpi=150, metadata={"Software": None})
    return [PAGE, PLOT]


def render(result: Mapping[str, Any]) -> str:
    what = result["description"]
    ways = ", ".join(f"{way} {name}" for name, way in what["objectives"].items())
    return page(
        f"exploration {result['name']}",
        f"<h1>Exploration {e(result['name'])}</h1><p class=sub>To {e(ways)}; "
        f"base {e(what['base'] or '-')}, evaluator {e(what['evaluator'])}.</p>"
        + _cards(result)
        + section("Pareto set", svg(9.2, 5.0, lambda f: draw_pareto(result, f), "Pareto plot"),
                  _front(result))
        + section("Searches", svg(9.2, 3.4, lambda f: _curves(result, f), "hypervolume"),
                  _searches(result))
        + section("Parameters", _parameters(what))
        + section("Points without a result", _reasons(result)),
    )  # fmt: skip


def _cards(result: Mapping[str, Any]) -> str:
    status, size = result["status"], result["space_points"]
    of = "an infinite space" if size is None else f"{size:,} in the space"
    cards = [
        card("good" if result["pareto"] else "bad", "Pareto set", f"{len(result['pareto']):,}",
             "points that no other beats"),
        card("blue", "Evaluated", f"{result['evaluated']:,}", f"different points of {of}"),
        card("grey", "Infeasible", f"{status['infeasible']:,}", "refused, or a constraint missed"),
        card("bad" if status["failed"] else "grey", "Failed", f"{status['failed']:,}",
             "the evaluator broke"),
    ]  # fmt: skip
    return f"<div class=cards>{''.join(cards)}</div>"


def draw_pareto(result: Mapping[str, Any], figure: Figure) -> None:
    """Objectives against the first one, a panel for each other; the front is joined by steps."""
    names = list(result["description"]["objectives"])
    pairs = [(names[0], other) for other in names[1:]] or [(names[0], names[0])]
    best = {row["hash"] for row in result["pareto"]}
    for axes, (x, y) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        ok = [row for row in result["points"] if row["status"] == "ok"]
        for rows, colour, size, label in (
            ([r for r in ok if r["hash"] not in best], "#b6c0c9", 14, "feasible"),
            ([r for r in ok if r["hash"] in best], SERIES[1], 34, "Pareto set"),
        ):
            xs, ys = ([r["metrics"][name] for r in rows] for name in (x, y))
            axes.scatter(xs, ys, s=size, color=colour, label=label)
            if rows and all(v > 0 for v in xs) and max(xs) > 20 * min(xs):
                axes.set_xscale("log")
            if rows and all(v > 0 for v in ys) and max(ys) > 20 * min(ys):
                axes.set_yscale("log")
        axes.set(xlabel=_axis(result, x), ylabel=_axis(result, y))
        axes.legend(frameon=False)


def _axis(result: Mapping[str, Any], name: str) -> str:
    better = "less" if result["description"]["objectives"][name] == "minimise" else "more"
    return f"{name} ({better} is better)"


def _front(result: Mapping[str, Any]) -> str:
    what = result["description"]
    rows = [
        (row["hash"][:12], *(f"{row['metrics'][name]:,.6g}" for name in what["objectives"]),
         *(str(row["point"][name]) for name in what["parameters"]))
        for row in result["pareto"][:_ROWS]
    ]  # fmt: skip
    shown = table(("configuration", *what["objectives"], *what["parameters"]), rows)
    if len(result["pareto"]) > _ROWS:
        shown += paragraph(f"{len(result['pareto']) - _ROWS} more in points.csv.")
    return shown


def _curves(result: Mapping[str, Any], figure: Figure) -> None:
    """Share of the hypervolume of everything found, one line per search and seed."""
    axes = figure.subplots()
    names = [row["sampler"] for row in result["samplers"]]
    named = set()
    for row in result["searches"]:
        name, most = row["sampler"], result["hypervolume"] or 1.0
        axes.step(
            range(1, len(row["curve"]) + 1), [v / most for v in row["curve"]], where="post",
            color=SERIES[names.index(name) % len(SERIES)], lw=1.2, alpha=0.8,
            label=None if name in named else name,
        )  # fmt: skip
        named.add(name)
    target = result["description"]["target"]
    axes.axhline(target, color="#9aa7b2", lw=1, ls="--", label=f"target {target:.0%}")
    axes.set(xlabel="samples", ylabel="share of hypervolume", ylim=(0, 1.03))
    axes.legend(frameon=False, loc="lower right")


def _searches(result: Mapping[str, Any]) -> str:
    def samples(value: float | None) -> str:
        return "not reached" if value is None else f"{value:g}"

    return table(
        ("search", "seeds", "hypervolume, median", "reached the target", "samples to it, median"),
        [
            (row["sampler"], str(row["seeds"]), f"{row['hypervolume_median']:.4f}",
             str(row["reached"]), samples(row["samples_to_target_median"]))
            for row in result["samplers"]
        ],
    ) + paragraph(
        "The hypervolume is that of the objectives (with scale log: their logarithms) scaled "
        "to the range of everything found, up to a reference point 10 % beyond the worst. A "
        "seed that never reached the target counts as later than all others."
    )  # fmt: skip


def _parameters(what: Mapping[str, Any]) -> str:
    rows = []
    for name, given in what["parameters"].items():
        if isinstance(given, dict):
            shown = ", ".join(f"{key} {value}" for key, value in given.items())
        else:
            shown = ", ".join(map(str, given))
        rows.append((name, shown))
    return table(("parameter", "values"), rows, numeric_from=2)


def _reasons(result: Mapping[str, Any]) -> str:
    if not result["reasons"]:
        return paragraph("None.")
    return table(
        ("points", "kind", "reason"),
        [(f"{r['points']:,}", r["status"], r["reason"]) for r in result["reasons"]],
        numeric_from=3,
    )
