"""`bankside explore`: search a space of machines and mappings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bankside.cli_support import common_options, emit, finish, progress

_SHOWN = 20


@click.command("explore")
@click.argument("file", metavar="SPACE.yaml", type=click.Path(path_type=Path))
@click.option("--store", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="SQLite file of results; by default in the build folder.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True,
              help="Processes on this machine.")  # fmt: skip
@click.option("--dask", metavar="ADDRESS|FILE.json", help="Use the workers of a Dask scheduler.")
@common_options
def command(
    file: Path, store: Path | None, workers: int, dask: str | None, as_json: bool, out: Path | None
) -> None:
    """Search a space as a YAML file says (see examples/explore_*.yaml).

    Random search and others, with several seeds; the points that no other beats. Call it again
    after an interruption: finished points are kept. With --out also a table and a page with plots.
    Exit code 1: no point is feasible.
    """
    from bankside.cache import atomic_write, build_root
    from bankside.mapping.explore import workers as places
    from bankside.mapping.explore.run import explore, table_csv
    from bankside.mapping.explore.space import load_space
    from bankside.mapping.explore.store import Store

    space = load_space(file)
    path = store or build_root() / "explore" / f"{space.task.digest[:24]}.sqlite"
    total = len(space.samplers) * len(space.seeds) * space.description.budget
    where = places.dask(dask) if dask else places.local(workers)
    with Store(path) as kept, where as chosen, progress("exploring", total) as step:
        result = explore(space, kept, chosen, step)
    if out is not None:
        from bankside.sim.report_explore import write

        atomic_write(out / "points.csv", table_csv(result))
        result["files"] = ["points.csv", *write(result, out)]
    emit(result, as_json=as_json, text=text(result), out=out, name="explore")
    finish(bool(result["pareto"]))


def text(result: Mapping[str, Any]) -> str:
    """The result for people."""
    what, status = result["description"], result["status"]
    size = result["space_points"]
    of = "infinitely many" if size is None else f"{size:,}"
    ways = ", ".join(f"{way} {name}" for name, way in what["objectives"].items())
    counts = (
        f"{result['name']}: {result['evaluated']:,} points evaluated of {of}: {status['ok']:,} "
        f"feasible, {status['infeasible']:,} infeasible, {status['failed']:,} failed"
    )
    lines = [
        counts,
        f"to {ways}; Pareto set, {len(result['pareto'])} points:",
    ]
    lines += [f"  {_row(row, what)}" for row in result["pareto"][:_SHOWN]]
    if len(result["pareto"]) > _SHOWN:
        lines.append(f"  and {len(result['pareto']) - _SHOWN} more")
    lines.append(
        f"{'search':10} {'hypervolume':>12} {'samples to ' + format(what['target'], '.0%'):>16}"
    )
    for row in result["samplers"]:
        middle = row["samples_to_target_median"]
        lines.append(
            f"{row['sampler']:10} {row['hypervolume_median']:12.4f} "
            f"{'not reached' if middle is None else format(middle, 'g'):>16} "
            f"({row['reached']} of {row['seeds']} seeds)"
        )
    lines += [
        f"{row['points']:>5} {row['status']}: {row['reason']}" for row in result["reasons"][:5]
    ]
    return "\n".join(lines)


def _row(row: Mapping[str, Any], what: Mapping[str, Any]) -> str:
    """One point of the Pareto set."""
    values = row["metrics"] | row["point"]
    found = ", ".join(f"{name} {values[name]:,.6g}" for name in what["objectives"])
    point = ", ".join(
        f"{name}={f'{value:.6g}' if isinstance(value, float) else value}"
        for name, value in row["point"].items()
    )
    missed = "".join(
        f"; misses {name} ({values[name]:.6g}) by {share:.0%}"
        for name, share in row["missed"].items()
    )
    return f"{row['hash'][:12]}  {found}  ({point}){missed}"
