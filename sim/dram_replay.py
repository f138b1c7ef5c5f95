"""Replays a stream of DRAM commands into the rules of a standard: RTL, Python or both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from bankside.errors import ProgramError
from bankside.isa.dram.rules import RankRules
from bankside.isa.dram.standard import FIRST_TIMING_CODE, DramStandard

__all__ = ["EXECUTIONS", "ReplayReport", "Timed", "replay"]

EXECUTIONS = ("rtl", "rules", "both")


class Timed(Protocol):
    """A command with a time, from a trace file or a generated stream."""

    @property
    def command(self) -> str: ...
    @property
    def bank(self) -> int: ...
    @property
    def row(self) -> int: ...


@dataclass
class ReplayReport:
    """What a replay found.

    `timing_bound` counts the accepted commands that the Python rules call illegal for timing alone
    one cycle earlier, `refused_one_cycle_early` those among them that the execution refused there.
    `refusals` counts refusal reasons by name, `first_refusals` describes a few of them.
    `disagreements` lists cycles in which two executions gave different answers.
    """

    standard: str
    execution: str
    commands: int = 0
    accepted: int = 0
    refused: int = 0
    timing_bound: int = 0
    refused_one_cycle_early: int = 0
    refusals: dict[str, int] = field(default_factory=dict)
    first_refusals: list[str] = field(default_factory=list)
    disagreements: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Every command accepted, every timing-bound one tight, no disagreement."""
        return (
            self.refused == 0
            and self.refused_one_cycle_early == self.timing_bound
            and not self.disagreements
        )


@dataclass(frozen=True)
class _Answers:
    """Per command: violation code at its cycle, and one cycle earlier (-1 when not asked)."""

    violation: list[int]
    early: list[int]


def replay(
    commands: Iterable[Timed], std: DramStandard, *, execution: str = "both", shown: int = 5
) -> ReplayReport:
    """Presents every command at its cycle; one that is timing-bound also one cycle earlier.

    `commands` have increasing cycles (`clock` or `cycle`). A refused command does not take effect.
    `shown` limits the refusals and disagreements that are described.

    Errors: ProgramError for an unknown execution or cycles that do not increase; ToolError when
    the RTL is asked for and cannot be compiled.
    """
    if execution not in EXECUTIONS:
        raise ProgramError(
            f"unknown execution {execution!r}; expected one of {', '.join(EXECUTIONS)}; use one"
        )
    commands = list(commands)
    cycles = [_cycle(c) for c in commands]
    for before, after in zip(cycles, cycles[1:], strict=False):
        if after <= before:
            raise ProgramError(
                f"a command at cycle {after} follows one at {before}; expected increasing cycles, "
                f"one command per cycle; sort the stream"
            )
    rules = _play_rules(commands, cycles, std)
    report = ReplayReport(std.name, execution)
    answers = rules
    if execution != "rules":
        answers = _play_rtl(commands, cycles, std, rules, report.disagreements)
    _count(report, commands, cycles, std, rules, answers, shown)
    if execution == "both":
        _compare(report, commands, cycles, rules, answers)
    del report.disagreements[shown:]
    return report


def _cycle(command: Timed) -> int:
    return int(command.clock if hasattr(command, "clock") else command.cycle)  # type: ignore[attr-defined]


def _play_rules(commands: Sequence[Timed], cycles: Sequence[int], std: DramStandard) -> _Answers:
    rules = RankRules(std)
    violation, early = [], []
    previous = -1
    for command, cycle in zip(commands, cycles, strict=True):
        found = rules.check(command.command, command.bank, cycle)
        violation.append(found.code if found else 0)
        early.append(-1)
        if cycle - 1 > previous:
            before = rules.check(command.command, command.bank, cycle - 1)
            early[-1] = before.code if before else 0
        # A refused command still holds the command bus in its cycle.
        previous = cycle
        if found is None:
            rules.issue(command.command, command.bank, command.row, cycle)
    return _Answers(violation, early)


def _play_rtl(
    commands: Sequence[Timed],
    cycles: Sequence[int],
    std: DramStandard,
    rules: _Answers,
    disagreements: list[str],
) -> _Answers:
    # Compiling needs the hardware description and a C++ compiler; the rules need neither.
    from bankside.sim.rtl.dram_device import COMMIT, EVENT_DTYPE, PEEK, RESET, compiled_rank

    events, places = [(0, RESET, 0, 0, 0)], []
    for index, (command, cycle) in enumerate(zip(commands, cycles, strict=True)):
        fields = (std.code(command.command), command.bank, command.row)
        if rules.early[index] >= 0:
            places.append((index, PEEK))
            events.append((cycle - 1, PEEK, *fields))
        places.append((index, COMMIT))
        events.append((cycle, COMMIT, *fields))
    answers = compiled_rank(std).play(np.array(events, EVENT_DTYPE))[1:]
    violation, early = [0] * len(commands), [-1] * len(commands)
    for (index, kind), answer in zip(places, answers, strict=True):
        code = int(answer["violation"])
        (early if kind == PEEK else violation)[index] = code
        # The controller knows no state rules, so it is compared where timing decides.
        timing_only = code == 0 or code >= FIRST_TIMING_CODE
        if bool(answer["accept"]) != (code == 0) or (
            timing_only and bool(answer["legal"]) != (code == 0)
        ):
            disagreements.append(
                f"cycle {cycles[index] - (kind == PEEK)}: {commands[index].command}: device says "
                f"{std.violation_name(code)}, controller timers legal={int(answer['legal'])}"
            )
    return _Answers(violation, early)


def _count(
    report: ReplayReport,
    commands: Sequence[Timed],
    cycles: Sequence[int],
    std: DramStandard,
    rules: _Answers,
    answers: _Answers,
    shown: int,
) -> None:
    refusals: Counter[str] = Counter()
    for index, code in enumerate(answers.violation):
        if code:
            refusals[std.violation_name(code)] += 1
            if len(report.first_refusals) < shown:
                report.first_refusals.append(
                    f"cycle {cycles[index]}: {commands[index].command} bank "
                    f"{commands[index].bank}: {std.violation_text(code)}"
                )
        elif rules.early[index] >= FIRST_TIMING_CODE:
            report.timing_bound += 1
            report.refused_one_cycle_early += answers.early[index] > 0
    report.commands = len(commands)
    report.refused = refusals.total()
    report.accepted = report.commands - report.refused
    report.refusals = dict(refusals.most_common())


def _compare(
    report: ReplayReport,
    commands: Sequence[Timed],
    cycles: Sequence[int],
    rules: _Answers,
    answers: _Answers,
) -> None:
    for kind in ("violation", "early"):
        pairs = zip(getattr(rules, kind), getattr(answers, kind), strict=True)
        report.disagreements += [
            f"cycle {cycles[i] - (kind == 'early')}: {commands[i].command}: rules give code {a}, "
            f"RTL gives {b}"
            for i, (a, b) in enumerate(pairs)
            if a != b
        ]
