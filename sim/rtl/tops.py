"""The top component of every engine and the name of its module."""

from __future__ import annotations

from typing import Any

from amaranth.lib import wiring

from bankside.isa.machines import AnyMachine
from bankside.registry import Lazy, Registry

#: Engine -> component class that is called with a machine.
TOPS: Registry[Any] = Registry("engine")
TOPS.add("pim", Lazy("bankside.hw.pim.top:PimTop"))
TOPS.add("array", Lazy("bankside.hw.array.top:ArrayTop"))
TOPS.add("npu", Lazy("bankside.hw.npu.top:NpuTop"))


def top_of(machine: AnyMachine) -> tuple[wiring.Component, str]:
    """(top component of a machine, its module name)."""
    return TOPS.get(machine.engine)(machine), f"bankside_{machine.engine}_top"
