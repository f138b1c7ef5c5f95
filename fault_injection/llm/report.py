"""Files of an experiment: result, runs, page with tables and plots. Ref: docs/llm_faults.md."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from bankside.cache import atomic_write
from bankside.fault_injection.llm.tables import DIMENSIONS, REPLAY_DIMENSIONS
from bankside.fault_injection.statistics import rate
from bankside.sim import html
from bankside.sim.plots import SERIES, svg

HEADER = ("n", "first token changed", "text changed", "by prompt", "not finite", "KL, bits/token",
          "added bits/token", "tokens before the change")  # fmt: skip
_WHAT = {"phase": "Phase", "layer": "Layer", "side": "Key or value", "part": "Part of the number",
         "product": "Operation", "top_bit": "Width, highest wrong bit"}  # fmt: skip


def share_text(share: Mapping, level: float) -> str:
    """A share with its interval, never bare zero."""
    return rate(share["seen"], share["n"], level)


def _ends(ends: Sequence[float] | None, factor: float = 1) -> str:
    return "" if ends is None else f"{factor * ends[0]:.3g} to {factor * ends[1]:.3g}"


def mean_text(mean: Mapping) -> str:
    """A mean with its clustered interval."""
    if mean["mean"] is None:
        return "no run"
    if mean["clustered"] is None:
        return f"{mean['mean']:.3g}" if mean["mean"] else f"none in {mean['n']}"
    return f"{mean['mean']:.3g} ({_ends(mean['clustered'])})"


def effect_cells(group: Mapping, level: float) -> list[str]:
    """Cells of a table row, in the order of `HEADER`."""
    changed = group["any_flip"]
    clustered = changed["clustered"]
    return [
        str(changed["n"]),
        share_text(group["first_flip"], level),
        share_text(changed, level),
        f"{_ends(clustered, 100)} %" if clustered else "",
        share_text(group["broken"], level),
        mean_text(group["kl_bits"]),
        mean_text(group["added_bits"]),
        mean_text(group["same_tokens_of_changed"]),
    ]


def scheme_rows(result: Mapping) -> list[list[str]]:
    """Table of schemes and fault models."""
    level = result["level"]
    return [
        [row["model"], row["scheme"]]
        + [share_text(row["outcomes"][name], level) for name in ("corrected", "detected", "silent")]
        + effect_cells(row, level)
        for row in result["schemes"]
    ]


SCHEME_HEADER = ("fault", "scheme", "corrected", "detected", "silent", *HEADER)


def text(result: Mapping) -> str:
    """Plain text for a terminal: one line per fault model and scheme, or per engine."""
    if result["kind"] == "llm_replay":
        rows = [[name, *effect_cells(group, result["level"])] for name, group in
                result["engines"].items()]  # fmt: skip
        lines = _aligned([["engine", *HEADER], *rows])
        for engine, tables in result["engines"].items():
            for name in REPLAY_DIMENSIONS:
                found = [[_shown(g[name]), *effect_cells(g, result["level"])] for g in tables[name]]
                lines += ["", *_aligned([[f"{engine}: {_WHAT[name].lower()}", *HEADER], *found])]
        return "\n".join([*lines, "", *_stands_for(result)])
    rows = [[row[i] for i in (0, 1, 5, 3, 4, 7, 10)] for row in scheme_rows(result)]
    header = ["fault", "scheme", "n", "detected", "silent", "text changed", "KL, bits/token"]
    return "\n".join(_aligned([header, *rows]))


def _shown(value: object) -> str:
    """A value of a dimension."""
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def held_text(represented: Mapping) -> str:
    """The share that patterns stand for, with its interval where there is one; never bare zero."""
    share, low, high = (represented.get(key) for key in ("share", "low", "high"))
    if low is None or low == high:
        return f"{100 * share:.4g} %"
    if share in (0, 1):
        return f"less than {100 * high:.3g} %" if share == 0 else f"more than {100 * low:.3g} %"
    return f"{100 * share:.4g} % ({_ends((low, high), 100)} %)"


def part_text(share: float) -> str:
    """A share of the faults that were injected, without an interval."""
    return f"{100 * share:.3g} %" if share else "none seen"


def _stands_for(result: Mapping) -> list[str]:
    """What a replay says something about, in sentences."""
    share, recording = result["represented"], result["recording"]
    held = f"{held_text(share)} of the faults with an effect ({share['source']})"
    apart = f"{result['control_patterns']} of {result['patterns']} patterns"
    lines = [
        f"Replayed patterns stand for {held}.",
        f"{apart} are of control, or hold only a part of the effect, and are not replayed.",
    ]
    if recording is not None:
        rest = "; ".join(f"{name} {part_text(value)}" for name, value in
                         recording["parts"].items())  # fmt: skip
        some = f"{100 * recording['effective_share']:.3g} % of the possible"
        lines.append(
            f"{some} {recording['model']} faults of {recording['machine']} have an effect: {rest}."
        )
    if result["unplaced"]:
        lines.append(f"{len(result['unplaced'])} patterns fit nowhere in this model.")
    return lines


def _aligned(rows: list[list[str]]) -> list[str]:
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(f"{c:<{w}}" for c, w in zip(row, wide, strict=True)).rstrip() for row in rows]


def heat_map(rows: Sequence[Mapping], level: float, scheme: str) -> str:
    """Share of changed texts and mean divergence by bit position, keys and values (SVG).

    Cells without a hit are grey and carry their upper bound.
    """
    grid = {(row["side"], row["bit"]): row for row in rows}
    bits = range(15, -1, -1)

    def draw(figure) -> None:
        panels = figure.subplots(2, 1, sharex=True)
        titles = ("texts changed, % of faults", "KL divergence, bits per token")
        for axes, title, key in zip(panels, titles, ("any_flip", "kl_bits"), strict=True):
            values, labels = _cells(grid, bits, key)
            shown = np.ma.masked_less_equal(values, 0)
            low = max(shown.min(), 1e-6) if shown.count() else 1e-6
            norm = {"vmin": 0} if key == "any_flip" else {"norm": "log", "vmin": low}
            image = axes.pcolormesh(shown[::-1], cmap="YlOrRd", edgecolors="w", linewidth=1, **norm)
            axes.set_facecolor("#e6eaee")
            for (row, column), label in np.ndenumerate(labels):
                dark = shown[row, column] is not np.ma.masked and image.norm(values[row, column])
                axes.text(column + 0.5, 1.5 - row, label, ha="center", va="center", fontsize=8,
                          color="w" if dark and dark > 0.6 else "#26323d")  # fmt: skip
            axes.set_yticks([0.5, 1.5], ["value", "key"])
            axes.set_xticks(np.arange(16) + 0.5, [str(bit) for bit in bits])
            axes.tick_params(length=0)
            axes.grid(visible=False)
            axes.set_title(title, fontsize=10.5, loc="left")
            figure.colorbar(image, ax=axes, pad=0.01)
        panels[1].set_xlabel(
            f"bit of the FP16 number: 15 sign, 14 to 10 exponent, 9 to 0 mantissa "
            f"({grid['key', 0]['faults']} faults each)"
        )

    return svg(11.4, 4.4, draw, f"Effect of one wrong cell by bit position, {scheme}")


def _cells(
    grid: Mapping[tuple[str, int], Mapping], bits: Iterable[int], key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Values [side, bit] and their labels."""
    values, labels = [], []
    for side in ("key", "value"):
        for bit in bits:
            row = grid[side, bit]
            if key == "any_flip":
                share = row[key]
                values.append(100 * share["share"])
                below = share["below"]
                labels.append(
                    f"{values[-1]:.0f}" if below is None else f"<{math.ceil(100 * below)}"
                )
            else:
                values.append(row[key]["mean"] or 0.0)
                labels.append(f"{values[-1]:.0e}" if values[-1] else "0")
    return np.array(values).reshape(2, -1), np.array(labels).reshape(2, -1)


