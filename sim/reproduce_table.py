"""Published numbers beside ours and how they depend on what a paper leaves open: text, page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bankside.sim.reproduce import cell

CLOSE = 0.15
S = TypeVar("S")
#: (cell, paper, ours under a setting, what it rests on)
Question = tuple[str, float, Callable[[S], float], str]


def answer(
    questions: Iterator[Question[S]], base: S, settings: Mapping[str, S]
) -> dict[str, list[dict[str, Any]]]:
    """`cells` under one setting for all; `sensitivity`: the same under each other setting.

    The assumption of a cell that is further than `CLOSE` from the paper starts with `missing: `.
    """
    cells, sensitivity = [], []
    for name, paper, measure, assumption in questions:
        found = cell(name, paper, measure(base), assumption)
        if abs(found["ratio"] - 1) > CLOSE:
            found["assumption"] = f"missing: {assumption}"
        cells.append(found)
        others = {setting: measure(value) for setting, value in settings.items()}
        sensitivity.append({"name": name, "ours": found["ours"], **others})
    return {"cells": cells, "sensitivity": sensitivity}


def close_cells(cells: Sequence[Mapping[str, Any]]) -> int:
    """How many are no further than `CLOSE` from the paper."""
    return sum(abs(row["ratio"] - 1) <= CLOSE for row in cells)


def _settings(result: Mapping[str, Any]) -> list[str]:
    return [key for key in result["sensitivity"][0] if key not in ("name", "ours")]


def text(result: Mapping[str, Any]) -> str:
    """Cells and sensitivity as columns, then what is not recomputed, and notes."""
    settings = _settings(result)
    titles = f"{'':54} {'paper':>7} {'ours':>7} {'ratio':>6}  "
    close, count = close_cells(result["cells"]), len(result["cells"])
    lines = [
        f"{result['paper']}: {close} of {count} cells within {CLOSE:.0%}",
        titles + "  ".join(f"{name:>20}" for name in settings),
    ]
    for row, other in zip(result["cells"], result["sensitivity"], strict=True):
        lines.append(
            f"{row['name']:54} {row['paper']:7.3g} {row['ours']:7.3g} {row['ratio']:6.2f}  "
            + "  ".join(f"{other[name]:20.3g}" for name in settings)
        )
    for row in result.get("orders", ()):
        lines.append(f"{'holds' if row['holds'] else 'DOES NOT HOLD'}: {row['name']}")
    lines += [f"not recomputed: {name}: {why}" for name, why in result["left_out"].items()]
    return "\n".join([*lines, *(f"note: {note}" for note in result["notes"])])


def write(result: Mapping[str, Any], folder: Path, name: str) -> list[str]:
    """Cells and sensitivity as a table in Markdown."""
    settings = _settings(result)
    head = ["cell", "paper", "ours", "ratio", *settings, "assumption"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row, other in zip(result["cells"], result["sensitivity"], strict=True):
        values = [row["paper"], row["ours"], row["ratio"], *(other[key] for key in settings)]
        shown = " | ".join(f"{value:.3g}" for value in values)
        lines.append(f"| {row['name']} | {shown} | {row['assumption']} |")
    (folder / f"{name}.md").write_text("\n".join(lines) + "\n")
    return [f"{name}.md"]
