"""`bankside run`: generate text with decode attention on an engine, and report what happened."""

from __future__ import annotations

import codecs
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bankside.cli_support import common_options, finish, progress

if TYPE_CHECKING:
    from bankside.sim.npu_run import NpuJob
    from bankside.sim.run import Job


@click.command("run")
@click.argument("file", metavar="FILE.yaml", type=click.Path(path_type=Path))
@common_options
def command(file: Path, as_json: bool, out: Path | None) -> None:
    """Run an experiment from a YAML file (see examples/).

    A language model continues a prompt; its decode attention (on an npu: all of it, or a network
    that classifies images) runs on every execution that the file names. Result, timeline and
    report go to --out, or to build/runs/NAME. Exit code 1 when the executions disagree anywhere.
    """
    from bankside.sim import report_files, run

    job = run.load_job(file)
    folder = out or run.default_folder(job.name)
    started = time.monotonic()
    if isinstance(job, run.NpuJob):
        _run_npu(job, folder, started, as_json=as_json)
        return
    with run.published(folder) as work:
        with Watcher(job, live=not as_json) as watcher:
            result, attention = run.execute(job, on_token=watcher.token, on_point=watcher.point)
        result |= report_files.write(work, job, result, attention)
    if as_json:
        click.echo(json.dumps(result | {"folder": str(folder)}, indent=2, allow_nan=False))
    else:
        click.echo(summary_text(result, folder, time.monotonic() - started))
    finish(run.agreed(result))


def _run_npu(job: NpuJob, folder: Path, started: float, *, as_json: bool) -> None:
    """The same for the `npu` engine."""
    from bankside.sim import npu_run_tasks, npu_run_text, run

    with run.published(folder) as work:
        with _npu_watcher(job, live=not as_json) as step:
            result, runner = npu_run_tasks.execute(job, on_step=step)
        result |= npu_run_text.write(work, job, result, runner)
    if as_json:
        click.echo(json.dumps(result | {"folder": str(folder)}, indent=2, allow_nan=False))
    else:
        click.echo(npu_run_text.summary_text(result, folder, time.monotonic() - started))
    finish(run.agreed(result))


@contextmanager
def _npu_watcher(job: NpuJob, *, live: bool) -> Iterator[Callable[[int], None]]:
    """What hears of every token or image."""
    count = getattr(job.description, "images", None)
    if count is not None:
        with progress("classifying", count) as step:
            yield step
        return
    with Watcher(job, live=live) as watcher:
        yield watcher.token


class Watcher:
    """Shows a run as it goes on: the text as it grows where `live`, else progress bars."""

    def __init__(self, job: Job | NpuJob, *, live: bool) -> None:
        self._job = job
        self._live = live and job.model.vocabulary == 256 and job.description.prompt is not None
        # A character may span several tokens.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._bars = ExitStack()
        self._advance: Callable[[int], None] | None = None
        self._tokens = 0

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.close()

    def token(self, token: int) -> None:
        """Called with every new token."""
        self._tokens += 1
        last = self._tokens == self._job.description.new_tokens
        if self._live:
            # The prompt waits for the first token: bad input must leave the terminal alone.
            if self._tokens == 1:
                click.echo(click.style(self._job.description.prompt, dim=True), nl=False)
            text = self._decoder.decode(bytes([token]), last)
            click.echo(click.style(text, bold=True) + "\n\n" * last, nl=False)
            sys.stdout.flush()
            return
        self._step("generating", self._job.description.new_tokens)
        if last:
            self._bars.close()
            self._advance = None

    def point(self, steps: int) -> None:
        """Called with every point of the full-machine study."""
        options = self._job.description.full_machine
        count = len(options.models) * (len(options.contexts) + len(options.variants))
        self._step("full machine", count)

    def _step(self, what: str, total: int) -> None:
        if self._advance is None:
            self._advance = self._bars.enter_context(progress(what, total))
        self._advance(1)


def _verdict(result: Mapping, kind: str, unit: str) -> str:
    count, compared = result[f"{kind}_mismatches"], result[f"{kind}s_compared"]
    if count is None:
        return "not compared in this run"
    if count:
        return click.style(f"{count:,} of {compared:,} programs DIFFER", fg="red", bold=True)
    return click.style(f"equal: {compared:,} programs, every {unit}", fg="green")


