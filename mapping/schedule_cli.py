"""`bankside schedule`: the schedule of a binding on an array machine, in numbers and drawn."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bankside.cli_support import common_options, emit
from bankside.errors import ConfigError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.array_schedule import LANE_PARTS, Block, Schedule
from bankside.isa.machines import load_machine
from bankside.mapping.binding.loader import Binding, load_binding
from bankside.mapping.schedule_einsums import schedule_einsums
from bankside.mapping.schedule_modulo import Solution

_WIDTH = 96


def gantt(schedule: Schedule, width: int = _WIDTH) -> list[str]:
    """A pass as text: a row per unit, the blocks with their stage."""
    rows = (
        ("2D", [b for b in schedule.blocks if not b.on_lanes]),
        ("1D", [b for b in schedule.blocks if b.op in LANE_PARTS]),
    )
    scale = max(1.0, schedule.ii / width)
    lines = [f"{name} |{_row(blocks, schedule.ii, scale)}|" for name, blocks in rows]
    end = str(schedule.ii - 1)
    return [*lines, f"    0{end:>{max(len(end), int(schedule.ii / scale) - 1)}}"]


def _row(blocks: list[Block], ii: int, scale: float) -> str:
    cells = ["."] * max(1, int(ii / scale))
    for block in sorted(blocks, key=lambda block: block.length, reverse=True):
        first = min(int(block.start / scale), len(cells) - 1)
        last = max(first + 1, min(len(cells), round(block.stop / scale)))
        label = f"{block.op}+{block.stage}" if block.stage else block.op
        text = (label + "-" * (last - first))[: last - first]
        if last - first >= 2:
            text = text[:-1] + ">" if len(label) < last - first else text
        cells[first:last] = text
    return "".join(cells)


def describe(schedule: Schedule, solution: Solution, einsums: dict[str, str]) -> dict[str, Any]:
    """One kernel as plain data."""
    blocks = [
        {**asdict(block), "begin": schedule.begin(block), "einsums": einsums.get(block.op, "")}
        for block in schedule.blocks
    ]
    return {
        "ii": schedule.ii, "bound": solution.bound, "resource_bound": solution.resource_bound,
        "recurrence_bound": solution.recurrence_bound, "status": solution.status,
        "span": schedule.span, "stages": schedule.stages, "blocks": blocks,
    }  # fmt: skip


def _text(number: int, kernel: dict[str, Any], schedule: Schedule) -> list[str]:
    head = (
        f"kernel {number}: ii {kernel['ii']} slots ({kernel['status']}; bounds: units "
        f"{kernel['resource_bound']}, distances {kernel['recurrence_bound']}), iteration of "
        f"{kernel['span']} slots in {kernel['stages']} stages"
    )
    lines = [head]
    for block in kernel["blocks"]:
        lines.append(
            f"  {block['op']:6} slots {block['start']:4}..{block['start'] + block['length'] - 1:<4}"
            f" stage {block['stage']}  {block['einsums']}"
        )
    return [*lines, *gantt(schedule), ""]


def _machine(source: str) -> ArrayMachine:
    machine = load_machine(source)
    if not isinstance(machine, ArrayMachine):
        raise ConfigError(
            f"{source} is a machine of the engine {machine.engine!r}; schedules are for `array`"
        )
    return machine


def result_of(binding: Binding, machine: ArrayMachine, e: int, f: int) -> tuple[dict, str]:
    """The schedules of a binding, as data and as text."""
    kernels, lines = [], [f"{binding.name} on {machine.config.name}, E = {e}, F = {f}", ""]
    for number, kernel in enumerate(binding.kernels):
        schedule, solution = kernel.schedule(machine, e, f)
        einsums = {op: ", ".join(n for _, names in units for n in names)
                   for op, units in kernel.blocks}  # fmt: skip
        kernels.append(describe(schedule, solution, einsums))
        lines += _text(number, kernels[-1], schedule)
    result: dict[str, Any] = {"binding": binding.name, "machine": machine.config.name}
    result |= {"e": e, "f": f, "kernels": kernels}
    if len(kernels) == 1:
        counted = schedule_einsums(binding, e, f, 1 << 12)
        result["operations_only_ii"] = float(counted.ii)
        lines.append(
            f"operations alone (no latencies, no registers, 4096 tiles): {float(counted.ii):.2f} "
            f"cycles per tile, {counted.solution.status}"
        )
    return result, "\n".join(lines).rstrip()


@click.command()
@click.argument("binding", default="interleaved")
@click.option("--machine", default="array_16x16", help="Preset or YAML file.")
@click.option("--e", default=64, type=click.IntRange(1, 4095), help="Elements of a query.")
@click.option("--f", default=64, type=click.IntRange(1, 4095), help="Elements of a value.")
@common_options
def command(binding: str, machine: str, e: int, f: int, as_json: bool, out: Path | None) -> None:
    """Show the schedule of BINDING (a name, or a YAML file) on an array machine."""
    result, text = result_of(load_binding(binding), _machine(machine), e, f)
    emit(result, as_json=as_json, text=text, out=out, name="schedule")
