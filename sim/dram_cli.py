"""`bankside dram`: replay command traces, check a table edge by edge, run a memory controller."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from bankside.cli_support import common_options, emit, finish
from bankside.errors import ConfigError
from bankside.isa.dram.streams import edge_streams
from bankside.isa.dram.table import DramStandard, load_standard, standard_names
from bankside.isa.dram.trace import STYLES, read_trace, write_trace
from bankside.sim.dram_replay import EXECUTIONS, ReplayReport, replay

__all__ = ["command"]


@click.group("dram", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Check DRAM command streams; run a host memory."""


def _standard(name: str, options: tuple[str, ...]) -> DramStandard:
    return load_standard(name, options=_pairs("--option", options, "rd_to_wr=11"))


def _pairs(option: str, texts: tuple[str, ...], example: str) -> dict[str, str]:
    chosen = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            raise ConfigError(
                f"{option} {text!r}; expected NAME=VALUE, e.g. {example}; write it so"
            )
        chosen[key] = value
    return chosen


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
@click.option(
    "--only",
    type=(click.IntRange(0), click.IntRange(0)),
    metavar="CHANNEL RANK",
    help="Only the commands of this channel and rank of a larger trace.",
)
@common_options
def replay_command(
    file: Path,
    name: str,
    options: tuple[str, ...],
    execution: str,
    limit: int | None,
    only: tuple[int, int] | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Replay a DRAMsim3 or Ramulator 2 command trace (plain or gzip) of one rank.

    Every command is presented at its clock; one that is bound by a timing rule also one cycle
    earlier, where it must be refused. Exit code 1 when a command is refused.
    """
    std = _standard(name, options)
    commands = read_trace(file, std, limit=limit, only=only)
    report = replay(commands, std, execution=execution)
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


@command.command("run")
@click.argument("requests", metavar="REQUESTS")
@_standard_option
@_table_option
@click.option(
    "--map",
    "address_map",
    default="group_interleave",
    show_default=True,
    help="Address map: a name or fields, e.g. 'row16 bank2 column7 bankgroup2 offset6'.",
)
@click.option("--policy", default="fr_fcfs", show_default=True, help="What the controller decides.")
@click.option(
    "--set", "changes", multiple=True, metavar="NAME=VALUE", help="Change an option of the policy."
)
@click.option("--channels", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--ranks", type=click.IntRange(1, 16), default=1, show_default=True)
@click.option(
    "--outstanding", type=click.IntRange(1), help="Requests that may wait for their answer."
)
@click.option("--writes", type=click.FloatRange(0, 1), default=0.0, help="Fraction, for a pattern.")
@click.option("--block-bytes", type=click.IntRange(1), default=4096, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option(
    "--trace", type=click.Path(dir_okay=False, path_type=Path), help="Write the commands here."
)
@click.option("--style", type=click.Choice(tuple(STYLES)), default="ramulator2", show_default=True)
@common_options
def run_command(
    requests: str,
    name: str,
    options: tuple[str, ...],
    address_map: str,
    policy: str,
    changes: tuple[str, ...],
    channels: int,
    ranks: int,
    outstanding: int | None,
    writes: float,
    block_bytes: int,
    seed: int,
    trace: Path | None,
    style: str,
    as_json: bool,
    out: Path | None,
) -> None:
    """Serve memory requests with a host memory controller, cycle by cycle.

    REQUESTS is a file of addresses (DRAMsim3 or Ramulator 2 load-store lines) or of coordinates
    (CSV), or PATTERN:COUNT with a pattern stream, blocks or random.
    """
    from bankside.sim.memory.model import Memory
    from bankside.sim.memory.summary import commands, summary, text

    memory = Memory.of(
        name,
        policy=policy,
        address_map=address_map,
        channels=channels,
        ranks=ranks,
        options=_pairs("--option", options, "trfc_ns=360"),
        **_pairs("--set", changes, "refresh=none"),
    )
    stream = _requests(memory, requests, writes, block_bytes, seed)
    result = memory.run(stream, trace=trace is not None, max_outstanding=outstanding)
    found = summary(result)
    if trace is not None:
        write_trace(trace, commands(result), memory.standard, style=style)
        found["trace"] = str(trace)
    emit(found, as_json=as_json, text=text(found), out=out, name="dram_run")


def _requests(memory: Any, text: str, writes: float, block_bytes: int, seed: int) -> Any:
    from bankside.sim.memory.requests import PATTERNS, pattern

    kind, separator, count = text.partition(":")
    if Path(text).exists() or not separator:
        return memory.read(text)
    if not count.isdigit() or int(count) < 1:
        raise ConfigError(
            f"{text!r}: neither a file nor PATTERN:COUNT with a pattern {', '.join(PATTERNS)}; "
            f"write e.g. blocks:100000"
        )
    addresses = pattern(
        kind,
        int(count),
        memory_bytes=memory.bytes,
        burst_bytes=memory.burst_bytes,
        block_bytes=block_bytes,
        seed=seed,
    )
    write = np.random.default_rng(seed + 1).random(len(addresses)) < writes
    return memory.requests(addresses, write=write)


def _text(report: ReplayReport) -> str:
    lines = [
        f"{report.standard} ({report.execution}): {report.commands} commands",
        f"  accepted {report.accepted}, refused {report.refused}",
        f"  bound by timing {report.timing_bound}",
        f"  refused one cycle early {report.refused_one_cycle_early}",
    ]
    lines += [f"  {count} x {name}" for name, count in report.refusals.items()]
    return "\n".join([*lines, *report.first_refusals, *report.disagreements])
