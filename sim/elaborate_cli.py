"""`bankside verilog`: export the Verilog of a hardware description."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from bankside.cache import atomic_write, build_root
from bankside.cli_support import common_options, emit
from bankside.config import HardwareConfig
from bankside.isa.machine import Machine

FORMATS = ("verilog", "json", "rtlil")
TOP = "bankside_pim_top"


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
    """Export the RTL of a hardware description: DRAM rank with its PIM units and controller."""
    from bankside.hw.lib.unit import flat_ports
    from bankside.hw.pim.top import PimTop
    from bankside.sim.elaborate import to_json, to_rtlil, to_verilog

    config = HardwareConfig.load(preset)
    top = PimTop(Machine.of(config))
    ports = {
        name: {"direction": "in" if io == "i" else "out", "bits": len(value)}
        for name, (value, io) in flat_ports(top).items()
    }
    folder = out or build_root() / "export" / config.name
    folder.mkdir(parents=True, exist_ok=True)
    suffix = {"verilog": "v", "json": "json", "rtlil": "il"}[kind]
    target = folder / f"{TOP}.{suffix}"
    if kind == "rtlil":
        atomic_write(target, to_rtlil(top, TOP))
    else:
        shutil.copyfile((to_verilog if kind == "verilog" else to_json)(top, TOP), target)
    data = {
        "preset": config.name,
        "config_hash": config.content_hash,
        "top": TOP,
        "clock_domain": "memory",
        "file": str(target),
        "lines": target.read_text().count("\n"),
        "ports": ports,
    }
    text = f"{target}: {data['lines']} lines, top module {TOP}, {len(ports) + 2} ports"
    emit(data, as_json=as_json, text=text, out=out, name="export")
