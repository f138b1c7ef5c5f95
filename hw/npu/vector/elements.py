"""Between words of the shared buffer and elements. Ref: docs/npu.md section 1."""

from amaranth.hdl import Cat, Module, Mux, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from bankside.isa.npu_machine import WORD_BYTES

__all__ = ["Extract", "Insert"]

_WORD_BITS = 8 * WORD_BYTES
_PLACE_BITS = bits_for(WORD_BYTES - 1)


def _lane_bits(rate: int) -> int:
    return (rate - 1).bit_length()


class Extract(wiring.Component):
    """Elements of a word; combinational.

    Parameters
    ----------
    rate : V, lanes; a power of two.

    Members
    -------
    word : In(256)
    place : In(5)
        A channel mod 32.
    two_bytes : In(1)
        int16 instead of int8.
    values : Out(ArrayLayout(signed(16), V))
        The aligned group of V channels in which `place` lies.
    value : Out(signed(16))
        That channel.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        super().__init__(
            {
                "word": In(_WORD_BITS),
                "place": In(_PLACE_BITS),
                "two_bytes": In(1),
                "values": Out(data.ArrayLayout(signed(16), rate)),
                "value": Out(signed(16)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        rate, low = self._rate, _lane_bits(self._rate)
        group = self.place[low:]
        # An int16 word has half as many groups.
        long = self.word.word_select(group[:-1], 16 * rate)
        short = self.word.word_select(group, 8 * rate)
        for lane in range(rate):
            value8 = short.word_select(lane, 8).as_signed()
            value16 = long.word_select(lane, 16).as_signed()
            m.d.comb += self.values[lane].eq(Mux(self.two_bytes, value16, value8))
        every = Value.cast(self.values)
        m.d.comb += self.value.eq(every.word_select(self.place[:low], 16) if low else every)
        return m


class Insert(wiring.Component):
    """A word with its byte mask from elements; combinational.

    Members
    -------
    values : In(ArrayLayout(signed(16), V))
        int8: the low byte counts.
    lanes : In(V)
        Which of them to write.
    place, two_bytes : In
        As in `Extract`.
    word : Out(256), mask : Out(32)
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        super().__init__(
            {
                "values": In(data.ArrayLayout(signed(16), rate)),
                "lanes": In(rate),
                "place": In(_PLACE_BITS),
                "two_bytes": In(1),
                "word": Out(_WORD_BITS),
                "mask": Out(WORD_BYTES),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        rate, low = self._rate, _lane_bits(self._rate)
        group = self.place[low:]
        values = [self.values[lane] for lane in range(rate)]
        short = Cat(value[:8] for value in values).replicate(WORD_BYTES // rate)
        long = Value.cast(self.values).replicate(WORD_BYTES // rate // 2)
        pairs = Cat(lane.replicate(2) for lane in self.lanes)
        # Replicated bytes and the choice by the mask cost less than a shifter for the data.
        m.d.comb += self.word.eq(Mux(self.two_bytes, long, short))
        with m.Switch(Cat(group, self.two_bytes)):
            groups = WORD_BYTES // rate
            for place in range(groups):
                with m.Case(place):
                    m.d.comb += self.mask.eq(self.lanes << place * rate)
                with m.Case(groups + place):
                    m.d.comb += self.mask.eq(pairs << place % (groups // 2) * 2 * rate)
        return m
