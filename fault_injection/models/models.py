"""Every fault model, by name; one file each."""

from __future__ import annotations

from bankside.fault_injection.models.base import FaultModel
from bankside.registry import Lazy, Registry

__all__ = ["FAULT_MODELS"]

_HOME = "bankside.fault_injection.models"

FAULT_MODELS: Registry[FaultModel] = Registry("fault model")
for _name in (
    "seu", "mbu", "stuck_at", "intermittent", "set_net", "sram_bit", "bus_bit", "dram_cell",
    "dram_burst", "dram_row", "dram_column", "dram_chip",
):  # fmt: skip
    FAULT_MODELS.add(_name, Lazy(f"{_HOME}.{_name}:MODEL"))
