"""`bankside waves`: record a waveform of a window of a program."""

from __future__ import annotations

from pathlib import Path

import click

from bankside.cli_support import common_options, emit
from bankside.errors import ConfigError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.machine import Machine
from bankside.isa.machines import AnyMachine, load_machine
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.program import Program


@click.command("waves")
@click.argument("program", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--machine", default="pim_tiny_ddr4", show_default=True, metavar="NAME|FILE",
    help="Hardware preset or YAML file.",
)  # fmt: skip
@click.option("--first", default=0, show_default=True, help="First cycle.")
@click.option("--last", default=1500, show_default=True, help="Last cycle.")
@click.option(
    "--show", multiple=True, metavar="PATTERN", help="Signals to lay out, such as '*.bank0.*'."
)
@click.option("--seed", default=1, show_default=True, help="Of what is recorded without PROGRAM.")
@common_options
def command(
    program: Path | None,
    machine: str,
    first: int,
    last: int,
    show: tuple[str, ...],
    seed: int,
    as_json: bool,
    out: Path | None,
) -> None:
    """Record cycles of PROGRAM (.npz or text) on the RTL as VCD, with a GTKWave save file.

    Without PROGRAM, a random attention call (npu: network) is recorded. Files go to --out, else
    build/waves.
    """
    from bankside.cache import build_root
    from bankside.sim.waves import (
        TICKS_PER_CYCLE,
        first_tick,
        record_program,
        write_save_file,
    )

    chip = load_machine(machine)
    chosen = _random_program(chip, seed) if program is None else _read(program)
    vcd = (out or build_root() / "waves") / f"{chip.config.name}.vcd"
    result = record_program(chip, chosen, vcd, first, last)
    if show:
        write_save_file(vcd, show=show)
    view = vcd.with_suffix(".gtkw")
    data = {
        "machine": chip.config.name,
        "program": chosen.hash,
        "clock_domain": chip.clock_domain,
        "first_cycle": first,
        "last_cycle": min(last, result.cycles - 1),
        "first_tick": first_tick(vcd),
        "program_cycles": result.cycles,
        "vcd": str(vcd),
        "gtkw": str(view),
    }
    text = (
        f"{vcd}: cycles {first} to {data['last_cycle']} of {result.cycles}; cycle {first} ends at "
        f"tick {data['first_tick']}, each takes {TICKS_PER_CYCLE}\nopen: gtkwave {view}"
    )
    emit(data, as_json=as_json, text=text, out=out, name="waves")


def _read(path: Path) -> Program:
    from bankside.isa.asm import assemble
    from bankside.isa.program_file import load_program

    if path.suffix == ".npz" or not path.is_file():
        return load_program(path)
    return assemble(path.read_text(encoding="utf-8"), str(path), folder=path.parent)


def _random_program(machine: AnyMachine, seed: int) -> Program:
    """A random attention call or network that runs on a machine in its power-on state."""
    import numpy as np

    rng = np.random.default_rng(seed)
    if isinstance(machine, ArrayMachine):
        from bankside.sim.random_programs_array import attention_programs as array_programs

        return array_programs(rng, machine, "interleaved")[0]
    if isinstance(machine, NpuMachine):
        from bankside.sim.random_npu_graphs import network_program

        return network_program(rng, machine)
    return _decode_step(rng, machine, seed)


def _decode_step(rng, machine: Machine, seed: int) -> Program:
    from bankside.sim.random_programs import attention_programs

    for _ in range(100):
        programs = attention_programs(rng, machine)
        if len(programs) == 1:
            return programs[0]
    raise ConfigError(f"seed {seed} gives no single attention call; choose another seed")
