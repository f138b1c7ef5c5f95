"""Plots of a run's report. Every function takes plain data and returns one inline SVG element."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence

import matplotlib

matplotlib.use("svg")  # before pyplot: no display is needed, and none is looked for
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator  # noqa: E402

#: Stall reason -> colour and what it means to somebody who has not read docs/pim.md.
REASONS: dict[str, tuple[str, str]] = {
    "mac": ("#1b8a5a", "bank units compute (MAC)"),
    "activate": ("#e8743b", "opening rows (tRRD, tFAW)"),
    "row": ("#f4b942", "row cycle (tRCD, tRP, tRAS, tWR)"),
    "refresh": ("#8e5ea2", "refresh"),
    "transfer": ("#3d7ea6", "moving K/V, bus turn-around"),
    "command_bus": ("#9ecae1", "command bus taken"),
    "wait_rank": ("#b5384a", "waiting for softmax, normalisation"),
    "wait_buffer": ("#e8949f", "waiting for buffer transfers"),
    "wait_host": ("#7d8b99", "waiting for the host"),
    "control": ("#c5ccd3", "control"),
}
#: The same for the array, seen from its sequencer.
ARRAY_REASONS: dict[str, tuple[str, str]] = {
    "mac": ("#1b8a5a", "2D array computes"),
    "move": ("#3d7ea6", "scores and probabilities move"),
    "lane": ("#4fb3bf", "only the lanes work"),
    "bubble": ("#f4b942", "filling and emptying the pipeline"),
    "slot": ("#e8743b", "gaps of the schedule"),
    "wait_load": ("#b5384a", "waiting for loads"),
    "wait_store": ("#e8949f", "waiting for stores"),
    "settle": ("#8e5ea2", "last results under way"),
    "store": ("#7d8b99", "storing results"),
    "load": ("#4a5560", "loading"),
    "control": ("#c5ccd3", "control"),
}
#: Macro-command -> colour and meaning, for the timeline.
MACROS: dict[str, tuple[str, str]] = {
    "OPEN": ("#e8743b", "open rows"),
    "CLOSE": ("#f4b942", "close rows"),
    "REF": ("#8e5ea2", "refresh"),
    "MAC": ("#1b8a5a", "multiply-accumulate"),
    "WRR": ("#0f4d33", "set mode"),
    "WR": ("#3d7ea6", "write K/V"),
    "RD": ("#3d7ea6", "read K/V"),
    "LDSB": ("#3d7ea6", "load shared buffer"),
    "WRSBQ": ("#4fb3bf", "send query"),
    "WRSBP": ("#2a6f97", "send probabilities"),
    "RDRBS": ("#c77dba", "read scores"),
    "RDRBC": ("#8a4f9e", "read context"),
    "SFM": ("#b5384a", "softmax"),
    "NORM": ("#e8949f", "normalise"),
    "HWR": ("#7d8b99", "host sends"),
    "HRD": ("#4a5560", "host receives"),
}
COMMANDS: dict[str, tuple[str, str]] = {
    "ACT": ("#e8743b", "ACT"),
    "ACT4": ("#e8743b", "ACT4"),
    "ACTA": ("#e8743b", "ACTA"),
    "PRE": ("#f4b942", "PRE"),
    "PREA": ("#f4b942", "PREA"),
    "REF": ("#8e5ea2", "REF"),
    "MAC": ("#1b8a5a", "MAC"),
    "WRR": ("#0f4d33", "WRR"),
    "LDSB": ("#3d7ea6", "LDSB"),
    "RD": ("#3d7ea6", "RD"),
    "WR": ("#3d7ea6", "WR"),
    "RDRB": ("#c77dba", "RDRB"),
    "WRSB": ("#2a6f97", "WRSB"),
}
SERIES = ("#1f5fa8", "#d1495b", "#2e8b57", "#8e5ea2", "#e8743b", "#4fb3bf")
INK, GRID = "#26323d", "#dfe5ea"
_STYLE = {
    "svg.fonttype": "none",  # real text: crisp, selectable, in the page's font
    "svg.hashsalt": "bankside",  # equal data, equal bytes
    "font.family": "sans-serif",
    "font.size": 10.5,
    "axes.edgecolor": "#9aa7b2",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "legend.frameon": False,
}

Draw = Callable[[Figure], None]


def svg(width: float, height: float, draw: Draw, what: str) -> str:
    """Inline SVG of a figure in inches; `what` describes it to those who cannot see it."""
    with plt.rc_context(_STYLE):
        figure = plt.figure(figsize=(width, height), layout="constrained")
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        plt.close(figure)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # Identifiers repeat from figure to figure, and one page holds several.
    salt = re.sub(r"\W+", "-", what.lower())[:40]
    svg = re.sub(r'(\bid="|"#|url\(#)', rf"\g<1>{salt}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{what}" ', 1)


def _thousands(axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _beside(axes: Axes, value: float, place: float, text: str) -> None:
    """Write `text` to the right of a bar's end."""
    axes.annotate(
        text, (value, place), (4, 0), textcoords="offset points", va="center", fontsize=9.5
    )


