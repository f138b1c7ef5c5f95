"""Cutting a run of beats into AXI bursts."""

from amaranth.hdl import Cat, Const, Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from bankside.hw.axi.signatures import BURST_BEATS, BURST_BYTES


def block_beats(beat_bytes: int) -> int:
    """Beats of an aligned block that no burst leaves."""
    return min(BURST_BYTES // beat_bytes, BURST_BEATS)


class BurstSplitter(wiring.Component):
    """The first burst of a run of full-width beats (combinational).

    A burst ends with the run or with the aligned block of min(4 KiB, 256 beats) in which it
    begins. Ref: AXI A3.4.1.

    Members
    -------
    address : In
        Byte address of the first beat; the bits below a beat are ignored.
    beats : In
        Beats of the run, at least 1.
    length : Out
        Beats of the burst.
    last : Out
        The burst is all of the run.
    next_address : Out
        Byte address of the beat after the burst, unless `last`.
    """

    def __init__(self, *, beat_bytes: int, address_bits: int, count_bits: int) -> None:
        self._low, self._block = exact_log2(beat_bytes), block_beats(beat_bytes)
        super().__init__(
            {
                "address": In(address_bits),
                "beats": In(count_bits),
                "length": Out(range(self._block + 1)),
                "last": Out(1),
                "next_address": Out(address_bits),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        high = self._low + exact_log2(self._block)
        room = self._block - self.address[self._low : high]
        m.d.comb += [
            self.last.eq(self.beats <= room),
            self.length.eq(Mux(self.last, self.beats, room)),
            self.next_address.eq(Cat(Const(0, high), self.address[high:] + 1)),
        ]
        return m
