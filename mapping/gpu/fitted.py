"""Calibrated parameters as strict YAML, as `bankside calibrate` writes them: `fits/*.yaml`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import yaml
from pydantic import Field, model_validator

from bankside.cache import atomic_write
from bankside.errors import ConfigError
from bankside.mapping.gpu.attention import DecodeParameters, PrefillParameters
from bankside.mapping.gpu.elementwise import ElementwiseParameters
from bankside.mapping.gpu.gemm import GemmParameters
from bankside.mapping.system import Gpu, gpu_names, load_gpu
from bankside.registry import nearest
from bankside.schema import Section, key_problem, validate
from bankside.strict_yaml import load_yaml

FOLDER = Path(__file__).parent / "fits"
SECTIONS = ("gemm", "prefill", "decode", "elementwise")

_Tile = Annotated[tuple[int, int], Field(strict=False)]
_Interval = Annotated[tuple[float, float], Field(strict=False)]


class Data(Section):
    """What parameters were fitted to.

    Attributes:
        file, sha256, rows: the table.
        form: how it was read.
        origin: who measured what, where, under which conditions.
        date: of the fit.
        overhead_us: fitted time per row of the method of measurement, not part of the parameters.
        error_percent: mean absolute error of the rows fitted to.
        unseen_error_percent: of rows by parameters that had not seen them.
        folds, seed: of that cross-validation.
    """

    file: str
    sha256: str = Field(min_length=64, max_length=64)
    rows: int = Field(ge=1)
    form: str
    origin: str
    date: str
    overhead_us: float | None = None
    error_percent: float = Field(ge=0)
    unseen_error_percent: float = Field(ge=0)
    folds: int = Field(ge=2)
    seed: int


class _Fitted(Section):
    """Parameters of one kind with the 95 % interval of each; `of`: the GPU they were fitted on."""

    of: str
    intervals: dict[str, _Interval]
    data: Data

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = type(self).model_fields["parameters"].annotation.model_fields
        for name in self.intervals:
            if name not in known:
                raise key_problem(
                    f"intervals.{name}", f"is no parameter{nearest(name, known)}; remove it"
                )
        return self


class GemmFit(_Fitted):
    """Matrix products: parameters, and the output tiles of the library that was measured."""

    tiles: Annotated[tuple[_Tile, ...], Field(strict=False, min_length=1)]
    parameters: GemmParameters


class PrefillFit(_Fitted):
    """Attention of prompts."""

    parameters: PrefillParameters


class DecodeFit(_Fitted):
    """Attention of single tokens."""

    parameters: DecodeParameters


class ElementwiseFit(_Fitted):
    """Streams."""

    parameters: ElementwiseParameters


class Launch(Section):
    """Time between the end of a kernel and the start of the next, per kernel."""

    us: float = Field(ge=0)
    source: str


class Fit(Section):
    """Everything the host model knows of a GPU's kernels.

    Attributes:
        gpus: names of GPUs that use it by default, the calibrated one first.
        launch: per kernel, kept apart from kernel time.
        gemm, prefill, decode, elementwise: None: not calibrated yet.
        notes: for reports.
    """

    gpus: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    launch: Launch
    gemm: GemmFit | None = None
    prefill: PrefillFit | None = None
    decode: DecodeFit | None = None
    elementwise: ElementwiseFit | None = None
    notes: Annotated[tuple[str, ...], Field(strict=False)] = ()

    @classmethod
    def read(cls, path: Path) -> Fit:
        """Read a file. Raises ConfigError with file and line where it is not valid."""
        return validate(cls, *load_yaml(path))

    def carried(self) -> dict[str, str]:
        """Kind -> GPU that its parameters were fitted on, where that is another one."""
        fits = {name: getattr(self, name) for name in SECTIONS}
        return {name: f.of for name, f in fits.items() if f is not None and f.of != self.gpus[0]}

    def write(self, path: Path) -> None:
        """Write the file that `read` reads."""
        data = _plain(self.model_dump(mode="json", exclude_none=True))
        text = yaml.safe_dump(data, sort_keys=False, width=100, allow_unicode=True)
        atomic_write(path, text)


def _plain(value: Any) -> Any:
    """Numbers with seven digits, which is more than any of them means."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def fit_names() -> tuple[str, ...]:
    """Fits that come with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load_fit(source: str | Path) -> Fit:
    """Read a shipped fit by name, or a file (contains "/" or ends in .yaml or .yml).

    Raises:
        ConfigError: unknown name, or a file that is not valid.
    """
    text = str(source)
    if isinstance(source, Path) or "/" in text or text.endswith((".yaml", ".yml")):
        return Fit.read(Path(source))
    if text not in fit_names():
        raise ConfigError(
            f"unknown fit {text!r}{nearest(text, fit_names())}; choose from: "
            f"{', '.join(fit_names())}; or give a file that `bankside calibrate` wrote"
        )
    return _shipped(text)


@lru_cache(maxsize=32)
def _shipped(name: str) -> Fit:
    return Fit.read(FOLDER / f"{name}.yaml")


def default_fit(gpu: Gpu) -> str:
    """Name of the shipped fit for a GPU.

    The one that lists the GPU; for a GPU of no list, that of the GPU nearest in peak rate per
    multiprocessor and memory bandwidth.
    """
    fits = {name: load_fit(name).gpus for name in fit_names()}
    for name, gpus in fits.items():
        if gpu.name in gpus:
            return name

    def distance(name: str) -> float:
        other = load_gpu(fits[name][0])
        rate = np.log(gpu.matrix_flops() / gpu.sms / (other.matrix_flops() / other.sms))
        return abs(rate) + abs(np.log(gpu.memory_gbps / other.memory_gbps))

    known = [name for name in fits if fits[name][0] in gpu_names()]
    return min(known, key=distance)
