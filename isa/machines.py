"""The engines by name: machine of a hardware description, legality of programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from bankside.config import HardwareConfig
from bankside.errors import ProgramError
from bankside.isa.program import Program
from bankside.registry import Lazy, Registry


class AnyMachine(Protocol):
    """What the machines of all engines have."""

    @property
    def config(self) -> Any: ...

    @property
    def engine(self) -> str: ...

    @property
    def burst_elements(self) -> int: ...

    @property
    def clock_mhz(self) -> float: ...


#: Engine -> class whose `of(config)` derives the numbers of a machine.
MACHINES: Registry[Any] = Registry("engine")
MACHINES.add("pim", Lazy("bankside.isa.machine:Machine"))
MACHINES.add("array", Lazy("bankside.isa.array_machine:ArrayMachine"))
MACHINES.add("npu", Lazy("bankside.isa.npu_machine:NpuMachine"))

#: Engine -> function (program, machine) that raises ProgramError at the first illegal command.
VERIFIERS: Registry[Callable[[Program, Any], None]] = Registry("engine")
VERIFIERS.add("pim", Lazy("bankside.isa.verify:verify"))
VERIFIERS.add("array", Lazy("bankside.isa.array_verify:verify"))
VERIFIERS.add("npu", Lazy("bankside.isa.npu_verify:verify"))


def machine_of(config: HardwareConfig) -> Any:
    """The machine of a hardware description. Raises ConfigError when its sizes do not fit."""
    return MACHINES.get(config.engine).of(config)


def load_machine(source: str | Path) -> Any:
    """The machine of a preset or YAML file. Raises ConfigError."""
    return machine_of(HardwareConfig.load(source))


def verify_program(program: Program, machine: AnyMachine) -> None:
    """Raise ProgramError that names the first command that is illegal on `machine`."""
    if program.engine != machine.engine:
        raise ProgramError(
            f"the program is for the engine {program.engine!r}, {machine.config.name} is a machine "
            f"of the engine {machine.engine!r}; choose another machine"
        )
    VERIFIERS.get(program.engine)(program, machine)
