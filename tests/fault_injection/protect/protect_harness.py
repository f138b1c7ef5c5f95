# amaranth: UnusedElaboratable=no
"""Several copies of a block in one top, each protected in its own way, under the same stimuli."""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from bankside.fault_injection.protect import Netlist, protected
from bankside.fault_injection.protect.netlist import Module as NetlistModule
from bankside.fault_injection.protect.netlist import integer
from bankside.hw.lib.unit import Unit, flat_ports
from bankside.sim.rtl.verilate import CXXFLAGS, build_library

SHIM = Path(__file__).with_name("poke_shim.cpp")
TOP = "bankside_harness"


class Harness(wiring.Component):
    """`blocks`: name of an instance -> (component, module name); instances of the same component
    get the same inputs, the bits of `stimulus` that `inputs` tells.
    """

    def __init__(self, blocks: Mapping[str, tuple[wiring.Component, str]]) -> None:
        self.blocks = dict(blocks)
        self.inputs: dict[str, dict[str, slice]] = {}
        self.outputs: dict[str, slice] = {}
        at = out = 0
        for name, (component, kind) in self.blocks.items():
            if kind not in self.inputs:
                self.inputs[kind] = {}
                for port, (value, direction) in flat_ports(component).items():
                    if direction == "i":
                        self.inputs[kind][port] = slice(at, at + len(value))
                        at += len(value)
            width = sum(len(v) for v, d in flat_ports(component).values() if d == "o")
            self.outputs[name] = slice(out, out + width)
            out += width
        super().__init__({"stimulus": In(at), "response": Out(out)})

    def elaborate(self, platform) -> Module:
        m = Module()
        responses = []
        for name, (component, kind) in self.blocks.items():
            m.submodules[name] = unit = Unit(component, kind)
            for port, (value, direction) in flat_ports(unit.component).items():
                if direction == "i":
                    m.d.comb += value.eq(self.stimulus[self.inputs[kind][port]])
                else:
                    responses.append(value)
        m.d.comb += self.response.eq(Cat(responses))
        return m


@dataclass(frozen=True)
class Site:
    """State below the harness: "register" (depth 1), "memory", or "read", the register of a clocked
    read port, named after its net; `place` is the model's number for it.
    """

    path: str
    width: int
    depth: int
    kind: str
    place: int


@dataclass(frozen=True)
class Runs:
    """Response bits [run, cycle, bit] and alarms [run, cycle]."""

    responses: NDArray[np.bool_]
    corrected: NDArray[np.bool_]
    detected: NDArray[np.bool_]


class Bench:
    """The compiled harness with the protection of `plan`."""

    def __init__(self, harness: Harness, plan: Mapping[str, object]) -> None:
        self.harness = harness
        self.netlist = protected(harness, TOP, plan)
        self.widths = len(harness.stimulus), len(harness.response)
        defines = zip(("STIMULUS_BITS", "RESPONSE_BITS"), self.widths, strict=True)
        found = [*state(self.netlist), *read_registers(self.netlist)]
        public = {f'public_flat_rw -module "{m}" -var "{v}"\n' for _, m, v, *_ in found}
        self.library = build_library(
            self.netlist.verilog,
            TOP,
            SHIM,
            shared=(),
            cxxflags=(*CXXFLAGS, *(f"-D{name}={value}" for name, value in defines)),
            vlt="".join(sorted(public)),
        )
        self.sites = {path: self._site(path, v, *rest) for path, _, v, *rest in found}

    def _site(self, path: str, variable: str, width: int, depth: int, kind: str) -> Site:
        scope = ".".join(filter(None, ["TOP", TOP, path.rpartition(".")[0]]))
        place = self.library.place_of(scope.encode(), variable.encode())
        assert place >= 0, f"{path} cannot be reached in the compiled model"
        return Site(path, width, depth, kind, place)

    def below(self, block: str) -> list[Site]:
        """Every register and memory of a block."""
        return [s for s in self.sites.values() if s.path.startswith(f"{block}.")]

    def run(
        self, stimuli: NDArray[np.bool_], faults: Sequence[Sequence[tuple[int, Site, int, int]]]
    ) -> Runs:
        """Runs with `faults`, each some (cycle, site, word, bit) of one cycle; [] is none."""
        cycles = len(stimuli)
        rows = np.zeros((len(faults), 8), "<u8")
        for row, flips in zip(rows, faults, strict=True):
            row[:2] = (flips[0][0] if flips else cycles + 1, len(flips))
            row[2 : 2 + 3 * len(flips)] = [x for _, s, w, b in flips for x in (s.place, w, b)]
        out = -(-self.widths[1] // 64)
        responses = np.zeros((len(faults), cycles, out), "<u8")
        alarms = np.zeros((len(faults), cycles), "u1")
        words = _to_words(stimuli)
        self.library.runs(_at(words), ctypes.c_uint64(cycles), _at(rows),
                          ctypes.c_uint64(len(faults)), _at(responses), _at(alarms))  # fmt: skip
        bits = np.unpackbits(responses.view("u1"), axis=2, bitorder="little")
        return Runs(bits[:, :, : self.widths[1]].astype(bool), alarms & 1 > 0, alarms & 2 > 0)


def _to_words(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    packed = np.packbits(bits, axis=1, bitorder="little")
    room = np.zeros((len(bits), 8 * -(-packed.shape[1] // 8)), "u1")
    room[:, : packed.shape[1]] = packed
    return room.view("<u8")


def _at(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def state(netlist: Netlist) -> Iterator[tuple[str, str, str, int, int, str]]:
    """(path, module, name, width, depth, kind) of every register and memory."""
    for path, module in instances(netlist):
        for name, cell in module.registers().items():
            yield f"{path}{name}", module.kind, name, len(cell["connections"]["Q"]), 1, "register"
        for name, cell in module.memories().items():
            size = (integer(cell["parameters"][key]) for key in ("WIDTH", "SIZE"))
            yield f"{path}{name}", module.kind, name, *size, "memory"


def read_registers(netlist: Netlist) -> Iterator[tuple[str, str, str, int, int, str]]:
    """The same for the registers of clocked read ports, which only the Verilog has by name."""
    text = netlist.verilog.read_text()
    for path, module in instances(netlist):
        start = text.index(f"module {module.kind}(")
        body = text[start : text.index("endmodule", start)]
        for high, variable in re.findall(r"^  reg (?:\[(\d+):0\] )?(_\d+_);$", body, re.MULTILINE):
            (name,) = re.findall(rf"^  assign (\w+) = {variable};$", body, re.MULTILINE)
            yield f"{path}{name}", module.kind, variable, int(high or 0) + 1, 1, "read"


def instances(netlist: Netlist) -> Iterator[tuple[str, NetlistModule]]:
    """(path with a dot behind it, module) of every instance, the top as ""."""
    modules = json.loads(netlist.json.read_text())["modules"]
    opened = {kind: NetlistModule(kind, data) for kind, data in modules.items()}

    def walk(kind: str, path: str) -> Iterator[tuple[str, NetlistModule]]:
        yield path, opened[kind]
        for name, cell in opened[kind].instances():
            yield from walk(cell["type"], f"{path}{name}.")

    return walk(netlist.top, "")
