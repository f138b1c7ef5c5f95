"""Plot and page of `bankside reproduce fusemax --out DIR`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")  # before pyplot: no display is needed, and none is looked for
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from bankside.cache import atomic_write  # noqa: E402
from bankside.mapping.paper.fusemax_data import TABLES, fusemax, reference  # noqa: E402
from bankside.sim import html  # noqa: E402

PLOT, PAGE = "fusemax.png", "fusemax.html"
#: Binding -> label of the paper and colour.
LOOKS = {
    "unfused": ("unfused", "#9aa7b2"),
    "flat": ("FLAT", "#e8743b"),
    "cascade": ("+Cascade", "#f4b942"),
    "architecture": ("+Architecture", "#3d7ea6"),
    "interleaved": ("+Binding (FuseMax)", "#1b8a5a"),
}


def write(result: Mapping[str, Any], out: Path) -> list[str]:
    """Write plot and page into `out`; returns their names."""
    plot(result, out / PLOT)
    atomic_write(out / PAGE, page(result))
    return [PLOT, PAGE]


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Speed-up over unfused and utilisation of the 2D array: bars are ours, dots published."""
    models, lengths = list(fusemax().models), list(fusemax().lengths)
    figure, axes = plt.subplots(
        2, len(models), figsize=(15, 6.2), sharey="row", layout="constrained"
    )
    rows = {(row["model"], row["length"]): row for row in result["estimates"]}
    for column, model in enumerate(models):
        mine = [rows[model, length] for length in lengths]
        _bars(axes[0][column], mine, "latency_s", speedup=True)
        _bars(axes[1][column], mine, "util_2d", speedup=False)
        axes[0][column].set_title(model)
    axes[0][0].set_ylabel("attention, times as fast as unfused")
    axes[1][0].set_ylabel("busy share of the 2D array")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _bars(axes: Axes, rows: list[Mapping[str, Any]], quantity: str, *, speedup: bool) -> None:
    width, dots = 0.16, ([], [])
    for number, (binding, (label, colour)) in enumerate(LOOKS.items()):
        at = [place + (number - 2) * width for place in range(len(rows))]
        ours = [row[quantity][binding] for row in rows]
        base = [row[quantity]["unfused"] for row in rows]
        values = [b / o for b, o in zip(base, ours, strict=True)] if speedup else ours
        axes.bar(at, values, width, color=colour, label=label, zorder=2)
        for place, row in zip(at, rows, strict=True):
            paper = _published(row, binding, speedup)
            if paper is not None:
                dots[0].append(place)
                dots[1].append(paper)
    if dots[0]:
        axes.plot(*dots, "o", color="#26323d", markersize=2.6, label="published", zorder=3)
    axes.set_xticks(range(len(rows)), [row["length"] for row in rows])
    axes.grid(axis="y", color="#dfe5ea", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)


def _published(row: Mapping[str, Any], binding: str, speedup: bool) -> float | None:
    """The artifact's number, None where it has none or is not installed."""
    point, column = (row["model"], row["length"]), "latency" if speedup else "util_2d"
    if binding == "cascade":
        table, column = reference("fusemax_summary.csv"), "lat_cascade_s"
        if not speedup:
            return None
    else:
        table = reference(TABLES[binding])
    base = reference(TABLES["unfused"])
    if table is None or base is None:
        return None
    value = float(table[point][column])
    return float(base[point]["latency"]) / value if speedup else value


def page(result: Mapping[str, Any]) -> str:
    """The HTML page. The plot is a file beside it."""
    error = result["artifact_max_rel_error"]
    exact = "tables not installed" if error is None else f"largest difference {error:.1e}"
    equal = sum(row["equal"] for row in result["groups"])
    cards = [
        html.card("good", "latencies of the artifact", str(result["artifact_rows"]), exact),
        html.card(
            "good", "speed-up over FLAT", f"{result['speedup_over_flat_mean']:.2f}", "paper: 6.72"
        ),
        html.card("blue", "equal cells", f"{equal} of {len(result['cells'])}", "to 1e-9"),
        html.card(
            "grey",
            "energy over FLAT",
            f"{result['means']['energy_over_flat']:.4f}",
            f"{result['energy_findings']['reference_table']:.3f} with the artifact's own tables",
        ),
    ]
    body = [
        "<h1>FuseMax, recomputed</h1>",
        f"<p class=sub>{html.e(result['paper'])}: attention of four models, idealised timing.</p>",
        f"<div class=cards>{''.join(cards)}</div>",
        html.section("Speed-up and utilisation", f'<img src="{PLOT}" width="100%" alt="plot">'),
        html.section("Quantities", _group_table(result)),
        html.section("Means of 24 points", _means_table(result)),
        html.section("Every cell", _cell_table(result)),
        html.section("Notes", _list([*result["notes"]])),
    ]
    return html.page("FuseMax, recomputed", "".join(body))


def _list(items: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.e(item)}</li>" for item in items) + "</ul>"


def _group_table(result: Mapping[str, Any]) -> str:
    rows = [
        [
            row["name"],
            str(row["cells"]),
            str(row["equal"]),
            f"{row['max_rel_error']:.1e}",
            row["assumption"],
        ]
        for row in result["groups"]
    ]
    head = ["quantity", "cells", "equal", "worst", "rests on"]
    return html.table(head, rows)


def _means_table(result: Mapping[str, Any]) -> str:
    published = fusemax().published
    rows = [
        [name.replace("_", " "), f"{published[name]:.4g}", f"{value:.4f}"]
        for name, value in result["means"].items()
    ]
    return html.table(["mean", "paper", "ours"], rows)


def _cell_table(result: Mapping[str, Any]) -> str:
    rows = [
        [entry["name"], f"{entry['paper']:.6g}", f"{entry['ours']:.6g}", f"{entry['ratio']:.9f}"]
        for entry in result["cells"]
    ]
    return (
        f"<details><summary>{len(rows)} cells</summary>"
        + html.table(["cell", "paper", "ours", "ours / paper"], rows)
        + "</details>"
    )
