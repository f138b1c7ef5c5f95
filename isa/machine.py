"""The numbers of one `pim` machine, derived once from its configuration and its DRAM standard.

Golden model, timing model, RTL, program checks and lowering all read them here. Ref: docs/pim.md
section 1.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

from bankside.config import HardwareConfig
from bankside.errors import ConfigError
from bankside.isa.dram.table import DramStandard, load_standard
from bankside.isa.spec import load_spec

# Size -> an operand that addresses all of it.
_ADDRESSED_BY = {
    "B": ("WR", "bank"), "COLS": ("WR", "col"), "ROWS": ("OPEN", "row"), "N_CMR": ("LDSB", "lane"),
    "result_buffer_words": ("WRR", "rb"), "shared_buffer_words": ("WRR", "sb"),
    "score_words": ("SFM", "score"), "probability_words": ("SFM", "prob"),
    "staging_words": ("HWR", "stage"),
}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """One rank and its rank unit. Latencies in memory-clock cycles; symbols as in docs/pim.md."""

    config: HardwareConfig
    std: DramStandard

    engine: ClassVar[str] = "pim"
    clock_domain: ClassVar[str] = "mem"

    @classmethod
    def of(cls, config: HardwareConfig) -> Machine:
        """Machine of a configuration. Raises ConfigError when buffers and geometry do not fit
        together.
        """
        dram = config.dram
        geometry = {
            "bank_groups": dram.bank_groups,
            "banks_per_group": dram.banks_per_group,
            "columns": dram.columns,
            "rows": dram.rows,
        }
        given = {k: v for k, v in geometry.items() if v is not None}
        machine = cls(
            config, load_standard(dram.standard, geometry=given, options=dict(dram.options))
        )
        if machine.banks % machine.elements:
            raise ConfigError(
                f"{config.name}: dram has {machine.banks} banks, but probabilities are sent for "
                f"{machine.elements} banks "
                f"per burst; use a multiple of {machine.elements} banks"
            )
        if machine.shared_words % machine.subbanks:
            raise ConfigError(
                f"{config.name}: pim.shared_buffer_words={machine.shared_words} must be a "
                f"multiple of {machine.subbanks}"
            )
        machine._check_addressable()
        return machine

    def _check_addressable(self) -> None:
        """Every size fits the operand that addresses it. Raises ConfigError."""
        commands, sizes = load_spec("pim").commands, self.sizes
        for key, (command, operand) in _ADDRESSED_BY.items():
            largest = commands[command].field_map[operand].maximum + 1
            if sizes[key] > largest:
                raise ConfigError(
                    f"{self.config.name}: {key} is {sizes[key]}, but operand {operand} of "
                    f"{command} reaches {largest}; lower it"
                )

    # --- geometry ---
    @property
    def chips(self) -> int:
        return self.config.dram.chips

    @functools.cached_property
    def groups(self) -> int:
        return self.std.geometry.bank_groups

    @functools.cached_property
    def banks_per_group(self) -> int:
        return self.std.geometry.banks_per_group

    @functools.cached_property
    def banks(self) -> int:
        return self.groups * self.banks_per_group

    @functools.cached_property
    def columns(self) -> int:
        return self.std.geometry.columns

    @functools.cached_property
    def rows(self) -> int:
        return self.std.geometry.rows

    @functools.cached_property
    def elements(self) -> int:
        """NE: FP16 elements per chip and column access."""
        return self.std.params["nBL"]

    @property
    def slice_bits(self) -> int:
        return 16 * self.elements

    @property
    def slots_per_burst(self) -> int:
        """S: FP32 values per chip and burst."""
        return self.elements // 2

    @property
    def subbanks(self) -> int:
        """SUB: shared-buffer words per token slot."""
        return self.banks // self.elements

    def visit(self, n: int) -> int:
        """Flat bank index of the n-th bank in visiting order (bank groups rotate)."""
        return (n % self.groups) * self.banks_per_group + n // self.groups

    @functools.cached_property
    def visiting(self) -> tuple[int, ...]:
        return tuple(self.visit(n) for n in range(self.banks))

    # --- latencies, cycles ---
    @property
    def step(self) -> int:
        return self.std.params["nBL"]

    @property
    def mac_period(self) -> int:
        """L: nCCD_L."""
        return self.std.params["nCCD_L"]

    @property
    def read_latency(self) -> int:
        """RL: RD/RDRB to the last beat of the burst at the rank unit."""
        return self.std.params["nCL"] + self.std.params["nBL"]

    @property
    def write_latency(self) -> int:
        """WL: WR/WRSB to the last beat of the burst at the chips."""
        return self.std.params["nCWL"] + self.std.params["nBL"]

    @property
    def tree_levels(self) -> int:
        return self.chips.bit_length() - 1

    @property
    def refresh(self) -> bool:
        return self.config.dram.refresh

    @property
    def refresh_interval(self) -> int:
        return self.std.params["nREFI"]

    @functools.cached_property
    def completions(self) -> dict[str, int]:
        """Command -> cycles from its engine's last action to its completion (docs/pim.md section
        4).
        """
        reduced = self.read_latency + (self.tree_levels + 1) * self.step
        return {
            "OPEN": 0,
            "CLOSE": 0,
            "REF": 0,
            "WRR": 0,
            "MAC": 3 * self.mac_period,
            "WR": self.write_latency,
            "RD": self.read_latency,
            "LDSB": self.mac_period + 1,
            "WRSBQ": self.write_latency,
            "WRSBP": self.write_latency,
            "RDRBS": reduced,
            "RDRBC": reduced,
            "SFM": 0,
            "NORM": 0,
            "HWR": 0,
            "HRD": 0,
        }

    # --- PIM sizes ---
    @property
    def lanes(self) -> int:
        return self.config.pim.query_lanes

    @property
    def shared_words(self) -> int:
        return self.config.pim.shared_buffer_words

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """Names that the command-set specification uses for limits and shared-word expressions."""
        pim = self.config.pim
        return {
            "C": self.chips,
            "B": self.banks,
            "NE": self.elements,
            "S": self.slots_per_burst,
            "SUB": self.subbanks,
            "COLS": self.columns,
            "ROWS": self.rows,
            "N_CMR": self.lanes,
            "result_buffer_words": pim.result_buffer_words,
            "shared_buffer_words": pim.shared_buffer_words,
            "score_words": pim.score_words,
            "probability_words": pim.probability_words,
            "staging_words": pim.staging_words,
            "program_words": pim.program_words,
        }

    @property
    def burst_elements(self) -> int:
        """FP16 elements of one host burst (C * NE)."""
        return self.chips * self.elements

    @property
    def clock_mhz(self) -> float:
        return 1e6 / self.std.tck_ps
