"""Area of a design and of its protection: cells counted after technology mapping by Yosys and ABC.

Without a cell library the unit is the gate equivalent, a two-input NAND of 4 transistors, with the
transistor counts of `GATES`. It is the area of cells: wires, clock tree, buffers for timing, test
logic and the periphery of memories are not in it. Modules are mapped one by one and keep their
borders. Inside one, ABC merges equal logic, as any synthesis does; registers are never merged.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bankside.cache import cache_entry, file_hash
from bankside.errors import ConfigError, ToolError
from bankside.fault_injection.protect.build import Netlist, protected
from bankside.fault_injection.protect.netlist import FLOPS, Module, integer
from bankside.fault_injection.protect.plan import Plan
from bankside.fault_injection.yosys import run_script, yosys_version

__all__ = [
    "GATES",
    "Area",
    "BlockArea",
    "Cells",
    "Technology",
    "area_of",
    "block_areas",
    "candidate_areas",
]

#: Transistors of Yosys' gates in static CMOS.
#: Ref: `stat -tech cmos` of Yosys 0.70; a test counts one of each.
GATES = {"NOT": 2, "NAND": 4, "NOR": 4, "AND": 6, "OR": 6, "ANDNOT": 6, "ORNOT": 6, "XOR": 12,
         "XNOR": 12, "MUX": 12, "NMUX": 10, "AOI3": 6, "OAI3": 6, "AOI4": 8, "OAI4": 8}  # fmt: skip
_NAND = 4
_MAP = ("memory_map -rom-only", "opt_clean", "techmap", "simplemap", "opt_expr", "opt_clean")
#: What Yosys gives ABC, but the search for equal logic ends after so many conflicts: without an end
#: it takes minutes for a multiplier (84 s of CPU time for two of 26 x 26 and 42 x 18 bits and what
#: is around them, now 2 s, for an area that is 0.2 % less).
_ABC = ("strash", "&get -n", "&fraig -x -C 100", "&put", "scorr", "dc2", "dretime", "strash",
        "&get -n", "&dch -f", "&nf", "&put")  # fmt: skip
#: Modules that are mapped at once.
_JOBS = 2
_FLOP = re.compile(r"\$_(DFF|DFFE|SDFF|SDFFE|SDFFCE|ALDFF|ALDFFE|DLATCH)_\w+_")


@dataclass(frozen=True)
class Technology:
    """What cells cost.

    Attributes:
        flop: gate equivalents of a flip-flop or latch, by default 16 transistors.
        memory_bit: of a memory bit: gate equivalents, by default the 6 transistors of an SRAM
            cell; or units of the library. Compiled SRAM is denser than its transistor count says:
            give the figure of your memories where they matter.
        liberty: cell library; areas are then in its unit and `flop` is not used.
    """

    flop: float = 16 / _NAND
    memory_bit: float | None = None
    liberty: Path | None = None

    @property
    def unit(self) -> str:
        return "GE" if self.liberty is None else self.liberty.stem

    def bit(self) -> float:
        """Area of a memory bit; `ConfigError` where only the user can know it."""
        if self.memory_bit is not None:
            return self.memory_bit
        if self.liberty is None:
            return 6 / _NAND
        raise ConfigError(
            f"{self.liberty.name} says nothing about memories; give memory_bit, the area of one "
            f"bit in the unit of the library"
        )


@dataclass(frozen=True)
class Cells:
    """Area by kind of cell; `flop_bits` and `memory_bits` are counts."""

    logic: float = 0.0
    flops: float = 0.0
    memory: float = 0.0
    flop_bits: int = 0
    memory_bits: int = 0

    @property
    def total(self) -> float:
        return self.logic + self.flops + self.memory

    def __add__(self, other: Cells) -> Cells:
        return Cells(
            self.logic + other.logic,
            self.flops + other.flops,
            self.memory + other.memory,
            self.flop_bits + other.flop_bits,
            self.memory_bits + other.memory_bits,
        )


@dataclass(frozen=True)
class Area:
    """Area of every instance's own module, without those below it, by path ("" is the top)."""

    unit: str
    parts: Mapping[str, Cells] = field(default_factory=dict)

    def below(self, path: str) -> Cells:
        """Sum of an instance and everything below it."""
        inside = (c for p, c in self.parts.items() if _is_below(p, path))
        return sum(inside, Cells())

    @property
    def total(self) -> float:
        return self.below("").total


