"""Errors of a model against measurements: as a whole and by regime, signed and absolute."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankside.mapping.gpu.kinds import gflop
from bankside.mapping.gpu.tables import Table
from bankside.mapping.system.gpu import Gpu


def summary(modelled: NDArray, measured: NDArray) -> dict[str, Any]:
    """Errors in percent of the measured time; positive: the model is too slow."""
    error = 100 * (modelled / measured - 1)
    if not error.size:
        return {"rows": 0}
    size = np.abs(error)
    return {
        "rows": int(error.size),
        "mean_abs_percent": round(float(size.mean()), 3),
        "mean_signed_percent": round(float(error.mean()), 3),
        "median_abs_percent": round(float(np.median(size)), 3),
        "p90_abs_percent": round(float(np.quantile(size, 0.9)), 3),
    }


def _band(low: float, high: float) -> str:
    if low <= 0:
        return f"up to {high:g}"
    return f"above {low:g}" if np.isinf(high) else f"{low:g} to {high:g}"


def by_regime(table: Table, modelled: NDArray, gpu: Gpu) -> dict[str, Any]:
    """Errors of all rows and of each band of each regime.

    Returns:
        `all`; for products `above 1 GFLOP`; `faster than the memory allows`: rows whose measured
        time is below the roofline; `regimes`: regime -> band -> errors. Bands without rows are left
        out.
    """
    seconds = table.seconds
    impossible = table.kind.floor(gpu, table.columns) > seconds
    result: dict[str, Any] = {"all": summary(modelled, seconds)}
    if table.kind.name == "gemm":
        large = gflop(table.columns) > 1
        result["above 1 GFLOP"] = summary(modelled[large], seconds[large])
    if impossible.any():
        result["measured below the roofline"] = summary(modelled[impossible], seconds[impossible])
        result["the others"] = summary(modelled[~impossible], seconds[~impossible])
    result["regimes"] = {"bound": _bounds(table, modelled, gpu)}
    for name, (values, edges) in table.kind.regimes.items():
        found, bands = values(table.columns), {}
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            rows = (found > low) & (found <= high)
            if rows.any():
                bands[_band(low, high)] = summary(modelled[rows], seconds[rows])
        result["regimes"][name] = bands
    return result


def _bounds(table: Table, modelled: NDArray, gpu: Gpu) -> dict[str, Any]:
    """By what the roofline says; "neither" where the floor is below half of the measured time."""
    # With ten times the bandwidth the floor of what is bound by memory falls.
    wide = gpu.model_copy(update={"memory_gbps": 10 * gpu.memory_gbps})
    floor = table.kind.floor(gpu, table.columns)
    memory = table.kind.floor(wide, table.columns) < 0.999 * floor
    near = floor > 0.5 * table.seconds
    parts = {"memory": near & memory, "compute": near & ~memory, "neither": ~near}
    return {
        name: summary(modelled[rows], table.seconds[rows])
        for name, rows in parts.items() if rows.any()
    }  # fmt: skip


def as_text(errors: dict[str, Any]) -> list[str]:
    """Lines of a table of errors."""
    lines = [f"  {'':34} {'rows':>6} {'|error|':>8} {'signed':>8} {'90 %':>8}"]

    def row(name: str, e: dict[str, Any]) -> str:
        return (
            f"  {name:34} {e['rows']:6,} {e['mean_abs_percent']:6.1f} % "
            f"{e['mean_signed_percent']:+6.1f} % {e['p90_abs_percent']:6.1f} %"
        )

    lines += [row(name, e) for name, e in errors.items() if name != "regimes"]
    for regime, bands in errors["regimes"].items():
        lines += [f"  {regime}", *(row(f"  {band}", e) for band, e in bands.items())]
    return lines
