"""FuseMax's idealised cycles against the `array` engine, term by term and without a remainder.

The paper's model counts operations. A machine has latencies, hand-overs between its two arrays,
memory and a front end: every cycle of a measured run is given to one of these terms, so that the
terms add up to the measured cycles exactly.

Ref: docs/fusemax.md; docs/array.md section 5 (reasons).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bankside.errors import ConfigError, ToolError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.array_schedule import Block, Schedule
from bankside.isa.machines import load_machine
from bankside.isa.program import Program
from bankside.mapping.binding.loader import Kernel
from bankside.mapping.lower_array import ArrayKernels, AttentionShape
from bankside.mapping.paper.fusemax import stage_cycles
from bankside.mapping.paper.fusemax_counts import Attention
from bankside.mapping.paper.fusemax_data import Stage, fusemax
from bankside.sim.engine import Result
from bankside.sim.executions import make_engine
from bankside.sim.reproduce import GapOptions

HEAD_DIM = 64
#: Term -> what it is. The order is that of the table.
TERMS = {
    "paper": "idealised: operations and unit occupation of the paper's model",
    "occupation": "slots of our blocks less the paper's cycles of their stages",
    "hand_over": "words that only move scores and probabilities back into the PEs",
    "maximum": "waiting for the maximum: down the column, through the lane, back to the top",
    "return": "waiting for scores or probabilities on the way through the lanes",
    "schedule": "other slots of a pass that only the lanes use, or nobody",
    "late": "slots of tiles that begin late for want of keys or queries, while older ones end",
    "fill": "slots of tiles that do not exist: pipeline of tiles filling and draining",
    "settle": "the last results leave the arrays: rows, columns, return path, divider",
    "load": "waiting for keys, values and queries from main memory",
    "store": "waiting for results to reach main memory",
    "front_end": "commands, decisions without a pass",
}
_COUNTERS = {
    "settle": ("settle",),
    "load": ("wait_load", "load"),
    "store": ("wait_store", "store"),
    "front_end": ("control",),
}


def gap(options: GapOptions) -> dict[str, Any]:
    """Measured cycles of attention as a sum of terms, for one binding or for all.

    The shape is one head of `keys` keys and E = F = 64; `queries` fill whole row blocks.

    Raises:
        ConfigError: not an `array` machine, not square, keys that are no whole tiles.
    """
    machine = load_machine(options.machine)
    if not isinstance(machine, ArrayMachine) or machine.rows != machine.columns:
        raise ConfigError(
            f"{options.machine}: the paper's tiles are square; expected a machine of the engine "
            f"array with as many rows as columns, such as array_16x16"
        )
    data = fusemax()
    names = [options.binding] if options.binding else list(data.bindings)
    for name in names:
        data.binding(name)
    queries = options.queries or machine.columns
    shape = AttentionShape(queries, options.keys, 1, 1, HEAD_DIM, HEAD_DIM)
    return {
        "machine": machine.config.name,
        "rows": machine.rows,
        "columns": machine.columns,
        "execution": "rtl" if options.rtl else "timing",
        "keys": options.keys,
        "queries": queries,
        "e": HEAD_DIM,
        "f": HEAD_DIM,
        "terms": TERMS,
        "bindings": [measure(machine, shape, name, rtl=options.rtl) for name in names],
    }


def measure(
    machine: ArrayMachine, shape: AttentionShape, name: str, *, rtl: bool = False
) -> dict[str, Any]:
    """One binding: terms (cycles, exact sum), stages per tile, schedule, utilisation."""
    work = Attention(shape.batch, shape.heads, shape.queries, shape.keys, shape.e, shape.f,
                     machine.rows)  # fmt: skip
    kernels = ArrayKernels(machine, shape, name)
    tiles = int(work.instances * work.query_tiles * work.key_tiles)
    stages = stage_table(name, work, kernels)
    totals: Counter[str] = Counter()
    cycles = mac = 0
    for program in programs(kernels):
        result = _run("timing", machine, program, trace=True)
        totals += pass_terms(result, program, kernels.schedules)
        if rtl:
            result = _run("rtl", machine, program)
        cycles, mac = cycles + (result.cycles or 0), mac + result.counters["mac"]
        totals += counter_terms(result.counters)
    paper = tiles * sum(row["paper"] for row in stages)
    terms = _ordered(totals, paper, tiles, stages)
    if not np.isclose(sum(terms.values()), cycles, rtol=0, atol=1e-6):
        raise ToolError(
            f"{name}: the terms add up to {sum(terms.values())} of {cycles} cycles; the timing "
            f"model and the schedule disagree, report this"
        )
    return {
        "binding": name,
        "tiles": tiles,
        "cycles": cycles,
        "paper_cycles": paper,
        "ratio": cycles / paper,
        "terms": terms,
        "stages": stages,
        "schedules": [
            {"ii": schedule.ii, "bound": solution.bound, "status": solution.status}
            for schedule, solution in zip(kernels.schedules, kernels.solutions, strict=True)
        ],
        "mac_share": mac / cycles,
    }


def _ordered(
    totals: Mapping[str, int], paper: float, tiles: int, stages: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """All terms, in the order of `TERMS`."""
    moved = tiles * sum(row["slots"] for row in stages if row["stage"] == "hand-over")
    found = {"paper": paper, "occupation": totals["words"] - moved - paper, "hand_over": moved}
    return {name: float(found.get(name, totals[name])) for name in TERMS}


def programs(kernels: ArrayKernels) -> list[Program]:
    """The programs, with zeros: time does not depend on the data."""
    s = kernels.shape
    q = np.zeros((s.batch, s.queries, s.heads, s.e), np.uint16)
    k = np.zeros((s.batch, s.keys, s.kv_heads, s.e), np.uint16)
    return kernels.programs(q, k, np.zeros((s.batch, s.keys, s.kv_heads, s.f), np.uint16))


def _run(execution: str, machine: ArrayMachine, program: Program, *, trace: bool = False) -> Result:
    return make_engine(execution, machine).run(program, trace=trace)


# --- stages per tile -----------------------------------------------------------------------------


def stage_table(name: str, work: Attention, kernels: ArrayKernels) -> list[dict[str, Any]]:
    """Per tile: the paper's cycles of each stage, and the slots of our blocks that do its work."""
    phases = fusemax().binding(name).phases
    ideal = stage_cycles(name, work, weight_stationary=0)
    rows = [
        {"stage": _stage_name(stage), "paper": float(cycles), "slots": 0, "blocks": []}
        for phase, values in zip(phases, ideal, strict=True)
        for stage, cycles in zip(phase, values, strict=True)
    ]
    owners = [stage for phase in phases for stage in phase]
    rows.append({"stage": "hand-over", "paper": 0.0, "slots": 0, "blocks": []})
    for kernel, schedule in zip(kernels.binding.kernels, kernels.schedules, strict=True):
        for block in schedule.blocks:
            if not block.on_lanes:
                row = rows[_owner(kernel, block, owners)]
                row["slots"] += block.length
                row["blocks"].append(block.op)
    return rows


