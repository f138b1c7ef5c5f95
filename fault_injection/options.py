"""Sections of the YAML of a campaign. Ref: docs/inject.md."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from bankside.fault_injection.blocks import Reading
from bankside.fault_injection.rates import RawRates
from bankside.schema import Section, key_problem

__all__ = ["DesignOptions", "PatternOptions", "PlanOptions", "RefereeOptions", "SafetyOptions",
           "Sampling"]  # fmt: skip


class DesignOptions(Section):
    """One of several designs: preset or file of an engine, and what it does."""

    machine: str
    workload: dict[str, Any]


class Sampling(Section):
    """How many faults, and which.

    Attributes:
        faults: of each model, exhaustive strata included; most of it goes where the AVF is least
            certain (Neyman).
        pilot: of every stratum, before that is known, and at least.
        exhaustive: strata of so many faults or fewer are tried completely.
        phases: number of equal windows of the run, or name -> first cycle.
        batch: faults that are written, or redone, together.
        level: of the intervals.
    """

    faults: int = Field(default=2000, ge=1, le=100_000_000)
    pilot: int = Field(default=200, ge=1)
    exhaustive: int = Field(default=500, ge=0)
    phases: int | dict[str, int] = 2
    seed: int = Field(default=1, ge=0)
    batch: int = Field(default=512, ge=1, le=100_000)
    level: float = Field(default=0.95, gt=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.phases, int) and self.phases < 1:
            raise key_problem("phases", f"is {self.phases}; expected at least 1")
        if self.faults < self.pilot:
            raise key_problem("faults", f"is {self.faults}, less than the pilot of one stratum "
                              f"({self.pilot})")  # fmt: skip
        return self


class RefereeOptions(Section):
    """The check of a campaign.

    Attributes:
        sample: faults that the Verilated referee repeats; 0 only for designs without one.
    """

    sample: int = Field(default=200, ge=0)


class SafetyOptions(Section):
    """What the metrics are computed from.

    Attributes:
        asil: target. rates: raw rates of the user; without them there are no metrics.
        models: that count; by default all that a raw rate can be given for.
        reading: how classes count. duty: share of the time in which the design does this.
        looks: how often results of this campaign are judged. lifetime_hours: for faults that meet.
        pmhf_share: part of the item's budget that this design may use.
    """

    asil: Literal["A", "B", "C", "D"] = "D"
    rates: RawRates
    models: list[str] | None = None
    reading: Reading = Reading()
    duty: float = Field(default=1.0, gt=0, le=1)
    level: float = Field(default=0.95, gt=0, lt=1)
    looks: int = Field(default=1, ge=1)
    lifetime_hours: float | None = Field(default=None, gt=0)
    pmhf_share: float = Field(default=1.0, gt=0, le=1)


class PlanOptions(Section):
    """What the least-area protection is chosen from; it has to meet the target of `safety`.

    Attributes:
        candidates: name -> mechanisms (docs/protection.md) that any block may get. Each is built
            into all blocks at once and injected into, one campaign per candidate.
        designs: which of several get a plan; by default all.
        faults: of each campaign for it; by default as many as `sampling` says.
        flop, memory_bit: gate equivalents of a flip-flop, of a memory bit (docs/protection.md).
        seconds: for the proof that no smaller area does.
    """

    candidates: dict[str, Any] = Field(min_length=1)
    designs: list[str] | None = None
    faults: int | None = Field(default=None, ge=1)
    flop: float | None = Field(default=None, gt=0)
    memory_bit: float | None = Field(default=None, gt=0)
    seconds: float = Field(default=60.0, gt=0)


class PatternOptions(Section):
    """What is recorded of faults that reach the result, to be replayed in a language model.

    Attributes:
        out: file of patterns, relative to the description; of several designs the name of each is
            put in.
        model: whose faults; may be left out where the campaign has one.
        change: of a wrong number its inverted bits, or the difference (integers only).
    """

    out: str = Field(min_length=1)
    model: str | None = None
    change: Literal["xor", "delta"] = "xor"
