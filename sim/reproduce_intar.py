"""InTAR (arXiv 2502.08807): per-edge choice against pure dataflow and pure sequential execution.

Ref: docs/scheduling.md, section InTAR's numbers.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bankside.mapping.paper.intar import InTar, Kernel, Kernels, kernel, parameters
from bankside.sim.reproduce import Paper, Result, cell

_DEVICE = (
    "arithmetic mean over the five kernels of its repository, every pattern with the same "
    "multipliers, ports and buffer; missing: the published cycles of each kernel, clock "
    "frequencies and multipliers of each design"
)
_HIDDEN = "transfers of the sequential pattern before and after the multipliers, at full bandwidth"
_IDEAL = (
    "ours: no latencies, all multipliers (DSPs of the README) busy in every cycle; missing: how "
    "many of them its loops keep busy"
)
_LATENCY = (
    "sensitivity to the missing latency of memory requests: transfers of the sequential pattern "
    "slower by what its MLP lost on the board (1,374,935 cycles for 180,052 with ideal memory)"
)
NOTES = (
    "speed-ups in cycles; the paper's are in seconds",
    "not recomputed: GPT-2 medium against Allo, DFX and GPUs (other projects' designs, power)",
)


def reproduce() -> Result:
    """Cells, and each kernel under each pattern."""
    data = parameters()
    found = [kernel(name, data) for name in Kernels.model_fields]
    return {
        "paper": "InTAR, arXiv 2502.08807, FCCM 2025",
        "clock_domain": "fabric",
        "cells": cells(data, found),
        "kernels": [_row(each) for each in found],
        "notes": list(NOTES),
    }


def cells(data: InTar, found: Sequence[Kernel]) -> list[dict[str, Any]]:
    """Means beside the published ones, and the two measured pairs of fixed patterns."""
    over_dataflow = statistics.fmean(k.over_dataflow for k in found)
    over_sequential = statistics.fmean(k.over_sequential for k in found)
    exposed = statistics.fmean(k.exposed / k.choice.cycles for k in found)
    published = data.published
    rows = [
        cell("speed-up over dataflow", published.over_dataflow, over_dataflow, _DEVICE),
        cell(
            "speed-up over sequential", published.over_sequential, over_sequential,
            f"{_DEVICE}; {_HIDDEN}",
        ),
        cell(
            "speed-up over sequential, latency exposed", published.over_sequential, exposed,
            f"{_DEVICE}; {_LATENCY}",
        ),
    ]  # fmt: skip
    for each in found:
        if each.name in data.measured:
            board = data.measured[each.name]
            for pattern in ("sequential", "dataflow"):
                ours = getattr(each, pattern).cycles
                name = f"cycles {each.name} {pattern}"
                why = f"measured on the board by its README; {_IDEAL}"
                rows.append(cell(name, getattr(board, pattern), ours, why))
    return rows


def _row(each: Kernel) -> dict[str, Any]:
    choice = each.choice
    return {
        "kernel": each.name,
        "cycles": choice.cycles,
        "dataflow_cycles": each.dataflow.cycles,
        "sequential_cycles": each.sequential.cycles,
        "sequential_exposed_cycles": round(each.exposed),
        "traffic_bytes": choice.traffic,
        "dataflow_traffic_bytes": each.dataflow.traffic,
        "sequential_traffic_bytes": each.sequential.traffic,
        "groups": [[choice.graph.tasks[i].name for i in group.tasks] for group in choice.groups],
        "modes": {f"{tensor} -> {task}": mode for (tensor, task), mode in choice.modes.items()},
    }


def text(result: Mapping[str, Any]) -> str:
    """The cells, then each kernel and its edges."""
    lines = [result["paper"], f"{'':44} {'paper':>9} {'ours':>9} {'ratio':>6}"]
    lines += [
        f"{c['name']:44} {c['paper']:9,.4g} {c['ours']:9,.4g} {c['ratio']:6.2f}"
        for c in result["cells"]
    ]
    head = f"{'cycles':16} {'per edge':>11} {'dataflow':>11} {'sequential':>11} {'exposed':>11}"
    lines += ["", head]
    for row in result["kernels"]:
        lines.append(
            f"{row['kernel']:16} {row['cycles']:11,} {row['dataflow_cycles']:11,} "
            f"{row['sequential_cycles']:11,} {row['sequential_exposed_cycles']:11,}"
        )
        lines.append("    " + "; ".join(f"{edge}: {mode}" for edge, mode in row["modes"].items()))
    whys = dict.fromkeys(c["assumption"] for c in result["cells"])
    return "\n".join([*lines, *(f"note: {note}" for note in (*whys, *result["notes"]))])


def write(result: Mapping[str, Any], folder: Path) -> list[str]:
    """The cells as a table in Markdown."""
    lines = ["| | paper | ours | ratio | assumption |", "|---|---|---|---|---|"]
    lines += [
        f"| {c['name']} | {c['paper']:,.4g} | {c['ours']:,.4g} | {c['ratio']:.3f} "
        f"| {c['assumption']} |"
        for c in result["cells"]
    ]
    (folder / "intar.md").write_text("\n".join(lines) + "\n")
    return ["intar.md"]


PAPER = Paper(reproduce, text, write)