def _stage_name(stage: Stage) -> str:
    if stage.stall:
        return "stall for LM"
    return " ".join(stage.array) + (" | " + " ".join(stage.lanes) if stage.lanes else "")


def _owner(kernel: Kernel, block: Block, stages: Sequence[Stage]) -> int:
    """Index of the stage that holds the block's first Einsum; one past the end: hand-over."""
    units = dict(next(units for op, units in kernel.blocks if op == block.op))
    for unit in ("array", "lanes"):
        for einsum in units.get(unit, ()):
            for index, stage in enumerate(stages):
                if einsum in stage.array or einsum in stage.lanes:
                    return index
    return len(stages)


# --- slots of the passes ------------------------------------------------------------------------


@dataclass(frozen=True)
class Profile:
    """Slots of one schedule: `reasons[slot]` is None under a block of the 2D array."""

    ii: int
    done_stop: int
    blocks: tuple[Block, ...]
    reasons: tuple[str | None, ...]

    @classmethod
    def of(cls, schedule: Schedule) -> Profile:
        """Reasons of a schedule's slots."""
        blocks = sorted((b for b in schedule.blocks if not b.on_lanes), key=lambda b: b.start)
        reasons: list[str | None] = []
        for slot in range(schedule.ii):
            covered = any(b.start <= slot < b.stop for b in blocks)
            reasons.append(None if covered else _reason(slot, blocks))
        done = next(b for b in schedule.blocks if b.done)
        return cls(schedule.ii, done.stop, tuple(blocks), tuple(reasons))


def _reason(slot: int, blocks: Sequence[Block]) -> str:
    """Why the 2D array has nothing to do in a slot: what its next block of this pass waits for."""
    following = next((b for b in blocks if b.start > slot), None)
    if following is None or blocks[0].start > slot:
        return "schedule"
    waits = {"exp": "maximum", "passx": "return", "fill": "return"}
    return waits.get(following.op, "schedule")


@dataclass
class Pass:
    """One pass of a trace.

    Attributes:
        starts: it starts an iteration.
        segment: number of the KERNEL under which it runs.
        first: index of the first pass since which passes follow each other without a gap.
        length: slots that it has; a pass ends early after `done` when nothing younger is under way.
    """

    profile: Profile
    starts: bool
    segment: int
    first: int
    length: int


