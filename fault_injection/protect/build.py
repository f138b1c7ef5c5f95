"""Design and plan -> protected design, as Verilog and as JSON, cached by content."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bankside.cache import cache_entry, content_hash, file_hash
from bankside.fault_injection.protect.netlist import FLOPS, Module, integer
from bankside.fault_injection.protect.plan import Plan, Use, read_plan
from bankside.fault_injection.protect.rebuild import rebuild
from bankside.fault_injection.yosys import run_script, yosys_version
from bankside.sim.elaborate import _plain_names, _with_zero_loops, to_json

__all__ = ["Netlist", "protected"]


@dataclass(frozen=True)
class Netlist:
    """A protected design.

    Attributes:
        top: name of its top module, that of the design without protection.
        json: word-level netlist, for the lane engine, sites and area.
        verilog: the same for simulators; module and register names are those of `json`.
        renamed: path of a register -> its path now, for registers that are output ports of their
            module and had to leave the port's name to the voter.
        added: paths of the registers, memories and instances that protection has brought.
        covered: path of a register, memory or instance -> mechanism. What a block under `dwc`,
            `abft`, `dcls` or `hardened` holds is not listed one by one.
        plan: what was asked for.
    """

    top: str
    json: Path
    verilog: Path
    plan: Plan
    renamed: Mapping[str, str] = field(default_factory=dict)
    added: tuple[str, ...] = ()
    covered: Mapping[str, str] = field(default_factory=dict)

    def site(self, path: str) -> str:
        """Path that a register or memory of the unprotected design has here."""
        return self.renamed.get(path, path)


def protected(design: Any, top: str, plan: Mapping[str, Any], *, cache: bool = True) -> Netlist:
    """Build the protection of `plan` into a design.

    Args:
        design: an Amaranth component, or the file of its netlist by `to_json`.
        top: name of its top module.
        plan: block path -> mechanisms, see `read_plan`.
        cache: False: build again.

    The result has two more output ports, `corrected` and `detected`: combinational, high in every
    cycle in which a check fails.

    Raises:
        ConfigError: the plan does not fit the design.
        ToolError: Yosys failed.
    """
    source = design if isinstance(design, Path) else to_json(design, top)
    uses = read_plan(plan)
    shown = {block: [use.key() for use in found] for block, found in uses.items()}
    key = {
        "netlist": file_hash(source),
        "top": top,
        "plan": shown,
        "code": _code_hash(),
        "pyosys": yosys_version(),
    }
    with cache_entry("protected" if cache else "protected-again", key) as entry:
        if not entry.hit:
            _make(json.loads(source.read_text()), top, uses, entry.path)
    report = json.loads((entry.path / "report.json").read_text())
    return Netlist(
        top,
        entry.path / f"{top}.json",
        entry.path / f"{top}.v",
        uses,
        report["renamed"],
        tuple(report["added"]),
        report["covered"],
    )


def _code_hash() -> str:
    files = sorted([*Path(__file__).parent.glob("*.py"), Path(__file__).parents[1] / "yosys.py"])
    return content_hash({path.name: file_hash(path) for path in files})


def _make(design: dict[str, Any], top: str, plan: dict[str, tuple[Use, ...]], folder: Path) -> None:
    report = rebuild(design, top, plan)
    netlist = folder / f"{top}.json"
    netlist.write_text(json.dumps(design))
    write_verilog(design, top, folder / f"{top}.v")
    (folder / "report.json").write_text(json.dumps(report))


def write_verilog(design: dict[str, Any], top: str, output: Path) -> None:
    """Verilog of a JSON netlist, written as `to_verilog` does it. `design` is not changed."""
    source = output.with_suffix(".source.json")
    modules = copy.deepcopy(design["modules"])
    zeroed = {(name, memory) for name, data in modules.items() for memory in _without_zeros(data)}
    for name, data in modules.items():
        _registers_apart(Module(name, data))
    source.write_text(json.dumps({**design, "modules": modules}))
    commands = [
        f"read_json {source}",
        f"hierarchy -check -top {top}",
        f"write_verilog -noattr -norename {output}",
    ]
    run_script(commands, f"write the Verilog of {top!r}", [output])
    source.unlink()
    output.write_text(_plain_names(_with_zero_loops(output.read_text(), zeroed)))


def _without_zeros(data: dict[str, Any]) -> Iterator[str]:
    """Drop all-zero contents of memories, one line of text per word, and yield their names."""
    for cell in data["cells"].values():
        parameters = cell["parameters"]
        if cell["type"] == "$mem_v2" and "1" not in parameters["INIT"]:
            parameters["INIT"] = "x" * len(parameters["INIT"])
            yield parameters["MEMID"].removeprefix("\\")


def _registers_apart(module: Module) -> None:
    """Let a register that is several output ports, or a part of one, keep a name of its own.

    Yosys takes the name of a net from the first port that has it, then from other nets.
    """
    shared = {bit for port in module.ports.values() for bit in port["bits"]}
    first: dict[str, Any] = {}
    for cell, key, span in list(_held(module)):
        bits = cell["connections"][key][span]
        name = module.name(bits)
        ports = [other for other in module.names(bits) if other in module.ports]
        first |= {port: module.ports[port] for port in ports[:1]}
        if name is None or ports or shared.isdisjoint(bits):
            continue
        initial = module.initial(bits)
        module.forget_initial(bits)
        module.release(name)
        own = module.wire(len(bits), name, None if set(initial) == {"x"} else initial)
        cell["connections"][key][span] = own
        sizes = {"A_SIGNED": 0, "A_WIDTH": len(bits), "Y_WIDTH": len(bits)}
        module.cell("$pos", {"A": own, "Y": bits}, sizes)
    module.data["ports"] = {**first, **module.ports}


def _held(module: Module) -> Iterator[tuple[dict[str, Any], str, slice]]:
    """(cell, connection, bits of it) of every register, those of clocked read ports included."""
    for cell in module.cells.values():
        if cell["type"] in FLOPS:
            yield cell, "Q", slice(None)
        elif cell["type"] == "$mem_v2":
            width = integer(cell["parameters"]["WIDTH"])
            for port, clocked in enumerate(reversed(cell["parameters"]["RD_CLK_ENABLE"])):
                if clocked == "1":
                    yield cell, "RD_DATA", slice(port * width, (port + 1) * width)
