"""The bursts of one LOAD or STORE, in order."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from bankside.hw.axi.burst import BurstSplitter, block_beats
from bankside.isa.array_machine import ELEMENT_BYTES, ArrayMachine


class BurstWalk(wiring.Component):
    """Shows the next burst of the command at the head of a queue, from the cycle in which the
    command comes there; one burst per cycle.

    Members
    -------
    i : In(stream)
        Commands of the given layout; taken in the cycle of `next` for the last burst.
    next : In
        The burst is begun: show the one after it. Only while `i.valid`.
    address, length : Out
        Byte address and beats of the burst. Meaningful, like all below, while `i.valid`.
    bank, word : Out
        Bank and bus word for its first beat.
    first, step_first : Out
        It is the first one of the command, of an outer step.
    last, step_last : Out
        It is the last one.

    Ref: docs/array.md section 4.
    """

    i: stream.Interface

    def __init__(self, machine: ArrayMachine, layout: data.StructLayout) -> None:
        self._layout, self._beat_bytes = layout, machine.bus_elements * ELEMENT_BYTES
        super().__init__(
            {
                "i": In(stream.Signature(layout)),
                "next": In(1),
                "address": Out(layout["mem"].shape),
                "length": Out(range(block_beats(self._beat_bytes) + 1)),
                "bank": Out(layout["bank"].shape),
                "word": Out(layout["buf"].shape),
                **dict.fromkeys(("first", "step_first", "last", "step_last"), Out(1)),
            }
        )

    def _place(self) -> data.StructLayout:
        """Where the walk stands: the burst, starts of its row and of its outer step, what is left
        (beats of the row, rows of the step, steps), place in the ring.
        """
        shapes = {name: field.shape for name, field in self._layout}
        return data.StructLayout(
            {
                **dict.fromkeys(("address", "row_address", "step_address"), shapes["mem"]),
                **dict.fromkeys(("bank", "step_bank"), shapes["bank"]),
                **dict.fromkeys(("word", "step_word"), shapes["buf"]),
                "beats": shapes["beats"],
                "inner": shapes["inner"],
                "outer": shapes["outer"],
                "phase": shapes["ring"],
                "step_first": 1,
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        place = self._place()
        begun, held, now, after = (
            Signal(),
            Signal(place),
            Signal(place),
            Signal(place),
        )
        command, low = self.i.payload, exact_log2(self._beat_bytes)
        m.submodules.split = split = BurstSplitter(
            beat_bytes=self._beat_bytes,
            address_bits=len(now.address),
            count_bits=len(now.beats),
        )
        self._start(m, now, command)
        with m.If(begun):
            m.d.comb += now.eq(held)
        m.d.comb += [
            split.address.eq(now.address),
            split.beats.eq(now.beats),
            # A bus word is aligned, whatever the program says.
            self.address.eq(Cat(Const(0, low), now.address[low:])),
            self.length.eq(split.length),
            self.bank.eq(now.bank),
            self.word.eq(now.word),
            self.first.eq(~begun),
            self.step_first.eq(now.step_first),
            self.step_last.eq(split.last & (now.inner == 1)),
            self.last.eq(self.step_last & (now.outer == 1)),
            self.i.ready.eq(self.next & self.last),
        ]
        self._advance(m, now, after, command, split)
        with m.If(self.next):
            m.d.sync += [held.eq(after), begun.eq(~self.last)]
        return m

    @staticmethod
    def _start(m: Module, now: data.View, command: data.View) -> None:
        """The first burst of `command`."""
        first_word = Signal.like(now.word)
        m.d.comb += [
            first_word.eq(command.buf + command.ring_start),
            *(now[name].eq(command.mem) for name in ("address", "row_address", "step_address")),
            *(now[name].eq(command.bank) for name in ("bank", "step_bank")),
            *(now[name].eq(first_word) for name in ("word", "step_word")),
            *(now[name].eq(command[name]) for name in ("beats", "inner", "outer")),
            now.phase.eq(command.ring_phase),
            now.step_first.eq(1),
        ]

    def _advance(
        self, m: Module, now: data.View, after: data.View, command: data.View, split: BurstSplitter
    ) -> None:
        """`after`: the burst that follows `now` in the same command."""
        row, step = now.row_address + command.inner_bytes, now.step_address + command.outer_bytes
        wrap = now.phase + 1 == command.ring
        step_word = Mux(wrap, command.buf, now.step_word + command.buf_step)
        m.d.comb += [after.eq(now), after.step_first.eq(0)]
        with m.If(~split.last):
            m.d.comb += [
                after.address.eq(split.next_address),
                after.word.eq(now.word + split.length),
                after.beats.eq(now.beats - split.length),
            ]
        with m.Elif(now.inner != 1):
            m.d.comb += [
                *(after[name].eq(row) for name in ("address", "row_address")),
                after.bank.eq(now.bank + 1),
                after.word.eq(now.step_word),
                after.beats.eq(command.beats),
                after.inner.eq(now.inner - 1),
            ]
        with m.Else():
            names = ("address", "row_address", "step_address")
            m.d.comb += [
                *(after[name].eq(step) for name in names),
                *(
                    after[name].eq(now.step_bank + command.bank_step)
                    for name in ("bank", "step_bank")
                ),
                *(after[name].eq(step_word) for name in ("word", "step_word")),
                after.beats.eq(command.beats),
                after.inner.eq(command.inner),
                after.outer.eq(now.outer - 1),
                after.phase.eq(Mux(wrap, 0, now.phase + 1)),
                after.step_first.eq(1),
            ]
