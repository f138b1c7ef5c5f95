"""`bankside calibrate`: fit the GPU model to a table of measurements."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from bankside.cli_support import emit, progress
from bankside.errors import ConfigError
from bankside.mapping.gpu import fitted
from bankside.mapping.gpu.fit import FOLDS, OVERHEAD, ROWS, Calibration, Setting, calibrate
from bankside.mapping.gpu.kinds import HOPPER_TILES, KINDS
from bankside.mapping.gpu.regimes import as_text, by_regime, summary
from bankside.mapping.gpu.tables import Table, read_table
from bankside.mapping.system import Gpu, load_gpu
from bankside.provenance import collect

_SHARES = (1.0, 0.5)  # of keys and values that DRAM delivers; 0.5: both at the same addresses
_MAX_POINTS = 4000  # of a plot
_ORIGINS = {
    "aiconfigurator": "ai-dynamo/aiconfigurator (Apache-2.0): TensorRT-LLM kernels, repeated",
    "vidur": "microsoft/vidur (MIT): PyTorch operators, medians",
    "plain": "own measurement",
}


def setting_for(table: Table, gpu: Gpu, share: float | None = None) -> Setting:
    """What a calibration of a table on a GPU starts from: the shipped fit of that or a near GPU.

    Args:
        share: see `DecodeParameters.table_kv_share`; by default the better of 1 and 0.5.
    """
    kind = table.kind
    near = fitted.load_fit(fitted.default_fit(gpu)) if fitted.fit_names() else None
    section = getattr(near, kind.name) if near else None
    start, tiles = dict(kind.start), near.gemm.tiles if near and near.gemm else HOPPER_TILES
    if section is not None and table.gives_overhead:
        start["start_us"] = section.parameters.start_us  # held: see `fit`
    setting = Setting(kind, gpu, tiles, {}, start)
    if kind.name != "decode":
        return setting
    options = [share] if share is not None else list(_SHARES)
    return min(
        (replace(setting, fixed={"table_kv_share": value}) for value in options),
        key=lambda option: _start_error(option, table),
    )


def _start_error(setting: Setting, table: Table) -> float:
    error = np.log(setting.seconds(setting.start, table) / table.seconds)
    return float(np.abs(error - np.median(error)).mean())


def usable(table: Table, gpu: Gpu) -> Table:
    """The rows that tell something about the model.

    Raises:
        ConfigError: none.
    """
    if table.kind.usable is None:
        return table
    rows = table.kind.usable(gpu, table.columns)
    if rows.sum() < 10:
        raise ConfigError(
            f"{table.file}: {rows.sum()} rows outside the cache of {gpu.name}; expected at least "
            f"10; measure larger sizes"
        )
    return table.part(rows)


def result_of(found: Calibration, table: Table) -> dict[str, Any]:
    """A calibration as plain data."""
    setting, kind = found.setting, found.setting.kind
    gpu = setting.gpu
    return {
        "kind": kind.name,
        "gpu": gpu.name,
        "data": {"file": table.file, "sha256": table.sha256, "form": table.form,
                 "rows": len(table)},
        "parameters": {
            name: {"value": value, "low_95": found.intervals[name][0],
                   "high_95": found.intervals[name][1]}
            for name, value in found.values.items() if name != OVERHEAD
        },
        "fixed": dict(setting.fixed),
        "overhead_us": found.values.get(OVERHEAD),
        "folds": found.folds,
        "errors_in_sample": by_regime(table, found.seconds, gpu),
        "errors_cross_validated": by_regime(table, found.unseen, gpu),
        "errors_as_predicted": summary(found.predicted, table.seconds),
        "provenance": collect(seed=found.seed),
    }  # fmt: skip


def text_of(result: dict[str, Any]) -> str:
    """The same for people."""
    data = result["data"]
    source = f"{data['rows']:,} rows of {data['file']} ({data['form']})"
    lines = [f"{result['kind']} on {result['gpu']}: {source}", "", "parameters (95 % interval)"]
    for name, p in result["parameters"].items():
        lines.append(f"  {name:20} {p['value']:10.4g}  ({p['low_95']:.4g} to {p['high_95']:.4g})")
    lines += [f"  {name:20} {value:10.4g}  (fixed)" for name, value in result["fixed"].items()]
    if result["overhead_us"] is not None:
        lines.append(f"  {'overhead_us':20} {result['overhead_us']:10.4g}  (of the method, apart)")
    lines += ["", f"errors of unseen rows, {result['folds']} folds (positive: model too slow)"]
    lines += as_text(result["errors_cross_validated"])
    seen, used = result["errors_in_sample"]["all"], result["errors_as_predicted"]
    lines += ["", f"in sample: {seen['mean_abs_percent']:.1f} % of all rows"]
    if used != seen:
        lines.append(
            f"as predicted, never faster than the memory: {used['mean_abs_percent']:.1f} %"
        )
    return "\n".join(lines)


def fit_of(
    found: Calibration, table: Table, origin: str, date: str, base: fitted.Fit
) -> fitted.Fit:
    """`base` with the calibrated section."""
    kind, gpu = found.setting.kind.name, found.setting.gpu.name
    data = fitted.Data(
        file=table.file, sha256=table.sha256, rows=len(table), form=table.form, origin=origin,
        date=date, overhead_us=found.values.get(OVERHEAD), folds=found.folds, seed=found.seed,
        error_percent=summary(found.seconds, table.seconds)["mean_abs_percent"],
        unseen_error_percent=summary(found.unseen, table.seconds)["mean_abs_percent"],
    )  # fmt: skip
    intervals = {name: value for name, value in found.intervals.items() if name != OVERHEAD}
    section: dict[str, Any] = {"of": gpu, "intervals": intervals, "data": data,
                               "parameters": found.parameters}  # fmt: skip
    if kind == "gemm":
        section["tiles"] = found.setting.tiles
    made = fitted.Fit.model_fields[kind].annotation.__args__[0](**section)  # type: ignore[union-attr]
    return base.model_copy(update={kind: made})


def _base(path: Path | None, gpu: Gpu) -> fitted.Fit:
    """The fit file to put a section in: the one that is there, or a new one for this GPU."""
    if path is not None and path.exists():
        base = fitted.Fit.read(path)
        if base.gpus[0] != gpu.name:
            raise ConfigError(
                f"{path}: is a fit of {base.gpus[0]}, not of {gpu.name}; give another --out or "
                f"--gpu {base.gpus[0]}"
            )
        return base
    near = fitted.load_fit(fitted.default_fit(gpu)) if fitted.fit_names() else None
    launch = near.launch if near else fitted.Launch(us=0.0, source="not known")
    return fitted.Fit(gpus=(gpu.name,), launch=launch)


def _places(out: Path | None) -> tuple[Path | None, Path | None]:
    """Folder of the results and file of the fit: `--out` is either."""
    if out is None:
        return None, None
    if out.suffix in (".yaml", ".yml"):
        return out.parent, out
    return out, out / "fit.yaml"


def _guess(table: Table) -> str:
    """GPU whose name the file's name begins with."""
    start = table.file.split("_")[0].lower()
    names = {"a100": "a100-sxm-80g", "h100": "h100-sxm", "h200": "h200-sxm"}
    if start in names:
        return names[start]
    raise ConfigError(f"{table.file}: does not say which GPU was measured; give --gpu NAME")


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--gpu", "name", help="GPU that was measured; by default as the file's name says.")
@click.option("--kind", type=click.Choice(list(KINDS)), help="By default as the columns say.")
@click.option("--folds", type=click.IntRange(2, 10), default=FOLDS, show_default=True,
              help="Of the cross-validation; 2: each half from the other.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Of folds and drawn rows.")
