"""`bankside sim`: run the cocotb bench of one hardware unit.

A bench is one file in `tests/cosim/benches` with cocotb tests and a table of the units it serves:
`UNITS = {"queue": Bench(lambda: Queue(8, 4))}`.
"""

from __future__ import annotations

import ast
import importlib.util
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import click

from bankside.cli_support import common_options, emit, finish
from bankside.errors import ConfigError, ToolError
from bankside.registry import nearest
from bankside.sim.rtl.cocotb_runner import SIMULATORS, Bench, BenchResult, run_bench

BENCHES = Path(__file__).resolve().parents[2] / "tests" / "cosim" / "benches"


def discover(folder: Path = BENCHES) -> dict[str, tuple[Bench, Path]]:
    """Unit name -> (bench, file with its tests), from every file with a `UNITS` table."""
    if not folder.is_dir():
        raise ToolError(
            f"no folder {folder}: benches are part of the source checkout, not of the installed "
            f"package; run from a checkout"
        )
    found: dict[str, tuple[Bench, Path]] = {}
    for path in sorted(folder.glob("*.py")):
        if not _has_table(path):
            continue
        for name, bench in _load(path).items():
            if name in found:
                raise ConfigError(f"unit {name!r} is in {found[name][1].name} and in {path.name}")
            found[name] = (bench, folder / f"{bench.module or path.stem}.py")
    return found


def _has_table(path: Path) -> bool:
    """Tell without importing it: helpers beside the benches may be slow or need a simulator."""
    return any(
        isinstance(target, ast.Name) and target.id == "UNITS"
        for node in ast.parse(path.read_text()).body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    )


def _load(path: Path) -> dict[str, Bench]:
    spec = importlib.util.spec_from_file_location(f"bankside_bench_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module.UNITS


@click.command("sim")
@click.option("--unit", metavar="NAME", help="Hardware unit; without it, list the units.")
@click.option(
    "--sim", "--simulator", "simulator", type=click.Choice(SIMULATORS), default="verilator",
    show_default=True, help="Simulator.",
)  # fmt: skip
@click.option("--waves", is_flag=True, help="Record every signal, with a GTKWave save file.")
@click.option("--seed", type=int, help="Seed of the random traffic; a fresh one by default.")
@common_options
def command(
    unit: str | None, simulator: str, waves: bool, seed: int | None, as_json: bool, out: Path | None
) -> None:
    """Run the bench of one hardware unit."""
    benches = discover()
    if unit is None:
        listing = "\n".join(["units (choose one with --unit):", *(f"  {name}" for name in benches)])
        emit({"units": list(benches)}, as_json=as_json, text=listing, out=out, name="units")
        return
    if unit not in benches:
        raise ConfigError(
            f"no bench for unit {unit!r}{nearest(unit, benches)}; choose from: {', '.join(benches)}"
        )
    bench, module = benches[unit]
    result = run_bench(
        bench.component(), f"bankside_{unit}", module, simulator=simulator, waves=waves, seed=seed,
        extra_env=bench.env, internals=bench.internals, check=False,
    )  # fmt: skip
    if waves:
        result = _keep_waves(result, out)
    text = result.summary() + (f"\nwaves: {result.waves}" if result.waves else "")
    emit(_plain(result, unit), as_json=as_json, text=text, out=out, name=f"sim_{unit}")
    finish(not result.failures)


def _keep_waves(result: BenchResult, out: Path | None) -> BenchResult:
    """Move the recording to `out` and write a save file for GTKWave beside it."""
    from bankside.sim.waves import write_save_file

    waves = result.waves
    if waves is None or not waves.exists():
        raise ToolError(f"{result.name}: the simulator recorded no waves")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        waves = Path(shutil.move(waves, out / waves.name))
    if waves.suffix == ".vcd":
        write_save_file(waves)
    return replace(result, waves=waves)


def _plain(result: BenchResult, unit: str) -> dict[str, object]:
    return {
        "unit": unit,
        "simulator": result.simulator,
        "tests": result.tests,
        "failures": result.failures,
        "failed": dict(zip(result.failed, result.messages, strict=True)),
        "seed": result.seed,
        "waves": str(result.waves) if result.waves else None,
    }