@dataclass(frozen=True)
class BlockArea:
    """A block of a plan, its mechanisms, its area before and after; "" is what no block holds."""

    block: str
    mechanisms: tuple[str, ...]
    base: float
    protected: float

    @property
    def added(self) -> float:
        return self.protected - self.base


def area_of(design: Netlist | Path, top: str, technology: Technology | None = None) -> Area:
    """Area of a protected design, or of a netlist by `to_json`. Mapped modules are cached.

    Raises:
        ConfigError: a library without a memory bit, for a design with memories.
        ToolError: Yosys failed.
    """
    technology = technology or Technology()
    path, plan = (design, {}) if isinstance(design, Path) else (design.json, design.plan)
    modules = json.loads(path.read_text())["modules"]
    instances = list(_instances(modules, top, ""))
    kinds = list(dict.fromkeys(kind for _, kind in instances))
    with ThreadPoolExecutor(_JOBS) as pool:
        cells = pool.map(lambda kind: _module_cells(modules[kind], technology), kinds)
        found = dict(zip(kinds, cells, strict=True))
    parts = {where: found[kind] for where, kind in instances}
    for where, kind in instances:
        parts[where] += _hardening(modules[kind], where, parts[where], plan, technology)
    return Area(technology.unit, parts)


def block_areas(base: Area, protected: Area, netlist: Netlist) -> list[BlockArea]:
    """Every block that is an instance, before and after, and in a last row all the rest.

    What compares a block under `dwc` with its copy lies outside of it, in the rest.
    """
    blocks = [path for path in netlist.plan if path and path in base.parts]

    def sums(area: Area) -> Counter[str]:
        found: Counter[str] = Counter()
        for path, cells in area.parts.items():
            owners = [b for b in blocks if _is_below(path, b) or _is_below(path, f"{b}__dwc")]
            found[max(owners, key=len, default="")] += cells.total  # type: ignore[assignment]
        return found

    before, after = sums(base), sums(protected)
    return [
        BlockArea(b, tuple(use.name for use in netlist.plan.get(b, ())), before[b], after[b])
        for b in (*blocks, "")
    ]


def candidate_areas(
    design: Path, top: str, choices: Mapping[str, Mapping[str, Any]], technology: Technology
) -> dict[str, dict[str, float]]:
    """What each of several protections of a block would add, each alone in the design.

    Args:
        design: netlist by `to_json`.
        choices: block -> a name of the choice -> mechanisms as in a plan.

    For use with the exact choice of a plan (`fault_injection.plan`); the area of the plan that is
    chosen is then counted as a whole.
    """
    base = area_of(protected(design, top, {}), top, technology).total
    return {
        block: {
            name: area_of(protected(design, top, {block: uses}), top, technology).total - base
            for name, uses in named.items()
        }
        for block, named in choices.items()
    }


def _is_below(path: str, block: str) -> bool:
    return not block or path == block or path.startswith(f"{block}.")


def _instances(modules: Mapping[str, Any], kind: str, path: str) -> Iterator[tuple[str, str]]:
    """(path, module) of the top and of every instance."""
    yield path, kind
    for name, cell in modules[kind]["cells"].items():
        if cell["type"] in modules:
            yield from _instances(modules, cell["type"], f"{path}.{name}" if path else name)


def _module_cells(data: dict[str, Any], technology: Technology) -> Cells:
    module = Module("", data)
    bits = sum(len(c["connections"]["Q"]) for c in module.cells.values() if c["type"] in FLOPS)
    stored = sum(_memory_bits(cell) for cell in module.memories().values())
    memory = stored * technology.bit() if stored else 0.0
    mapped = _mapped(_skeleton(data), technology.liberty)
    if technology.liberty is None:
        logic = _gate_equivalents(mapped["num_cells_by_type"])
        return Cells(logic, bits * technology.flop, memory, bits, stored)
    flops = float(mapped.get("sequential_area", 0))
    return Cells(float(mapped["area"]) - flops, flops, memory, bits, stored)


