"""Where the registers and memories of a netlist are in the Verilog of the same component.

Both come from one RTLIL text. The netlist (`to_json`) names a register by a net of its output; the
Verilog (`to_verilog`) declares one of the nets with the same bits as `reg`, or a register of its
own that is assigned to one of them (data of memories).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from bankside.errors import ToolError
from bankside.sim.lanes.flatten import name_of

__all__ = ["FLOPS", "StateMap", "StateVariable", "plain", "plain_field"]

_MODULE = re.compile(r"^module (\\\S+|\w+)\s*\(.*?^endmodule", re.MULTILINE | re.DOTALL)
_NAME = r"(\\\S+ |[A-Za-z_]\w*)"
_CLOCKED = re.compile(rf"^ +{_NAME}(?:\[[\d:]+\])? *<= ", re.MULTILINE)
_MEMORY = re.compile(rf"^  reg (?:signed )?(?:\[\d+:0\] )?{_NAME} ?\[\d+:0\];", re.MULTILINE)
_ASSIGN = re.compile(rf"^  assign {_NAME} *= {_NAME} *;", re.MULTILINE)
# What bits are assigned from without logic: names, parts of them, several of these in braces.
_TERM = re.compile(rf"{_NAME} *(?:\[(\d+)(?::(\d+))?\])?")
_PART = r"(?:\\\S+ |[A-Za-z_]\w*) *(?:\[[\d:]+\])?"
_SIDE = rf"({_PART}|\{{ ?{_PART}(?: ?, {_PART})* ?\}}) *"
_WIRED = re.compile(rf"^  assign {_SIDE}= {_SIDE};", re.MULTILINE)
_DECLARED = re.compile(
    rf"^  (?:input|output|wire|reg) (?:signed )?(?:\[(\d+):0\] )?{_NAME} *(?:= [^;]*)?;",
    re.MULTILINE,
)

#: Cells that keep their output Q.
FLOPS = ("$dff", "$dffe", "$sdff", "$sdffe", "$sdffce", "$adff", "$adffe", "$dlatch")
_PARAMETERS = ("WIDTH", "SIZE", "RD_PORTS", "WR_PORTS", "RD_CLK_ENABLE")


@dataclass(frozen=True)
class StateVariable:
    """Bits that the design keeps.

    kind: `flop` or `memory`. path: below the top, instances joined by dots (docs/faults.md).
    scope, variable: instance path and name in the Verilog. width: bits of a word; depth: words.
    number: in its module. falling: a register of the falling edge.
    """

    kind: str
    path: str
    scope: str
    variable: str
    width: int
    depth: int = 1
    number: int = 0
    falling: bool = False

    @property
    def witness(self) -> str:
        """Name of the wire that reads it (`StateMap.witnessed`)."""
        return f"bankside_seen_{self.number}"

    @property
    def select(self) -> str:
        """Name of the register that selects the word of a memory that the witness reads."""
        return f"bankside_at_{self.number}"


class StateMap:
    """State of a component, by the netlist `netlist` and the Verilog `verilog` of it.

    Raises ToolError for a register or memory that the Verilog does not have, by name.
    """

    def __init__(self, netlist: Path, verilog: Path) -> None:
        self.modules = json.loads(netlist.read_text())["modules"]
        self._text = verilog.read_text()
        bodies = {plain(m[1]): m[0] for m in _MODULE.finditer(self._text)}
        self._found = {n: list(_of_module(n, m, bodies[n])) for n, m in self.modules.items()}
        (self.top,) = (
            n for n, m in self.modules.items() if int(str(m["attributes"].get("top", "0")), 2)
        )

    def variables(self) -> list[StateVariable]:
        """Every register and every memory that is written, of every instance."""
        return list(self._below(self.top, ""))

    def _below(self, module: str, path: str) -> Iterator[StateVariable]:
        for v in self._found[module]:
            yield replace(v, path=f"{path}.{v.path}" if path else v.path, scope=path)
        for cell, c in self.modules[module]["cells"].items():
            if c["type"] in self.modules:
                yield from self._below(c["type"], f"{path}.{cell}" if path else cell)

    def public(self) -> str:
        """Verilator configuration that makes the state writable and its witnesses readable."""
        lines = []
        for module, variables in self._found.items():
            for v in variables:
                names = [("rw", v.variable), ("rd", v.witness)]
                if v.kind == "memory":
                    names.append(("rw", v.select))
                lines += [f'public_flat_{r} -module "{module}" -var "{n}"' for r, n in names]
        return "\n".join(lines) + "\n"

    def witnessed(self) -> str:
        """The Verilog with a reader of every register (its bits inverted) and of every memory (the
        inverted word that a register of its own selects): they show whether readers follow a write
        from outside.
        """
        parts, at = [], 0
        for match in _MODULE.finditer(self._text):
            end = match.end() - len("endmodule")
            parts.append(self._text[at:end])
            parts += [line for v in self._found[plain(match[1])] for line in _witness(v)]
            at = end
        return "".join([*parts, self._text[at:]])


def _witness(v: StateVariable) -> Iterator[str]:
    if v.kind == "memory":
        yield f"  reg [31:0] {v.select} = 0;\n"
        yield f"  wire [{v.width - 1}:0] {v.witness} = ~\\{v.variable} [{v.select}];\n"
    else:
        yield f"  wire [{v.width - 1}:0] {v.witness} = ~\\{v.variable} ;\n"


def _of_module(name: str, module: Mapping[str, Any], body: str) -> Iterator[StateVariable]:
    """State of one module; paths are names in it."""
    nets = _nets(module)
    declared = _Declared.of(body)
    inverted = {
        bit for c in module["cells"].values() if c["type"] in ("$not", "$logic_not")
        for bit in c["connections"]["Y"]
    }  # fmt: skip
    found = []
    for cell, c in module["cells"].items():
        if c["type"] in FLOPS:
            register = declared.register(name, nets, c["connections"]["Q"], f"{cell}.Q")
            found.append(replace(register, falling=_falls(c, inverted)))
        elif c["type"] == "$mem_v2":
            found += _memory(name, nets, declared, cell, c)
    yield from (replace(v, number=number) for number, v in enumerate(found))


def _falls(cell: Mapping[str, Any], inverted: set[Any]) -> bool:
    if "CLK" not in cell["connections"]:
        return False
    (clock,) = cell["connections"]["CLK"]
    return (_number(cell["parameters"]["CLK_POLARITY"]) == 0) != (clock in inverted)


def _memory(
    module: str,
    nets: Mapping[tuple[Any, ...], list[str]],
    declared: _Declared,
    cell: str,
    c: Mapping[str, Any],
) -> Iterator[StateVariable]:
    """A memory, unless it is a table, and the data registers of its clocked read ports."""
    p = {key: _number(c["parameters"][key]) for key in _PARAMETERS}
    width = p["WIDTH"]
    if p["WR_PORTS"]:
        variable = next((n for n in (cell, plain_field(cell)) if n in declared.memories), None)
        if variable is None:
            raise ToolError(_missing(module, "memory", cell))
        yield StateVariable("memory", cell, "", variable, width, p["SIZE"])
    for port in range(p["RD_PORTS"]):
        if p["RD_CLK_ENABLE"] >> port & 1:
            bits = c["connections"]["RD_DATA"][port * width : (port + 1) * width]
            yield declared.register(module, nets, bits, f"{cell}.read{port}")


@dataclass
class _Declared:
    """Names in the Verilog of a module: what clocked blocks assign, memories, `assign x = y`."""

    clocked: set[str]
    memories: set[str]
    sources: dict[str, str]
    body: str

    @classmethod
    def of(cls, body: str) -> _Declared:
        return cls(
            {plain(n) for n in _CLOCKED.findall(body)},
            {plain(n) for n in _MEMORY.findall(body)},
            {plain(to): plain(of) for to, of in _ASSIGN.findall(body)},
            body,
        )

    def register(
        self,
        module: str,
        nets: Mapping[tuple[Any, ...], list[str]],
        bits: Sequence[Any],
        unnamed: str,
    ) -> StateVariable:
        """The register whose output is `bits`; `unnamed` is its name where no net has one."""
        path = name_of(bits, nets) or unnamed
        named = [plain_field(plain(n)) for n in nets.get(tuple(bits), [])]
        found = [v for net in named for v in (net, self.sources.get(net)) if v in self.clocked]
        found = found or [v for net in named if (v := self._behind(net, len(bits)))]
        if not found:
            raise ToolError(_missing(module, "register", path))
        return StateVariable("flop", path, "", found[0] or "", len(bits))

    def _behind(self, net: str, width: int) -> str | None:
        """The register whose bits, in order, those of `net` are assigned from in the end."""
        last = None
        for bit in range(width):
            at = net, bit
            for _ in range(len(self.bits)):
                if at not in self.bits or at[0] in self.clocked:
                    break
                at = self.bits[at]
            if at[1] != bit or last not in (None, at[0]):
                return None
            last = at[0]
        return last if last in self.clocked and self.widths[last] == width else None

    @cached_property
    def widths(self) -> dict[str, int]:
        """Bits of every wire and register that is no memory."""
        found = _DECLARED.finditer(self.body)
        return {plain(m[2]): int(m[1] or 0) + 1 for m in found}

    @cached_property
    def bits(self) -> dict[tuple[str, int], tuple[str, int]]:
        """Bit -> the bit that it is assigned from, of assignments without logic."""
        found: dict[tuple[str, int], tuple[str, int]] = {}
        for to, of in _WIRED.findall(self.body):
            found |= zip(self._spread(to), self._spread(of), strict=False)
        return found

    def _spread(self, text: str) -> list[tuple[str, int]]:
        """Bits of a name, a part of it, or several in braces; the lowest one first."""
        found: list[tuple[str, int]] = []
        for name, high, low in reversed(_TERM.findall(text)):
            top = int(high) if high else self.widths.get(plain(name), 1) - 1
            least = int(low or high or 0)
            found += ((plain(name), bit) for bit in range(least, top + 1))
        return found


def _missing(module: str, kind: str, name: str) -> str:
    return (
        f"the Verilog of {module} has no {kind} for {name!r} of its netlist; expected both to come "
        f"from one component: remove build/ and try again, then report this"
    )


def _nets(module: Mapping[str, Any]) -> dict[tuple[Any, ...], list[str]]:
    nets: dict[tuple[Any, ...], list[str]] = {}
    for name, net in module["netnames"].items():
        nets.setdefault(tuple(net["bits"]), []).append(name)
    return nets


def plain_field(name: str) -> str:
    """A net as `to_verilog` writes it: fields of structures with underscores."""
    head, dot, tail = name.partition(".")
    return f"{head}__{tail}" if dot and tail.isidentifier() and head.isidentifier() else name


def plain(identifier: str) -> str:
    """A name of Verilog or of the netlist without its escape."""
    return identifier.strip().removeprefix("\\")


def _number(text: str) -> int:
    return int(text.replace("x", "0"), 2)
