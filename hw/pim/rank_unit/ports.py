"""Packed ports between the controller and the rank unit; widths come from the command set."""

from amaranth.hdl import unsigned
from amaranth.lib.data import StructLayout

from bankside.isa.machine import Machine
from bankside.isa.spec import load_spec

LANE_BITS = 3
"""Width of a lane number (at most eight query lanes)."""


def field_width(command: str, field: str) -> int:
    """Width of an operand in the `pim` command set."""
    return load_spec("pim").command(command).field_map[field].width


def _layout(**fields: tuple[str, str] | int) -> StructLayout:
    """Layout whose members are given as (command, operand) or as a number of bits."""
    widths = {k: v if isinstance(v, int) else field_width(*v) for k, v in fields.items()}
    return StructLayout({name: unsigned(width) for name, width in widths.items()})


def geometry_layout(machine: Machine) -> StructLayout:
    """Geometry registers: nhc_log2, cpt, lanes. They change only while the machine is idle."""
    return _layout(nhc_log2=("GEOM", "nhc_log2"), cpt=("GEOM", "cpt"), lanes=("GEOM", "lanes"))


def host_layout(machine: Machine) -> StructLayout:
    """HWR (`read` = 0) or HRD (`read` = 1): staging address, bursts, re-layout."""
    return _layout(
        read=1, address=("HWR", "stage"), count=("HWR", "count"), layout=("HWR", "layout")
    )


def rank_layout(machine: Machine) -> StructLayout:
    """SFM (`norm` = 0) or NORM (`norm` = 1) with the operands of both."""
    return _layout(
        norm=1, score=("SFM", "score"), prob=("SFM", "prob"), groups=("SFM", "groups"),
        buf=("SFM", "buf"), valid=("SFM", "valid"), first=("SFM", "first"),
        out=("NORM", "out"), count=("NORM", "count"),
    )  # fmt: skip


def burst_layout(machine: Machine) -> StructLayout:
    """What a burst of RDRB carries (docs/pim.md section 2 and 5 for the symbols).

    context : 0 a score burst (RDRBS), 1 a context burst (RDRBC).
    address : score memory word it ends in; score: score + (lane*groups + g)*B + n,
        context: score + (lane*count + w)*2 + half.
    lane : query lane.
    first_of_lane : score only, g = 0 and n = 0.
    first_bank, last_bank : context only, n = 0 and n = B-1.
    group, bank : score only, g and the flat bank index b(n); they give the token number.
    buf, valid : score only, operands of RDRBS.
    """
    return _layout(
        context=1, address=("RDRBS", "score"), lane=LANE_BITS, first_of_lane=1, first_bank=1,
        last_bank=1, group=("RDRBS", "groups"), bank=max(1, (machine.banks - 1).bit_length()),
        buf=("RDRBS", "buf"), valid=("RDRBS", "valid"),
    )  # fmt: skip
