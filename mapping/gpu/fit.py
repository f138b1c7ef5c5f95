"""Calibration: parameters from measured times, their intervals, and errors on unseen rows.

Parameters are fitted as logarithms, so that they stay positive, to logarithms of times, so that a
short kernel counts as much as a long one; by Gauss-Newton steps reweighted towards least absolute
errors, which a few odd measurements cannot drag.

Ref: docs/gpu.md, section Calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankside.mapping.gpu.gemm import Tiles
from bankside.mapping.gpu.kinds import Kind
from bankside.mapping.gpu.tables import Table
from bankside.mapping.system.gpu import Gpu
from bankside.schema import Section

FOLDS = 5
ROWS = 2000  # that one fit looks at; more do not move the parameters
OVERHEAD = "overhead_us"
_HELD = "start_us"  # told apart from an overhead only by a table without one
_SMALLEST_ERROR = 0.02  # below it every row weighs the same
_DIFFERENCE = 0.02
_STEPS = 25
_PRIOR = 4e-5  # per squared logarithm away from the start: only what no row tells stays there


@dataclass(frozen=True)
class Setting:
    """What a fit holds fixed: the GPU, the library's tiles, values of other parameters."""

    kind: Kind
    gpu: Gpu
    tiles: Tiles
    fixed: Mapping[str, Any]
    start: Mapping[str, float]

    def names(self, table: Table) -> tuple[str, ...]:
        """Parameters that a table can tell."""
        if not table.gives_overhead:
            return self.kind.fitted
        return (*(name for name in self.kind.fitted if name != _HELD), OVERHEAD)

    def first(self, table: Table) -> NDArray:
        """Logarithms of the values to start from."""
        values = {OVERHEAD: 1.0, **self.start}
        return np.log([values[name] for name in self.names(table)])

    def parameters(self, values: Mapping[str, float]) -> Section:
        """Parameters from fitted values; the rest as fixed, or as started from."""
        rest = {name: self.start[name] for name in self.kind.fitted if name not in values}
        given = {name: value for name, value in values.items() if name != OVERHEAD}
        return self.kind.parameters.model_construct(**{**self.fixed, **rest, **given})

    def seconds(
        self, values: Mapping[str, float], table: Table, *, predict: bool = False
    ) -> NDArray:
        """Modelled time of every row, the method's overhead included."""
        model = self.kind.predict if predict else self.kind.seconds
        seconds = model(self.parameters(values), self.gpu, self.tiles, table.columns)
        return seconds + 1e-6 * values.get(OVERHEAD, 0.0)


def _limits(setting: Setting, names: tuple[str, ...]) -> NDArray:
    """Logarithm of the largest value of each parameter."""
    found = []
    for name in names:
        info = setting.kind.parameters.model_fields.get(name)
        most = [mark.le for mark in info.metadata if hasattr(mark, "le")] if info else []
        found.append(np.log(most[0]) if most else np.inf)
    return np.array(found)


def fit(setting: Setting, table: Table, rows: int = ROWS, seed: int = 0) -> dict[str, float]:
    """Fit parameters to a table.

    Args:
        rows: at most so many of the table, drawn with `seed`.

    Returns:
        Name -> value; with `overhead_us` where the table's method adds one.
    """
    if len(table) > rows:
        drawn = np.random.default_rng(seed).choice(len(table), rows, replace=False)
        table = table.part(np.sort(drawn))
    names = setting.names(table)
    measured = np.log(table.seconds)

    def residuals(x: NDArray) -> NDArray:
        values = dict(zip(names, np.exp(x), strict=True))
        return np.log(setting.seconds(values, table)) - measured

    best = _descend(residuals, setting.first(table), _limits(setting, names))
    return dict(zip(names, map(float, np.exp(best)), strict=True))


