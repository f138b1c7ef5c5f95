"""What the front end sends to the engines and how they exchange tokens.

Ref: docs/array.md section 4.

Numbers that no buffer bounds (steps, rings) have `COUNT_BITS`; key indices and positions are below
2^(`KEY_BITS` - 1), so that their differences fit.
"""

from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.array.words import KEY_BITS
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.spec import load_spec

SPEC = load_spec("array")
WORD = SPEC.word_bits
ENGINES = len(SPEC.engines)
LOAD, COMPUTE, STORE = range(ENGINES)
TILE_BITS = SPEC.commands["RUN"].field_map["tiles"].width
COUNT_BITS = 24
GROUP_BITS = 16
COUNTER_BITS = 48


def bits(count: int) -> int:
    """Bits of an index below `count`, at least one."""
    return max(1, (count - 1).bit_length())


def address_bits(machine: ArrayMachine) -> int:
    """Bits of a byte address of main memory."""
    return bits(machine.config.memory.bytes)


def row_bits(machine: ArrayMachine) -> int:
    """Bits of a bus word address in a row bank."""
    return bits(machine.config.array.row_words)


def column_bits(machine: ArrayMachine) -> int:
    """Bits of a bus word address in a column bank."""
    return bits(machine.config.array.column_words)


def _transfer(machine: ArrayMachine, banks: int, words: int) -> dict:
    """Operands of LOAD and STORE. Steps are added modulo the width of what they are added to."""
    memory, bank, word = address_bits(machine), bits(banks), bits(words)
    return {
        "wait": ENGINES,
        "signal": ENGINES,
        "mem": memory,
        "outer": COUNT_BITS,
        "outer_bytes": memory,
        "inner": banks.bit_length(),
        "inner_bytes": memory,
        "beats": words.bit_length(),
        "bank": bank,
        "bank_step": bank,
        "buf": word,
        "buf_step": word,
        "ring": COUNT_BITS,
        "ring_phase": COUNT_BITS,
        "ring_start": word,
    }


def load_layout(machine: ArrayMachine) -> data.StructLayout:
    """LOAD with its copy of the registers. `ring_start` = `ring_phase` * `buf_step` (modulo its
    width): where outer step 0 stands relative to `buf`.
    """
    array = machine.config.array
    banks, words = max(array.rows, array.columns), max(array.row_words, array.column_words)
    return data.StructLayout({"side": 1, "each": 1, **_transfer(machine, banks, words)})


def store_layout(machine: ArrayMachine) -> data.StructLayout:
    """STORE with its copy of the registers, as `load_layout`; banks are column banks."""
    array = machine.config.array
    return data.StructLayout(_transfer(machine, array.columns, array.column_words))


def run_layout(machine: ArrayMachine) -> data.StructLayout:
    """RUN with its copy of the registers. `kv_start` = `kv_phase` * `kv_step` (modulo its width):
    where tile 0 stands relative to `k` and `v`.
    """
    row, column = row_bits(machine), column_bits(machine)
    return data.StructLayout(
        {
            "wait": ENGINES,
            "signal": ENGINES,
            "tiles": TILE_BITS,
            **dict.fromkeys(("each", "free", "first", "last", "set", "causal"), 1),
            **dict.fromkeys(("k", "v", "kv_step", "kv_start"), row),
            **dict.fromkeys(("q", "s", "s_step", "out"), column),
            **dict.fromkeys(("kv_ring", "kv_phase", "s_ring"), COUNT_BITS),
            **dict.fromkeys(("position", "keys", "first_key", "window"), KEY_BITS),
            "group": GROUP_BITS,
        }
    )


class TokenSignature(wiring.Signature):
    """Tokens as one engine sees them; bit g of every mask is engine g (LOAD, COMPUTE, STORE).

    Members
    -------
    present : In
        Engines of which a token for this engine is there (registered counts). A command may go on
        when `(wait & ~present) == 0`.
    take : Out
        Engines of which one token is taken in this cycle.
    give : Out
        Engines that are given one token in this cycle; it is present from the next cycle on.
    """

    def __init__(self) -> None:
        super().__init__({"present": In(ENGINES), "take": Out(ENGINES), "give": Out(ENGINES)})