def _context(value: float) -> str:
    return f"{value / 1024:.0f} K" if value >= 1024 and value % 1024 == 0 else f"{value:,.0f}"


def stall_bars(
    stalls: Mapping[str, int],
    meanings: Mapping[str, tuple[str, str]] = REASONS,
    axis: str = "memory-clock cycles of all attention calls",
) -> str:
    """Where the cycles went: one bar per reason, with cycles and share."""
    total = sum(stalls.values()) or 1
    rows = [(meanings.get(k, ("#888", k)), v) for k, v in stalls.items()]
    rows.sort(key=lambda row: row[1])

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.barh(range(len(rows)), [v for _, v in rows], color=[look[0] for look, _ in rows])
        axes.set_yticks(range(len(rows)), [look[1] for look, _ in rows])
        for place, (_, value) in enumerate(rows):
            _beside(axes, value, place, f"{value:,} ({100 * value / total:.1f} %)")
        axes.set_xlim(0, 1.22 * max(value for _, value in rows) or 1)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(axis)
        _thousands(axes.xaxis)

    return svg(9.6, 3.9, draw, "Stall reasons")


def _stack(axes: Axes, x: Sequence[float], parts: Mapping[str, Sequence[float]]) -> list[Patch]:
    """Stacked areas of the reasons that occur at all; returns legend entries, top first."""
    shown = [reason for reason in parts if any(parts[reason])]
    colours = [REASONS.get(reason, ("#888", ""))[0] for reason in shown]
    axes.stackplot(x, *[parts[reason] for reason in shown], colors=colours, linewidth=0, step="mid")
    looks = [REASONS.get(reason, ("#888", reason)) for reason in reversed(shown)]
    return [Patch(color=colour, label=label) for colour, label in looks]


def cycles_per_call(tokens: Sequence[int], stalls: Mapping[str, Sequence[float]]) -> str:
    """Mean cycles of one attention call against its context, stacked by reason."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        legend = _stack(axes, tokens, stalls)
        axes.set_xlim(tokens[0], max(tokens[-1], tokens[0] + 1))
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_ylim(0, None)
        axes.set_xlabel("context (tokens, with the newest)")
        axes.set_ylabel("cycles per call (one layer)")
        _thousands(axes.yaxis)
        axes.legend(handles=legend, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9.5)

    return svg(9.6, 3.7, draw, "Cycles per attention call against context")


def bandwidth_bars(bandwidth: Mapping[str, float]) -> str:
    """Bytes that moved against what could have moved, in the banks and on the rank's data bus."""
    rows = (
        ("bank units: peak", "banks_peak", "#d5dde4"),
        ("bank units: read", "banks_moved", "#7cc4a2"),
        ("of it keys and values\nof real tokens", "banks_useful", "#1b8a5a"),
        ("data bus: peak", "bus_peak", "#d5dde4"),
        ("data bus: moved", "bus_moved", "#3d7ea6"),
    )
    places = (5, 4, 3, 1.4, 0.4)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, (_, key, colour) in zip(places, rows, strict=True):
            value = bandwidth[key]
            axes.barh(place, value, color=colour)
            peak = bandwidth[key.split("_")[0] + "_peak"]
            share = "" if key.endswith("peak") else f" ({100 * value / peak:.1f} % of peak)"
            _beside(axes, value, place, f"{value:.1f} GB/s{share}")
        axes.set_yticks(places, [row[0] for row in rows])
        axes.set_xlim(0, 1.18 * bandwidth["banks_peak"])
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("GB/s, one rank, mean over all attention calls")

    return svg(9.6, 3.1, draw, "Bandwidth reached against the peak")


