"""The timeline of several programs, one after the other, as one document for Perfetto and plots."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bankside.isa.machine import Machine
from bankside.sim.attention import Trace
from bankside.sim.timing import events


def timeline(machine: Machine, traces: Iterable[Trace]) -> dict[str, Any]:
    """Trace Event document of `traces`; `otherData` says where each call starts, in cycles.

    Its events carry `start_cycle` in their arguments, counted from the start of the first call.
    """
    found, counters, calls, start = [], [], [], 0
    for trace in traces:
        cycles = int(trace.result.cycles or 0)
        call = {"layer": trace.layer, "tokens": trace.tokens, "start": start, "cycles": cycles}
        calls.append(call)
        for event in events.timeline(machine, trace.result):
            found.append(event._replace(start=event.start + start, end=event.end + start))
        for sample in events.samples(machine, trace.result):
            counters.append(sample._replace(cycle=sample.cycle + start))
        start += cycles
    document = events.chrome_trace(machine, found, counters)
    document["otherData"] |= {
        "machine": machine.config.name,
        "calls": calls,
        "mac_period": machine.mac_period,
        "burst_cycles": machine.step,
        "refresh_cycles": machine.std.params["nRFC"],
    }
    return document
