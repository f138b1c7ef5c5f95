"""`bankside agree`: the same random legal programs on golden, timing and rtl, compared in every bit
and every cycle.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import click
import numpy as np

from bankside.cli_support import common_options, emit, finish
from bankside.config import HardwareConfig
from bankside.errors import ConfigError, ProgramError
from bankside.isa.machines import AnyMachine
from bankside.isa.program import Program
from bankside.isa.program_file import save_program
from bankside.registry import Lazy, Registry
from bankside.sim.engine import Result
from bankside.sim.executions import make_engine


class Unit(ABC):
    """What an agreement run has to know of one engine.

    Attributes:
        sets: name of a set -> machines, presets or others that `machines` knows.
        clock_domain: clock of the cycles.
    """

    sets: ClassVar[Mapping[str, tuple[str, ...]]]
    clock_domain: ClassVar[str]

    @abstractmethod
    def machines(self, name: str) -> Iterator[Any]:
        """Variants of the named machine. Raises ConfigError when it is not one of this engine."""

    @abstractmethod
    def variant(self, machine: Any) -> str:
        """Part of file names that tells variants of one name apart."""

    @abstractmethod
    def programs(self, rng: np.random.Generator, machine: Any) -> Iterator[tuple[str, Program]]:
        """Random legal programs without end, each with its kind ("": there is only one)."""

    @abstractmethod
    def counts(self, machine: Any, result: Result) -> Mapping[str, int]:
        """What else to add up, from a traced result of `rtl`."""

    def label(self, machine: Any) -> str:
        """Name of a variant for people."""
        return machine.config.name


#: Engine -> what an agreement run has to know of it.
UNITS: Registry[Unit] = Registry("engine")
UNITS.add("pim", Lazy("bankside.sim.agree_pim:UNIT"))
UNITS.add("array", Lazy("bankside.sim.agree_array:UNIT"))
UNITS.add("npu", Lazy("bankside.sim.agree_npu:UNIT"))


def load_config(name: str, engine: str) -> HardwareConfig:
    """The named description. Raises ConfigError when it is not one of `engine`."""
    config = HardwareConfig.load(name)
    if config.engine != engine:
        raise ConfigError(
            f"{name}: describes a machine of the engine {config.engine!r}; expected one of "
            f"{engine!r}, or use --unit {config.engine}"
        )
    return config


@dataclass
class Difference:
    """First difference of one program between two executions.

    refresh: of a `pim` machine. kind: `bits` or `cycles`. program_kind: as `Unit.programs` gives.
    """

    machine: str
    refresh: bool | None
    program: int
    kind: str
    detail: str
    program_kind: str = ""


@dataclass
class Agreement:
    """What an agreement run found. Mismatches count programs, not bits or cycles.

    machines: programs by variant. kinds: programs by kind. counts: what the unit adds up.
    """

    seed: int
    programs: int = 0
    bit_mismatches: int = 0
    cycle_mismatches: int = 0
    rtl_cycles: int = 0
    machines: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    clock_domain: str = "mem"

    @property
    def agreed(self) -> bool:
        return not self.bit_mismatches and not self.cycle_mismatches


def compare_bits(golden: Result, rtl: Result) -> str | None:
    """None when the outputs are equal, else the first difference."""
    if golden.outputs.shape != rtl.outputs.shape:
        return f"golden sent {golden.outputs.shape} bursts, rtl {rtl.outputs.shape}"
    different = np.argwhere(golden.outputs != rtl.outputs)
    if not len(different):
        return None
    burst, element = different[0]
    want, got = golden.outputs[burst, element], rtl.outputs[burst, element]
    return (
        f"{len(different)} elements differ, first: burst {burst} element {element}: "
        f"golden {want:#06x}, rtl {got:#06x}"
    )


def compare_cycles(timing: Result, rtl: Result) -> str | None:
    """None when every command, macro-command, counter and the total are at the same cycle, else the
    first difference.
    """
    for name in ("commands", "macros"):
        ours, theirs = getattr(timing, name), getattr(rtl, name)
        for i, (a, b) in enumerate(itertools.zip_longest(ours, theirs)):
            if a is None or b is None or a.tolist() != b.tolist():
                return f"{name}[{i}]: timing {a}, rtl {b}"
    for reason, cycles in rtl.counters.items():
        if timing.counters.get(reason) != cycles:
            return f"stall counter {reason}: timing {timing.counters.get(reason)}, rtl {cycles}"
    if timing.cycles != rtl.cycles:
        return f"total: timing {timing.cycles} cycles, rtl {rtl.cycles}"
    return None


class Trio:
    """Golden, timing and rtl execution of one machine."""

    def __init__(self, machine: AnyMachine) -> None:
        self.machine = machine
        self.golden = make_engine("golden", machine)
        self.timing = make_engine("timing", machine)
        self.rtl = make_engine("rtl", machine)

    def run(self, program: Program) -> tuple[Result, str | None, str | None]:
        """(rtl result, bit difference, cycle difference)."""
        golden, timing = self.golden.run(program), self.timing.run(program, trace=True)
        rtl = self.rtl.run(program, trace=True)
        return rtl, compare_bits(golden, rtl), compare_cycles(timing, rtl)


def machines(names: tuple[str, ...], unit: Unit | None = None) -> Iterator[Any]:
    """Every variant of every named machine of `unit` (default `pim`)."""
    for name in names:
        yield from (unit or UNITS.get("pim")).machines(name)


def agree(
    programs: int,
    seed: int,
    names: tuple[str, ...],
    *,
    unit: Unit | None = None,
    make: Callable[[AnyMachine], Trio] = Trio,
    report: Callable[[str], None] = lambda text: None,
    out: Path | None = None,
) -> Agreement:
    """Run `programs` random programs, spread over the variants of the named machines.

    unit: engine (default `pim`). make: executions of a machine. out: folder for the programs that
    differ. Executions start anew after a program that one of them refuses.
    """
    unit = unit or UNITS.get("pim")
    found = Agreement(seed, clock_domain=unit.clock_domain)
    chosen = list(machines(names, unit))
    for index, machine in enumerate(chosen):
        share = programs // len(chosen) + (index < programs % len(chosen))
        if not share:
            continue
        report(f"{unit.label(machine)}: {share} programs")
        trio = make(machine)
        rng = np.random.default_rng([seed, index])
        drawn = itertools.islice(unit.programs(rng, machine), share)
        for number, (kind, program) in enumerate(drawn):
            if kind:
                found.kinds[kind] = found.kinds.get(kind, 0) + 1
            _one(found, unit, trio, (number, kind, program), out)
        found.machines[unit.label(machine)] = share
    return found


def _one(
    found: Agreement, unit: Unit, trio: Trio, drawn: tuple[int, str, Program], out: Path | None
) -> None:
    machine, (number, program_kind, program) = trio.machine, drawn
    found.programs += 1
    try:
        rtl, bits, cycles = trio.run(program)
    except ProgramError as error:
        bits = cycles = f"refused: {error}"
        trio.rtl.reset()
        trio.golden.reset()
    else:
        found.rtl_cycles += rtl.cycles or 0
        for name, count in unit.counts(machine, rtl).items():
            found.counts[name] = found.counts.get(name, 0) + count
    refresh = getattr(machine, "refresh", None)
    for kind, detail in (("bits", bits), ("cycles", cycles)):
        if detail:
            found.differences.append(
                Difference(machine.config.name, refresh, number, kind, detail, program_kind)
            )
    found.bit_mismatches += bits is not None
    found.cycle_mismatches += cycles is not None
    if out and (bits or cycles):
        name = "-".join(filter(None, (machine.config.name, unit.variant(machine), str(number))))
        save_program(out / f"{name}.npz", program)


@click.command(name="agree")
@click.option(
    "--unit",
    type=click.Choice(list(UNITS.names())),
    default="pim",
    show_default=True,
    help="Engine to compare.",
)
@click.option(
    "--programs",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Random programs in all.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the random programs.")
@click.option(
    "--machines",
    "names",
    default="full",
    show_default=True,
    help="full, all, quick, or a comma-separated list of presets or YAML files.",
)
@common_options
def command(
    unit: str, programs: int, seed: int, names: str, as_json: bool, out: Path | None
) -> None:
    """Run random legal programs on golden, timing and rtl; every bit and every cycle must agree."""
    engine = UNITS.get(unit)
    chosen = engine.sets.get(names) or tuple(names.split(","))
    report = lambda text: click.echo(text, err=True)  # noqa: E731
    found = agree(programs, seed, chosen, unit=engine, report=report, out=out)
    data = asdict(found)
    emit(
        {"unit": unit, **data, **data.pop("counts"), "agreed": found.agreed},
        as_json=as_json,
        text=_text(found),
        out=out,
        name="agree",
    )
    finish(found.agreed)


def _text(found: Agreement) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in found.counts.items())
    ran = f"{found.programs} programs, {found.rtl_cycles} RTL cycles"
    lines = [
        f"{ran}{f' ({counts})' if counts else ''}, seed {found.seed}",
        f"bit mismatches: {found.bit_mismatches}   cycle mismatches: {found.cycle_mismatches}",
    ]
    if found.kinds:
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(found.kinds.items()))
        lines.insert(1, f"kinds of programs: {kinds}")
    for d in found.differences[:20]:
        machine = d.machine if d.refresh is None else f"{d.machine} refresh={d.refresh}"
        kind = f" ({d.program_kind})" if d.program_kind else ""
        lines.append(f"  {machine} program {d.program}{kind}: {d.detail}")
    return "\n".join(lines)
