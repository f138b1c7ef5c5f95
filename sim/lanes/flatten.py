"""Yosys JSON -> modules of words and cells (netlist.py)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bankside.errors import ToolError
from bankside.sim.lanes.netlist import (
    COMBINATIONAL,
    Cell,
    Flop,
    Instance,
    Memory,
    Module,
    Part,
    ReadPort,
    Sig,
    Word,
    WritePort,
    joined,
)  # fmt: skip

#: A module with at least so many instances and cells is compiled once and called.
KEPT_INSTANCES, KEPT_CELLS = 4, 60

Bit = int | str


def load(path: Path) -> Module:
    """The top module of a netlist that `to_json` made.

    Raises ToolError for what the lane engine cannot compile, by name.
    """
    modules = json.loads(path.read_text())["modules"]
    tops = [n for n, m in modules.items() if int(str(m["attributes"].get("top", "0")), 2)]
    if len(tops) != 1:
        raise ToolError(f"{path.name} has {len(tops)} top modules; expected one")
    return _Builder(modules, tops[0]).top


def name_of(bits: Sequence[Bit], names: Mapping[tuple[Bit, ...], list[str]]) -> str | None:
    """Name of a register or net by its bits: public names first, whole signals before fields,
    short before long.
    """
    found = [n for n in names.get(tuple(bits), ()) if not n.startswith("$")]
    return min(found, key=lambda n: ("." in n, len(n), n)) if found else None


def _number(text: str | int) -> int:
    return text if isinstance(text, int) else int(text.replace("x", "0").replace("z", "0"), 2)


def _value(bits: str) -> int:
    return int(bits.replace("x", "0").replace("z", "0") or "0", 2)


class _Builder:
    """Makes modules out of the JSON, children before parents."""

    def __init__(self, modules: dict[str, Any], top: str) -> None:
        self.json = modules
        self.counts = Counter[str]()
        self._count(top, 1)
        self.sizes: dict[str, int] = {}
        self.kept = {
            name for name, count in self.counts.items()
            if count >= KEPT_INSTANCES and self._size(name) >= KEPT_CELLS
        } - {top}  # fmt: skip
        self.made: dict[tuple[str, frozenset[str]], Module] = {}
        self.top = self.module(top, frozenset())

    def _count(self, name: str, times: int) -> None:
        self.counts[name] += times
        for kind, count in Counter(
            c["type"] for c in self.json[name]["cells"].values() if c["type"] in self.json
        ).items():
            self._count(kind, times * count)

    def _size(self, name: str) -> int:
        if name not in self.sizes:
            cells = self.json[name]["cells"].values()
            self.sizes[name] = sum(
                self._size(c["type"]) if c["type"] in self.json else 1 for c in cells
            )
        return self.sizes[name]

    def module(self, name: str, gated: frozenset[str]) -> Module:
        """`gated`: those of its clock ports that are not the clock of the top."""
        if (name, gated) not in self.made:
            self.made[name, gated] = _Flattener(self, name, gated).module
        return self.made[name, gated]


@dataclass
class _Raw:
    """A cell of the flattened module, bits still numbers of that module."""

    path: str
    type: str
    json: Mapping[str, Any]
    bits: dict[str, list[Bit]]
    names: Mapping[tuple[Bit, ...], list[str]]
    inits: Mapping[Bit, str]

    def parameters(self) -> dict[str, int]:
        return {
            k: _number(v) for k, v in self.json["parameters"].items() if k not in ("INIT", "MEMID")
        }


class _Flattener:
    """Dissolves the instances of one module that are not kept, then makes words and cells."""

    def __init__(self, builder: _Builder, name: str, gated: frozenset[str]) -> None:
        self.builder, self.module = builder, Module(name)
        self.fresh = 2
        self.raw: list[_Raw] = []
        self.place: dict[Bit, tuple[Word, int]] = {}
        source = builder.json[name]
        ports = {
            port: self._new(len(p["bits"])) for port, p in source["ports"].items()
        }  # fmt: skip
        self.alias: dict[Bit, Bit] = {}
        self._dissolve(name, "", ports)
        self.drivers = {
            bit: cell for cell in self.raw
            for port, bits in cell.bits.items()
            if cell.json["port_directions"][port] == "output" for bit in bits
        }  # fmt: skip
        self._clocks(source, ports, gated)
        self._words(source, ports)
        self._parts()
        for port, p in source["ports"].items():
            if p["direction"] == "output":
                self.module.outputs[port] = self.sig(ports[port])

    def _new(self, count: int) -> list[Bit]:
        first = self.fresh
        self.fresh += count
        return list(range(first, first + count))

    def _find(self, bit: Bit) -> Bit:
        while bit in self.alias:
            bit = self.alias[bit]
        return bit

    def _dissolve(self, name: str, path: str, ports: Mapping[str, list[Bit]]) -> None:
        source = self.builder.json[name]
        bits: dict[Bit, Bit] = {}
        # Inputs first: an output may be a wire through.
        for port, p in sorted(source["ports"].items(), key=lambda item: item[1]["direction"]):
            for inner, outer in zip(p["bits"], ports[port], strict=True):
                if p["direction"] == "output" and (isinstance(inner, str) or inner in bits):
                    self.alias[outer] = bits.get(inner, inner)
                else:
                    bits[inner] = outer

        def outside(inner: Bit) -> Bit:
            if isinstance(inner, str):
                return inner
            if inner not in bits:
                bits[inner] = self._new(1)[0]
            return bits[inner]

        names: dict[tuple[Bit, ...], list[str]] = {}
        inits: dict[Bit, str] = {}
        for net, n in source["netnames"].items():
            seen = [outside(b) for b in n["bits"]]
            names.setdefault(tuple(seen), []).append(net)
            if "init" in n["attributes"]:
                inits.update(zip(seen, reversed(n["attributes"]["init"]), strict=False))
        for cell, c in source["cells"].items():
            mapped = {p: [outside(b) for b in v] for p, v in c["connections"].items()}
            kind, below = c["type"], f"{path}.{cell}" if path else cell
            if kind in self.builder.json and kind not in self.builder.kept:
                inner_ports = self.builder.json[kind]["ports"]
                for port, p in inner_ports.items():
                    if port not in mapped:
                        width = len(p["bits"])
                        is_input = p["direction"] == "input"
                        mapped[port] = ["0"] * width if is_input else self._new(width)
                self._dissolve(kind, below, mapped)
            else:
                self.raw.append(_Raw(below, kind, c, mapped, names, inits))

    # --- clocks -----------------------------------------------------------------------------------
    def _clocks(self, source: Any, ports: Mapping[str, list[Bit]], gated: frozenset[str]) -> None:
        """Bits of clocks -> what enables them: None, the input of a gated clock, a gate's bit."""
        self.clock: dict[Bit, Bit | None] = {}
        roots = {"clk"} | gated
        for port in roots & set(ports):
            self.clock[ports[port][0]] = ports[port][0] if port in gated else None
        self.gated = {ports[port][0] for port in gated}

    def enable(self, clock: Bit, where: str) -> tuple[Bit, ...]:
        """Bits that all must be set for an edge of a clock: those of its gates."""
        clock = self._find(clock)
        if clock in self.clock:
            found = self.clock[clock]
            return () if found is None else (found,)
        driver = self.drivers.get(clock)
        if driver is not None and driver.type in ("$and", "$logic_and"):
            sides = [self._find(driver.bits[p][0]) for p in "AB"]
            for side, other in (sides, sides[::-1]):
                if self._is_clock(side):
                    return (*self.enable(side, where), self._transparent(other))
        raise ToolError(f"{self.module.name}: {where} has a clock that is not a gated `clk`")

    def _is_clock(self, bit: Bit) -> bool:
        driver = self.drivers.get(bit)
        if bit in self.clock:
            return True
        return driver is not None and driver.type == "$and" and any(
            self._is_clock(self._find(driver.bits[p][0])) for p in "AB")  # fmt: skip

    def _transparent(self, bit: Bit) -> Bit:
        """A register of the falling edge holds its data well before the next rising one."""
        driver = self.drivers.get(bit)
        if driver is not None and driver.type == "$dff" and self._falls(driver):
            return self._find(driver.bits["D"][driver.bits["Q"].index(bit)])
        if register := self._falling_behind(bit):
            raise ToolError(
                f"{self.module.name}: a clock gate has logic behind {register}, a register of the "
                f"falling edge; expected the register itself to be the gate's input"
            )
        return bit

    def _falling_behind(self, bit: Bit) -> str | None:
        """A register of the falling edge that a bit depends on by logic."""
        seen: set[Bit] = set()
        left = [bit]
        while left:
            driver = self.drivers.get(self._find(left.pop()))
            if driver is None or driver.path in seen:
                continue
            seen.add(driver.path)
            if "CLK" in driver.bits:
                if self._falls(driver):
                    return driver.path
            elif driver.type.startswith("$"):
                left += [b for p, bits in driver.bits.items() if p != "Y" for b in bits]
        return None

    def _falls(self, cell: _Raw) -> bool:
        inverted = self._inverted(cell.bits["CLK"][0])
        return (cell.parameters()["CLK_POLARITY"] == 0) != inverted

    def _inverted(self, clock: Bit) -> bool:
        driver = self.drivers.get(self._find(clock))
        return driver is not None and driver.type in ("$not", "$logic_not")

    def _enable_sig(self, clock: Bit, where: str) -> Sig | None:
        bits = self.enable(clock, where)
        if len(bits) > 1:
            raise ToolError(f"{self.module.name}: {where} has a clock behind several gates")
        return self.sig(bits) if bits else None

    # --- words ------------------------------------------------------------------------------------
    def sig(self, bits: Iterable[Bit]) -> Sig:
        """Parts with neighbouring bits joined."""
        parts: list[Part] = []
        for bit in bits:
            bit = self._find(bit)
            found = self.place.get(bit)
            if found is None and isinstance(bit, int):
                raise ToolError(
                    f"{self.module.name}: a bit that is read has no driver; report this"
                )
            part = (
                Part(found[0], found[1], 1)
                if found is not None
                else Part(None, 1 if bit == "1" else 0, 1)
            )
            parts.append(part)
        return joined(parts)

    def _put(self, word: Word, bits: Sequence[Bit]) -> None:
        for at, bit in enumerate(bits):
            self.place[bit] = word, at

    def _words(self, source: Any, ports: Mapping[str, list[Bit]]) -> None:
        module = self.module
        for port, p in source["ports"].items():
            if p["direction"] == "input" and (port != "clk" or ports[port][0] in self.gated):
                module.inputs[port] = module.word(port, len(p["bits"]), "input")
                self._put(module.inputs[port], ports[port])
        self.out: dict[int, dict[str, Word]] = {}
        for number, cell in enumerate(self.raw):
            self.out[number] = made = {}
            kinds = {"$dff": "flop"}
            for port, bits in cell.bits.items():
                if cell.json["port_directions"][port] != "output" or cell.type == "$mem_v2":
                    continue
                kind = "output" if cell.type in self.builder.json else kinds.get(cell.type, "cell")
                label = self._label(cell, bits) or f"{cell.path}.{port}"
                made[port] = module.word(label, len(bits), kind)
                self._put(made[port], bits)
            if cell.type == "$mem_v2":
                made.update(self._read_words(cell))

    def _label(self, cell: _Raw, bits: Sequence[Bit]) -> str | None:
        found = name_of(bits, cell.names)
        above = cell.path.rpartition(".")[0]
        return None if found is None else f"{above}.{found}" if above else found

    def _read_words(self, cell: _Raw) -> dict[str, Word]:
        p = cell.parameters()
        made = {}
        for port in range(p["RD_PORTS"]):
            bits = cell.bits["RD_DATA"][port * p["WIDTH"] : (port + 1) * p["WIDTH"]]
            kind = "read" if p["RD_CLK_ENABLE"] >> port & 1 else "cell"
            label = self._label(cell, bits) or f"{cell.path}.read{port}"
            made[f"RD{port}"] = self.module.word(label, p["WIDTH"], kind)
            self._put(made[f"RD{port}"], bits)
        return made

    # --- parts ------------------------------------------------------------------------------------
    def _parts(self) -> None:
        for number, cell in enumerate(self.raw):
            made = self.out[number]
            if cell.type in self.builder.json:
                self._instance(cell, made)
            elif cell.type == "$dff":
                self._flop(cell, made["Q"])
            elif cell.type == "$mem_v2":
                self._memory(cell, made)
            elif cell.type not in COMBINATIONAL:
                raise ToolError(
                    f"{self.module.name}: cell {cell.path} is a {cell.type}, which the lane engine "
                    f"has no code for; expected $dff, $mem_v2 or one of {', '.join(COMBINATIONAL)}"
                )
            elif not self._of_clock(cell):
                inputs = {
                    port: self.sig(bits) for port, bits in cell.bits.items()
                    if cell.json["port_directions"][port] == "input"
                }  # fmt: skip
                word = made["Y"]
                self.module.cells.append(
                    Cell(cell.type, cell.path, cell.parameters(), inputs, word, net=word.name)
                )

    def _of_clock(self, cell: _Raw) -> bool:
        """Gates and inverters of clocks are no logic."""
        inputs = [self._find(b) for p, bits in cell.bits.items() for b in bits if p != "Y"]
        return any(self._is_clock(b) for b in inputs)

    def _flop(self, cell: _Raw, word: Word) -> None:
        falling = self._falls(cell)
        enable = None if falling else self._enable_sig(cell.bits["CLK"][0], cell.path)
        init = sum(
            1 << at for at, bit in enumerate(cell.bits["Q"]) if cell.inits.get(bit, "0") == "1"
        )
        data = self.sig(cell.bits["D"])
        self.module.flops.append(Flop(word.name, word, data, init, enable, falling))

    def _memory(self, cell: _Raw, made: Mapping[str, Word]) -> None:
        p, bits = cell.parameters(), cell.bits
        width, depth, address = p["WIDTH"], p["SIZE"], p["ABITS"]
        if p["OFFSET"] or p["RD_TRANSPARENCY_MASK"] or p["RD_WIDE_CONTINUATION"] or (
            p["WR_WIDE_CONTINUATION"]):  # fmt: skip
            raise ToolError(
                f"{self.module.name}: memory {cell.path} has an offset, transparent or wide ports, "
                f"which the lane engine has no code for"
            )
        memory = Memory(cell.path, width, depth, _contents(cell.json["parameters"], width, depth))
        for port in range(p["RD_PORTS"]):
            at, word = (
                self.sig(bits["RD_ADDR"][port * address : (port + 1) * address]),
                made[f"RD{port}"],
            )
            if p["RD_CLK_ENABLE"] >> port & 1:
                clock = self._enable_sig(bits["RD_CLK"][port], cell.path)
                memory.reads.append(
                    ReadPort(self.sig(bits["RD_EN"][port : port + 1]), at, word, clock)
                )
            else:
                memory.asynchronous = True
                self.module.cells.append(
                    Cell("read", f"{cell.path}.read{port}", {}, {"A": at}, word, memory, word.name)
                )
        for port in range(p["WR_PORTS"]):
            memory.writes.append(
                WritePort(
                    self.sig(bits["WR_EN"][port * width : (port + 1) * width]),
                    self.sig(bits["WR_ADDR"][port * address : (port + 1) * address]),
                    self.sig(bits["WR_DATA"][port * width : (port + 1) * width]),
                    self._enable_sig(bits["WR_CLK"][port], cell.path),
                )
            )
        self.module.memories.append(memory)

    def _instance(self, cell: _Raw, made: dict[str, Word]) -> None:
        ports = self.builder.json[cell.type]["ports"]
        gated = set()
        if "clk" in cell.bits and self.enable(cell.bits["clk"][0], cell.path):
            gated.add("clk")
        child = self.builder.module(cell.type, frozenset(gated))
        inputs = {}
        for port in child.inputs:
            if port in gated:
                inputs[port] = self._enable_sig(cell.bits[port][0], cell.path) or ()
            else:
                inputs[port] = self.sig(cell.bits.get(port, ["0"] * len(ports[port]["bits"])))
        self.module.instances.append(Instance(cell.path, child, inputs, made))


def _contents(parameters: Mapping[str, str], width: int, depth: int) -> tuple[int, ...]:
    text = parameters["INIT"]
    if "1" not in text:
        return ()
    text = text.zfill(width * depth)
    return tuple(
        _value(text[len(text) - (i + 1) * width : len(text) - i * width]) for i in range(depth)
    )
