"""FuseMax (arXiv 2406.10491): every published cell beside our own number.

Ref: docs/fusemax.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bankside.mapping.paper.fusemax import Estimate, Linear, estimate, linear
from bankside.mapping.paper.fusemax_counts import Attention
from bankside.mapping.paper.fusemax_data import (
    TABLES,
    FuseMax,
    fusemax,
    reference,
    reference_folder,
)
from bankside.sim.reproduce import EQUAL, GapOptions, Paper, cell, worst
from bankside.units import format_si

Point = tuple[str, str]
#: The one length at which the artifact's mapper missed the tiles with the least traffic.
_SEARCHED = "256K"
_UNFUSED_TILES = (
    "least-traffic tiles; missing: the tiles that the artifact's random mapper settled on at this "
    "length (it reads K and V more often)"
)
_BUFFER = "two buffer constants per machine, solved from the energies of the linear layers"
_LANE_REGISTERS = "; two register constants, solved from attn-binding.csv"
_PE_REGISTERS = "; missing: register energy, published for one PE only (below 5e-5)"
_IDEAL = "operations and unit occupation; no fill, drain or latency"
_ROUNDED = "published with few digits"


def points(data: FuseMax) -> list[Point]:
    """(model, length) of every published point, in the order of the artifact's tables."""
    return [(model, length) for model in data.models for length in data.lengths]


class Ours:
    """All estimates that a comparison needs, made once."""

    def __init__(self, data: FuseMax) -> None:
        self.attention: dict[str, dict[Point, Estimate]] = {
            name: {
                (model, length): estimate(name, Attention.of(model, data.lengths[length]))
                for model, length in points(data)
            }
            for name in data.bindings
        }
        self.linear: dict[str, dict[Point, Linear]] = {
            hardware: {
                (model, length): linear(model, data.lengths[length], hardware)
                for model, length in points(data)
            }
            for hardware in ("flat", "fusemax")
        }

    def ratio(self, quantity: str, binding: str, base: str, point: Point) -> float:
        """`quantity` of attention under a binding over that under another."""
        return getattr(self.attention[binding][point], quantity) / getattr(
            self.attention[base][point], quantity
        )

    def end_to_end(self, quantity: str, binding: str, point: Point) -> float:
        """Attention and linear layers together."""
        hardware = "fusemax" if binding in ("architecture", "interleaved") else "flat"
        return getattr(self.attention[binding][point], quantity) + getattr(
            self.linear[hardware][point], quantity
        )


def means(ours: Ours, data: FuseMax) -> dict[str, float]:
    """The published means over all points, from our numbers."""
    every = points(data)

    def speedups(base: str) -> list[float]:
        return [ours.ratio("latency_s", base, "interleaved", point) for point in every]

    def energies(base: str) -> list[float]:
        return [ours.ratio("energy_pj", "interleaved", base, point) for point in every]

    def whole(quantity: str) -> list[float]:
        return [
            ours.end_to_end(quantity, "flat", point)
            / ours.end_to_end(quantity, "interleaved", point)
            for point in every
        ]

    return {
        "speedup_over_flat": statistics.fmean(speedups("flat")),
        "speedup_over_flat_geometric": statistics.geometric_mean(speedups("flat")),
        "speedup_over_unfused": statistics.fmean(speedups("unfused")),
        "speedup_over_unfused_geometric": statistics.geometric_mean(speedups("unfused")),
        "energy_over_flat": statistics.fmean(energies("flat")),
        "energy_over_unfused": statistics.fmean(energies("unfused")),
        "end_to_end_speedup_over_flat": statistics.fmean(whole("latency_s")),
        "end_to_end_energy_over_flat": statistics.fmean(1 / ratio for ratio in whole("energy_pj")),
    }


# --- cells --------------------------------------------------------------------------------------


def attention_cells(ours: Ours, data: FuseMax) -> Iterator[dict[str, Any]]:
    """Latency, traffic, energy and utilisation of every installed table."""
    columns = (
        ("latency", "latency_s", "latency"),
        ("traffic", "traffic_bytes", "traffic"),
        ("energy", "energy_pj", "energy"),
        ("util_2d", "util_2d", "util_2d"),
        ("util_1d", "util_1d", "util_1d"),
    )
    for binding, file in TABLES.items():
        table = reference(file)
        if table is None:
            continue
        for label, quantity, column in columns:
            for point in points(data):
                value = getattr(ours.attention[binding][point], quantity)
                name = f"{label} {binding} {' '.join(point)}"
                yield cell(name, float(table[point][column]), value, _why(binding, label, point))


