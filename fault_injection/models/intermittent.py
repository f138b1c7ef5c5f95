"""Intermittent fault: a bit is stuck again and again, a part of every period, for some time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import Field, model_validator

from bankside.fault_injection.fault import Fault
from bankside.fault_injection.models.base import FaultModel
from bankside.fault_injection.models.stuck_at import Stuck, held
from bankside.schema import key_problem
from bankside.sim.faults import Action, Site


class Intermittent(Stuck):
    """Times in cycles.

    Attributes:
        period: from one burst to the next. active: of each period.
        duration: from the beginning of the first burst on.
    """

    period: int = Field(default=16, ge=1)
    active: int = Field(default=4, ge=1)
    duration: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.active > self.period:
            raise key_problem("active", f"is {self.active}; expected at most the period "
                              f"({self.period})")  # fmt: skip
        return self


def _places(site: Site, options: Intermittent) -> int:
    return site.width * site.depth * len(options.values) if site.kind in options.kinds else 0


def _fault(site: Site, place: int, cycle: int, options: Intermittent) -> Fault:
    rest, value = divmod(place, len(options.values))
    word, bit = divmod(rest, site.width)
    times = {"value": options.values[value], "period": options.period, "active": options.active}
    return Fault(site.path, MODEL.name, cycle, options.duration, bit, word, times)


def actions(fault: Fault, sites: Mapping[str, Site]) -> tuple[Action, ...]:
    """One action per burst; the last one ends with the duration."""
    default = Intermittent()
    period = fault.parameters.get("period", default.period)
    active = fault.parameters.get("active", default.active)
    duration = fault.duration or default.duration
    end = fault.cycle + duration - 1
    return tuple(
        held(fault, sites[fault.site], first, min(first + active - 1, end))
        for first in range(fault.cycle, end + 1, period)
    )


MODEL = FaultModel(
    "intermittent", "intermittently stuck bit", ("flop", "memory", "net", "port"), _places, _fault,
    actions, Intermittent, unit="bit and value",
)  # fmt: skip
