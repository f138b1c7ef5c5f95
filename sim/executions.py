"""The executions of each engine, by name.

Nothing is imported before it is asked for: golden and timing need no compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bankside.isa.machines import AnyMachine
from bankside.registry import Lazy, Registry
from bankside.sim.engine import Engine

Executions = Registry[Callable[[Any], Engine]]
#: Executions of the `pim` engine: classes that are called with a Machine.
PIM_EXECUTIONS: Executions = Registry("execution")
PIM_EXECUTIONS.add("golden", Lazy("bankside.sim.golden.pim:PimGolden"))
PIM_EXECUTIONS.add("timing", Lazy("bankside.sim.timing.pim:PimTiming"))
PIM_EXECUTIONS.add("rtl", Lazy("bankside.sim.rtl.pim:PimRtl"))

#: Executions of the `array` engine: classes that are called with an ArrayMachine.
ARRAY_EXECUTIONS: Executions = Registry("execution")
ARRAY_EXECUTIONS.add("golden", Lazy("bankside.sim.golden.array:ArrayGolden"))
ARRAY_EXECUTIONS.add("timing", Lazy("bankside.sim.timing.array:ArrayTiming"))
ARRAY_EXECUTIONS.add("rtl", Lazy("bankside.sim.rtl.array:ArrayRtl"))

#: Executions of the `npu` engine: classes that are called with an NpuMachine.
NPU_EXECUTIONS: Executions = Registry("execution")
NPU_EXECUTIONS.add("golden", Lazy("bankside.sim.golden.npu:NpuGolden"))
NPU_EXECUTIONS.add("timing", Lazy("bankside.sim.timing.npu:NpuTiming"))
NPU_EXECUTIONS.add("rtl", Lazy("bankside.sim.rtl.npu:NpuRtl"))

#: Engine -> its executions.
EXECUTIONS: Registry[Executions] = Registry("engine")
EXECUTIONS.add("pim", PIM_EXECUTIONS)
EXECUTIONS.add("array", ARRAY_EXECUTIONS)
EXECUTIONS.add("npu", NPU_EXECUTIONS)


def make_engine(name: str, machine: AnyMachine) -> Engine:
    """The named execution of a machine. The first use of `rtl` compiles it."""
    return EXECUTIONS.get(machine.engine).get(name)(machine)