def _why(binding: str, label: str, point: Point) -> str:
    searched = binding == "unfused" and point[1] == _SEARCHED
    if label == "energy":
        lanes = _LANE_REGISTERS if binding in ("architecture", "interleaved") else ""
        return _BUFFER + lanes + _PE_REGISTERS + ("; " + _UNFUSED_TILES if searched else "")
    return _UNFUSED_TILES if searched else _IDEAL


def linear_cells(ours: Ours, data: FuseMax) -> Iterator[dict[str, Any]]:
    """The linear layers on both machines."""
    for hardware, file in (("flat", "end2end-flat.csv"), ("fusemax", "end2end-proposal.csv")):
        table = reference(file)
        if table is None:
            continue
        for label, quantity in (
            ("latency", "latency_s"), ("traffic", "traffic_bytes"), ("energy", "energy_pj")
        ):  # fmt: skip
            for point in points(data):
                value = getattr(ours.linear[hardware][point], quantity)
                why = _BUFFER if label == "energy" else "largest block that the buffer holds"
                name = f"{label} linear {hardware} {' '.join(point)}"
                yield cell(name, float(table[point][label]), value, why)


def summary_cells(ours: Ours, data: FuseMax) -> Iterator[dict[str, Any]]:
    """The joined table: +Cascade, speed-ups, ratios of energy, end to end."""
    table = reference("fusemax_summary.csv")
    if table is None:
        return
    whole = ours.end_to_end
    columns: dict[str, tuple[str, Callable[[Point], float], str]] = {
        "lat_cascade_s": (
            "latency cascade", lambda p: ours.attention["cascade"][p].latency_s, _IDEAL
        ),
        "speedup_vs_flat": (
            "speed-up over flat",
            lambda p: ours.ratio("latency_s", "flat", "interleaved", p), _IDEAL,
        ),
        "speedup_vs_unfused": (
            "speed-up over unfused",
            lambda p: ours.ratio("latency_s", "unfused", "interleaved", p), _IDEAL,
        ),
        "energy_ratio_vs_flat": (
            "energy over flat", lambda p: ours.ratio("energy_pj", "interleaved", "flat", p), _BUFFER
        ),
        "energy_ratio_vs_unfused": (
            "energy over unfused",
            lambda p: ours.ratio("energy_pj", "interleaved", "unfused", p), _BUFFER,
        ),
        "e2e_speedup_vs_flat": (
            "end-to-end speed-up over flat",
            lambda p: whole("latency_s", "flat", p) / whole("latency_s", "interleaved", p), _IDEAL,
        ),
        "e2e_energy_ratio_vs_flat": (
            "end-to-end energy over flat",
            lambda p: whole("energy_pj", "interleaved", p) / whole("energy_pj", "flat", p), _BUFFER,
        ),
    }  # fmt: skip
    for column, (label, value, why) in columns.items():
        for point in points(data):
            said = why if column == "lat_cascade_s" else f"{why}; {_ROUNDED}"
            if "unfused" in column and point[1] == _SEARCHED:
                said = f"{said}; {_UNFUSED_TILES}"
            yield cell(
                f"{label} {' '.join(point)}", float(table[point][column]), value(point), said
            )


def published_cells(ours: Ours, data: FuseMax) -> Iterator[dict[str, Any]]:
    """What is known without the artifact: the means and the latencies of BERT."""
    found = means(ours, data)
    for name, paper in data.published.items():
        yield cell(f"mean {name.replace('_', ' ')}", paper, found[name], _ROUNDED)
    for binding, row in data.published_bert_s.items():
        for length, paper in row.items():
            value = ours.attention[binding]["BERT", length].latency_s
            yield cell(f"published latency {binding} BERT {length}", paper, value, _ROUNDED)


# --- what the energies rest on ------------------------------------------------------------------


