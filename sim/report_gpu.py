"""Plot of a calibration of the GPU model: measured against modelled times."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib

matplotlib.use("agg")  # no display is needed, and none is looked for
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from bankside.cache import atomic_write  # noqa: E402

_BAND = 0.1  # of the shaded errors


def calibration_png(path: Path, measured: NDArray, modelled: NDArray, title: str) -> None:
    """Write a PNG of modelled against measured time, and of the error against measured time.

    Args:
        measured, modelled: seconds, of equal length; `modelled` of rows that the fit had not seen.
    """
    micro, error = 1e6 * measured, 100 * (modelled / measured - 1)
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(7.2, 7.2), sharex=True, layout="constrained", height_ratios=(3, 2)
    )
    ends = np.array([micro.min(), micro.max()])
    upper.fill_between(ends, (1 - _BAND) * ends, (1 + _BAND) * ends, color="#dfe5ea", lw=0)
    upper.plot(ends, ends, color="#26323d", lw=1)
    upper.plot(micro, 1e6 * modelled, ".", color="#1f5fa8", ms=3, alpha=0.5)
    upper.set(xscale="log", yscale="log", ylabel="modelled, µs (unseen rows)", title=title)
    lower.axhspan(-100 * _BAND, 100 * _BAND, color="#dfe5ea", lw=0)
    lower.plot(micro, error, ".", color="#d1495b", ms=3, alpha=0.5)
    lower.set(xlabel="measured, µs", ylabel="error, %", ylim=(-60, 60))
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    atomic_write(path, image.getvalue())
