"""`bankside allocate`: order, addresses and traffic of an operator graph on a scratchpad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bankside.cli_support import common_options, emit
from bankside.errors import ConfigError
from bankside.mapping.scheduling.cosma import cosma
from bankside.mapping.scheduling.graph import Graph, load_graph
from bankside.mapping.scheduling.heuristics import BASELINES, baseline
from bankside.mapping.scheduling.plan import Plan
from bankside.mapping.scheduling.solve import Effort
from bankside.mapping.scheduling.tiles import tiled
from bankside.mapping.scheduling.timed import timed
from bankside.mapping.scheduling.timed_types import TimedPlan, Unit


def describe(plan: Plan) -> dict[str, Any]:
    """A plan as plain data."""
    graph = plan.graph
    return {
        "graph": graph.name,
        "capacity_bytes": plan.capacity,
        "smallest_capacity_bytes": graph.largest_working_set,
        "peak_bytes": plan.peak_bytes,
        "compulsory_bytes": graph.compulsory_bytes,
        "extra_bytes": plan.extra_bytes,
        "bound_bytes": plan.bound,
        "optimal": plan.optimal,
        "source": plan.source,
        "order": [graph.tasks[i].name for i in plan.order],
        "stays": [stay._asdict() for stay in sorted(plan.stays, key=lambda s: s.first)],
    }


def describe_timed(plan: TimedPlan) -> dict[str, Any]:
    """A plan in time as plain data."""
    tasks = [
        {"task": task.name, "start": plan.starts[i], "end": plan.end(i)}
        for i, task in enumerate(plan.graph.tasks)
    ]
    return {
        "makespan_ticks": plan.makespan,
        "bound_ticks": plan.bound,
        "traffic_bytes": plan.traffic,
        "source": plan.source,
        "tasks": sorted(tasks, key=lambda task: task["start"]),
        "stays": [stay._asdict() for stay in sorted(plan.stays, key=lambda s: s.first)],
    }


def _text(result: dict[str, Any], graph: Graph) -> str:
    proof = "optimal" if result["optimal"] else f"bound {result['bound_bytes']}"
    sizes = (
        f"scratchpad {result['capacity_bytes']} bytes (at least "
        f"{result['smallest_capacity_bytes']}, peak {result['peak_bytes']})"
    )
    traffic = (
        f"traffic {result['compulsory_bytes']} compulsory + {result['extra_bytes']} bytes "
        f"({proof}; {result['source']})"
    )
    lines = [f"{result['graph']}: {len(graph.tasks)} tasks, {sizes}", traffic]
    for step, name in enumerate(result["order"]):
        begins = [s for s in result["stays"] if s["first"] == step]
        what = ", ".join(
            f"{'fetch' if s['fetched'] else 'create'} {s['tensor']} at {s['address']}"
            for s in begins
        )
        ends = [s["tensor"] for s in result["stays"] if s["end"] == step + 1 and s["stored"]]
        stored = f"; store {', '.join(ends)}" if ends else ""
        lines.append(f"{step:4} {name:20} {what}{stored}")
    for name, extra in result.get("baselines", {}).items():
        lines.append(f"     baseline {name:36} {extra} bytes beyond compulsory")
    if time := result.get("time"):
        lines.append(
            f"in time: {time['makespan_ticks']} ticks (bound {time['bound_ticks']}), traffic "
            f"{time['traffic_bytes']} bytes"
        )
        lines += [f"{t['start']:8}..{t['end']:<8} {t['task']}" for t in time["tasks"]]
    return "\n".join(lines)


@click.command()
@click.argument("graph", type=click.Path(path_type=Path))
@click.option("--bytes", "capacity", type=click.IntRange(1), required=True, help="Scratchpad.")
@click.option("--tiles", type=click.IntRange(1), default=1, help="Tiles of every task.")
@click.option("--baselines", is_flag=True, help="Also the traffic of every heuristic.")
@click.option("--device", help="Also in time: key of the tasks' ticks.")
@click.option("--bytes-per-tick", type=float, help="Channel to memory, for --device.")
@click.option("--effort", type=click.FloatRange(0, min_open=True), default=20.0, show_default=True,
              help="Seconds of search of each step, deterministic.")  # fmt: skip
@common_options
def command(
    graph: Path,
    capacity: int,
    tiles: int,
    baselines: bool,
    device: str | None,
    bytes_per_tick: float | None,
    effort: float,
    as_json: bool,
    out: Path | None,
) -> None:
    """Order, addresses and traffic of GRAPH (a YAML file) on a scratchpad, with a proof.

    The plan has the least traffic beyond reading every input and writing every output once.
    """
    if (device is None) != (bytes_per_tick is None):
        raise ConfigError("--device and --bytes-per-tick go together; give both or neither")
    work = tiled(load_graph(graph), tiles)
    plan = cosma(work, capacity, Effort(effort))
    result = describe(plan)
    if baselines:
        result["baselines"] = {
            kind.name: baseline(work, capacity, kind).extra_bytes for kind in BASELINES
        }
    if device is not None and bytes_per_tick is not None:
        unit = Unit(device, capacity, bytes_per_tick)
        result["time"] = describe_timed(timed(work, unit, effort=Effort(effort)))
    emit(result, as_json=as_json, text=_text(result, work), out=out, name="allocation")
