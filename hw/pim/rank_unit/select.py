"""Selection of a head's value for each of its chips."""

from collections.abc import Sequence

from amaranth.hdl import Array, Value

from bankside.hw.pim.rank_unit.permute import chip_bits
from bankside.isa.machine import Machine


def per_chip(machine: Machine, per_head: Sequence[Value], nhc_log2: Value) -> list[Value]:
    """For every chip k the value of its head, `per_head[k div N_hc]`."""
    groups = range(chip_bits(machine) + 1)
    return [Array([per_head[k >> n] for n in groups])[nhc_log2] for k in range(machine.chips)]