def energy_findings(data: FuseMax) -> dict[str, float]:
    """Mean FuseMax / FLAT energy as published, and with two of its premises changed.

    counted_once: reads of results that are never read back are left out (an overflow in the
    artifact adds them at the long lengths). reference_table: also the buffer energies of the
    artifact's energy reference tables (485 and 451 pJ a row).
    """
    every = [Attention.of(model, data.lengths[length]) for model, length in points(data)]

    def mean(artifact: bool, **changed: float) -> float:
        def pj(binding: str, work: Attention) -> float:
            hardware = data.hardware[data.binding(binding).hardware].model_copy(update=changed)
            return estimate(binding, work, artifact=artifact, hardware=hardware).energy_pj

        return statistics.fmean(pj("interleaved", work) / pj("flat", work) for work in every)

    return {
        "as_published": mean(True),
        "counted_once": mean(False),
        "reference_table": mean(False, buffer_read_pj=484.97271, buffer_write_pj=451.30271),
    }


_OVERFLOW = (
    "published energies from 64K tokens on hold reads that do not happen; a 64-bit overflow of "
    "tile^2 x tiles explains their amounts, and we repeat them (energy_findings: without)"
)
NOTES = (
    "time is idealised: no fill, drain, latency or network; --rtl-gap shows what hardware adds",
    "FLAT's choice of tiles is read from the artifact, since its search is another program",
    "the 3-pass baselines count one cycle for an exponential and its subtraction, +Cascade two",
    "the published energy of +Cascade holds no exponentials: they are looked up under another name",
    _OVERFLOW,
    "no area: the artifact's area files contradict each other",
)


def reproduce() -> dict[str, Any]:
    """All cells and what they add up to.

    Keys: artifact_rows, artifact_max_rel_error (latencies of `architecture` and `interleaved`;
    0 and None where the tables are not installed), speedup_over_flat_mean, means, groups (cells and
    largest difference by quantity), energy_findings, cells, notes.
    """
    data = fusemax()
    ours = Ours(data)
    cells = [
        *attention_cells(ours, data),
        *linear_cells(ours, data),
        *summary_cells(ours, data),
        *published_cells(ours, data),
    ]
    exact = [
        entry
        for entry in cells
        if entry["name"].startswith(("latency interleaved", "latency architecture"))
    ]
    notes = list(NOTES)
    if not exact:
        notes.append(
            f"the artifact's tables are not at {reference_folder()} (set BANKSIDE_REF): cells of "
            f"single points are omitted"
        )
    found = means(ours, data)
    return {
        "paper": "FuseMax, arXiv 2406.10491, MICRO 2024",
        "artifact_rows": len(exact),
        "artifact_max_rel_error": worst(exact),
        "speedup_over_flat_mean": found["speedup_over_flat"],
        "means": found,
        "groups": groups(cells),
        "energy_findings": energy_findings(data),
        "estimates": estimates(ours, data),
        "cells": cells,
        "notes": notes,
    }


