"""Checks an execution of a DRAM table against one stream for every edge of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bankside.isa.dram.rules import RankRules
from bankside.isa.dram.standard import FIRST_TIMING_CODE, DramStandard
from bankside.isa.dram.streams import Edge

__all__ = ["EdgeReport", "check_edges"]


@dataclass
class EdgeReport:
    """`exact` counts edges whose command is legal at t and refused at t-1, blamed on a row that
    says so; `failures` describes the others."""

    standard: str
    execution: str
    rows: int
    edges: int
    exact: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not self.failures and self.exact == self.edges


def check_edges(
    std: DramStandard, edges: Sequence[Edge], *, execution: str = "both", answering=None
) -> EdgeReport:
    """Plays each edge from an idle rank; its last command also one cycle early.

    `answering` is the standard that answers when it is not `std` itself: a table with one number
    changed, which must not pass.
    """
    answering = answering or std
    rows = {edge.row.index for edge in edges}
    report = EdgeReport(std.name, execution, len(rows), len(edges))
    verdicts = []
    if execution in ("rules", "both"):
        verdicts.append(("rules", _ask_rules(edges, answering)))
    if execution in ("rtl", "both"):
        verdicts.append(("RTL", _ask_rtl(edges, answering, report)))
    for index, edge in enumerate(edges):
        complaints = []
        for name, answers in verdicts:
            early, last, others = answers[index]
            if others:
                complaints.append(f"{name} refuse an earlier command (code {others})")
            elif last:
                complaints.append(f"{name} refuse at t with code {last}")
            elif early < FIRST_TIMING_CODE:
                complaints.append(f"{name} answer code {early} at t-1")
        if complaints:
            what = f"row {edge.row.index} {edge.preceding} -> {edge.following}"
            report.failures.append(f"{what}: {'; '.join(complaints)}")
        else:
            report.exact += 1
    report.failures += _differences(edges, verdicts)
    return report


def _differences(edges: Sequence[Edge], verdicts: list) -> list[str]:
    if len(verdicts) < 2:
        return []
    (_, first), (_, second) = verdicts
    return [
        f"row {edge.row.index} {edge.preceding} -> {edge.following}: rules {a}, RTL {b}"
        for edge, a, b in zip(edges, first, second, strict=True)
        if a != b
    ]


def _ask_rules(edges: Sequence[Edge], std: DramStandard) -> list[tuple[int, int, int]]:
    """(code at t-1, code at t, highest code of the commands before) for every edge."""

    def code(command, cycle: int) -> int:
        found = rules.check(command.command, command.bank, cycle)
        return found.code if found else 0

    answers = []
    for edge in edges:
        rules, others = RankRules(std), 0
        *before, last = edge.stream
        for command in before:
            others = max(others, code(command, command.cycle))
            rules.issue(command.command, command.bank, command.row, command.cycle)
        answers.append((code(last, last.cycle - 1), code(last, last.cycle), others))
    return answers


def _ask_rtl(
    edges: Sequence[Edge], std: DramStandard, report: EdgeReport
) -> list[tuple[int, int, int]]:
    from bankside.sim.rtl.dram_device import COMMIT, EVENT_DTYPE, PEEK, RESET, compiled_rank

    events, ends = [], []
    for edge in edges:
        events.append((0, RESET, 0, 0, 0))
        for command in edge.stream:
            fields = (std.code(command.command), command.bank, command.row)
            if command is edge.stream[-1]:
                events.append((command.cycle - 1, PEEK, *fields))
            events.append((command.cycle, COMMIT, *fields))
        ends.append(len(events))
    played = compiled_rank(std).play(np.array(events, EVENT_DTYPE))
    answers, start = [], 0
    for edge, end in zip(edges, ends, strict=True):
        codes = played["violation"][start:end].tolist()
        legal = played["legal"][start:end].tolist()
        answers.append((codes[-2], codes[-1], max(codes[1:-2], default=0)))
        # The controller's timers must draw the same line as the device.
        if legal[-2] or not legal[-1]:
            report.failures.append(
                f"row {edge.row.index} {edge.preceding} -> {edge.following}: controller timers "
                f"say legal={legal[-2]} at t-1 and {legal[-1]} at t"
            )
        start = end
    return answers