def pass_terms(result: Result, program: Program, schedules: Sequence[Schedule]) -> Counter[str]:
    """Slots of all passes by term: `words` of the 2D array, empty slots by reason, `late`, `fill`.

    result: a traced one.
    """
    counters, found = result.counters, Counter()
    used = sum(counters[name] for name in ("mac", "move", "lane", "bubble", "slot"))
    passes = _passes(result, program, schedules)
    if sum(each.length for each in passes) != used:
        raise ToolError(
            f"{sum(each.length for each in passes)} slots in the passes of the trace, {used} in "
            f"the counters; report this"
        )
    last_start = {each.segment: index for index, each in enumerate(passes) if each.starts}
    for index, each in enumerate(passes):
        found.update(why for why in each.profile.reasons[: each.length] if why is not None)
        for block in each.profile.blocks:
            origin = index - block.stage
            slots = max(0, min(block.stop, each.length) - block.start)
            if origin >= each.first and passes[origin].starts:
                found["words"] += slots
            elif each.first <= origin < last_start[each.segment]:
                found["late"] += slots
            else:
                found["fill"] += slots
    if found["words"] != counters["mac"] + counters["move"]:
        raise ToolError(
            f"{found['words']} words of the 2D array in the trace, "
            f"{counters['mac'] + counters['move']} in the counters; report this"
        )
    return found


def _passes(result: Result, program: Program, schedules: Sequence[Schedule]) -> list[Pass]:
    """The passes of a trace with their schedules: that of the last RUN decided before each."""
    segments = _segments(program)
    run = program.spec.commands["RUN"]
    decided = [int(m["load"]) for m in result.macros if m["opcode"] == run.opcode]
    profiles = [Profile.of(schedule.marked()) for schedule in schedules]
    cycles = [int(cycle) for cycle in result.commands["cycle"]]
    passes: list[Pass] = []
    for index, cycle in enumerate(cycles):
        segment = segments[bisect_right(decided, cycle) - 1]
        profile = profiles[segment % len(profiles)]
        following = cycles[index + 1] if index + 1 < len(cycles) else None
        length = profile.ii if following == cycle + profile.ii else profile.done_stop
        joined = index > 0 and cycles[index - 1] + passes[-1].length == cycle
        first = passes[-1].first if joined else index
        starts = bool(result.commands["code"][index])
        passes.append(Pass(profile, starts, segment, first, length))
    return passes


def _segments(program: Program) -> list[int]:
    """Number of the KERNEL command under which each RUN stands."""
    kernel, found = -1, []
    for instruction in program.instructions():
        if instruction.name == "KERNEL":
            kernel += 1
        elif instruction.name == "RUN":
            found.append(kernel)
    return found


def counter_terms(counters: Mapping[str, int]) -> Counter[str]:
    """Cycles without a pass, by term."""
    return Counter(
        {term: sum(counters[name] for name in names) for term, names in _COUNTERS.items()}
    )


# --- text ----------------------------------------------------------------------------------------


def gap_text(result: Mapping[str, Any]) -> str:
    """A table of terms, one column per binding, then the stages per tile."""
    bindings = result["bindings"]
    what = (
        f"{result['machine']} ({result['rows']} x {result['columns']}), "
        f"{result['queries']} queries, {result['keys']} keys, E = {result['e']}, "
        f"F = {result['f']}; cycles of the execution {result['execution']}"
    )
    lines = [what, f"{'term':12}" + "".join(f"{row['binding']:>14}" for row in bindings)]
    for term, meaning in result["terms"].items():
        values = "".join(f"{row['terms'][term]:14,.2f}" for row in bindings)
        lines.append(f"{term:12}{values}  {meaning}")
    for title, pick in (
        ("cycles", lambda row: f"{row['cycles']:14,}"),
        ("cycles/tile", lambda row: f"{row['cycles'] / row['tiles']:14.2f}"),
        ("/ paper", lambda row: f"{row['ratio']:14.4f}"),
        ("mac share", lambda row: f"{row['mac_share']:14.4f}"),
    ):
        lines.append(f"{title:12}" + "".join(map(pick, bindings)))
    for row in bindings:
        lines += ["", *_stage_lines(row)]
    return "\n".join(lines)


def _stage_lines(row: Mapping[str, Any]) -> list[str]:
    schedules = ", ".join(
        f"{s['ii']} (bound {s['bound']}, {s['status']})" for s in row["schedules"]
    )
    lines = [
        f"{row['binding']}: {row['tiles']} tiles; slots per pass {schedules}",
        f"  {'stage: 2D array | 1D array':58} {'paper':>8} {'ours':>6}  blocks",
    ]
    for stage in row["stages"]:
        if stage["paper"] or stage["slots"]:
            lines.append(
                f"  {stage['stage']:58} {stage['paper']:8.2f} {stage['slots']:6}  "
                f"{' '.join(stage['blocks'])}"
            )
    return lines
