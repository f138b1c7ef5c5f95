"""The bursts of one transfer, in order. Ref: docs/npu.md section 6."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from bankside.hw.axi.burst import BurstSplitter, block_beats
from bankside.hw.npu.control.layouts import dma_layout
from bankside.isa.npu_machine import NpuMachine

__all__ = ["RowWalk"]


class RowWalk(wiring.Component):
    """Shows the next burst of `transfer`; one burst per cycle, rows split like any run of beats.

    Members
    -------
    transfer : In(dma_layout)
        Must stay until `next` with `last`.
    next : In(1)
        The burst is begun: show the one after it; after the last one the first one of whatever
        `transfer` is then.
    address : Out
        Byte address of the burst in main memory.
    length : Out
        Its beats.
    beat : Out
        Place of its first beat in the buffer, in beats.
    first, last : Out(1)
        First, last burst of the transfer.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self._beat_bytes, self._layout = machine.bus_bytes, dma_layout(machine)
        self._low = exact_log2(machine.bus_bytes)
        super().__init__(
            {
                "transfer": In(self._layout),
                "next": In(1),
                "address": Out(self._layout["address"].shape),
                "length": Out(range(block_beats(machine.bus_bytes) + 1)),
                "beat": Out(self._layout["buf"].width - self._low),
                "first": Out(1),
                "last": Out(1),
            }
        )

    def _place(self) -> data.StructLayout:
        """Where the walk stands: the burst, the start of its row, rows and beats left."""
        address, beat = len(self.address), len(self.beat)
        return data.StructLayout(
            {
                **dict.fromkeys(("address", "row_address"), address),
                **dict.fromkeys(("beat", "row_beat"), beat),
                "beats": self._layout["row_bytes"].width - self._low,
                "rows": self._layout["rows"].width,
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        shape = self._place()
        begun, held, now, after = Signal(), Signal(shape), Signal(shape), Signal(shape)
        m.submodules.split = split = BurstSplitter(
            beat_bytes=self._beat_bytes,
            address_bits=len(now.address),
            count_bits=len(now.beats),
        )
        command, low = self.transfer, self._low
        m.d.comb += [
            now.address.eq(command.address),
            now.row_address.eq(command.address),
            now.beat.eq(command.buf[low:]),
            now.row_beat.eq(command.buf[low:]),
            now.beats.eq(command.row_bytes[low:]),
            now.rows.eq(command.rows),
        ]
        with m.If(begun):
            m.d.comb += now.eq(held)
        m.d.comb += [
            split.address.eq(now.address),
            split.beats.eq(now.beats),
            self.address.eq(now.address),
            self.length.eq(split.length),
            self.beat.eq(now.beat),
            self.first.eq(~begun),
            self.last.eq(split.last & (now.rows == 1)),
            after.eq(now),
        ]
        with m.If(~split.last):
            m.d.comb += [
                after.address.eq(split.next_address),
                after.beat.eq(now.beat + split.length),
                after.beats.eq(now.beats - split.length),
            ]
        with m.Else():
            self._next_row(m, now, after)
        with m.If(self.next):
            m.d.sync += [held.eq(after), begun.eq(~self.last)]
        return m

    def _next_row(self, m: Module, now: data.View, after: data.View) -> None:
        command, low = self.transfer, self._low
        address, beat = Signal.like(now.address), Signal.like(now.beat)
        m.d.comb += [
            address.eq(now.row_address + command.row_step),
            beat.eq(now.row_beat + command.buf_step[low:]),
            *(after[name].eq(address) for name in ("address", "row_address")),
            *(after[name].eq(beat) for name in ("beat", "row_beat")),
            after.beats.eq(command.row_bytes[low:]),
            after.rows.eq(now.rows - 1),
        ]
