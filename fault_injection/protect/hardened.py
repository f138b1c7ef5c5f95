"""Hardened cells: the netlist stays, its flip-flops and memory cells are of a sturdier kind.

How much sturdier and larger is for the user to say, from the data of the cell library; the factors
go to the failure rate and to the area.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from bankside.fault_injection.protect.mechanism import Mechanism, Target
from bankside.schema import Section

__all__ = ["HARDENED", "HardenedOptions"]


class HardenedOptions(Section):
    """Against an ordinary cell: upset rate (at most 1), area (at least 1), and who says so."""

    rate_factor: Annotated[float, Field(ge=0, le=1)]
    area_factor: Annotated[float, Field(ge=1)]
    source: Annotated[str, Field(min_length=1)]


def apply(target: Target) -> None:
    """Nothing to build."""


HARDENED = Mechanism(("cells",), apply, HardenedOptions, alarms=())
