"""`bankside report`: make the HTML page of a run again from its files."""

from __future__ import annotations

from pathlib import Path

import click

from bankside.cache import atomic_write
from bankside.cli_support import common_options, emit


@click.command("report")
@click.argument("source", metavar="RESULT.json|DIR", type=click.Path(path_type=Path))
@common_options
def command(source: Path, as_json: bool, out: Path | None) -> None:
    """Make the HTML report of a run from the files that `bankside run` wrote.

    The page goes beside them, or into the folder of --out.
    """
    from bankside.sim import report  # brings matplotlib, which takes a second to import

    folder, result = report.load(source)
    page = atomic_write((out or folder) / report.PAGE, report.render(folder, result))
    # No `out` here: it would add a second JSON file beside the page.
    emit({"report": str(page)}, as_json=as_json, text=f"report: {page}")