def summary_text(result: Mapping, folder: Path, seconds: float) -> str:
    """The result for a terminal."""
    total, bandwidth = result["cycles"], result["bandwidth"]
    source = "RTL" if result["rtl_cycles"] is not None else "timing model"
    clock = f"{total:,} memory-clock cycles at {result['clock_mhz']:,.0f} MHz ({source})"
    banks = f"{bandwidth['banks_moved']:.1f} of {bandwidth['banks_peak']:.1f} GB/s"
    bus = f"{bandwidth['bus_moved']:.1f} of {bandwidth['bus_peak']:.1f} GB/s"
    share = f"{100 * result['utilisation']:.1f} % of the bank units' peak"
    lines = [
        f"rtl == golden   {_verdict(result, 'bit', 'bit')}",
        f"rtl == timing   {_verdict(result, 'cycle', 'command, stall and cycle')}",
        f"attention       {result['attention_calls']:,} calls, {clock}",
        f"DRAM            {share}: {banks}; data bus {bus}",
        *(f"  ! {text}" for text in result["differences"]),
        "",
        "where the cycles went (attention calls, seen from the bank units)",
    ]
    lines += _stall_lines(result["stalls"], total)
    if result.get("prefill"):
        lines += ["", *_prefill_lines(result["prefill"])]
    if result["full_machine"]:
        lines += ["", *_machine_lines(result["full_machine"])]
    lines += ["", f"{seconds:.1f} s; files in {folder}:"]
    lines += [f"  {name}" for name in result["files"].values()]
    return "\n".join(lines)


def _stall_lines(stalls: Mapping[str, int], total: int) -> Iterator[str]:
    for reason, cycles in sorted(stalls.items(), key=lambda item: -item[1]):
        bar = "#" * round(30 * cycles / total)
        yield f"  {reason:<12} {cycles:>12,} {100 * cycles / total:6.1f} %  {bar}"
    yield f"  {'sum':<12} {sum(stalls.values()):>12,}"


def _prefill_lines(part: Mapping) -> Iterator[str]:
    facts, total = part["machine_facts"], part["cycles"]
    size = f"{facts['rows']} x {facts['columns']} PEs"
    yield f"attention over the prompt on {part['machine']} ({size}, {part['binding']})"
    yield f"  rtl == golden {_verdict(part, 'bit', 'bit')}"
    yield f"  rtl == timing {_verdict(part, 'cycle', 'pass, command, stall and cycle')}"
    yield (
        f"  {part['attention_calls']} calls, {total:,} cycles at {part['clock_mhz']:,.0f} MHz, "
        f"2D array {100 * part['utilisation']:.1f} % busy"
    )
    yield from (f"  ! {text}" for text in part["differences"])
    yield from _stall_lines(part["stalls"], total)


def _machine_lines(study: Mapping) -> Iterator[str]:
    points = [p for p in study["points"] if p["variant"] == "base"]
    peak = points[0]["peak_tbps"]
    contexts = sorted({p["context"] for p in points})
    yield (
        f"the same kernel on {study['ranks']} ranks (timing model), TB/s of a peak of {peak:.1f}, "
        "by context"
    )
    yield "  " + " " * 20 + "".join(f"{c:>9,}" for c in contexts)
    for title in dict.fromkeys(p["title"] for p in points):
        row = {p["context"]: p for p in points if p["title"] == title}
        kind = next(iter(row.values()))["kind"]
        yield f"  {f'{title} ({kind})':<20}" + "".join(f"{row[c]['tbps']:9.2f}" for c in contexts)
    anchor = study.get("anchor")
    if anchor:
        same = "equal" if anchor["rtl_cycles"] == anchor["timing_cycles"] else "NOT EQUAL"
        yield (
            f"  {anchor['title']} at {anchor['context']:,} tokens on the RTL: "
            f"{anchor['rtl_cycles'] or 0:,} cycles for {anchor['kernels']} kernels, {same}"
        )
