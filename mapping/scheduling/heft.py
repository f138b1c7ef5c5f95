"""HEFT: heterogeneous earliest finish time, with insertion.

Tasks by upward rank (mean duration plus the longest way to the end, with mean transfer times), each
on the device on which it ends first, in the first gap that holds it. Transfers take the first gap
of their channel. The baseline of `exact.py` and where its search begins.
Ref: Topcuoglu, Hariri, Wu, IEEE TPDS 13(3), 2002.
"""

from __future__ import annotations

import math
import statistics
from bisect import insort
from dataclasses import dataclass, field

from bankside.mapping.scheduling.graph import Graph
from bankside.mapping.scheduling.machine import Link, Machine, devices_of
from bankside.mapping.scheduling.timetable import Run, Timetable, Transfer, check_times

Span = tuple[int, int]


def upward_ranks(graph: Graph, machine: Machine) -> list[float]:
    """Mean length of the longest way from the start of each task to the end of the graph."""
    mean = [
        statistics.fmean(task.ticks[d] for d in devices)
        for task, devices in zip(graph.tasks, devices_of(graph, machine), strict=True)
    ]
    ranks = [0.0] * len(graph.tasks)
    for i in reversed(range(len(graph.tasks))):
        output = graph.tasks[i].output
        move = _mean_transfer(machine, graph.sizes[output])
        after = (move + ranks[j] for j in graph.readers[output])
        ranks[i] = mean[i] + max(after, default=0.0)
    return ranks


def _mean_transfer(machine: Machine, size: int) -> float:
    """Over all links."""
    return statistics.fmean(ln.ticks(size) for ln in machine.links.values() or (Link(math.inf),))


@dataclass
class _Try:
    """A task on a device: when it runs and which transfers that needs."""

    run: Run
    transfers: list[Transfer] = field(default_factory=list)


class _Heft:
    def __init__(self, graph: Graph, machine: Machine) -> None:
        self.graph, self.machine = graph, machine
        self.devices = devices_of(graph, machine)
        self.busy: dict[str, list[Span]] = {d: [] for d in machine.devices}
        self.channels: dict[str, list[Span]] = {c: [] for c in machine.channels}
        self.runs: dict[int, Run] = {}
        self.there: dict[tuple[str, str], int] = {}
        self.transfers: list[Transfer] = []

    def place(self, i: int) -> None:
        """Put a task where it ends first."""
        tries = [t for d in self.devices[i] if (t := self._try(i, d)) is not None]
        if not tries:
            raise self.graph.refuse(
                self.graph.tasks[i],
                "its inputs reach no device that can run it; add a link",
            )
        best = min(tries, key=lambda t: t.run.end)
        self.runs[i] = best.run
        insort(self.busy[best.run.device], (best.run.start, best.run.end))
        self.there[self.graph.tasks[i].output, best.run.device] = best.run.end
        for move in best.transfers:
            self.transfers.append(move)
            self.there[move.tensor, move.target] = move.end
            if channel := self.machine.links[move.source, move.target].channel:
                insort(self.channels[channel], (move.start, move.end))

    def _try(self, i: int, device: str) -> _Try | None:
        """Earliest run on a device; None where an input cannot get there."""
        task = self.graph.tasks[i]
        taken = {channel: list(spans) for channel, spans in self.channels.items()}
        moves: list[Transfer] = []
        ready = 0
        for tensor in sorted(task.inputs, key=lambda t: self._origin(t, device)[1]):
            known = self.there.get((tensor, device))
            if known is None:
                source, since = self._origin(tensor, device)
                if source == device:
                    known = since
                elif (source, device) not in self.machine.links:
                    return None
                else:
                    moves.append(self._move(tensor, source, device, since, taken))
                    known = moves[-1].end
            ready = max(ready, known)
        start = first_gap(self.busy[device], ready, task.ticks[device])
        return _Try(Run(task.name, device, start, start + task.ticks[device]), moves)

    def _origin(self, tensor: str, device: str) -> tuple[str, int]:
        """Where a tensor is written, or lies at the start, and since when."""
        if tensor in self.graph.writer:
            run = self.runs[self.graph.writer[tensor]]
            return run.device, run.end
        return self.machine.home.get(tensor, device), 0

    def _move(self, tensor: str, source: str, target: str, since: int, taken: dict) -> Transfer:
        link = self.machine.links[source, target]
        ticks = link.ticks(self.graph.sizes[tensor])
        start = since
        if link.channel:
            start = first_gap(taken[link.channel], since, ticks)
            insort(taken[link.channel], (start, start + ticks))
        return Transfer(tensor, source, target, start, start + ticks)


def first_gap(busy: list[Span], ready: int, ticks: int) -> int:
    """Start of the first gap of at least `ticks` from `ready` on, among sorted spans."""
    start = ready
    for first, end in busy:
        if start + ticks <= first:
            break
        start = max(start, end)
    return start


def heft(graph: Graph, machine: Machine) -> Timetable:
    """A good timetable in about n log n steps; its bound is that of `lower_bound`.

    Raises:
        ConfigError: a task that no device can run, or whose inputs cannot get there.
    """
    ranks = upward_ranks(graph, machine)
    state = _Heft(graph, machine)
    for i in sorted(range(len(graph.tasks)), key=lambda i: (-ranks[i], i)):
        state.place(i)
    runs = tuple(state.runs[i] for i in range(len(graph.tasks)))
    bound = lower_bound(graph, machine)
    return check_times(Timetable(graph, machine, runs, tuple(state.transfers), bound, "heft"))


def lower_bound(graph: Graph, machine: Machine) -> int:
    """Ticks that no timetable undercuts: the longest way with the shortest durations, and all work
    at its fastest spread over all devices.
    """
    least = [
        min(task.ticks[d] for d in devices)
        for task, devices in zip(graph.tasks, devices_of(graph, machine), strict=True)
    ]
    ends: list[int] = []
    for i, before in enumerate(graph.direct):
        ends.append(least[i] + max((ends[j] for j in before), default=0))
    return max(max(ends), -(-sum(least) // len(machine.devices)))
