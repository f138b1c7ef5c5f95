"""Who runs the faults of a campaign: lanes, referee, or what a user's function makes.

A target is plain data, so that worker processes and clusters make their own executors of it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bankside.cache import content_hash, file_hash
from bankside.errors import ConfigError, ToolError
from bankside.fault_injection.fault import Fault
from bankside.fault_injection.models.models import FAULT_MODELS
from bankside.isa.program import Program
from bankside.sim.faults import DEFAULT_LANES, Action, Site

if TYPE_CHECKING:
    from bankside.fault_injection.protect.build import Netlist
    from bankside.sim.rtl.referee import Delivered

__all__ = ["FaultExecutor", "FunctionTarget", "GoldenRun", "MachineTarget", "RefereeExecutor",
           "Target", "Task", "actions_of", "code_hash", "executor_of"]  # fmt: skip

_PACKAGE = Path(__file__).resolve().parents[1]
#: What outcomes depend on besides the design: everywhere, and where it is one of our machines.
_SOURCES = (
    "sim/faults.py", "fault_injection/fault.py", "fault_injection/sites.py",
    "fault_injection/sampling.py", "fault_injection/models",
)  # fmt: skip
_ENGINES = ("sim/lanes", "sim/rtl")


class GoldenRun(Protocol):
    """The run without faults."""

    @property
    def cycles(self) -> int: ...

    @property
    def outcome(self) -> np.void: ...


class FaultExecutor(Protocol):
    """Runs one program with faults (docs/faults.md)."""

    @property
    def sites(self) -> Mapping[str, Site]: ...

    @property
    def golden(self) -> GoldenRun: ...

    def run(self, faults: Sequence[Sequence[Action]]) -> NDArray[np.void]:
        """One row of `OUTCOME` per fault."""
        ...


class Target(Protocol):
    """A design with its program."""

    @property
    def digest(self) -> str:
        """64 hexadecimal digits of all that outcomes depend on."""
        ...

    def executor(self) -> FaultExecutor: ...

    def referee(self, nets: Sequence[str] = ()) -> FaultExecutor | None:
        """Somebody else with the same answers, who can force `nets`; None: there is nobody."""
        ...


@dataclass(frozen=True)
class _Golden:
    outcome: np.void

    @property
    def cycles(self) -> int:
        return int(self.outcome["cycles"])


class RefereeExecutor:
    """The Verilated referee as an executor.

    Args:
        design: (netlist, Verilog) of a protected design. checkpoints: from which its runs start.
        nets: that faults force.
    """

    def __init__(
        self, machine: Any, program: Program, design: tuple[Path, Path] | None = None,
        checkpoints: int = 0, nets: Sequence[str] = (), waves: bool = False,
    ) -> None:  # fmt: skip
        from bankside.sim.rtl.referee import Referee

        # Only a model with waves is asked for them: it is compiled apart.
        more = {"waves": True} if waves else {}
        self.model = Referee(machine, design=design, nets=nets, **more)
        self._program, self._checkpoints = program, checkpoints
        self.sites: Mapping[str, Site] = self.model.sites
        self.golden = _Golden(self.model.golden(program))

    def run(self, faults: Sequence[Sequence[Action]]) -> NDArray[np.void]:
        return self.model.run(self._program, faults, checkpoints=self._checkpoints)

    def delivered(
        self, faults: Sequence[Sequence[Action]]
    ) -> tuple[NDArray[np.void], list[Delivered]]:
        """As `run`, and what each fault changed in what the run delivers."""
        found: list[Delivered] = []
        rows = self.model.run(
            self._program, faults, checkpoints=self._checkpoints,
            after=lambda _: found.append(self.model.delivered()),
        )  # fmt: skip
        return rows, found


@dataclass(frozen=True, eq=False)
class MachineTarget:
    """A machine of one of our engines with a program.

    Attributes:
        nets: combinational nets can be forced. lanes: faulty machines at once.
        protection: block -> mechanisms (docs/protection.md); empty: the design as it is.
        checkpoints: of the referee.
    """

    machine: Any
    program: Program
    nets: bool = False
    lanes: int = DEFAULT_LANES
    protection: Mapping[str, Any] | None = None
    checkpoints: int = 4

    @property
    def digest(self) -> str:
        return content_hash(
            {"machine": self.machine.config.content_hash, "program": self.program.hash,
             "protection": dict(self.protection or {}), "code": code_hash(*_SOURCES, *_ENGINES)}
        )  # fmt: skip

    def protected(self) -> Netlist | None:
        """The protected design; None: it has no protection."""
        if not self.protection:
            return None
        from bankside.fault_injection.protect.build import protected
        from bankside.sim.rtl.tops import top_of

        return protected(*top_of(self.machine), self.protection)

    def covered(self) -> Mapping[str, str]:
        """Path of a register, memory or instance -> its mechanism."""
        made = self.protected()
        return made.covered if made else {}

    def executor(self) -> FaultExecutor:
        from bankside.sim.lanes.engine import LaneFaults

        made = self.protected()
        return LaneFaults(
            self.machine, self.program, netlist=made.json if made else None, lanes=self.lanes,
            nets=self.nets,
        )  # fmt: skip

    def referee(self, nets: Sequence[str] = (), *, waves: bool = False) -> RefereeExecutor:
        made = self.protected()
        design = (made.json, made.verilog) if made else None
        checkpoints = 0 if waves else self.checkpoints
        return RefereeExecutor(self.machine, self.program, design, checkpoints, nets, waves)


@dataclass(frozen=True)
class FunctionTarget:
    """A user's function `module:function` that returns (executor, referee or None).

    Attributes:
        folder: where its module is looked for first.
    """

    name: str
    folder: str

    @property
    def digest(self) -> str:
        from bankside.mapping.explore.evaluate import load_function

        file = load_function(self.name, self.folder)[1]
        code = code_hash(*_SOURCES)
        return content_hash({"function": self.name, "file": file_hash(file), "code": code})

    def _made(self) -> tuple[FaultExecutor, FaultExecutor | None]:
        from bankside.mapping.explore.evaluate import load_function

        made = load_function(self.name, self.folder)[0]()
        if not isinstance(made, tuple) or len(made) != 2:
            raise ConfigError(
                f"{self.name} returned {made!r}; expected (executor, referee or None)"
            )
        return made

    def executor(self) -> FaultExecutor:
        return self._made()[0]

    def referee(self, nets: Sequence[str] = ()) -> FaultExecutor | None:
        return self._made()[1]


@lru_cache(maxsize=4)
def code_hash(*sources: str) -> str:
    """Of what makes outcomes: those of another state of it are not reused."""
    found = [_PACKAGE / name for name in sources]
    files = (path for source in found for path in sorted((source, *source.rglob("*")))
             if path.suffix in (".py", ".c", ".h", ".cpp"))  # fmt: skip
    return content_hash({str(path.relative_to(_PACKAGE)): file_hash(path) for path in files})


def actions_of(fault: Fault, sites: Mapping[str, Site]) -> tuple[Action, ...]:
    """What a fault does. Raises ConfigError for an unknown model."""
    return FAULT_MODELS.get(fault.model).actions(fault, sites)


#: Executors of this process by the digest of their target: making one takes seconds.
_MADE: dict[str, FaultExecutor] = {}
#: A worker of a cluster may be several threads of one process; an executor is for one at a time.
_ONE = threading.RLock()


def executor_of(target: Target) -> FaultExecutor:
    """The executor of a target, made once per process."""
    digest = target.digest
    with _ONE:
        if digest not in _MADE:
            _MADE.clear()
            _MADE[digest] = target.executor()
        return _MADE[digest]


@dataclass(frozen=True)
class Task:
    """What a worker does with a batch."""

    target: Target
    digest: str

    def evaluate(self, faults: Sequence[str]) -> NDArray[np.void]:
        """Outcomes of faults, given as JSON.

        Raises:
            ToolError: this process has other files than the one that the campaign runs in.
        """
        if self.target.digest != self.digest:
            raise ToolError(
                "this worker's files are not those that the campaign was started with; give all "
                "workers the same ones and call again: what is finished is kept"
            )
        with _ONE:
            executor = executor_of(self.target)
            return executor.run([actions_of(Fault.from_json(f), executor.sites) for f in faults])