def scheme_bars(result: Mapping) -> str:
    """What each scheme makes of each fault model: stopped, text changed, silent without change."""
    schemes = list(dict.fromkeys(row["scheme"] for row in result["schemes"]))
    models = list(dict.fromkeys(row["model"] for row in result["schemes"]))
    grid = {(row["model"], row["scheme"]): row for row in result["schemes"]}
    parts = (
        ("text changed", SERIES[1], lambda row: row["any_flip"]["share"]),
        ("silent, same text", "#f4b942",
         lambda row: row["outcomes"]["silent"]["share"] - row["any_flip"]["share"]),
        ("stopped by ECC", SERIES[0], lambda row: row["outcomes"]["detected"]["share"]),
    )  # fmt: skip

    def draw(figure) -> None:
        panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
        for axes, model in zip(panels, models, strict=True):
            left = np.zeros(len(schemes))
            for name, colour, value in parts:
                size = np.array([100 * value(grid[model, s]) for s in reversed(schemes)])
                axes.barh(range(len(schemes)), size, left=left, color=colour, label=name)
                left += size
            axes.set_title(f"{model} (n = {grid[model, schemes[0]]['faults']})", fontsize=10.5)
            axes.set_xlim(0, 100)
            axes.set_xticks([0, 50])
            axes.grid(axis="y", visible=False)
        panels[0].set_yticks(range(len(schemes)), list(reversed(schemes)))
        figure.supxlabel("% of faults; what is left of 100 % reads right", fontsize=10.5)
        handles = panels[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper center", ncols=3)

    return svg(13.2, 0.42 * len(schemes) + 1.6, draw, "What ECC makes of each fault, by scheme")


def page(result: Mapping) -> str:
    """A self-contained HTML page."""
    level = result["level"]
    if result["kind"] == "llm_replay":
        return _replay_page(result)
    facts = result["facts"]
    lead = (
        f"{result['faults']} faults, {facts['windows']} prompts, {facts['standard']}, "
        f"{facts['chips']} chips of {facts['banks']} banks. Intervals: {100 * level:g} %; "
        "&quot;by prompt&quot; draws whole prompts."
    )
    parts = [
        html.section("Schemes", html.paragraph(lead), scheme_bars(result),
                     html.table(SCHEME_HEADER, scheme_rows(result), 2)),
    ]  # fmt: skip
    for scheme, tables in result["cells"].items():
        inner = [heat_map(tables["bit"], level, scheme)]
        for name in DIMENSIONS:
            rows = [[str(g[name]), *effect_cells(g, level)] for g in tables[name]]
            inner.append(html.table([_WHAT[name], *HEADER], rows))
        parts.append(html.section(f"One wrong cell: {scheme}", *inner))
    return html.page("Keys and values in faulty DRAM", "".join(parts))


def _replay_page(result: Mapping) -> str:
    level = result["level"]
    lead = html.e(" ".join(_stands_for(result)))
    parts = []
    for engine, tables in result["engines"].items():
        inner = [html.paragraph(lead)]
        for name in REPLAY_DIMENSIONS:
            rows = [[_shown(g[name]), *effect_cells(g, level)] for g in tables[name]]
            inner.append(html.table([_WHAT[name], *HEADER], rows))
        parts.append(html.section(f"Patterns of {engine}", *inner))
    return html.page("Replayed error patterns", "".join(parts))


def write(folder: Path, result: Mapping) -> dict[str, str]:
    """result.json (tables), runs.csv (every run), report.html; returns their names."""
    runs = io.StringIO()
    table = csv.DictWriter(runs, list(result["runs"][0]) if result["runs"] else ["fault"])
    table.writeheader()
    table.writerows(result["runs"])
    rest = {key: value for key, value in result.items() if key != "runs"}
    atomic_write(folder / "result.json", json.dumps(rest, indent=2, allow_nan=False) + "\n")
    atomic_write(folder / "runs.csv", runs.getvalue())
    atomic_write(folder / "report.html", page(result))
    return {"result": "result.json", "runs": "runs.csv", "report": "report.html"}
