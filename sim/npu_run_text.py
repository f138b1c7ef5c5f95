"""What a run on the `npu` engine shows on a terminal, and the files that it writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from bankside.isa.npu_machine import NpuMachine
from bankside.isa.spec import load_spec
from bankside.sim.engine import Result
from bankside.sim.npu_run import NpuJob, NpuRunner, calls_table
from bankside.sim.report_files import CALLS, PAGE, RESULT, TIMELINE


def _verdict(result: Mapping, kind: str, unit: str) -> str:
    count, compared = result[f"{kind}_mismatches"], result[f"{kind}s_compared"]
    if count is None:
        return "not compared in this run"
    if count:
        return click.style(f"{count:,} of {compared:,} programs DIFFER", fg="red", bold=True)
    return click.style(f"equal: {compared:,} programs, every {unit}", fg="green")


def _reference(result: Mapping, what: str) -> str:
    wrong, compared = result["reference_mismatches"], result["reference_compared"]
    if wrong:
        return click.style(f"{wrong:,} of {compared:,} {what} DIFFER", fg="red", bold=True)
    return click.style(f"equal: all scores of {compared:,} {what}", fg="green")


def summary_text(result: Mapping, folder: Path, seconds: float) -> str:
    """The result for a terminal."""
    what = "predictions" if result["task"] == "generate" else "images"
    lines = [
        f"rtl == golden   {_verdict(result, 'bit', 'bit')}",
        f"rtl == timing   {_verdict(result, 'cycle', 'transfer, operation, stall and cycle')}",
        f"npu == numpy    {_reference(result, what)}",
        *(_text_lines(result) if result["task"] == "generate" else _image_lines(result)),
        *(f"  ! {text}" for text in result["differences"]),
        "",
        f"where the cycles went ({result['stalls_of']})",
        *_stall_lines(result["stalls"], result["cycles"]),
        "",
        f"{seconds:.1f} s; files in {folder}:",
        *(f"  {name}" for name in result["files"].values()),
    ]
    return "\n".join(lines)


def _clock(result: Mapping) -> str:
    source = "RTL" if result["rtl_cycles"] is not None else "timing model"
    return f"cycles at {result['clock_mhz']:,.0f} MHz ({source})"


def _text_lines(result: Mapping) -> Iterator[str]:
    bits, bounds = result["bits_per_byte"], result["bounds"]
    yield (
        f"per token       {result['cycles_per_token']:,.0f} {_clock(result)}, "
        f"{100 * result['utilisation']:.1f} % of the MACs; at least {bounds['macs']:,.0f} for the "
        f"products, {bounds['weights']:,.0f} for the weights"
    )
    yield (
        f"prompt          {result['prompt_cycles']:,} cycles, "
        f"{100 * result['prompt_utilisation']:.1f} % of the MACs"
    )
    yield (
        f"bits per byte   {bits['float']:.3f} float, {bits['quantised']:.3f} "
        f"{result['format']} ({bits['predicted_bytes']:,} held-out bytes)"
    )


def _image_lines(result: Mapping) -> Iterator[str]:
    count, share = (result["training"][f"held_out_{key}"] for key in ("images", "accuracy"))
    yield (
        f"per image       {result['cycles_per_image']:,.0f} {_clock(result)}, "
        f"{100 * result['utilisation']:.1f} % of the MACs; at least "
        f"{result['bounds']['macs']:,.0f} for the products"
    )
    yield (
        f"accuracy        {100 * result['accuracy']:.1f} % of {result['images']} held-out images "
        f"(float {100 * result['float_accuracy']:.1f} %; all {count} of them: {100 * share:.1f} %)"
    )
    answers = "".join(map(str, result["answers"]))
    labels = "".join(map(str, result["labels"]))
    yield f"answers         {answers}"
    yield f"labels          {labels}"


def _stall_lines(stalls: Mapping[str, int], total: int) -> Iterator[str]:
    for reason, cycles in sorted(stalls.items(), key=lambda item: -item[1]):
        bar = "#" * round(30 * cycles / total)
        yield f"  {reason:<12} {cycles:>12,} {100 * cycles / total:6.1f} %  {bar}"
    yield f"  {'sum':<12} {sum(stalls.values()):>12,}"


# --- files --------------------------------------------------------------------------------------


def write(work: Path, job: NpuJob, result: Mapping, runner: NpuRunner) -> dict[str, Any]:
    """Write every file that the description asks for into `work`; returns what the result gains."""
    options = job.description.report
    more: dict[str, Any] = {"files": {"result": RESULT, "calls": CALLS}}
    _write_json(work / CALLS, calls_table(runner))
    if options.timeline and runner.trace is not None:
        _write_json(work / TIMELINE, timeline(job.machine, runner.trace))
        more["files"]["timeline"] = TIMELINE
    if options.html:
        more["files"]["report"] = PAGE
    whole = dict(result) | more
    (work / RESULT).write_text(json.dumps(whole, indent=2, allow_nan=False) + "\n")
    if options.html:
        from bankside.sim import npu_run_page  # brings matplotlib, which takes a second to import

        (work / PAGE).write_text(npu_run_page.render(work, whole), encoding="utf-8")
    return more


def _write_json(path: Path, data: Mapping) -> None:
    path.write_text(json.dumps(data, separators=(",", ":"), allow_nan=False) + "\n")


def timeline(machine: NpuMachine, result: Result) -> dict[str, Any]:
    """Trace Event document of one program: transfers and operations from first to last action.

    Arguments of an event: `start_cycle`, `cycles` until it is complete, `last` (docs/npu.md
    section 10). Times in microseconds.
    """
    spec = load_spec("npu")
    us = 1 / machine.clock_mhz
    found: list[dict[str, Any]] = []
    for engine, opcode, start, last, complete in result.macros.tolist():
        args = {"start_cycle": start, "cycles": complete - start, "last": last,
                "clock": machine.clock_domain}  # fmt: skip
        found.append({
            "ph": "X", "pid": 1, "tid": engine + 1, "name": spec.by_opcode[opcode].name,
            "cat": spec.engines[engine], "ts": start * us, "dur": (complete - start) * us,
            "args": args,
        })  # fmt: skip
    names = [
        {"ph": "M", "pid": 1, "tid": i + 1, "name": "thread_name", "args": {"name": unit}}
        for i, unit in enumerate(spec.engines)
    ]
    names.append(
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": machine.config.name}}
    )
    return {
        "traceEvents": names + found,
        "displayTimeUnit": "ns",
        "otherData": {"clock_domain": machine.clock_domain, "cycles": int(result.cycles or 0),
                      "machine": machine.config.name},
    }  # fmt: skip
