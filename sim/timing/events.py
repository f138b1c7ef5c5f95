"""Timeline of a traced run: events of engines, command bus and rows, and the JSON that Perfetto and
Chrome show.

Cycles are memory-clock cycles; every event names its clock domain. Ref: the Trace Event Format ("X"
complete events, "C" counters, "M" names), whose time unit is the microsecond.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bankside.isa.machine import Machine
from bankside.isa.spec import load_spec
from bankside.sim.engine import Result

#: Cycles over which the rate of MAC commands is averaged.
RATE_WINDOW = 1024
_ROWS_OPEN, _ROWS_CLOSE = ("ACT", "ACT4", "ACTA"), ("PRE", "PREA")


class Event(NamedTuple):
    """Something that a unit does from cycle `start` up to, not including, cycle `end`."""

    unit: str
    kind: str
    start: int
    end: int
    clock_domain: str
    args: Mapping[str, int]


class Sample(NamedTuple):
    """Value of a counter from `cycle` on."""

    counter: str
    cycle: int
    value: float


def _check_traced(result: Result) -> None:
    if not len(result.macros):
        raise ValueError("the result holds no trace; run the program with trace=True")


def macro_events(result: Result) -> list[Event]:
    """One event per macro-command, from the cycle after its load to its last action; `complete` is
    in the arguments.
    """
    _check_traced(result)
    spec = load_spec("pim")
    events = []
    for engine, opcode, load, last, complete in result.macros.tolist():
        args = {"load": load, "last": last, "complete": complete}
        name = spec.by_opcode[opcode].name
        events.append(
            Event(spec.engines[engine], name, load + 1, last + 1, result.clock_domain, args)
        )
    return events


def command_events(machine: Machine, result: Result) -> list[Event]:
    """One event per DRAM command, as long as it holds the command bus."""
    _check_traced(result)
    events = []
    for cycle, code, bank, row, col in result.commands.tolist():
        command = machine.std.command(code)
        args = {"bank": bank, "row": row, "col": col}
        end = cycle + command.cycles
        events.append(Event("command bus", command.name, cycle, end, result.clock_domain, args))
    return events


def row_events(machine: Machine, result: Result) -> list[Event]:
    """One event per open row: from its activation to its precharge, or to the end of the run."""
    _check_traced(result)
    opened: dict[int, tuple[int, int]] = {}
    events: list[Event] = []

    def close(bank: int, cycle: int) -> None:
        if bank in opened:
            start, row = opened.pop(bank)
            events.append(
                Event(f"bank {bank}", "row", start, cycle, result.clock_domain, {"row": row})
            )

    for cycle, code, bank, row, _ in result.commands.tolist():
        name = machine.std.command(code).name
        if name in _ROWS_OPEN or name in _ROWS_CLOSE:
            for touched in machine.std.touched(name, bank):
                close(touched, cycle)
                if name in _ROWS_OPEN:
                    opened[touched] = (cycle, row)
    for bank in sorted(opened):
        close(bank, result.cycles or 0)
    return sorted(events, key=lambda e: (e.start, e.unit))


def samples(machine: Machine, result: Result) -> list[Sample]:
    """Counters: open banks at every change, and MAC commands per window in percent of one every
    nCCD_L cycles.
    """
    _check_traced(result)
    found, level = [Sample("open banks", 0, 0)], 0
    changes: dict[int, int] = {}
    for event in row_events(machine, result):
        changes[event.start] = changes.get(event.start, 0) + 1
        changes[event.end] = changes.get(event.end, 0) - 1
    for cycle in sorted(changes):
        level += changes[cycle]
        found.append(Sample("open banks", cycle, level))
    macs = result.commands["cycle"][result.commands["code"] == machine.std.code("MAC")]
    windows = -(-(result.cycles or 1) // RATE_WINDOW)
    for window, count in enumerate(np.bincount(macs // RATE_WINDOW, minlength=windows).tolist()):
        rate = 100 * count * machine.mac_period / RATE_WINDOW
        found.append(Sample("MAC rate, %", window * RATE_WINDOW, rate))
    return found


def timeline(machine: Machine, result: Result) -> list[Event]:
    """All events of a traced run, ordered by start. Raises ValueError when there is no trace."""
    events = macro_events(result) + command_events(machine, result) + row_events(machine, result)
    return sorted(events, key=lambda e: (e.start, e.end, e.unit))


def chrome_trace(
    machine: Machine, events: Iterable[Event], counters: Iterable[Sample] = ()
) -> dict[str, Any]:
    """The Trace Event JSON object; times in microseconds from tCK, cycles in the arguments."""
    us = machine.std.tck_ps * 1e-6
    lines: dict[str, int] = {}
    found: list[dict[str, Any]] = []
    for event in events:
        line = lines.setdefault(event.unit, len(lines) + 1)
        args = {
            "start_cycle": event.start,
            "cycles": event.end - event.start,
            "clock": event.clock_domain,
            **event.args,
        }
        found.append({
            "ph": "X", "pid": 1, "tid": line, "name": event.kind, "cat": event.unit,
            "ts": event.start * us, "dur": (event.end - event.start) * us, "args": args,
        })  # fmt: skip
    for sample in counters:
        found.append({
            "ph": "C", "pid": 1, "name": sample.counter, "ts": sample.cycle * us,
            "args": {"value": sample.value},
        })  # fmt: skip
    names = [
        {"ph": "M", "pid": 1, "tid": line, "name": "thread_name", "args": {"name": unit}}
        for unit, line in lines.items()
    ]
    title = f"{machine.config.name}, {machine.std.name}"
    names.append({"ph": "M", "pid": 1, "name": "process_name", "args": {"name": title}})
    return {
        "traceEvents": names + found,
        "displayTimeUnit": "ns",
        "otherData": {"clock_domain": "mem", "tck_ps": machine.std.tck_ps},
    }


def write_chrome_trace(machine: Machine, result: Result, path: Path) -> None:
    """Writes the timeline of a traced run for ui.perfetto.dev or chrome://tracing."""
    data = chrome_trace(machine, timeline(machine, result), samples(machine, result))
    path.write_text(json.dumps(data))
