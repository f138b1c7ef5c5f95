"""Verilog of a word-level netlist, cell by cell: each output of a cell is a line of its own.

`to_verilog` of the component is faster to simulate; here nets are those of the netlist, so that a
fault on one of them has the same readers.
"""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bankside.cache import cache_entry, file_hash
from bankside.errors import ToolError
from bankside.sim.elaborate import _plain_names
from bankside.sim.lanes.flatten import name_of
from bankside.sim.rtl.state import FLOPS, plain, plain_field
from bankside.sim.rtl.tools import run_tool

__all__ = ["SABOTEUR", "Net", "find_nets", "netlist_verilog", "public_nets", "sabotaged"]

#: Kinds of registers in front of a net (`Net.register`).
SABOTEUR = ("flip", "clear", "set")

_RUN = "import sys; from pyosys import libyosys as y; y.Design().run_pass('script ' + sys.argv[1])"


class Net(NamedTuple):
    """The output of a combinational cell.

    path: of the site. scope: instance path. module, variable: where it is and what
    `netlist_verilog` calls it there. number: in its module.
    """

    path: str
    scope: str
    module: str
    variable: str
    width: int
    number: int

    def register(self, kind: str) -> str:
        """Name of the register with the bits that are to be inverted (`flip`), 0 (`clear`) or 1
        (`set`, over `clear`).
        """
        return f"bankside_{kind}_{self.number}"


def netlist_verilog(netlist: Path, top: str) -> Path:
    """File with the Verilog of a netlist of `to_json`, for Verilator, whose memories begin at zero.

    Raises ToolError when Yosys fails.
    """
    key = {"netlist": file_hash(netlist), "code": file_hash(Path(__file__))}
    with cache_entry("netlist-verilog", key) as entry:
        if not entry.hit:
            source, output = entry.path / "source.json", entry.path / f"{top}.v"
            design = json.loads(netlist.read_text())
            for module in design["modules"].values():
                _Apart(module)
            source.write_text(json.dumps(design))
            steps = (
                f"read_json {source}",
                f"hierarchy -check -top {top}",
                f"write_verilog -noattr -norename {output}",
            )
            script = entry.path / "script.ys"
            script.write_text("\n".join(steps) + "\n")
            run_tool([sys.executable, "-c", _RUN, script], f"write the Verilog of {top}")
            output.write_text(_plain_names(output.read_text()))
            source.unlink()
            script.unlink()
    return entry.path / f"{top}.v"


class _Apart:
    """Changes the JSON of a module so that each output of a cell is one net with one name, which
    Yosys then writes as a whole: other names of its bits go, output ports get bits of their own.
    """

    def __init__(self, module: dict[str, Any]) -> None:
        self.module, self.nets, self.ports = module, module["netnames"], module["ports"]
        self.names = _names(module)
        self.initial: dict[Any, str] = {}
        for net in self.nets.values():
            if "init" in net["attributes"]:
                values = reversed(net["attributes"]["init"])
                self.initial.update(zip(net["bits"], values, strict=False))
        self.next = 1 + max(
            (bit for net in self.nets.values() for bit in net["bits"] if isinstance(bit, int)),
            default=1,
        )
        outputs = [bits for cell in module["cells"].values() for bits in _outputs(cell)]
        kept = dict(self._named(number, bits) for number, bits in enumerate(outputs))
        self.chosen = {tuple(net["bits"]): name for name, net in kept.items()}
        inputs = {n: self.nets[n] for n, p in self.ports.items() if p["direction"] != "output"}
        module["netnames"] = {**inputs, **kept}
        for port in self.ports.values():
            if port["direction"] == "output":
                self._port(port)
        for cell in module["cells"].values():
            parameters = cell["parameters"]
            # Memories begin at zero anyway; Yosys writes a line of text per word.
            if cell["type"] == "$mem_v2" and "1" not in parameters["INIT"]:
                parameters["INIT"] = "x" * len(parameters["INIT"])

    def _named(self, number: int, bits: Sequence[Any]) -> tuple[str, dict[str, Any]]:
        found = [n for n in self.names.get(tuple(bits), ()) if n not in self.ports]
        name = name_of(bits, {tuple(bits): found}) or next(iter(found), f"bankside_net_{number}")
        attributes = {}
        initial = "".join(self.initial.get(bit, "x") for bit in reversed(bits))
        if set(initial) != {"x"}:
            attributes["init"] = initial
        return name, {"hide_name": 0, "bits": list(bits), "attributes": attributes}

    def _port(self, port: dict[str, Any]) -> None:
        """A port of its own bits, behind a buffer."""
        inner, width = port["bits"], len(port["bits"])
        port["bits"] = list(range(self.next, self.next + width))
        self.next += width
        self.module["cells"][f"bankside_port_{self.next}"] = {
            "hide_name": 1,
            "type": "$buf",
            "parameters": {"WIDTH": format(width, "032b")},
            "attributes": {},
            "port_directions": {"A": "input", "Y": "output"},
            "connections": {"A": inner, "Y": port["bits"]},
        }