def groups(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Cells of one quantity together: how many, how many equal, the worst and why."""
    lengths = fusemax().lengths
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in cells:
        words = entry["name"].split()
        if words[0] == "mean":
            name = "means"
        else:
            name = " ".join(words[:-2] if words[-1] in lengths else words)
        found.setdefault(name, []).append(entry)
    rows = []
    for name, members in found.items():
        extreme = max(members, key=lambda entry: abs(entry["ratio"] - 1))
        rows.append(
            {
                "name": name,
                "cells": len(members),
                "equal": sum(abs(entry["ratio"] - 1) <= EQUAL for entry in members),
                "max_rel_error": abs(extreme["ratio"] - 1),
                "worst_cell": extreme["name"],
                "assumption": extreme["assumption"],
            }
        )
    return rows


def estimates(ours: Ours, data: FuseMax) -> list[dict[str, Any]]:
    """Our numbers per model and length, for tables and plots."""
    rows = []
    for point in points(data):
        row: dict[str, Any] = {"model": point[0], "length": point[1]}
        row["latency_s"] = {b: ours.attention[b][point].latency_s for b in data.bindings}
        row["energy_pj"] = {b: ours.attention[b][point].energy_pj for b in data.bindings}
        row["util_2d"] = {b: ours.attention[b][point].util_2d for b in data.bindings}
        row["util_1d"] = {b: ours.attention[b][point].util_1d for b in data.bindings}
        row["traffic_bytes"] = {b: ours.attention[b][point].traffic_bytes for b in data.bindings}
        row["end_to_end_speedup"] = ours.end_to_end("latency_s", "flat", point) / ours.end_to_end(
            "latency_s", "interleaved", point
        )
        row["end_to_end_energy"] = ours.end_to_end("energy_pj", "interleaved", point) / (
            ours.end_to_end("energy_pj", "flat", point)
        )
        rows.append({key: _plain(value) for key, value in row.items()})
    return rows


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value if isinstance(value, str) else float(value)


# --- text ---------------------------------------------------------------------------------------


def text(result: Mapping[str, Any]) -> str:
    """Tables per model and length, then how the cells compare."""
    return "\n".join([*point_lines(result), "", *compare_lines(result)])


def point_lines(result: Mapping[str, Any]) -> list[str]:
    """One line per model and length."""
    head = (
        f"{'attention':10} {'unfused s':>10} {'flat s':>10} {'+casc. s':>10} {'+arch. s':>10} "
        f"{'+bind. s':>10} {'x flat':>6} {'x unf.':>6} {'E/flat':>6} {'2D':>5} {'1D':>5} "
        f"{'DRAM':>9} {'e2e x':>6} {'e2e E':>6}"
    )
    lines = [result["paper"], head]
    for row in result["estimates"]:
        seconds, pj = row["latency_s"], row["energy_pj"]
        ours = seconds["interleaved"]
        lines.append(
            f"{row['model']:5}{row['length']:>5} "
            + " ".join(f"{seconds[name]:10.4g}" for name in seconds)
            + f" {seconds['flat'] / ours:6.2f} {seconds['unfused'] / ours:6.2f}"
            + f" {pj['interleaved'] / pj['flat']:6.3f} {row['util_2d']['interleaved']:5.3f}"
            + f" {row['util_1d']['interleaved']:5.3f}"
            + f" {format_si(row['traffic_bytes']['interleaved'], 'B'):>9}"
            + f" {row['end_to_end_speedup']:6.2f} {row['end_to_end_energy']:6.3f}"
        )
    return lines


def compare_lines(result: Mapping[str, Any]) -> list[str]:
    """How many cells are equal, the worst of each quantity, means, findings, notes."""
    error = result["artifact_max_rel_error"]
    lines = [
        f"{result['artifact_rows']} latencies of +architecture and +binding"
        + (f": largest relative difference {error:.1e}" if error is not None else ""),
        "",
        f"{'compared':36} {'cells':>5} {'equal':>5} {'worst':>8}  rests on",
    ]
    reasons = list(dict.fromkeys(row["assumption"] for row in result["groups"]))
    for row in result["groups"]:
        lines.append(
            f"{row['name']:36} {row['cells']:5} {row['equal']:5} {row['max_rel_error']:8.1e}  "
            f"({reasons.index(row['assumption']) + 1})"
        )
    lines += [f"({number}) {reason}" for number, reason in enumerate(reasons, 1)]
    lines += ["", f"{'mean of 24 points':34} {'paper':>8} {'ours':>8}"]
    published = fusemax().published
    lines += [
        f"{name.replace('_', ' '):34} {published[name]:8.4g} {value:8.4f}"
        for name, value in result["means"].items()
    ]
    lines += ["", energy_line(result), *(f"note: {note}" for note in result["notes"])]
    return lines


def energy_line(result: Mapping[str, Any]) -> str:
    """What the mean energy ratio rests on."""
    finding = result["energy_findings"]
    return (
        f"energy over flat: {finding['as_published']:.4f} as published, "
        f"{finding['counted_once']:.4f} without reads that do not happen, "
        f"{finding['reference_table']:.4f} if a buffer row cost what the artifact's own tables say"
    )


def _write(result: Mapping[str, Any], out: Path) -> list[str]:
    from bankside.sim.report_fusemax import write  # brings matplotlib

    return write(result, out)


def _gap(options: GapOptions) -> dict[str, Any]:
    from bankside.sim.reproduce_gap import gap  # brings the solver

    return gap(options)


def _gap_text(result: Mapping[str, Any]) -> str:
    from bankside.sim.reproduce_gap import gap_text

    return gap_text(result)


PAPER = Paper(reproduce, text, _write, _gap, _gap_text)
