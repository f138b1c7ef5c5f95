"""The compiled model behind the referee: ports, what is in reach, build."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from bankside.cache import cache_entry, content_hash
from bankside.errors import ConfigError
from bankside.isa.machines import AnyMachine
from bankside.sim.faults import ALARM_PORTS, TRACE_PORTS
from bankside.sim.rtl import array, npu, pim
from bankside.sim.rtl.netlist_verilog import Net, public_nets, sabotaged
from bankside.sim.rtl.state import StateMap
from bankside.sim.rtl.verilate import CXXFLAGS, build_library

__all__ = [
    "GATE",
    "INPUT",
    "NET",
    "OUTPUT",
    "STATE",
    "STORE_PLACE",
    "Ports",
    "chosen_nets",
    "referee_library",
]

_SHIM = Path(__file__).with_name("referee_shim.cpp")
# All logic is evaluated again after a write from outside: without the limit g++ gets functions of
# tens of thousands of statements (a netlist of the 4 x 4 array: over ten minutes, not finished).
_VERILATOR_FLAGS = ("--output-split-cfuncs", "500")
#: `Place` of referee.h.
STATE, STORE_PLACE, INPUT, OUTPUT, NET, GATE = range(6)


class Ports:
    """Ports of the top by their place in the shim.

    widths: bits by name, without the clock. alarms: those of protected designs.
    """

    def __init__(self, engine: str, ports: Mapping[str, Any]) -> None:
        self.widths = {n: len(p["bits"]) for n, p in ports.items() if n != "clk"}
        outputs = [n for n, p in ports.items() if p["direction"] == "output"]
        traces = TRACE_PORTS[engine]
        self.inputs = [n for n in self.widths if n not in outputs]
        self.alarms = [n for n in ALARM_PORTS if n in outputs]
        self.compared = [n for n in outputs if n not in traces and n not in self.alarms]
        self.traces = [n for n in outputs if n in traces]

    def place(self, name: str) -> tuple[int, int]:
        """(place, number) of actions on a port."""
        if name in self.inputs:
            return INPUT, self.inputs.index(name)
        return OUTPUT, [*self.compared, *self.traces, *self.alarms].index(name)

    def macros(self) -> dict[str, str]:
        """Lists of X(name, width), names as Verilator writes them."""
        lists = {"REFEREE_INPUTS": self.inputs, "REFEREE_OUTPUTS": self.compared,
                 "REFEREE_TRACES": self.traces, "REFEREE_ALARMS": self.alarms}  # fmt: skip
        return {
            key: "".join(f"X({n.replace('__', '___05F')},{self.widths[n]})" for n in names)
            for key, names in lists.items()
        }


def chosen_nets(nets: Iterable[Net], paths: Sequence[str]) -> list[Net]:
    """Those of `nets` with `paths`; ConfigError for a path of none."""
    by_path = {net.path: net for net in nets}
    for path in paths:
        if path not in by_path:
            near = get_close_matches(path, by_path, 1)
            raise ConfigError(
                f"no net {path!r}{f'; nearest: {near[0]!r}' if near else ''}; expected the output "
                f"of a combinational cell, named as in the netlist"
            )
    return [by_path[path] for path in paths]


def referee_library(
    machine: AnyMachine, name: str, state: StateMap, nets: Sequence[Net], ports: Ports,
    waves: bool = False,
) -> ctypes.CDLL:  # fmt: skip
    """The compiled model of top module `name`, all of its state in reach, and `nets`.

    Raises ToolError where a tool is missing or fails.
    """
    text = sabotaged(state.witnessed(), nets)
    with cache_entry("referee", {"verilog": content_hash({"text": text})}) as entry:
        if not entry.hit:
            (entry.path / f"{name}.v").write_text(text)
    macros = {
        "REFEREE_TOP": f"V{name}",
        "REFEREE_TOP_NAME": f'"{name}"',
        "REFEREE_HEADER": f'"V{name}.h"',
        "REFEREE_PIM": int(machine.engine == "pim"),
        "REFEREE_NPU": int(machine.engine == "npu"),
        **{"pim": pim, "array": array, "npu": npu}[machine.engine].defines(machine),
        **ports.macros(),
    }
    return build_library(
        entry.path / f"{name}.v",
        name,
        _SHIM,
        cxxflags=(*CXXFLAGS, *(f"-D{key}={value}" for key, value in macros.items())),
        verilator_flags=_VERILATOR_FLAGS,
        vlt=state.public() + public_nets(nets),
        trace=waves,
    )
