"""The numbers of one `array` machine, derived once from its configuration.

Golden model, timing model, RTL, program checks and lowering all read them here. Ref: docs/array.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bankside.config_array import ArrayHardware

ELEMENT_BYTES = 2
#: Cycles from the issue of a word to its execution in PE(0, 0): word register, bank read, edge
#: register.
ISSUE = 3
QUOTIENT_BITS = 26


@dataclass(frozen=True)
class ArrayMachine:
    """Geometry and latencies (cycles of the clock domain `array`) of one machine."""

    config: ArrayHardware

    engine: ClassVar[str] = "array"
    clock_domain: ClassVar[str] = "array"

    @classmethod
    def of(cls, config: ArrayHardware) -> ArrayMachine:
        """Machine of a configuration."""
        return cls(config)

    # --- geometry ---
    @property
    def rows(self) -> int:
        return self.config.array.rows

    @property
    def columns(self) -> int:
        return self.config.array.columns

    @property
    def bus_elements(self) -> int:
        """n: 16-bit elements of a bus word."""
        return self.config.array.bus_bytes // ELEMENT_BYTES

    @property
    def tags(self) -> int:
        """Score registers of a PE."""
        return self.config.array.score_registers

    def words(self, elements: int) -> int:
        """Bus words that hold `elements`."""
        return -(-elements // self.bus_elements)

    @property
    def burst_elements(self) -> int:
        """Elements of a row of `Program.host_in` (one bus word)."""
        return self.bus_elements

    # --- latencies ---
    @property
    def return_cycles(self) -> int:
        """Registers between a lane and the top of its column."""
        given = self.config.array.return_cycles
        return self.rows if given is None else given

    @property
    def divider_steps(self) -> int:
        return -(-QUOTIENT_BITS // self.config.array.divider_bits)

    @property
    def maximum_latency(self) -> int:
        """Slots from a word whose lane part sets the running maximum to the first `exp` word."""
        return self.rows + self.return_cycles + 3

    @property
    def element_latency(self) -> int:
        """Slots from a word whose lane part returns an element to a word that may read it."""
        return self.rows + self.return_cycles + 4

    @property
    def divider_latency(self) -> int:
        """Slots from `rcp` to the first word that multiplies by the reciprocal."""
        return self.divider_steps + 1

    @property
    def settle(self) -> int:
        """Cycles after the last word until every effect of it has taken place."""
        return 5 + self.rows + self.columns + self.return_cycles + self.divider_steps

    @property
    def free_latency(self) -> int:
        """Cycles from a `free` word to the token that it gives to the load engine."""
        return self.rows + 2

    @property
    def clock_mhz(self) -> float:
        return float(self.config.clock_mhz)