def _gate_equivalents(counts: Mapping[str, int]) -> float:
    """Area of the gates among mapped cells; flip-flops, memories and instances count elsewhere."""
    transistors = 0
    for kind, number in counts.items():
        if kind[2:-1] in GATES:
            transistors += number * GATES[kind[2:-1]]
        elif kind != "box" and not _FLOP.fullmatch(kind):
            raise ToolError(f"Yosys left {number} cells {kind} without mapping; report this")
    return transistors / _NAND


def _memory_bits(cell: dict[str, Any]) -> int:
    return integer(cell["parameters"]["WIDTH"]) * integer(cell["parameters"]["SIZE"])


def _skeleton(data: dict[str, Any]) -> dict[str, Any]:
    """What the area of a module depends on; memories and instances are closed boxes."""
    cells = {}
    writable = {id(cell) for cell in Module("", data).memories().values()}
    for number, cell in enumerate(data["cells"].values()):
        box = id(cell) in writable or not cell["type"].startswith("$")
        cells[f"c{number}"] = {
            "type": "box" if box else cell["type"],
            "parameters": {} if box else cell["parameters"],
            "attributes": {},
            "port_directions": cell["port_directions"],
            "connections": cell["connections"],
        }
    return {"attributes": {}, "ports": data["ports"], "cells": cells, "netnames": {}}


def _mapped(module: dict[str, Any], liberty: Path | None) -> dict[str, Any]:
    """Yosys' statistics of a module after mapping."""
    key = {
        "module": module,
        "recipe": [*_MAP, *_ABC],
        "liberty": None if liberty is None else file_hash(liberty),
        "pyosys": yosys_version(),
    }
    with cache_entry("area", key) as entry:
        if not entry.hit:
            source, recipe = entry.path / "module.json", entry.path / "abc.script"
            source.write_text(json.dumps({"modules": {"m": module}}))
            recipe.write_text("\n".join(_ABC) + "\n")
            output = entry.path / "stat.json"
            script = [f"read_json {source}", *_MAP, *_counting(liberty, recipe, output)]
            run_script(script, "count the cells of a module", [output])
            source.unlink()
            recipe.unlink()
    found = json.loads((entry.path / "stat.json").read_text())
    return found["modules"]["\\m"]


def _counting(liberty: Path | None, recipe: Path, output: Path) -> list[str]:
    """Commands that map to gates, or to the cells of a library, and count them into `output`."""
    if liberty is None:
        return [f"abc -g cmos -script {recipe}", f"tee -q -o {output} stat -json -tech cmos"]
    library = f"-liberty {liberty.absolute()}"
    return [
        f"dfflibmap {library}", f"abc {library} -script {recipe}",
        f"tee -q -o {output} stat -json {library}",
    ]  # fmt: skip


def _hardening(
    data: dict[str, Any], path: str, own: Cells, plan: Plan, technology: Technology
) -> Cells:
    """What the sturdier cells of a module's own registers and memories cost more."""
    factors = {
        block: use.options.area_factor  # type: ignore[attr-defined]
        for block, uses in plan.items()
        for use in uses
        if use.name == "hardened"
    }
    if not factors:
        return Cells()
    module, flops, memory = Module("", data), 0.0, 0.0
    for name, cell in module.registers().items():
        more = _factor(f"{path}.{name}" if path else name, plan, factors) - 1
        flops += len(cell["connections"]["Q"]) * more * own.flops / max(own.flop_bits, 1)
    for name, cell in module.memories().items():
        more = _factor(f"{path}.{name}" if path else name, plan, factors) - 1
        memory += _memory_bits(cell) * more * technology.bit()
    return Cells(flops=flops, memory=memory)


def _factor(path: str, plan: Plan, factors: Mapping[str, float]) -> float:
    block = max((b for b in plan if _is_below(path, b)), key=len, default=None)
    return 1.0 if block is None else factors.get(block, 1.0)