#: Lanes of the timeline, top first: title, and what it shows of which unit.
_ENGINES = {
    "array": "array (rows, bank units)",
    "buffer": "buffer (result and shared buffers)",
    "rank": "rank unit (softmax, normalise)",
    "host": "host port",
}
_BUSES = {
    "DRAM: rows": ("ACT", "ACT4", "ACTA", "PRE", "PREA", "REF"),
    "DRAM: bank units": ("MAC", "WRR", "LDSB"),
    "DRAM: data bus": ("RD", "WR", "RDRB", "WRSB"),
}


def _lane_bars(document: Mapping, call: Mapping) -> list[tuple[int, int, int, str, bool]]:
    """(lane, start, cycles, name, is an engine's) of every event of a call."""
    other = document["otherData"]
    length = {"MAC": other["mac_period"], "REF": other["refresh_cycles"]}
    length |= dict.fromkeys(_BUSES["DRAM: data bus"], other["burst_cycles"])
    engines, lanes = list(_ENGINES), list(_BUSES.values())
    bars = []
    for event in document["traceEvents"]:
        if event["ph"] != "X":
            continue
        unit, name, start = event["cat"], event["name"], event["args"]["start_cycle"]
        start -= call["start"]
        if not 0 <= start < call["cycles"]:
            continue
        if unit in _ENGINES:
            bars.append((engines.index(unit), start, event["args"]["cycles"], name, True))
        elif unit == "command bus":
            lane = next(i for i, names in enumerate(lanes) if name in names)
            bars.append((len(engines) + lane, start, length.get(name, 1), name, False))
    return bars


