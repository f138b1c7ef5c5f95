"""`bankside dram`: replay command traces, and check a table edge by edge."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from bankside.cli_support import common_options, emit, finish
from bankside.errors import ConfigError
from bankside.isa.dram.streams import edge_streams
from bankside.isa.dram.table import DramStandard, load_standard, standard_names
from bankside.isa.dram.trace import read_trace
from bankside.sim.dram_replay import EXECUTIONS, ReplayReport, replay

__all__ = ["command"]


@click.group("dram", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Check DRAM command streams against a standard."""


def _standard(name: str, options: tuple[str, ...]) -> DramStandard:
    chosen = {}
    for text in options:
        key, separator, value = text.partition("=")
        if not separator:
            raise ConfigError(
                f"--option {text!r}; expected NAME=VALUE, e.g. rd_to_wr=11; write it so"
            )
        chosen[key] = value
    return load_standard(name, options=chosen)


_standard_option = click.option(
    "--standard",
    "name",
    type=click.Choice(standard_names()),
    default="ddr4_3200",
    show_default=True,
    help="Timing table.",
)
_table_option = click.option(
    "--option", "options", multiple=True, metavar="NAME=VALUE", help="Choice of a named option."
)
_execution_option = click.option(
    "--execution",
    type=click.Choice(EXECUTIONS),
    default="rtl",
    show_default=True,
    help="Who answers: the RTL, the Python rules, or both compared with each other.",
)


@command.command("replay")
@click.argument("file", type=click.Path(path_type=Path))
@_standard_option
@_table_option
@_execution_option
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N commands.")
@common_options
def replay_command(
    file: Path,
    name: str,
    options: tuple[str, ...],
    execution: str,
    limit: int | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Replay a DRAMsim3 or Ramulator 2 command trace (plain or gzip) of one rank.

    Every command is presented at its clock; one that is bound by a timing rule also one cycle
    earlier, where it must be refused. Exit code 1 when a command is refused.
    """
    std = _standard(name, options)
    report = replay(read_trace(file, std, limit=limit), std, execution=execution)
    emit(asdict(report), as_json=as_json, text=_text(report), out=out, name="dram_replay")
    finish(report.clean)


@command.command("edges")
@_standard_option
@_table_option
@_execution_option
@common_options
def edges_command(
    name: str,
    options: tuple[str, ...],
    execution: str,
    as_json: bool,
    out: Path | None,
) -> None:
    """Check every edge of a table: legal in the first cycle it allows, refused one earlier."""
    from bankside.sim.dram_edges import check_edges

    std = _standard(name, options)
    report = check_edges(std, list(edge_streams(std)), execution=execution)
    text = f"{report.standard} ({report.execution}): {report.edges} edges of {report.rows} rows"
    lines = [text, f"  legal at t, refused at t-1: {report.exact}", *report.failures]
    emit(asdict(report), as_json=as_json, text="\n".join(lines), out=out, name="dram_edges")
    finish(report.clean)


def _text(report: ReplayReport) -> str:
    lines = [
        f"{report.standard} ({report.execution}): {report.commands} commands",
        f"  accepted {report.accepted}, refused {report.refused}",
        f"  bound by timing {report.timing_bound}",
        f"  refused one cycle early {report.refused_one_cycle_early}",
    ]
    lines += [f"  {count} x {name}" for name, count in report.refusals.items()]
    return "\n".join([*lines, *report.first_refusals, *report.disagreements])