def _names(module: Mapping[str, Any]) -> dict[tuple[Any, ...], list[str]]:
    names: dict[tuple[Any, ...], list[str]] = {}
    for name, net in module["netnames"].items():
        names.setdefault(tuple(net["bits"]), []).append(name)
    return names


def _outputs(cell: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Bits of each output of a cell, of memories each read port apart."""
    for port, bits in cell["connections"].items():
        if cell["port_directions"][port] != "output":
            continue
        width = int(cell["parameters"]["WIDTH"], 2) if port == "RD_DATA" else len(bits)
        for low in range(0, len(bits), width):
            yield bits[low : low + width]


def find_nets(modules: Mapping[str, Any], top: str) -> list[Net]:
    """Every output of a combinational cell or of a read port without a clock, of every instance."""
    found = {name: list(_of_module(name, module)) for name, module in modules.items()}
    return list(_below(modules, found, top, ""))


def _below(
    modules: Mapping[str, Any], found: Mapping[str, list[Net]], module: str, scope: str
) -> Iterator[Net]:
    for net in found[module]:
        yield net._replace(path=f"{scope}.{net.path}" if scope else net.path, scope=scope)
    for cell, c in modules[module]["cells"].items():
        if c["type"] in modules:
            yield from _below(modules, found, c["type"], f"{scope}.{cell}" if scope else cell)


def _of_module(name: str, module: Mapping[str, Any]) -> Iterator[Net]:
    """Nets of one module; paths are names in it."""
    names, chosen = _names(module), _Apart(copy.deepcopy(dict(module))).chosen
    outputs = (found for cell, c in module["cells"].items() for found in _combinational(cell, c))
    for number, (unnamed, bits) in enumerate(outputs):
        variable = plain_field(plain(chosen[tuple(bits)]))
        yield Net(name_of(bits, names) or unnamed, "", name, variable, len(bits), number)


def _combinational(cell: str, c: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """(name where no net has one, bits) of each output of a cell without a clock."""
    if c["type"] == "$mem_v2":
        clocked = int(c["parameters"]["RD_CLK_ENABLE"].replace("x", "0"), 2)
        for port, bits in enumerate(_outputs(c)):
            if not clocked >> port & 1:
                yield f"{cell}.read{port}", bits
    elif c["type"].startswith("$") and c["type"] not in FLOPS and "Y" in c["connections"]:
        yield f"{cell}.Y", c["connections"]["Y"]


def sabotaged(verilog: str, nets: Iterable[Net]) -> str:
    """`verilog` with the registers of `Net.register` in front of each of `nets`.

    Raises ToolError for a net that has no line of its own, by its path.
    """
    done = set()
    for net in nets:
        if (net.module, net.number) in done:
            continue
        done.add((net.module, net.number))
        start = re.search(rf"^module \\?{re.escape(net.module)} ?\(", verilog, re.MULTILINE)
        end = verilog.index("endmodule", start.end()) if start else 0
        found = start and _driver(net, verilog, start.end(), end)
        if not found:
            raise ToolError(
                f"net {net.path!r} cannot be forced on the Verilated RTL: nothing drives it as a "
                f"whole; choose the register or net that it is a part of"
            )
        verilog = verilog[: found.start()] + _saboteur(net, found) + verilog[found.end() :]
    return verilog


def public_nets(nets: Iterable[Net]) -> str:
    """Verilator configuration that makes the registers in front of `nets` writable."""
    names = sorted({(net.module, net.register(kind)) for net in nets for kind in SABOTEUR})
    return "".join(f'public_flat_rw -module "{m}" -var "{name}"\n' for m, name in names)


def _driver(net: Net, verilog: str, start: int, end: int) -> re.Match[str] | None:
    """The line that drives a net."""
    name = re.escape(net.variable)
    line = re.compile(rf"^  assign (\\{name} |{name}) *= (.*);$", re.MULTILINE)
    return line.search(verilog, start, end)


def _saboteur(net: Net, driver: re.Match[str]) -> str:
    free, span = f"bankside_free_{net.number}", f"[{net.width - 1}:0]"
    flip, clear, put = (net.register(kind) for kind in SABOTEUR)
    registers = "".join(f"  reg {span} {name} = 0;\n" for name in (flip, clear, put))
    return (
        f"{registers}  wire {span} {free};\n  assign {free} = {driver[2]};\n"
        f"  assign {driver[1]} = (({free} ^ {flip}) & ~{clear}) | {put};"
    )
