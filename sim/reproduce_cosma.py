"""COSMA (arXiv 2311.18246): how much non-compulsory traffic exact plans save.

Ref: docs/scheduling.md, section COSMA's numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bankside.mapping.paper.cosma import Cosma, Point, mean_saved, parameters, points
from bankside.mapping.scheduling.heuristics import BASELINES
from bankside.sim.reproduce import Paper, Result, cell

_NETWORKS = (
    "missing: the paper's networks, scratchpad sizes and baselines; ours are generated "
    "(mapping/paper/cosma.yaml), scratchpads between the largest working set and the peak"
)
_EVERY = [kind.name for kind in BASELINES]
#: What a compiler without a memory planner does, and the strongest of each kind in its order.
_SIMPLE, _STRONG = "given/lru/first_fit", "given/belady/best_fit"
NOTES = (
    (
        "a saving is one minus exact over baseline non-compulsory bytes, averaged over networks, "
        "scratchpads and baselines; comparisons in which the baseline has none are left out"
    ),
    "every plan is checked by the legality rules; `certified` counts proven optima",
)


def groups(found: Sequence[Point]) -> list[tuple[str, list[str]]]:
    """Baselines that are averaged together: (what, names)."""
    orders = dict.fromkeys(name.partition("/")[0] for name in _EVERY)
    rows = [("all 32 baselines", _EVERY), (_SIMPLE, [_SIMPLE]), (_STRONG, [_STRONG])]
    rows += [(f"{o}/*", [n for n in _EVERY if n.startswith(f"{o}/")]) for o in orders]
    return rows


def reproduce() -> Result:
    """Cells, and the plan of every network."""
    data = parameters()
    found = points(data)
    certified = sum(each.plan.optimal for each in found)
    return {
        "paper": "COSMA, arXiv 2311.18246",
        "cells": [*cells(data, found)],
        "graphs": len(data.graphs),
        "plans": len(found),
        "certified": certified,
        "largest_certified": max((p.tasks for p in found if p.plan.optimal), default=0),
        "slowest_seconds": max(each.seconds for each in found),
        "slowest_certified_seconds": max(
            (each.seconds for each in found if each.plan.optimal), default=0.0
        ),
        "against_best": _against_best(found),
        "rows": [_row(each) for each in found],
        "notes": list(NOTES),
    }


def cells(data: Cosma, found: Sequence[Point]) -> list[dict[str, Any]]:
    """Mean savings against groups of baselines, of all networks and of those from search."""
    rows = []
    for what, names in groups(found):
        saved, count = mean_saved(found, names)
        why = f"{count} comparisons with {what}; {_NETWORKS}"
        rows.append(cell(f"saving against {what}", data.published.reduction, saved, why))
    for margin in data.margins:
        part = [each for each in found if each.margin == margin]
        saved, count = mean_saved(part, _EVERY)
        why = f"{count} comparisons, to show what the scratchpad's size does; {_NETWORKS}"
        rows.append(cell(f"saving at margin {margin:g}", data.published.reduction, saved, why))
    search = [each for each in found if each.search]
    saved, count = mean_saved(search, _EVERY)
    why = f"{count} comparisons; exact plans, where the paper divides and conquers; {_NETWORKS}"
    name = "saving on networks from search"
    return [*rows, cell(name, data.published.reduction_search, saved, why)]


def _against_best(found: Sequence[Point]) -> float:
    """Mean saving against the best of all baselines of each point: what a portfolio leaves."""
    shares = [1 - p.plan.extra_bytes / b for p in found if (b := min(p.baselines.values()))]
    return sum(shares) / len(shares)


def _row(each: Point) -> dict[str, Any]:
    theirs = sorted(each.baselines.values())
    return {
        "graph": each.graph,
        "tasks": each.tasks,
        "margin": each.margin,
        "capacity_bytes": each.plan.capacity,
        "compulsory_bytes": each.plan.graph.compulsory_bytes,
        "extra_bytes": each.plan.extra_bytes,
        "bound_bytes": each.plan.bound,
        "certified": each.plan.optimal,
        "best_baseline_bytes": theirs[0],
        "median_baseline_bytes": theirs[len(theirs) // 2],
        "worst_baseline_bytes": theirs[-1],
        "seconds": round(each.seconds, 3),
    }


def text(result: Mapping[str, Any]) -> str:
    """The cells, then every network."""
    lines = [result["paper"], f"{'mean saving of non-compulsory traffic':44} paper  ours"]
    lines += [f"{c['name']:44} {c['paper']:5.2f} {c['ours']:5.2f}" for c in result["cells"]]
    lines += [
        f"against the best of all baselines of each network: {result['against_best']:.2f}",
        (
            f"{result['certified']} of {result['plans']} plans certified, up to "
            f"{result['largest_certified']} operators, the slowest of them in "
            f"{result['slowest_certified_seconds']:.1f} s; slowest of all "
            f"{result['slowest_seconds']:.1f} s"
        ),
        "",
        (
            f"{'network':20} {'ops':>3} {'margin':>6} {'scratchpad':>10} {'exact':>9} {'bound':>9} "
            f"{'best':>9} {'median':>9} {'worst':>9}  bytes beyond compulsory"
        ),
    ]
    lines += [
        f"{row['graph']:20} {row['tasks']:3} {row['margin']:6.2f} {row['capacity_bytes']:10} "
        f"{row['extra_bytes']:9} {row['bound_bytes']:9} {row['best_baseline_bytes']:9} "
        f"{row['median_baseline_bytes']:9} {row['worst_baseline_bytes']:9}"
        for row in result["rows"]
    ]
    return "\n".join([*lines, *(f"note: {note}" for note in result["notes"])])


def write(result: Mapping[str, Any], folder: Path) -> list[str]:
    """The plans as a table in Markdown."""
    keys = list(result["rows"][0])
    lines = ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
    lines += ["| " + " | ".join(str(row[key]) for key in keys) + " |" for row in result["rows"]]
    (folder / "cosma.md").write_text("\n".join(lines) + "\n")
    return ["cosma.md"]


PAPER = Paper(reproduce, text, write)