@click.option("--rows", type=click.IntRange(min=50), default=ROWS, show_default=True,
              help="At most so many in each fit.")  # fmt: skip
@click.option("--kv-share", type=click.FloatRange(0.5, 1), help="Decode: share of keys and values "
              "that came from DRAM; by default the better of 1 and 0.5.")  # fmt: skip
@click.option("--origin", help="Who measured it, where, how; for the fit's file.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON and nothing else.")
@click.option("--out", type=click.Path(path_type=Path), metavar="PLACE",
              help="Folder for calibrate.json, calibrate.png and fit.yaml, or the fit's file "
              "(.yaml), whose other kinds are kept.")  # fmt: skip
def command(
    data: Path, name: str | None, kind: str | None, folds: int, seed: int, rows: int,
    kv_share: float | None, origin: str | None, as_json: bool, out: Path | None,
) -> None:  # fmt: skip
    """Fit the GPU model to measured operator times and report its errors.

    DATA is a CSV file: AIConfigurator's columns, Vidur's mlp.csv, or plain columns as written by
    examples/measure_gpu.py.
    """
    table = read_table(data, kind)
    gpu = load_gpu(name or _guess(table))
    folder, file = _places(out)
    base = _base(file, gpu)
    table = usable(table, gpu)
    setting = setting_for(table, gpu, kv_share)
    with progress(f"fitting {table.kind.name}", folds + 1) as advance:
        found = calibrate(setting, table, folds, seed, rows, advance)
    result = result_of(found, table)
    if folder is not None and file is not None:
        today = datetime.date.today().isoformat()
        fit_of(found, table, origin or _ORIGINS[table.form], today, base).write(file)
        _plot(folder, found, table)
    emit(result, as_json=as_json, text=text_of(result), out=folder, name="calibrate")


def _plot(folder: Path, found: Calibration, table: Table) -> None:
    from bankside.sim.report_gpu import calibration_png  # slow to import

    step = -(-len(table) // _MAX_POINTS)
    calibration_png(
        folder / "calibrate.png", table.seconds[::step], found.unseen[::step],
        f"{table.kind.name} on {found.setting.gpu.name}: {table.file}",
    )  # fmt: skip
