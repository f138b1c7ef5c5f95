"""`bankside verilog`: export the Verilog of a hardware description."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from bankside.cache import atomic_write, build_root
from bankside.cli_support import common_options, emit
from bankside.isa.machines import load_machine

FORMATS = ("verilog", "json", "rtlil")


@click.command("verilog")
@click.option(
    "--preset", "--hardware", "preset", default="dimm_pim_ddr4", show_default=True,
    metavar="NAME|FILE", help="Hardware preset or YAML file.",
)  # fmt: skip
@click.option(
    "--format", "kind", type=click.Choice(FORMATS), default="verilog", show_default=True,
    help="Verilog 2005, Yosys JSON netlist, or Yosys RTLIL.",
)  # fmt: skip
@common_options
def command(preset: str, kind: str, as_json: bool, out: Path | None) -> None:
    """Export the RTL of a hardware description, with everything that the machine consists of."""
    from bankside.hw.lib.unit import flat_ports
    from bankside.sim.elaborate import to_json, to_rtlil, to_verilog
    from bankside.sim.rtl.tops import top_of

    machine = load_machine(preset)
    config = machine.config
    top, name = top_of(machine)
    ports = {
        port: {"direction": "in" if io == "i" else "out", "bits": len(value)}
        for port, (value, io) in flat_ports(top).items()
    }
    folder = out or build_root() / "export" / config.name
    folder.mkdir(parents=True, exist_ok=True)
    suffix = {"verilog": "v", "json": "json", "rtlil": "il"}[kind]
    target = folder / f"{name}.{suffix}"
    if kind == "rtlil":
        atomic_write(target, to_rtlil(top, name))
    else:
        shutil.copyfile((to_verilog if kind == "verilog" else to_json)(top, name), target)
    data = {
        "preset": config.name,
        "config_hash": config.content_hash,
        "top": name,
        "clock_domain": machine.clock_domain,
        "file": str(target),
        "lines": target.read_text().count("\n"),
        "ports": ports,
    }
    text = f"{target}: {data['lines']} lines, top module {name}, {len(ports) + 2} ports"
    emit(data, as_json=as_json, text=text, out=out, name="export")
