"""`bankside reproduce`: published results, recomputed and compared cell by cell.

To add a paper: a module with a `PAPER` of class `Paper`, and one line in `PAPERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bankside.cli_support import common_options, emit
from bankside.errors import ConfigError
from bankside.registry import Lazy, Registry

Result = dict[str, Any]
#: Difference that a cell may have and still count as equal: that of two orders of summation.
EQUAL = 1e-9


@dataclass(frozen=True)
class GapOptions:
    """What the hardware is compared on.

    Attributes:
        machine: preset or hardware description.
        keys: keys that every query meets.
        queries: None: one for each column of the machine.
        binding: None: every binding of the paper that the machine can run.
        rtl: run the RTL, not the timing model.
    """

    machine: str
    keys: int
    queries: int | None
    binding: str | None
    rtl: bool


@dataclass(frozen=True)
class Paper:
    """One publication.

    Attributes:
        reproduce: its results as plain data, with at least `cells` (see `cell`) and `notes`.
        text: the same for people.
        write: writes plots and a page into a folder, returns file names.
        gap: paper against hardware, cycle by cycle; None where this project has no such hardware.
        gap_text: the same for people.
    """

    reproduce: Callable[[], Result]
    text: Callable[[Mapping[str, Any]], str]
    write: Callable[[Mapping[str, Any], Path], list[str]]
    gap: Callable[[GapOptions], Result] | None = None
    gap_text: Callable[[Mapping[str, Any]], str] | None = None


PAPERS: Registry[Paper] = Registry("paper")
PAPERS.add("fusemax", Lazy("bankside.sim.reproduce_fusemax:PAPER"))
PAPERS.add("l3", Lazy("bankside.sim.reproduce_l3:PAPER"))
PAPERS.add("duplex", Lazy("bankside.sim.reproduce_duplex:PAPER"))
PAPERS.add("vela", Lazy("bankside.sim.reproduce_vela:PAPER"))
PAPERS.add("cosma", Lazy("bankside.sim.reproduce_cosma:PAPER"))
PAPERS.add("intar", Lazy("bankside.sim.reproduce_intar:PAPER"))


def cell(name: str, paper: float, ours: float, assumption: str) -> dict[str, Any]:
    """One published number beside ours; `assumption` says what our number rests on."""
    return {
        "name": name,
        "paper": float(paper),
        "ours": float(ours),
        "ratio": float(ours) / float(paper),
        "assumption": assumption,
    }


def worst(cells: list[Mapping[str, Any]]) -> float | None:
    """Largest relative difference of some cells, None without cells."""
    return max((abs(entry["ratio"] - 1) for entry in cells), default=None)


def _gap(paper: Paper, name: str, options: GapOptions) -> tuple[Result, str]:
    if paper.gap is None or paper.gap_text is None:
        raise ConfigError(
            f"{name}: there is no hardware of this paper to compare with; drop --rtl-gap"
        )
    result = paper.gap(options)
    return result, paper.gap_text(result)


@click.command(name="reproduce")
@click.argument("paper")
@click.option("--rtl-gap", is_flag=True, help="Paper against hardware, in cycles, term by term.")
@click.option("--machine", default="array_16x16", show_default=True, help="Machine of --rtl-gap.")
@click.option(
    "--keys", type=click.IntRange(1), default=4096, show_default=True, help="Keys of --rtl-gap."
)
@click.option(
    "--queries", type=click.IntRange(1), help="Queries of --rtl-gap; by default one per column."
)
@click.option("--binding", help="One binding of --rtl-gap; by default all.")
@click.option("--rtl", is_flag=True, help="--rtl-gap: run the RTL, not the timing model.")
@common_options
def command(
    paper: str,
    rtl_gap: bool,
    machine: str,
    keys: int,
    queries: int | None,
    binding: str | None,
    rtl: bool,
    as_json: bool,
    out: Path | None,
) -> None:
    """Recompute the results of PAPER (fusemax, l3, duplex, ...) beside the published ones."""
    entry = PAPERS.get(paper)
    if rtl_gap:
        result, text = _gap(entry, paper, GapOptions(machine, keys, queries, binding, rtl))
        emit(result, as_json=as_json, text=text, out=out, name=f"{paper}_rtl_gap")
        return
    if binding is not None or rtl:
        raise ConfigError("--binding and --rtl belong to --rtl-gap; add it or drop them")
    result = entry.reproduce()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        result["files"] = entry.write(result, out)
    emit(result, as_json=as_json, text=entry.text(result), out=out, name=paper)
