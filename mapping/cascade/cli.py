"""`bankside cascade`: passes, elements alive, traffic and operations of a cascade of Einsums."""

from __future__ import annotations

from pathlib import Path

import click

from bankside.cli_support import common_options, emit
from bankside.errors import ConfigError
from bankside.mapping.cascade.analysis import Analysis, analyse, independent_ranks
from bankside.mapping.cascade.loader import cascade_names, load_cascade
from bankside.mapping.cascade.model import UNIT_OPERATIONS, Cascade

_SHAPE = {"M": 4096, "P": 4096, "E": 64, "F": 64, "M0": 256}


def parse_shape(text: str) -> dict[str, int]:
    """`M=1024,P=16` over the defaults. Raises ConfigError."""
    shape = dict(_SHAPE)
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if not value.strip().isdigit() or int(value) < 1:
            raise ConfigError(f"shape: {part!r}; write for example M=4096,P=256,E=64,F=64,M0=16")
        shape[name.strip()] = int(value)
    return shape


def _table(cascade: Cascade, found: Analysis) -> list[str]:
    width = max(len(str(einsum)) for einsum in cascade.einsums)
    head = f"{'Einsum':{width}}  pass  {'alive':>10}  " + "".join(
        f"{unit:>16}" for unit in UNIT_OPERATIONS
    )
    lines = [head]
    for einsum in cascade.einsums:
        ops = found.operations[einsum.name]
        counts = "".join(f"{ops.get(unit, 0) or '':>16,}" if ops.get(unit) else " " * 16
                         for unit in UNIT_OPERATIONS)  # fmt: skip
        alive = found.alive[einsum.name]
        lines.append(f"{einsum!s:{width}}  {found.placed[einsum.name]:4}  {alive:10,}  {counts}")
    totals = "".join(f"{found.totals[unit]:16,}" for unit in UNIT_OPERATIONS)
    lines.append(
        f"{'sum (alive: peak of a pass)':{width}}  {'':4}  {found.alive_peak:10,}  {totals}"
    )
    return lines


def describe(cascade: Cascade, found: Analysis) -> str:
    """The analysis for people."""
    lines = [
        f"{cascade.name}: {found.walks} pass{'es' * (found.walks > 1)} over {cascade.walk}",
        "",
    ]
    lines += _table(cascade, found)
    lines.append("")
    for tensor, ranks in found.passes.items():
        walked = ", ".join(f"{rank} in {'+'.join(map(str, p))}" for rank, p in ranks.items())
        lines.append(f"input {tensor}: passes over {walked}")
    each = ", ".join(independent_ranks(cascade)) or "nothing"
    lines.append(f"alive: elements at once per element of {each}")
    for tensor, users in found.crossing.items():
        lines.append(f"{tensor} stays alive for pass {', '.join(map(str, users))}")
    lines.append(
        f"traffic: {found.traffic_bytes:,} bytes if that fits on chip, {found.spilled_bytes:,} "
        f"bytes if what crosses passes goes through memory"
    )
    return "\n".join(lines)


@click.command()
@click.argument("source", metavar="FILE|NAME", default="attention_1pass")
@click.option("--shape", default="", help="Parameters, for example M=4096,P=256,E=64,F=64,M0=16.")
@common_options
def command(source: str, shape: str, as_json: bool, out: Path | None) -> None:
    """Analyse a cascade of Einsums: a name that comes with the package, or a YAML file."""
    cascade, parameters = load_cascade(source), parse_shape(shape)
    found = analyse(cascade, parameters)
    result = {"cascade": cascade.name, "shape": parameters, "known": list(cascade_names()),
              **found.as_dict()}  # fmt: skip
    emit(result, as_json=as_json, text=describe(cascade, found), out=out, name="cascade")
