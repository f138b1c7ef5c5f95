"""The `pim` engine in agreement runs. See `bankside.sim.agree.Unit`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from bankside.isa.machine import Machine
from bankside.isa.program import Program
from bankside.sim.agree import Unit, load_config
from bankside.sim.engine import Result
from bankside.sim.random_programs import random_programs


class PimUnit(Unit):
    """Presets, each with and without refresh."""

    sets = {
        "full": ("dimm_pim_ddr4", "dimm_pim_ddr5", "pim_ddr4_gqa8", "pim_ddr5_gqa8"),
        "all": (
            "dimm_pim_ddr4",
            "dimm_pim_ddr5",
            "dimm_pim_ddr4_gqa4",
            "pim_ddr4_gqa8",
            "pim_ddr5_gqa4",
            "pim_ddr5_gqa8",
        ),
        "quick": ("pim_tiny_ddr4", "pim_tiny_ddr5"),
    }
    clock_domain = "mem"

    def machines(self, name: str) -> Iterator[Machine]:
        config = load_config(name, "pim")
        for refresh in (True, False):
            dram = config.dram.model_copy(update={"refresh": refresh})
            yield Machine.of(config.model_copy(update={"dram": dram}))

    def variant(self, machine: Machine) -> str:
        return "refresh" if machine.refresh else "plain"

    def label(self, machine: Machine) -> str:
        return f"{machine.config.name}{'' if machine.refresh else ' (no refresh)'}"

    def programs(self, rng: np.random.Generator, machine: Machine) -> Iterator[tuple[str, Program]]:
        for program in random_programs(rng, machine):
            yield "", program

    def counts(self, machine: Machine, result: Result) -> Mapping[str, int]:
        code = next(c.code for c in machine.std.commands if c.name == "REF")
        return {"refreshes": int((result.commands["code"] == code).sum())}


UNIT = PimUnit()
