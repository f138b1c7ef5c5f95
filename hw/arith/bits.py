"""Helpers shared by the arithmetic units: normalising shift and rounding, in wide words.

Everything is written as a few operations on words of at most 64 bits.  A compiled simulator
turns each into one machine instruction, and the arrays hold hundreds of these units.
"""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value


def select(condition: Value, a: Value, b: Value) -> Value:
    """`Mux(condition, a, b)` of two words of the same width, in masks.

    A compiled simulator may turn a multiplexer into a jump. Where the condition is as good as
    random, every second one goes wrong and costs more than the rest of the unit.
    """
    return b ^ ((a ^ b) & condition.replicate(len(b)))


def normalise_left(m: Module, word: Value, name: str) -> tuple[Value, Value]:
    """Shift `word` left until its top bit is set.

    Returns (shifted word, shift count); for a zero word the count is all ones up to the next
    power of two and the result is zero.  The count is found in log2(width) steps, from the
    largest shift down, each of which tests one slice for zero.
    """
    width = len(word)
    count = []
    for step in reversed(range((width - 1).bit_length())):
        size = 1 << step
        empty = Signal(name=f"{name}_lz{size}")
        moved = Signal(width, name=f"{name}_by{size}")
        # Not `word << size`: its full width would become the width of the exported wire.
        far = Cat(C(0, size), word[: width - size])
        # Sums of two numbers are rarely far from normal, but often by a place or two.
        choice = select(empty, far, word) if size <= 2 else Mux(empty, far, word)
        m.d.comb += [empty.eq(word[max(width - size, 0) :] == 0), moved.eq(choice)]
        count.append(empty)
        word = moved
    return word, Cat(*reversed(count))


def round_even(word: Value, drop: int) -> Value:
    """`word * 2^-drop` rounded to nearest, ties to even, for a constant `drop` >= 1."""
    return (word + ((1 << (drop - 1)) - 1) + word[drop]) >> drop
