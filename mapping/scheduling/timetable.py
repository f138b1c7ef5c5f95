"""Timetables: which device runs which task when, which tensor crosses which link when.

Ref: docs/scheduling.md, section Devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from bankside.errors import ConfigError
from bankside.mapping.scheduling.graph import Graph
from bankside.mapping.scheduling.machine import Machine
from bankside.registry import Registry


class Run(NamedTuple):
    """A task on a device, from tick `start` to before `end`."""

    task: str
    device: str
    start: int
    end: int


class Transfer(NamedTuple):
    """A tensor from one device to another, from tick `start` to before `end`."""

    tensor: str
    source: str
    target: str
    start: int
    end: int


@dataclass(frozen=True)
class Timetable:
    """A graph on a machine.

    Attributes:
        runs: one for each task, in the order of the graph. transfers: in any order.
        bound: no timetable ends earlier, proven (ticks). source: what found it.
    """

    graph: Graph
    machine: Machine
    runs: tuple[Run, ...]
    transfers: tuple[Transfer, ...]
    bound: int = 0
    source: str = ""

    @property
    def makespan(self) -> int:
        """Tick at which the last task has ended."""
        return max(run.end for run in self.runs)

    @property
    def gap(self) -> float:
        """(makespan - bound) / makespan; 0: proven optimal."""
        return 1 - self.bound / self.makespan

    @property
    def optimal(self) -> bool:
        """Whether none ends earlier, proven."""
        return self.makespan == self.bound

    @property
    def transferred_bytes(self) -> int:
        """Over all links."""
        return sum(self.graph.sizes[t.tensor] for t in self.transfers)

    def __str__(self) -> str:
        rows = [f"{self.graph.name}: {self.makespan} ticks ({self.source}; gap {self.gap:.1%})"]
        rows += [
            f"  {run.start:8}..{run.end:<8} {run.device:12} {run.task}"
            for run in sorted(self.runs, key=lambda run: (run.start, run.device))
        ]
        rows += [
            f"  {move.start:8}..{move.end:<8} {move.source} -> {move.target}: {move.tensor}"
            for move in sorted(self.transfers, key=lambda move: move.start)
        ]
        return "\n".join(rows)


@dataclass(frozen=True)
class TimeRule:
    """What a timetable has to keep; as `rules.Rule`."""

    name: str
    says: str
    check: Callable[[Timetable], Iterator[str]]


TIME_RULES: Registry[TimeRule] = Registry("legality rule")


def _rule(says: str) -> Callable:
    def add(check: Callable[[Timetable], Iterator[str]]) -> Callable:
        name = check.__name__.strip("_")
        TIME_RULES.add(name, TimeRule(name, says, check))
        return check

    return add


def time_violations(table: Timetable) -> list[str]:
    """What is wrong with a timetable, as "rule: finding"; empty for a legal one."""
    return [
        f"{name}: {finding}" for name in TIME_RULES for finding in TIME_RULES.get(name).check(table)
    ]


def check_times(table: Timetable) -> Timetable:
    """The same timetable.

    Raises:
        ConfigError: it breaks a rule; all findings.
    """
    if found := time_violations(table):
        raise ConfigError(
            f"timetable of {table.graph.name!r} ({table.source}) is not legal:\n" + "\n".join(found)
        )
    return table


@_rule("every task runs once, on a device that can run it, for as long as it takes there")
def _runs_once(table: Timetable) -> Iterator[str]:
    if [run.task for run in table.runs] != [task.name for task in table.graph.tasks]:
        yield f"runs {[run.task for run in table.runs]}; expected each task once, in order"
        return
    for run, task in zip(table.runs, table.graph.tasks, strict=True):
        ticks = task.ticks.get(run.device)
        if run.device not in table.machine.devices or ticks is None:
            yield f"{run.task!r} cannot run on {run.device!r}"
        elif run.start < 0 or run.end - run.start != ticks:
            yield f"{run.task!r} runs {run.start}..{run.end} on {run.device!r}; expected {ticks}"


@_rule("a device runs one task at a time")
def _one_at_a_time(table: Timetable) -> Iterator[str]:
    for device in table.machine.devices:
        yield from _apart(
            device, [(r.start, r.end, r.task) for r in table.runs if r.device == device]
        )


@_rule("a transfer goes over a link and takes as long as the link needs")
def _over_links(table: Timetable) -> Iterator[str]:
    for move in table.transfers:
        link = table.machine.links.get((move.source, move.target))
        if link is None:
            yield f"{move.tensor!r} goes from {move.source!r} to {move.target!r} without a link"
        elif move.end - move.start != link.ticks(table.graph.sizes[move.tensor]):
            yield (
                f"{move.tensor!r} takes {move.end - move.start} ticks; expected "
                f"{link.ticks(table.graph.sizes[move.tensor])}"
            )


@_rule("a channel carries one transfer at a time")
def _one_per_channel(table: Timetable) -> Iterator[str]:
    for channel in table.machine.channels:
        moves = [
            (m.start, m.end, m.tensor)
            for m in table.transfers
            if (link := table.machine.links.get((m.source, m.target))) and link.channel == channel
        ]
        yield from _apart(channel, moves)


@_rule("a tensor leaves a device only after it was written there")
def _sent_after_writing(table: Timetable) -> Iterator[str]:
    for move in table.transfers:
        at = _written(table, move.tensor)
        if at is None:
            at = (table.machine.home.get(move.tensor, move.source), 0)
        if at[0] != move.source or move.start < at[1]:
            yield (
                f"{move.tensor!r} leaves {move.source!r} at {move.start}; it is on {at[0]!r} from "
                f"{at[1]} on"
            )


@_rule("a task starts only when all its inputs are on its device")
def _inputs_there(table: Timetable) -> Iterator[str]:
    for run, task in zip(table.runs, table.graph.tasks, strict=False):
        for tensor in task.inputs:
            if (there := _there(table, tensor, run.device)) is None or there > run.start:
                yield (
                    f"{run.task!r} starts at {run.start}; {tensor!r} is on {run.device!r} from "
                    f"{there} on"
                )


def _apart(where: str, spans: list[tuple[int, int, str]]) -> Iterator[str]:
    spans.sort()
    for one, other in zip(spans, spans[1:], strict=False):
        if other[0] < one[1]:
            yield f"{one[2]!r} and {other[2]!r} at once on {where!r} at {other[0]}"


def _written(table: Timetable, tensor: str) -> tuple[str, int] | None:
    """Device and tick at which a task has written a tensor."""
    place = table.graph.writer.get(tensor)
    if place is None or place >= len(table.runs):
        return None
    return table.runs[place].device, table.runs[place].end


def _there(table: Timetable, tensor: str, device: str) -> int | None:
    """Tick from which a tensor is on a device; None: never."""
    at = _written(table, tensor)
    if at is None:
        at = (table.machine.home.get(tensor, device), 0)
    if at[0] == device:
        return at[1]
    arrivals = [m.end for m in table.transfers if m.tensor == tensor and m.target == device]
    return min(arrivals, default=None)
