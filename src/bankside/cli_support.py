"""What every sub-command shares: --json and --out, exit codes, a progress bar.

Exit codes: 0 fine, 1 the command found something (a mismatch, a missing tool), 2 the input cannot
be used.
"""

import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bankside.cache import atomic_write
from bankside.errors import BanksideError

EXIT_OK, EXIT_FINDING, EXIT_BAD_INPUT = 0, 1, 2


class BadInput(click.ClickException):
    """Shows a `BanksideError` without a traceback and ends with exit code 2."""

    exit_code = EXIT_BAD_INPUT

    def show(self, file: Any = None) -> None:
        click.echo(f"bankside: error: {self.message}", err=True)


def common_options(function: Callable) -> Callable:
    """Add `--json` (`as_json: bool`) and `--out DIR` (`out: Path | None`) to a click command.

    Goes below `@click.command`. A `BanksideError` raised by the command becomes a message on
    standard error and exit code 2.
    """

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except BanksideError as error:
            raise BadInput(str(error)) from error

    folder = click.Path(file_okay=False, path_type=Path)
    guarded = click.option("--out", type=folder, metavar="DIR", help="Write result files here.")(
        guarded
    )
    return click.option(
        "--json", "as_json", is_flag=True, help="Print the result as JSON and nothing else."
    )(guarded)


def emit(
    result: Mapping[str, Any],
    *,
    as_json: bool,
    text: str = "",
    out: Path | None = None,
    name: str = "result",
) -> None:
    """Show a result, and keep it as `NAME.json` where `--out` was given.

    Args:
        result: plain data.
        as_json: print the data; otherwise print `text`.
        text: the same for people.
    """
    rendered = json.dumps(result, indent=2, allow_nan=False)
    if out is not None:
        atomic_write(out / f"{name}.json", rendered + "\n")
    click.echo(rendered if as_json else text)


def finish(ok: bool) -> None:
    """End the command with exit code 1 unless `ok`."""
    if not ok:
        click.get_current_context().exit(EXIT_FINDING)


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error, on a terminal only; yields `advance(steps)`."""
    if not sys.stderr.isatty():
        yield lambda steps: None
        return
    from rich.console import Console  # slow to import, and only needed on a terminal
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda steps: bar.advance(task, steps)
