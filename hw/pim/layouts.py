"""The command bus between the controller and the chips of the rank."""

from amaranth.lib import data
from amaranth.utils import ceil_log2

from bankside.isa.machine import Machine


def command_codes(machine: Machine) -> dict[str, int]:
    """Code of every DRAM command by name: its position in the commands of the standard."""
    return {command.name: command.code for command in machine.std.commands}


def command_layout(machine: Machine) -> data.StructLayout:
    """One DRAM command with its operands; a command ignores the fields that it does not name.

    ======================  =======================================================================
    code                    see `command_codes`
    bank                    flat bank index; ACT4: the index inside every group
    row                     ACT, ACT4, ACTA
    col                     RD, WR, RDA, WRA, MAC, LDSB: burst in the row
    lane                    RDRB, WRSB, LDSB: query lane
    rb, half                RDRB: result-buffer word, which half of it; WRR: first word of the pass
    sb, header, kbuf        WRSB, LDSB: shared-buffer word; WRSB with `header` writes the scale
                            register [kbuf][lane] instead
    mode, kbuf, rescale,
    sb, rb, cpt             WRR: mode registers of the bank units
    ======================  =======================================================================

    Ref: docs/pim.md sections 2 and 5.
    """
    sizes = machine.sizes

    def index(count: int) -> int:
        """Bits of an index below `count`; a field has at least one."""
        return max(1, ceil_log2(count))

    return data.StructLayout(
        {
            "code": index(len(machine.std.commands)),
            "bank": index(machine.banks),
            "row": index(machine.rows),
            "col": index(machine.columns),
            "lane": index(machine.lanes),
            "rb": index(sizes["result_buffer_words"]),
            "half": 1,
            "sb": index(sizes["shared_buffer_words"]),
            "header": 1,
            "mode": 1,
            "kbuf": 1,
            "rescale": 1,
            "cpt": index(machine.columns + 1),
        }
    )
