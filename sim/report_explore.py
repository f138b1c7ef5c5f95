"""Page and plot of an exploration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from bankside.sim.html import card, e, page, paragraph, section, table
from bankside.sim.plots import SERIES, svg

PAGE, PLOT = "explore.html", "pareto.png"
_ROWS, _TICKS = 40, 6


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
    """Objectives against the first one, a panel for each other; two alone are joined by steps."""
    names = list(result["description"]["objectives"])
    pairs = [(other, names[0]) for other in names[1:]] or [(names[0], names[0])]
    best = {row["hash"] for row in result["pareto"]}
    ok = [row for row in result["points"] if row["status"] == "ok"]
    kept = [row for row in result["pareto"] if not row["missed"]]
    groups = (
        ([r for r in ok if r["hash"] not in best], "feasible",
         {"s": 14, "color": "#b6c0c9"}),
        (kept, "Pareto set", {"s": 34, "color": SERIES[1]}),
        ([r for r in result["pareto"] if r["missed"]], "Pareto set, misses a soft constraint",
         {"s": 34, "facecolors": "none", "edgecolors": SERIES[1]}),
    )  # fmt: skip
    for axes, (x, y) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        for rows, label, style in groups:
            if rows:
                axes.scatter(*([value(r, name) for r in rows] for name in (x, y)), label=label,
                             zorder=3, **style)  # fmt: skip
        if len(names) == 2:
            _steps(result, axes, kept, x, y)
        for axis, name in ((axes.xaxis, x), (axes.yaxis, y)):
            _scale(axis, [value(r, name) for r in ok])
        axes.set(xlabel=_axis(result, x), ylabel=_axis(result, y))
        axes.grid(color="#eef1f4", zorder=0)
    if ok:
        figure.legend(
            *axes.get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False
        )


def value(row: Mapping[str, Any], name: str) -> float:
    """Of a metric or a parameter."""
    return row["point"][name] if name in row["point"] else row["metrics"][name]


def _steps(
    result: Mapping[str, Any], axes: Axes, rows: Sequence[Mapping[str, Any]], x: str, y: str
) -> None:
    """The limit of what the set dominates: from its best x on, the best y so far."""
    less = result["description"]["objectives"][x] == "minimise"
    ordered = sorted(rows, key=lambda row: value(row, x), reverse=not less)
    axes.step(*([value(row, name) for row in ordered] for name in (x, y)), where="post",
              color=SERIES[1], lw=1, alpha=0.6, zorder=2)  # fmt: skip


def _scale(axis: Axis, values: Sequence[float]) -> None:
    """Logarithmic over a wide range; a few whole numbers are ticks of their own."""
    some = sorted(set(values))
    if some and some[0] > 0 and some[-1] > 20 * some[0]:
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,g}"))
    elif 0 < len(some) <= _TICKS and all(float(v).is_integer() for v in some):
        axis.set_ticks(some)


def _axis(result: Mapping[str, Any], name: str) -> str:
    better = "less" if result["description"]["objectives"][name] == "minimise" else "more"
    return f"{name} ({better} is better)"


def _front(result: Mapping[str, Any]) -> str:
    what = result["description"]
    objectives = [*what["objectives"]]
    parameters = [name for name in what["parameters"] if name not in objectives]
    equal = [name for name in parameters if _same(result["pareto"], name)]
    parameters = [name for name in parameters if name not in equal]
    soft = [name for name, bound in what["constraints"].items() if bound["soft"]]
    rows = [
        (row["hash"][:12], *(shown(value(row, name)) for name in objectives),
         *(_missed(row, name) for name in soft),
         *(shown(value(row, name)) for name in parameters))
        for row in result["pareto"][:_ROWS]
    ]  # fmt: skip
    short = _short(what)
    header = ("configuration", *objectives, *soft, *(short[name] for name in parameters))
    listed = table(header, rows)
    if equal:
        alike = ", ".join(f"{short[n]} {shown(result['pareto'][0]['point'][n])}" for n in equal)
        listed += paragraph(f"All of them: {e(alike)}.")
    if soft:
        listed += paragraph("In brackets: by how much a soft constraint is missed.")
    if len(result["pareto"]) > _ROWS:
        listed += paragraph(f"{len(result['pareto']) - _ROWS} more in points.csv.")
    return listed


def shown(given: Any) -> str:
    """A value of a parameter or metric in few digits."""
    return f"{given:,.5g}" if isinstance(given, float) else str(given)


def _missed(row: Mapping[str, Any], name: str) -> str:
    if name not in row["missed"]:
        return shown(value(row, name))
    return f"{shown(value(row, name))} (+{row['missed'][name]:.0%})"


def _same(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether all of several points agree in a parameter."""
    return len(rows) > 1 and len({repr(row["point"][name]) for row in rows}) == 1


def _short(what: Mapping[str, Any]) -> dict[str, str]:
    """Parameter -> its last key where no other name ends so."""
    names = {*what["parameters"], *what["objectives"], *what["constraints"]}
    last = [name.rpartition(".")[2] for name in names]
    return {name: name.rpartition(".")[2] if last.count(name.rpartition(".")[2]) == 1 else name
            for name in what["parameters"]}  # fmt: skip


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
        "to the range of everything found, up to a reference point 10 % beyond the worst; by how "
        "much soft constraints are missed is one dimension more. A "
        "seed that never reached the target counts as later than all others."
    )  # fmt: skip


def _parameters(what: Mapping[str, Any]) -> str:
    rows, short = [], _short(what)
    for name, given in what["parameters"].items():
        if isinstance(given, dict):
            listed = f"{given['low']} to {given['high']}"
            listed += "".join(f", {key} {v}" for key, v in given.items() if key == "step")
            listed += ", by ratio" if given.get("log") else ""
        else:
            listed = ", ".join(map(str, given))
        rows.append((short[name], name, listed))
    return table(("parameter", "path", "values"), rows, numeric_from=3) + _constraints(what)


def _constraints(what: Mapping[str, Any]) -> str:
    rows = [
        (name, "-" if bound["at_least"] is None else shown(bound["at_least"]),
         "-" if bound["at_most"] is None else shown(bound["at_most"]),
         "soft: by how much it is missed counts as one more objective" if bound["soft"]
         else "hard: a point that misses it is infeasible")
        for name, bound in what["constraints"].items()
    ]  # fmt: skip
    if not rows:
        return ""
    return table(("constraint", "at least", "at most", "kind"), rows, numeric_from=4)


def _reasons(result: Mapping[str, Any]) -> str:
    if not result["reasons"]:
        return paragraph("None.")
    return table(
        ("points", "kind", "reason"),
        [(f"{r['points']:,}", r["status"], r["reason"]) for r in result["reasons"]],
        numeric_from=3,
    )
