"""Parameters of FuseMax and of its baselines, from fusemax.yaml, and the artifact's result tables.

Ref: arXiv 2406.10491; FPSG-UIUC/micro24-fusemax-artifact, commit f543beb.
"""

from __future__ import annotations

import csv
import os
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from bankside.errors import ConfigError
from bankside.registry import nearest
from bankside.schema import Section, validate
from bankside.strict_yaml import load_yaml

Operation = Literal["mac", "add", "max", "divide", "exp"]
Rank = Literal["M1", "M0", "P", "E", "F"]
FlatTensor = Literal["Q", "K", "QK", "A", "V", "AV"]


class Einsum(Section):
    """One step of a cascade: the ranks it iterates over and its operations per element."""

    ranks: list[Rank]
    ops: dict[Operation, int]


class Hardware(Section):
    """Buffer and arithmetic of one machine; energies in pJ."""

    buffer_bytes: int
    exp_macs: int = Field(ge=0)
    buffer_read_pj: float
    buffer_write_pj: float
    lane_read_pj: float
    lane_write_pj: float


class Stage(Section):
    """Einsums that run at the same time on the two arrays, or a stall of one cycle per row."""

    array: list[str] = []
    lanes: list[str] = []
    stall: bool = False


class Binding(Section):
    """Where and when the Einsums of a cascade run."""

    cascade: str
    hardware: str
    phases: list[list[Stage]]
    pipelined_lanes: bool = False
    energy_without: list[Operation] = []

    def on_array(self) -> list[str]:
        """Einsums bound to the 2D array."""
        return [name for phase in self.phases for stage in phase for name in stage.array]

    def on_lanes(self) -> list[str]:
        """Einsums bound to the 1D array."""
        return [name for phase in self.phases for stage in phase for name in stage.lanes]


class Model(Section):
    """A transformer: width, heads, head dimensions of QK and V, width of the feed-forward layer."""

    d: int
    heads: int
    e: int
    f: int
    s: int


class FlatTiling(Section):
    """A choice of FLAT's search: query rows of a block (0: all), tensors kept in the buffer."""

    rows: int
    on_chip: list[FlatTensor]
    weight_stationary: bool = False


class FuseMax(Section):
    """Everything in fusemax.yaml."""

    tile: int
    clock_hz: float
    dram_bytes_per_s: int
    element_bytes: int
    batch: int
    cascades: dict[str, dict[str, Einsum]]
    hardware: dict[str, Hardware]
    energy_pj: dict[str, float]
    bindings: dict[str, Binding]
    models: dict[str, Model]
    lengths: dict[str, int]
    flat_tilings: dict[int, dict[int, FlatTiling]]
    published: dict[str, float]
    published_bert_s: dict[str, dict[str, float]]

    def binding(self, name: str) -> Binding:
        """The binding of that name.

        Raises:
            ConfigError: there is none; the message lists them.
        """
        if name not in self.bindings:
            raise ConfigError(
                f"unknown binding {name!r}{nearest(name, self.bindings)}; choose from: "
                f"{', '.join(self.bindings)}"
            )
        return self.bindings[name]


@cache
def fusemax() -> FuseMax:
    """The parameters, read once."""
    data, locations = load_yaml(Path(__file__).with_name("fusemax.yaml"))
    return validate(FuseMax, data, locations)


# --- the artifact's tables ----------------------------------------------------------------------

#: Binding -> its table of the artifact.
TABLES = {
    "unfused": "attn-unfused.csv",
    "flat": "attn-flat.csv",
    "architecture": "attn-arch.csv",
    "interleaved": "attn-binding.csv",
}
Row = dict[str, str]


def reference_folder() -> Path:
    """Folder of the artifact's tables (`BANKSIDE_REF`/fusemax); it need not exist."""
    return Path(os.environ.get("BANKSIDE_REF", "../shared/ref")) / "fusemax"


def reference(table: str) -> dict[tuple[str, str], Row] | None:
    """Rows of a table of the artifact by (model, length), None where it is not installed."""
    path = reference_folder() / table
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        return {(row["model"], row["seq_len"]): row for row in csv.DictReader(file)}


def flat_validation() -> list[Row] | None:
    """The 96 rows on which the artifact checks its model of FLAT, None where not installed."""
    path = reference_folder() / "flat_validation.csv"
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
