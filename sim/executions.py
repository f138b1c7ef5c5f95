"""The executions of each engine, by name.

Nothing is imported before it is asked for: golden and timing need no compiler.
"""

from __future__ import annotations

from collections.abc import Callable

from bankside.isa.machine import Machine
from bankside.registry import Lazy, Registry
from bankside.sim.engine import Engine

#: Executions of the `pim` engine: classes that are called with a Machine.
PIM_EXECUTIONS: Registry[Callable[[Machine], Engine]] = Registry("execution")
PIM_EXECUTIONS.add("golden", Lazy("bankside.sim.golden.pim:PimGolden"))
PIM_EXECUTIONS.add("timing", Lazy("bankside.sim.timing.pim:PimTiming"))
PIM_EXECUTIONS.add("rtl", Lazy("bankside.sim.rtl.pim:PimRtl"))


def make_engine(name: str, machine: Machine) -> Engine:
    """The named execution of a machine. The first use of `rtl` compiles it."""
    return PIM_EXECUTIONS.get(name)(machine)
