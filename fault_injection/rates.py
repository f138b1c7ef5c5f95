"""Raw fault rates, given by the user with a range and a source; none is built in."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from bankside.errors import ConfigError
from bankside.fault_injection.strata import Bound
from bankside.registry import nearest
from bankside.schema import Section, key_problem

__all__ = ["MBIT", "Mode", "RawRate", "RawRates"]

MBIT = 1_000_000  # bits; the smaller of both usual meanings, so that no rate comes out too low

Mode = Literal["transient", "permanent"]


class RawRate(Section):
    """Upsets of a storage bit (or defects of a site), given by the user.

    Attributes:
        fit_per_mbit: FIT per 1,000,000 bits; where a source means 2**20, convert to `fit_per_bit`.
        fit_per_bit: FIT per bit; exactly one of both is given.
        low: lower end of what the source holds possible, same unit.
        high: upper end.
        source: where the number is from, with technology, voltage and altitude.
    """

    fit_per_mbit: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    fit_per_bit: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    low: float = Field(gt=0, allow_inf_nan=False)
    high: float = Field(gt=0, allow_inf_nan=False)
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [v for v in (self.fit_per_mbit, self.fit_per_bit) if v is not None]
        if len(given) != 1:
            raise key_problem(
                "fit_per_mbit",
                "expected exactly one of fit_per_mbit and fit_per_bit; none is built in",
            )
        if not self.low <= given[0] <= self.high:
            raise key_problem(
                "low",
                f"low {self.low:g}, rate {given[0]:g}, high {self.high:g}: expected this order",
            )
        if not self.source.strip():
            raise key_problem("source", "is empty; name where the rate is from")
        return self

    @property
    def per_bit(self) -> Bound:
        """FIT per bit."""
        if self.fit_per_bit is not None:
            return Bound(self.fit_per_bit, self.low, self.high)
        assert self.fit_per_mbit is not None
        return Bound(self.fit_per_mbit / MBIT, self.low / MBIT, self.high / MBIT)


class RawRates(Section):
    """Rates by kind of site (`flop`, `memory`, `net`, ...; docs/faults.md).

    Attributes:
        transient: of upsets.
        permanent: of defects; without them only soft errors are counted.
    """

    transient: dict[str, RawRate] = Field(default_factory=dict)
    permanent: dict[str, RawRate] = Field(default_factory=dict)

    def of(self, mode: Mode, kind: str, block: str) -> RawRate:
        """The rate of a mode of faults at sites of a kind; `block` is who needs it.

        Raises:
            ConfigError: the user gave none.
        """
        rates: dict[str, RawRate] = getattr(self, mode)
        if kind not in rates:
            raise ConfigError(
                f"raw rate of {block}: no {mode} rate for sites of kind {kind!r}"
                f"{nearest(kind, list(rates))}; none is built in. Give rates.{mode}.{kind} with "
                "fit_per_mbit (or fit_per_bit), low, high and source"
            )
        return rates[kind]
