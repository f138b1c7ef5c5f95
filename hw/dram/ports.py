"""Widths and fields of DRAM command ports, derived from a standard."""

from dataclasses import dataclass

from amaranth.hdl import Value
from amaranth.utils import bits_for

from bankside.isa.dram.standard import DramStandard

__all__ = ["PortWidths", "instance_of"]


@dataclass(frozen=True)
class PortWidths:
    """Bits of the address and command ports of one rank."""

    command: int
    bank: int
    row: int
    column: int
    violation: int

    @classmethod
    def of(cls, std: DramStandard) -> "PortWidths":
        """The widths that `std` needs; a port is at least one bit wide."""
        shape = std.geometry
        return cls(
            command=bits_for(len(std.commands) - 1),
            bank=bits_for(std.banks - 1),
            row=bits_for(shape.rows - 1),
            column=bits_for(shape.columns - 1),
            violation=bits_for(std.constraints[-1].code),
        )


def instance_of(std: DramStandard, level: str, bank: Value) -> Value:
    """The instance of `level` (bank, bankgroup, slice; not rank) that holds the flat index `bank`.

    Geometry numbers are powers of two, so this only selects bits.
    """
    inner = std.geometry.banks_per_group.bit_length() - 1
    return {"bank": bank, "bankgroup": bank[inner:], "slice": bank[:inner]}[level]
