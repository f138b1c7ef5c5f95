"""The files of a run: result, calls, timeline, waveform, report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from bankside.sim.attention import PimAttention
from bankside.sim.run import Job, calls_table
from bankside.sim.timeline import timeline

RESULT, CALLS, TIMELINE, PAGE = "result.json", "calls.json", "timeline.json", "report.html"


def write(work: Path, job: Job, result: Mapping, attention: PimAttention) -> dict:
    """Write every file that the description asks for into `work`; returns what the result gains."""
    options = job.description.report
    more: dict = {"files": {"result": RESULT, "calls": CALLS}, "waves": None}
    _write_json(work / CALLS, calls_table(attention))
    if options.timeline:
        _write_json(work / TIMELINE, timeline(job.machine, attention.traces))
        more["files"]["timeline"] = TIMELINE
    if job.wave_machine is not None and options.waves is not None:
        from bankside.sim.run_waves import record  # the RTL is needed only here

        more["waves"] = record(work, job.wave_machine, options.waves)
        more["files"] |= {"waves": more["waves"]["vcd"], "waves_view": more["waves"]["gtkw"]}
    if options.html:
        more["files"]["report"] = PAGE
    whole = dict(result) | more
    (work / RESULT).write_text(json.dumps(whole, indent=2, allow_nan=False) + "\n")
    if options.html:
        from bankside.sim import report  # brings matplotlib, which takes a second to import

        (work / PAGE).write_text(report.render(work, whole), encoding="utf-8")
    return more


def _write_json(path: Path, data: Mapping) -> None:
    path.write_text(json.dumps(data, separators=(",", ":"), allow_nan=False) + "\n")