def call_timeline(document: Mapping, number: int = 0) -> str:
    """Engines and DRAM commands of one call as lanes (a document of `sim.timeline`)."""
    call = document["otherData"]["calls"][number]
    bars, titles = _lane_bars(document, call), [*_ENGINES.values(), *_BUSES]
    # A gap parts engines from DRAM commands.
    height = [-i - (0.35 if i >= len(_ENGINES) else 0) for i in range(len(titles))]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for lane, start, length, name, engine in bars:
            _bar(axes, height[lane], start, length, name, engine, call["cycles"])
        axes.set_yticks(height, titles)
        axes.set_xlim(0, call["cycles"])
        axes.set_ylim(height[-1] - 0.6, 0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("cycle of the call (memory clock)")
        _thousands(axes.xaxis)
        used = {name for _, _, _, name, engine in bars if engine}
        axes.legend(
            handles=[Patch(color=MACROS[n][0], label=MACROS[n][1]) for n in MACROS if n in used],
            loc="upper center",
            bbox_to_anchor=(0.42, -0.15),
            ncols=6,
            fontsize=9.5,
            columnspacing=1.2,
        )

    return svg(11.4, 4.3, draw, "Timeline of one attention call")


def _bar(
    axes: Axes, place: float, start: int, length: int, name: str, engine: bool, cycles: int
) -> None:
    """One event; an engine's name is written inside where it fits."""
    colour = (MACROS if engine else COMMANDS)[name][0]
    # A command of one cycle would be thinner than a hair: draw at least a thousandth of the width.
    axes.barh(place, max(length, cycles / 1000), left=start, height=0.72, color=colour, linewidth=0)
    if engine and length > cycles * (0.011 * len(name) + 0.01):
        middle = start + length / 2
        axes.text(middle, place, name, ha="center", va="center", color="w", fontsize=8)


def _kinds(points: Sequence[Mapping]) -> dict[tuple, list[Mapping]]:
    """Points by kernel: models whose ranks do exactly the same make one series."""
    by_model: dict[str, list[Mapping]] = {}
    for point in points:
        by_model.setdefault(point["model"], []).append(point)
    series: dict[tuple, list[Mapping]] = {}
    for rows in by_model.values():
        key = tuple((row["context"], row["variant"], row["kernel_cycles"]) for row in rows)
        series.setdefault((rows[0]["kind"], key), []).extend(rows)
    return series


def _titles(rows: Sequence[Mapping]) -> str:
    titles = list(dict.fromkeys(row["title"] for row in rows))
    return f"{' and '.join(titles)} ({rows[0]['kind']})"


def machine_curve(points: Sequence[Mapping], peak: float, paper_peak: float) -> str:
    """TB/s of the whole machine against context, with the peak of the bank units."""
    points = [p for p in points if p["variant"] == "base"]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        contexts = sorted({p["context"] for p in points})
        axes.axhline(peak, color=INK, linestyle=(0, (5, 3)), linewidth=1.3)
        text = f"peak of all bank units: {peak:.1f} TB/s (the paper: {paper_peak:.1f} TB/s)"
        axes.text(contexts[0], peak + 0.2, text, fontsize=9.5, va="bottom")
        for colour, rows in zip(SERIES, _kinds(points).values(), strict=False):
            seen = {row["context"]: row["tbps"] for row in rows}
            xs = sorted(seen)
            ys = [seen[x] for x in xs]
            axes.plot(xs, ys, marker="o", color=colour, linewidth=2, label=_titles(rows))
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(contexts, [_context(c) for c in contexts])
        axes.set_ylim(0, 1.14 * peak)
        axes.set_xlabel("context (tokens)")
        axes.set_ylabel("keys and values read, TB/s")
        axes.legend(loc="lower right", fontsize=9.5)

    return svg(9.6, 4.0, draw, "Bandwidth of the full machine against context")


def machine_stalls(points: Sequence[Mapping]) -> str:
    """Where the cycles of the full machine go, by context; one panel per distinct kernel."""
    series = list(_kinds([p for p in points if p["variant"] == "base"]).values())

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(series), sharey=True, squeeze=False)[0]
        for axes, rows in zip(panels, series, strict=True):
            seen = {row["context"]: row["stalls"] for row in rows}
            contexts = sorted(seen)
            bottom = [0.0] * len(contexts)
            for reason, (colour, _) in REASONS.items():
                share = [100 * seen[c].get(reason, 0) for c in contexts]
                axes.bar(range(len(contexts)), share, 0.78, bottom=bottom, color=colour)
                bottom = [a + b for a, b in zip(bottom, share, strict=True)]
            axes.set_xticks(range(len(contexts)), [_context(c) for c in contexts], fontsize=9)
            axes.set_title(_titles(rows), fontsize=10.5)
            axes.set_xlabel("context (tokens)")
            axes.grid(axis="x", visible=False)
            axes.set_ylim(0, 100)
        panels[0].set_ylabel("share of the cycles, %")
        looks = [look for look in REASONS.values()]
        figure.legend(
            handles=[Patch(color=colour, label=label) for colour, label in looks],
            loc="outside lower center",
            ncols=3,
            fontsize=9.5,
        )

    return svg(9.6, 4.8, draw, "Where the cycles of the full machine go")


def variant_bars(points: Sequence[Mapping], titles: Mapping[str, str], peak: float) -> str:
    """TB/s of every variant at one context; models with the same kernel share a bar."""
    names = [name for name in titles if any(p["variant"] == name for p in points)]
    series = list(_kinds(points).values())
    width = 0.8 / len(series)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, (colour, rows) in enumerate(zip(SERIES, series, strict=False)):
            seen = {row["variant"]: row["tbps"] for row in rows}
            for place, name in enumerate(reversed(names)):
                where = place + 0.4 - width * (number + 0.5)
                label = _titles(rows) if place == 0 else None
                axes.barh(where, seen[name], 0.92 * width, color=colour, label=label)
                text = f"{seen[name]:.2f} ({100 * seen[name] / peak:.0f} %)"
                axes.annotate(
                    text, (seen[name], where), (-5, 0), textcoords="offset points", ha="right",
                    va="center", color="w", fontsize=9,
                )  # fmt: skip
        axes.axvline(peak, color=INK, linestyle=(0, (5, 3)), linewidth=1.3)
        axes.set_yticks(range(len(names)), [titles[name] for name in reversed(names)])
        axes.set_xlim(0, 1.12 * peak)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("keys and values read, TB/s, and share of the peak (dashed)")
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.3, -0.13), ncols=len(series), fontsize=9.5
        )

    return svg(9.6, 0.62 * len(names) + 1.3, draw, "Variants of row opening and refresh")
