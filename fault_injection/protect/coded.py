"""Memories with check bits in a memory of their own beside them.

The check memory has the same depth, ports, clocks and enables, so reads come as early as before.
Bits that one write enable covers form a word of the code, called a granule; where two ports write
in different granules, the smaller ones count. An upset stays in the memory until the word is
written again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bankside.errors import ConfigError
from bankside.fault_injection.protect.mechanism import Target
from bankside.fault_injection.protect.netlist import Bit, Module, binary, integer

__all__ = ["Code", "add_check_memory", "granules"]


@dataclass(frozen=True)
class Code:
    """A linear code.

    Attributes:
        suffix: of the names of check memories and registers.
        sets: number of data bits -> for each check bit, the data bits whose parity it is.
        check: (target, data, check bits) of a granule that is read raises the alarms and returns
            the bits to invert, one for each data bit where the code `corrects`.
    """

    suffix: str
    sets: Callable[[int], list[list[int]]]
    check: Callable[[Target, list[Bit], list[Bit]], list[Bit]]
    corrects: bool

    def encode(self, module: Module, data: Sequence[Bit]) -> list[Bit]:
        """Nets of the check bits of `data`."""
        return [module.odd([data[i] for i in chosen]) for chosen in self.sets(len(data))]

    def encode_text(self, data: str) -> str:
        """The same for constants, most significant bit first, undefined bits as zero."""
        if "1" not in data:
            return "0" * len(self.sets(len(data)))
        bits = data[::-1]
        ones = (sum(bits[i] == "1" for i in chosen) for chosen in self.sets(len(data)))
        return "".join(str(count % 2) for count in ones)[::-1]


def granules(cell: dict[str, Any], largest: int | None = None) -> list[list[int]]:
    """Bits of a word by granule: neighbours that every write port enables together.

    Raises:
        ConfigError: the bits of a granule are not neighbours.
    """
    width = integer(cell["parameters"]["WIDTH"])
    enable = cell["connections"]["WR_EN"]
    keys = [tuple(enable[bit::width]) for bit in range(width)]
    found: list[list[int]] = []
    for bit in range(width):
        full = found and largest is not None and len(found[-1]) >= largest
        if bit and keys[bit] == keys[bit - 1] and not full:
            found[-1].append(bit)
        else:
            found.append([bit])
    return found


def add_check_memory(target: Target, code: Code, largest: int | None = None) -> None:
    """Add the check memory of a memory, encoders at its write ports, decoders at its read ports."""
    module, cell = target.module, target.cell
    _refuse_unusual(module, target.name, cell)
    layout = granules(cell, largest)
    counts = [len(code.sets(len(bits))) for bits in layout]
    _define_contents(cell)
    name = module.fresh(f"{target.name}__{code.suffix}")
    connections = _write_side(target, code, layout, counts)
    connections |= _read_side(target, code, layout, counts)
    twin = module.copy_cell(cell, connections, name)
    constants = _constants(cell, code, layout)
    twin["parameters"] |= {"MEMID": f"\\{name}", "WIDTH": binary(sum(counts)), **constants}
    module.added.append(name)


def _refuse_unusual(module: Module, name: str, cell: dict[str, Any]) -> None:
    for side in ("RD", "WR"):
        if "1" in cell["parameters"][f"{side}_WIDE_CONTINUATION"]:
            raise ConfigError(
                f"{module.kind}.{name}: ports wider than its words cannot be coded; give the "
                f"memory ports of its own width, or leave it out of the plan"
            )


def _define_contents(cell: dict[str, Any]) -> None:
    """Undefined contents become zero, of which the check bits are zero too."""
    for key in ("INIT", "RD_INIT_VALUE"):
        cell["parameters"][key] = cell["parameters"][key].replace("x", "0")


def _write_side(
    target: Target, code: Code, layout: list[list[int]], counts: list[int]
) -> dict[str, list[Bit]]:
    module, cell = target.module, target.cell
    width = integer(cell["parameters"]["WIDTH"])
    data, enable = (cell["connections"][key] for key in ("WR_DATA", "WR_EN"))
    written: list[Bit] = []
    enabled: list[Bit] = []
    for start in range(0, len(data), width):
        for bits, count in zip(layout, counts, strict=True):
            written += code.encode(module, [data[start + bit] for bit in bits])
            enabled += [enable[start + bits[0]]] * count
    return {"WR_DATA": written, "WR_EN": enabled}


def _read_side(
    target: Target, code: Code, layout: list[list[int]], counts: list[int]
) -> dict[str, list[Bit]]:
    """Checks at every read port; returns the outputs of the check memory."""
    module, cell = target.module, target.cell
    width, total = integer(cell["parameters"]["WIDTH"]), sum(counts)
    clocked = cell["parameters"]["RD_CLK_ENABLE"][::-1]
    raw, checks = list(cell["connections"]["RD_DATA"]), []
    for port, start in enumerate(range(0, len(raw), width)):
        out = word = raw[start : start + width]
        if code.corrects:  # the decoder drives what the memory drove
            name = module.fresh(f"{target.name}__raw{port}")
            old = module.name(out)
            word = module.wire(width, name)
            raw[start : start + width] = word
            if clocked[port] == "1" and old is not None:
                module.renamed[old] = name
        name = module.fresh(f"{target.name}__{code.suffix}_read{port}")
        checks += (check := module.wire(total, name))
        if clocked[port] == "1":
            module.added.append(name)
        flips, at = [], 0
        for bits, count in zip(layout, counts, strict=True):
            flips += code.check(target, [word[bit] for bit in bits], check[at : at + count])
            at += count
        if code.corrects:
            module.unlike(word, flips, out)
    cell["connections"]["RD_DATA"] = raw
    return {"RD_DATA": checks}


def _constants(cell: dict[str, Any], code: Code, layout: list[list[int]]) -> dict[str, str]:
    """Contents and register values of the check memory."""
    width = integer(cell["parameters"]["WIDTH"])
    return {
        key: _encode_words(cell["parameters"][key], width, code, layout)
        for key in ("INIT", "RD_INIT_VALUE", "RD_ARST_VALUE", "RD_SRST_VALUE")
    }


def _encode_words(text: str, width: int, code: Code, layout: list[list[int]]) -> str:
    """Check bits of constants of `width` bits each, most significant first."""
    total = sum(len(code.sets(len(bits))) for bits in layout)
    words = len(text) // width
    for constant in ("0", "x"):
        if set(text) <= {constant}:
            return constant * total * words
    coded = []
    for start in range(0, len(text), width):
        bits = text[start : start + width][::-1]
        parts = (code.encode_text("".join(bits[b] for b in part)[::-1]) for part in layout)
        coded.append("".join(reversed(list(parts))))
    return "".join(coded)
