"""Units for `bankside sim` whose bench files serve several of them or take a configuration."""

import json

from rank_reference import make_machine

from bankside.config import HardwareConfig
from bankside.hw.arith.recip import Reciprocal
from bankside.hw.arith.units import COMBINATIONAL
from bankside.hw.dram.checker import TimingChecker
from bankside.hw.pim.bank import Bank
from bankside.hw.pim.chip import Chip
from bankside.hw.pim.rank_unit.unit import RankUnit
from bankside.isa.dram.table import load_standard
from bankside.isa.machine import Machine
from bankside.sim.rtl.cocotb_runner import Bench

PRESET, STANDARD = "pim_tiny_ddr4", "ddr4_3200"
RANK = {"standard": STANDARD, "chips": 2, "groups": 2, "per_group": 2, "lanes": 2}
GEOMETRY = {"nhc_log2": 1, "cpt": 2, "lanes": 2}


def tiny() -> Machine:
    """The machine of `PRESET`."""
    return Machine.of(HardwareConfig.load(PRESET))


UNITS = {
    **{name: Bench(unit, "arith_comb") for name, unit in COMBINATIONAL.items()},
    "reciprocal": Bench(lambda: Reciprocal(2), "arith_reciprocal"),
    "dram_checker": Bench(
        lambda: TimingChecker(load_standard(STANDARD)), "dram_checker", {"DRAM_STANDARD": STANDARD}
    ),
    "bank": Bench(
        lambda: Bank(tiny()), "pim_bank", {"BANKSIDE_PRESET": PRESET, "BANKSIDE_FAULT": "0"}
    ),
    "chip": Bench(
        lambda: Chip(tiny()), "pim_chip", {"BANKSIDE_PRESET": PRESET, "BANKSIDE_STEPS": "800"}
    ),
    "rank_unit": Bench(
        lambda: RankUnit(make_machine(**RANK)),
        "rank_unit",
        {"RANK_MACHINE": json.dumps(RANK), "RANK_GEOMETRY": json.dumps(GEOMETRY)},
    ),
}