def _descend(residuals: Callable[[NDArray], NDArray], start: NDArray, limits: NDArray) -> NDArray:
    """Levenberg-Marquardt, weights 1 / |residual|; each accepted step lowers the mean error."""

    def cost(x: NDArray, error: NDArray) -> float:
        return float(np.abs(error).mean() + _PRIOR / 2 * np.sum((x - start) ** 2))

    x = np.minimum(start, limits)
    now, damping = residuals(x), 1e-2
    for _ in range(_STEPS):
        jacobian = _jacobian(residuals, x, limits)
        weights = 1 / np.maximum(np.abs(now), _SMALLEST_ERROR) / len(now)
        hessian = jacobian.T @ (jacobian * weights[:, None]) + _PRIOR * np.eye(len(x))
        gradient = jacobian.T @ (weights * now) + _PRIOR * (x - start)
        scale = np.diag(np.diag(hessian) + 1e-6 * np.trace(hessian))
        gain = 0.0
        for _ in range(6):
            step = np.clip(-np.linalg.solve(hessian + damping * scale, gradient), -0.5, 0.5)
            tried = np.minimum(x + step, limits)
            then = residuals(tried)
            gain = cost(x, now) - cost(tried, then)
            if gain > 0:
                x, now, damping = tried, then, max(damping / 4, 1e-4)
                break
            damping *= 4
        if gain < 1e-5:
            break
    return x


def _jacobian(
    residuals: Callable[[NDArray], NDArray], x: NDArray, limits: NDArray
) -> NDArray:  # fmt: skip
    columns = []
    for place in range(len(x)):
        high, low = x.copy(), x.copy()
        high[place] = min(x[place] + _DIFFERENCE, limits[place])
        low[place] -= _DIFFERENCE
        columns.append((residuals(high) - residuals(low)) / (high[place] - low[place]))
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Calibration:
    """Result of calibrating one table.

    Attributes:
        setting: what was fixed.
        values: fitted to the whole table.
        intervals: 95 % of each value, by the jackknife over the folds.
        seconds: modelled time of each row, from `values`.
        unseen: the same, each row by the parameters of the fold that did not see it.
        predicted: as the package predicts: never faster than the memory (see docs/gpu.md).
        folds, seed: of the cross-validation.
    """

    setting: Setting
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    seconds: NDArray
    unseen: NDArray
    predicted: NDArray
    folds: int
    seed: int

    @property
    def parameters(self) -> Section:
        """Validated parameters."""
        fitted = self.setting.parameters(self.values)
        return self.setting.kind.parameters.model_validate(fitted.model_dump())


def calibrate(
    setting: Setting,
    table: Table,
    folds: int = FOLDS,
    seed: int = 0,
    rows: int = ROWS,
    advance: Callable[[int], None] = lambda steps: None,
) -> Calibration:
    """Fit a table as a whole, and once for each fold without that fold's rows.

    Args:
        folds: at least 2; with 2, each half is predicted from the other half.
        advance: called after each fit.
    """
    whole = fit(setting, table, rows, seed)
    advance(1)
    fold = np.random.default_rng(seed).permutation(len(table)) % folds
    unseen, drawn = np.empty(len(table)), []
    for number in range(folds):
        # From the common start, not from `whole`, which has seen the rows that are left out.
        values = fit(setting, table.part(fold != number), rows, seed + 1 + number)
        unseen[fold == number] = setting.seconds(values, table.part(fold == number))
        drawn.append(values)
        advance(1)
    return Calibration(
        setting, whole, _intervals(setting, whole, drawn), setting.seconds(whole, table), unseen,
        setting.seconds(whole, table, predict=True), folds, seed,
    )  # fmt: skip


# Student's t, two-sided 95 %, by degrees of freedom.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def _intervals(
    setting: Setting, whole: Mapping[str, float], drawn: list[dict[str, float]]
) -> dict[str, tuple[float, float]]:
    """Delete-a-group jackknife of the logarithms. Ref: Kott, J. Official Statistics 17 (2001)."""
    folds = len(drawn)
    factor = _T95[min(folds - 2, len(_T95) - 1)]
    found = {}
    limits = np.exp(_limits(setting, tuple(whole)))
    for (name, value), most in zip(whole.items(), limits, strict=True):
        logs = np.log([values[name] for values in drawn])
        spread = factor * np.sqrt((folds - 1) / folds * np.sum((logs - logs.mean()) ** 2))
        found[name] = (
            float(value * np.exp(-spread)),
            min(float(most), float(value * np.exp(spread))),
        )
    return found
