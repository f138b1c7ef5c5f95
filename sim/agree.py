"""`bankside agree`: the same random legal programs on golden, timing and rtl, compared in every bit
and every cycle.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import numpy as np

from bankside.cli_support import common_options, emit, finish
from bankside.config import HardwareConfig
from bankside.errors import ProgramError
from bankside.isa.machine import Machine
from bankside.isa.program import Program
from bankside.isa.program_file import save_program
from bankside.sim.engine import Result
from bankside.sim.executions import make_engine
from bankside.sim.random_programs import random_programs

#: Machines of an agreement run: presets, each with and without refresh.
MACHINES = {
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


@dataclass
class Difference:
    """First difference of one program between two executions."""

    machine: str
    refresh: bool
    program: int
    kind: str
    detail: str


@dataclass
class Agreement:
    """What an agreement run found. Mismatches count programs, not bits or cycles."""

    seed: int
    programs: int = 0
    bit_mismatches: int = 0
    cycle_mismatches: int = 0
    rtl_cycles: int = 0
    refreshes: int = 0
    machines: dict[str, int] = field(default_factory=dict)
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

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.golden = make_engine("golden", machine)
        self.timing = make_engine("timing", machine)
        self.rtl = make_engine("rtl", machine)

    def run(self, program: Program) -> tuple[Result, str | None, str | None]:
        """(rtl result, bit difference, cycle difference)."""
        golden, timing = self.golden.run(program), self.timing.run(program, trace=True)
        rtl = self.rtl.run(program, trace=True)
        return rtl, compare_bits(golden, rtl), compare_cycles(timing, rtl)


def machines(names: tuple[str, ...]) -> Iterator[Machine]:
    """Every named machine, with and without refresh."""
    for name in names:
        config = HardwareConfig.load(name)
        for refresh in (True, False):
            yield Machine.of(
                config.model_copy(
                    update={"dram": config.dram.model_copy(update={"refresh": refresh})}
                )
            )


def agree(
    programs: int,
    seed: int,
    names: tuple[str, ...],
    *,
    make: Callable[[Machine], Trio] = Trio,
    report: Callable[[str], None] = lambda text: None,
    out: Path | None = None,
) -> Agreement:
    """Run `programs` random programs, spread over the machines. Stops comparing a machine's data
    after a crash of a program.
    """
    found = Agreement(seed)
    chosen = list(machines(names))
    for index, machine in enumerate(chosen):
        share = programs // len(chosen) + (index < programs % len(chosen))
        label = f"{machine.config.name}{'' if machine.refresh else ' (no refresh)'}"
        if not share:
            continue
        report(f"{label}: {share} programs")
        trio = make(machine)
        rng = np.random.default_rng([seed, index])
        for number, program in enumerate(itertools.islice(random_programs(rng, machine), share)):
            _one(found, trio, program, number, out)
        found.machines[label] = share
    return found


def _one(found: Agreement, trio: Trio, program: Program, number: int, out: Path | None) -> None:
    machine = trio.machine
    found.programs += 1
    try:
        rtl, bits, cycles = trio.run(program)
    except ProgramError as error:
        bits = cycles = f"refused: {error}"
        trio.rtl.reset()
        trio.golden.reset()
    else:
        found.rtl_cycles += rtl.cycles or 0
        code = next(c.code for c in machine.std.commands if c.name == "REF")
        found.refreshes += int((rtl.commands["code"] == code).sum())
    for kind, detail in (("bits", bits), ("cycles", cycles)):
        if detail:
            found.differences.append(
                Difference(machine.config.name, machine.refresh, number, kind, detail)
            )
    found.bit_mismatches += bits is not None
    found.cycle_mismatches += cycles is not None
    if out and (bits or cycles):
        name = f"{machine.config.name}-{'refresh' if machine.refresh else 'plain'}-{number}"
        save_program(out / f"{name}.npz", program)


@click.command(name="agree")
@click.option(
    "--unit",
    type=click.Choice(["pim"]),
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
    chosen = MACHINES.get(names) or tuple(names.split(","))
    found = agree(programs, seed, chosen, report=lambda text: click.echo(text, err=True), out=out)
    emit(
        {"unit": unit, **asdict(found), "agreed": found.agreed},
        as_json=as_json,
        text=_text(found),
        out=out,
        name="agree",
    )
    finish(found.agreed)


def _text(found: Agreement) -> str:
    ran = f"{found.programs} programs, {found.rtl_cycles} RTL cycles"
    lines = [
        f"{ran} ({found.refreshes} refreshes), seed {found.seed}",
        f"bit mismatches: {found.bit_mismatches}   cycle mismatches: {found.cycle_mismatches}",
    ]
    lines += [
        f"  {d.machine} refresh={d.refresh} program {d.program}: {d.detail}"
        for d in found.differences[:20]
    ]
    return "\n".join(lines)
