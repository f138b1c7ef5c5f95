"""Energy of commands from their counts and published currents; None where there are none.

What a command draws above standby: no background, no input and output drivers, no termination.
Ref: Micron TN-40-07, "Calculating Memory Power for DDR4 SDRAM"; the same split as in DRAMsim3.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, model_validator

from bankside.errors import ConfigError
from bankside.isa.dram.standard import DramStandard
from bankside.schema import Section, key_problem, validate
from bankside.strict_yaml import load_yaml

__all__ = ["Currents", "command_energies_pj", "command_energy_j", "load_currents"]

_FILE = Path(__file__).with_name("currents.yaml")


class Currents(Section):
    """Volts and milliamperes of one device, with the name of their source."""

    source: str
    vdd_v: float = Field(gt=0)
    idd0_ma: float = Field(gt=0)
    idd2n_ma: float = Field(gt=0)
    idd3n_ma: float = Field(gt=0)
    idd4r_ma: float = Field(gt=0)
    idd4w_ma: float = Field(gt=0)
    idd5b_ma: float = Field(gt=0)


class _File(Section):
    sources: dict[str, str]
    grades: dict[str, Currents]

    @model_validator(mode="after")
    def _cited(self) -> _File:
        for name, grade in self.grades.items():
            if grade.source not in self.sources:
                raise key_problem(
                    f"grades.{name}.source",
                    f"is {grade.source!r}; expected one of {', '.join(self.sources)}",
                )
        return self


@functools.cache
def load_currents(path: Path = _FILE) -> Mapping[str, Currents]:
    """The currents of every listed speed grade; raises ConfigError for a faulty file."""
    return validate(_File, *load_yaml(path)).grades


def command_energies_pj(
    std: DramStandard, chips: int, currents: Currents | None = None
) -> dict[str, float] | None:
    """Energy of one ACT (with its precharge), RD, WR and REF in a rank of `chips`, in picojoules.

    `currents` are those of the grade unless given. None: no published currents.

    Raises
    ------
    ConfigError: currents with which a command would cost nothing or less.
    """
    c = currents or load_currents().get(std.name)
    if c is None:
        return None
    p, scale = std.params, c.vdd_v * std.tck_ps * 1e-3 * chips  # mA * V * ns = pJ
    standby = c.idd3n_ma * p["nRAS"] + c.idd2n_ma * (p["nRC"] - p["nRAS"])
    found = {
        "ACT": (c.idd0_ma * p["nRC"] - standby) * scale,
        "RD": (c.idd4r_ma - c.idd3n_ma) * p["nBL"] * scale,
        "WR": (c.idd4w_ma - c.idd3n_ma) * p["nBL"] * scale,
        "REF": (c.idd5b_ma - c.idd3n_ma) * p["nRFC"] * scale,
    }
    for name, energy in found.items():
        if energy <= 0:
            raise ConfigError(
                f"{std.name}: {name} would take {energy:.3g} pJ with the currents of {c.source}; "
                f"expected more than 0; correct the currents"
            )
    return found


def command_energy_j(
    std: DramStandard, chips: int, counts: Mapping[str, int]
) -> dict[str, float] | None:
    """Joules by command and as `total` for so many commands; None: not known."""
    energies = command_energies_pj(std, chips)
    if energies is None:
        return None
    found = {name: counts[name] * energy * 1e-12 for name, energy in energies.items()}
    return found | {"total": sum(found.values())}
