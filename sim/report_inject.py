"""Plots of a campaign of soft errors: hierarchy, classes, profiles over cycles and bits."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

__all__ = ["COLOURS", "draw_classes", "draw_hierarchy", "draw_profile", "png"]

Row = Mapping[str, Any]
#: Of outcome classes, from bad to harmless.
COLOURS = {
    "SDC": "#c0392b", "hang": "#7b241c", "detected-uncorrected": "#d68910",
    "detected-corrected": "#2e86c1", "timing-only": "#8e7cc3", "latent": "#b7c4ce",
    "masked": "#e8edf0",
}  # fmt: skip
_DEPTH, _NARROW = 4, 0.02


def png(width: float, height: float, draw: Callable[[Figure], None]) -> bytes:
    """A figure, size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    draw(figure)
    data = io.BytesIO()
    # Without the version of the library: equal results, equal bytes.
    figure.savefig(data, format="png", dpi=150, metadata={"Software": None})
    return data.getvalue()


def draw_hierarchy(rows: Sequence[Row], figure: Figure) -> None:
    """Instances from the top down, each as wide as the square root of its bits among its siblings,
    its colour the AVF of all that is in it.
    """
    axes = figure.subplots()
    known = {row["path"]: row for row in rows}
    depth = min(_DEPTH, max((p.count(".") + 1 for p in known if p), default=0))
    top = max((row["avf"] for row in rows), default=0) or 1.0
    colours = colormaps["YlOrRd"]
    _instance(axes, known, "", 0.0, 1.0, depth, lambda avf: colours(0.9 * avf / top))
    axes.set(xlim=(0, 1), ylim=(-depth - 1, 0), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    scale = figure.colorbar(
        _scale(colours, top), ax=axes, orientation="horizontal", shrink=0.4, aspect=40, pad=0.03
    )
    scale.set_label("AVF of everything inside, %")
    scale.outline.set_visible(False)


def _scale(colours: Any, top: float) -> Any:
    return ScalarMappable(
        Normalize(0, 100 * top), ListedColormap(colours([0.9 * i / 255 for i in range(256)]))
    )


def _instance(
    axes: Axes, known: Mapping[str, Row], path: str, left: float, width: float, depth: int,
    colour: Any,
) -> None:  # fmt: skip
    level = path.count(".") + 1 if path else 0
    row = known[path]
    axes.add_patch(Rectangle((left, -level - 1), width, 1, fc=colour(row["avf"]), ec="white", lw=1))
    if width > _NARROW:
        _label(axes, path.rpartition(".")[2] or "all", row, left + width / 2, -level - 0.5, width)
    if level >= depth:
        return
    prefix = f"{path}." if path else ""
    below = [p for p in known if p and p.startswith(prefix) and "." not in p[len(prefix) :]]
    total = sum(known[p]["bits"] ** 0.5 for p in below)
    for child in below:
        part = width * known[child]["bits"] ** 0.5 / total
        _instance(axes, known, child, left, part, depth, colour)
        left += part


def _label(axes: Axes, name: str, row: Row, x: float, y: float, width: float) -> None:
    """Name and AVF, as far as there is room; upright where it is narrow."""
    room = int(width * 130)
    dark = "#26323d"
    if room >= len(name) + 1:
        share = f"{100 * row['avf']:.3g} %" if row["failures"] else f"none of {row['faults']}"
        text = f"{name}\n{share}" if room > len(share) else name
        axes.text(x, y, text, ha="center", va="center", fontsize=7.5, color=dark)
    elif len(name) <= 11:
        axes.text(x, y, name, ha="center", va="center", fontsize=6.5, rotation=90, color=dark)


def draw_classes(rows: Sequence[Row], figure: Figure, level: float) -> None:
    """Shares of the classes, and the AVF with its interval, one bar per row."""
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    names = [row["label"] for row in rows]
    start = [0.0] * len(rows)
    for name, colour in COLOURS.items():
        shares = [100 * row["shares"].get(name, 0.0) for row in rows]
        left.barh(names, shares, left=start, color=colour, label=name, height=0.72)
        start = [a + b for a, b in zip(start, shares, strict=True)]
    left.invert_yaxis()
    left.set(xlabel="share of all possible faults, %", xlim=(0, 100))
    for place, row in enumerate(rows):
        avf = row["avf"]
        low, middle, high = (100 * avf[k] for k in ("low", "estimate", "high"))
        right.errorbar(
            middle, place, xerr=[[max(middle - low, 0)], [max(high - middle, 0)]], fmt="o", ms=4,
            color="#c0392b", ecolor="#5c6b79", capsize=3, lw=1.2,
        )  # fmt: skip
    right.set(xlabel=f"AVF (SDC or hang), % with {level:.0%} interval")
    right.set_xlim(left=0)
    right.grid(axis="x", color="#eef1f4")
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=4,
                  frameon=False, fontsize=8)  # fmt: skip


def draw_profile(rows: Sequence[Row], figure: Figure, by: str, label: str) -> None:
    """AVF by cycle or bit (bars); how many faults it rests on (line)."""
    axes = figure.subplots()
    places = [row[by] for row in rows]
    wide = (places[1] - places[0]) if len(places) > 1 else 1
    shown = [(p, 100 * r["avf"]) for p, r in zip(places, rows, strict=True) if r["avf"] is not None]
    align = "edge" if by == "first" else "center"
    if shown:
        axes.bar(
            *zip(*shown, strict=True), width=0.9 * wide, align=align, color="#c0392b", alpha=0.85
        )
    axes.set(xlabel=label, ylabel="AVF, %")
    axes.set_ylim(bottom=0)
    other = axes.twinx()
    middle = [p + (0.45 * wide if align == "edge" else 0) for p in places]
    other.plot(middle, [row["faults"] for row in rows], color="#5c6b79", lw=1, marker=".", ms=3)
    other.set_ylim(bottom=0)
    other.grid(visible=False)
    other.set_ylabel("faults injected", color="#5c6b79")
    for one in (axes, other):
        one.spines["top"].set_visible(False)
