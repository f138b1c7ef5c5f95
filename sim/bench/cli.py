"""`bankside bench`: how fast the executions are, as ratios measured in one run on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from bankside.cli_support import common_options, emit
from bankside.config import HardwareConfig
from bankside.registry import Lazy, Registry

#: Engine -> module with `measure(preset, repeats, *, builds, cocotb, all_signals)` and `text`.
MEASURES: Registry = Registry("engine")
MEASURES.add("pim", Lazy("bankside.sim.bench.pim:measure"))
MEASURES.add("array", Lazy("bankside.sim.bench.array:measure"))
MEASURES.add("npu", Lazy("bankside.sim.bench.npu:measure"))
MEASURES.add("memory", Lazy("bankside.sim.bench.memory:measure"))
MEASURES.add("mapping", Lazy("bankside.sim.bench.mapping:measure"))
MEASURES.add("lanes", Lazy("bankside.sim.bench.lanes:measure"))
TEXTS: Registry = Registry("engine")
TEXTS.add("pim", Lazy("bankside.sim.bench.pim:text"))
TEXTS.add("array", Lazy("bankside.sim.bench.array:text"))
TEXTS.add("npu", Lazy("bankside.sim.bench.npu:text"))
TEXTS.add("memory", Lazy("bankside.sim.bench.memory:text"))
TEXTS.add("mapping", Lazy("bankside.sim.bench.mapping:text"))
TEXTS.add("lanes", Lazy("bankside.sim.bench.lanes:text"))

_NPUS = tuple(f"npu_{profile}_{macs}" for profile in ("u55", "llm") for macs in (32, 64, 128, 256))
#: What is not of one machine: the host memory controllers; mapper and serving; faults in lanes.
_OTHERS = ("memory", "mapping", "lanes")
PRESETS = ("dimm_pim_ddr4", "array_16x16", "array_32x32", *_NPUS, *_OTHERS)


@click.command(name="bench")
@click.option(
    "--preset",
    "presets",
    multiple=True,
    default=PRESETS,
    show_default=True,
    help="Machine to simulate; may be given several times.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Runs per figure (median).",
)
@click.option(
    "--no-build", is_flag=True, help="Skip elaboration and compile times with an empty cache."
)
@click.option(
    "--all-signals",
    is_flag=True,
    help="Also under cocotb as its own runner builds it, every signal public (minutes to compile).",
)
@click.option("--no-cocotb", is_flag=True, help="Skip the run under cocotb.")
@common_options
def command(
    presets: tuple[str, ...],
    repeats: int,
    no_build: bool,
    all_signals: bool,
    no_cocotb: bool,
    as_json: bool,
    out: Path | None,
) -> None:
    """Measure the speed of the executions and print ratios."""
    result, shown = {}, []
    for preset in presets:
        engine = preset if preset in _OTHERS else HardwareConfig.load(preset).engine
        found = MEASURES.get(engine)(
            preset, repeats, builds=not no_build, cocotb=not no_cocotb, all_signals=all_signals
        )
        result[preset] = found
        shown.append(TEXTS.get(engine)(found))
    emit({"presets": result}, as_json=as_json, text="\n\n".join(shown), out=out, name="bench")
