"""One module of a word-level Yosys JSON netlist, opened for changes.

Bits are integers (nets) or "0", "1", "x" (constants), as in the JSON. Nothing here removes a net
or renames a port.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from bankside.errors import ConfigError
from bankside.sim.lanes.flatten import name_of

__all__ = ["ALARM_PREFIX", "ALARMS", "FLOPS", "Bit", "Module", "binary", "integer"]

Bit = int | str
#: Cells that hold a value in a register.
FLOPS = ("$dff", "$dffe", "$sdff", "$sdffe", "$sdffce", "$adff", "$adffe", "$dlatch")
_OUTPUTS = {"Y", "Q", "RD_DATA"}
#: Alarm ports of the top; of the modules below it with a prefix.
ALARMS = ("corrected", "detected")
ALARM_PREFIX = "protect__"


def integer(parameter: str | int) -> int:
    """Value of a cell's parameter; undefined bits count as zero."""
    text = str(parameter).replace("x", "0")
    return parameter if isinstance(parameter, int) else int(text, 2)


def binary(value: int, width: int = 32) -> str:
    """A number as a parameter."""
    return format(value, f"0{width}b")


class Module:
    """`data` is the JSON of module `kind`; it is changed in place.

    Attributes:
        alarms: bits that are high when a check fails, by alarm.
        renamed: name of a register or memory -> name it has now.
        added: names of registers and memories that protection has brought.
    """

    def __init__(self, kind: str, data: dict[str, Any]) -> None:
        self.kind, self.data = kind, data
        self.alarms: dict[str, list[Bit]] = {alarm: [] for alarm in ALARMS}
        self.renamed: dict[str, str] = {}
        self.added: list[str] = []
        wires = data["netnames"].values()
        self._next = 1 + max((b for w in wires for b in w["bits"] if isinstance(b, int)), default=1)
        for cell in data["cells"].values():
            bits = [b for c in cell["connections"].values() for b in c if isinstance(b, int)]
            self._next = max(self._next, 1 + max(bits, default=1))
        self._count = 0
        self._names: dict[tuple[Bit, ...], list[str]] | None = None

    @property
    def cells(self) -> dict[str, Any]:
        return self.data["cells"]

    @property
    def wires(self) -> dict[str, Any]:
        return self.data["netnames"]

    @property
    def ports(self) -> dict[str, Any]:
        return self.data["ports"]

    # --- what is there ------------------------------------------------------------------------

    def instances(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(name, cell) of every instance of another module of the design."""
        return ((n, c) for n, c in self.cells.items() if not c["type"].startswith("$"))

    def registers(self) -> dict[str, dict[str, Any]]:
        """Cells that are registers, by the name of the net of their output."""
        return {
            self.register_name(cell): cell for cell in self.cells.values() if cell["type"] in FLOPS
        }

    def holds_clock(self, cell: dict[str, Any]) -> bool:
        """Whether a register of the falling edge stops a clock: `clk & register`."""
        clock = cell["connections"].get("CLK", [None])[0]
        if clock is None or integer(cell["parameters"]["CLK_POLARITY"]):
            return False
        own = set(cell["connections"]["Q"])
        return any(
            clock in inputs and not own.isdisjoint(inputs)
            for gate in self.cells.values()
            if gate["type"] in ("$and", "$logic_and")
            for inputs in [[*gate["connections"]["A"], *gate["connections"]["B"]]]
        )

    def memories(self) -> dict[str, dict[str, Any]]:
        """Memory cells that can be written, by name; tables of constants hold no state."""
        return {
            cell["parameters"]["MEMID"].removeprefix("\\"): cell
            for cell in self.cells.values()
            if cell["type"] == "$mem_v2" and integer(cell["parameters"]["WR_PORTS"])
        }

    def names(self, bits: Sequence[Bit]) -> list[str]:
        """Every name of exactly these bits."""
        if self._names is None:
            self._names = {}
            for name, wire in self.wires.items():
                self._names.setdefault(tuple(wire["bits"]), []).append(name)
        return self._names.get(tuple(bits), [])

    def name(self, bits: Sequence[Bit]) -> str | None:
        """Name of exactly these bits as sites have it, None where there is none."""
        return name_of(bits, {tuple(bits): self.names(bits)})

    def register_name(self, cell: dict[str, Any]) -> str:
        """Name of a register, that of its site; refused where its output has none."""
        found = self.name(cell["connections"]["Q"])
        if found is None:
            raise ConfigError(
                f"{self.kind}: a register of {len(cell['connections']['Q'])} bits has no name of "
                f"its own; give the signal a name, so that faults in it can be addressed"
            )
        return found

    def initial(self, bits: Sequence[Bit]) -> str:
        """Power-on value of nets, most significant bit first; "x" where there is none."""
        known: dict[Bit, str] = {}
        for wire in self.wires.values():
            init = wire["attributes"].get("init")
            if init is not None:
                for bit, value in zip(wire["bits"], reversed(init), strict=False):
                    if value != "x":
                        known[bit] = value
        return "".join(known.get(bit, "x") for bit in reversed(bits))

    # --- what is new --------------------------------------------------------------------------

    def fresh(self, name: str) -> str:
        """`name`, or the next free one with a number behind it."""
        taken, number, found = (self.wires, self.cells), 1, name
        while any(found in names for names in taken):
            number += 1
            found = f"{name}{number}"
        return found

    def wire(self, width: int, name: str | None = None, initial: str | None = None) -> list[Bit]:
        """A new net; without a name, hidden. Its name may be one that `release` gave free."""
        bits = list(range(self._next, self._next + width))
        self._next += width
        attributes = {} if initial is None else {"init": initial}
        shown = {"hide_name": int(name is None), "bits": bits, "attributes": attributes}
        self.wires[name or self._hidden()] = shown
        self._names = None
        return bits

    def release(self, name: str) -> None:
        """Take a name from its bits, which is then free for others."""
        del self.wires[name]
        self._names = None

    def forget_initial(self, bits: Sequence[Bit]) -> None:
        """`bits` are no longer driven by a register: they have no power-on value."""
        gone = set(bits)
        for wire in self.wires.values():
            init = wire["attributes"].get("init")
            if init is None or gone.isdisjoint(wire["bits"]):
                continue
            pairs = zip(wire["bits"], reversed(init), strict=False)
            left = "".join("x" if bit in gone else value for bit, value in pairs)[::-1]
            if set(left) == {"x"}:
                del wire["attributes"]["init"]
            else:
                wire["attributes"]["init"] = left

    def cell(
        self,
        kind: str,
        connections: dict[str, list[Bit]],
        parameters: dict[str, int | str] | None = None,
        name: str | None = None,
    ) -> str:
        """Add a cell and return its name; `Y`, `Q` and `RD_DATA` are outputs."""
        name = name or self._hidden()
        shown = {k: v if isinstance(v, str) else binary(v) for k, v in (parameters or {}).items()}
        self.cells[name] = {
            "hide_name": int(name.startswith("$")),
            "type": kind,
            "parameters": shown,
            "attributes": {},
            "port_directions": {p: "output" if p in _OUTPUTS else "input" for p in connections},
            "connections": {port: list(bits) for port, bits in connections.items()},
        }
        return name

    def copy_cell(
        self, cell: dict[str, Any], connections: dict[str, list[Bit]], name: str | None = None
    ) -> dict[str, Any]:
        """Add a second cell like `cell` with some of its connections replaced; it is returned."""
        twin = copy.deepcopy(cell)
        twin["connections"].update({port: list(bits) for port, bits in connections.items()})
        twin["hide_name"] = int(name is None)
        self.cells[name or self._hidden()] = twin
        return twin

    def _hidden(self) -> str:
        while True:
            self._count += 1
            name = f"$protect${self._count}"
            if name not in self.cells and name not in self.wires:
                return name

    def _unary(self, kind: str, a: Sequence[Bit], width: int) -> list[Bit]:
        y = self.wire(width)
        sizes = {"A_SIGNED": 0, "A_WIDTH": len(a), "Y_WIDTH": width}
        self.cell(kind, {"A": list(a), "Y": y}, sizes)
        return y

    def _binary(
        self,
        kind: str,
        a: Sequence[Bit],
        b: Sequence[Bit],
        width: int,
        y: Sequence[Bit] | None = None,
    ) -> list[Bit]:
        y = self.wire(width) if y is None else list(y)
        sizes = {"A_SIGNED": 0, "B_SIGNED": 0, "A_WIDTH": len(a), "B_WIDTH": len(b)}
        self.cell(kind, {"A": list(a), "B": list(b), "Y": y}, {**sizes, "Y_WIDTH": width})
        return y

    def odd(self, bits: Sequence[Bit]) -> Bit:
        """1 when an odd number of `bits` is."""
        return self._unary("$reduce_xor", bits, 1)[0]

    def any(self, bits: Sequence[Bit]) -> Bit:
        """1 when one of `bits` is."""
        return self._unary("$reduce_or", bits, 1)[0]

    def invert(self, bits: Sequence[Bit]) -> list[Bit]:
        return self._unary("$not", bits, len(bits))

    def differ(self, a: Sequence[Bit], b: Sequence[Bit]) -> Bit:
        """1 when the words differ."""
        return self._binary("$ne", a, b, 1)[0]

    def equal(self, a: Sequence[Bit], b: Sequence[Bit]) -> Bit:
        return self._binary("$eq", a, b, 1)[0]

    def both(self, a: Sequence[Bit], b: Sequence[Bit]) -> list[Bit]:
        return self._binary("$and", a, b, len(a))

    def either(
        self, a: Sequence[Bit], b: Sequence[Bit], y: Sequence[Bit] | None = None
    ) -> list[Bit]:
        """Bit by bit; `y`: existing nets that it drives."""
        return self._binary("$or", a, b, len(a), y)

    def unlike(
        self, a: Sequence[Bit], b: Sequence[Bit], y: Sequence[Bit] | None = None
    ) -> list[Bit]:
        """Exclusive or, bit by bit; `y`: existing nets that it drives."""
        return self._binary("$xor", a, b, len(a), y)

    def output(self, name: str, bits: list[Bit]) -> None:
        """A new output port."""
        self.ports[name] = {"direction": "output", "bits": bits}
        self.wires[name] = {"hide_name": 0, "bits": bits, "attributes": {}}
        self._names = None
