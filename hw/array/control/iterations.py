"""The RUN under way, tile by tile: what each iteration needs. Ref: docs/array.md section 3."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.array.control.layouts import (
    COUNT_BITS,
    ENGINES,
    GROUP_BITS,
    TILE_BITS,
    column_bits,
    row_bits,
    run_layout,
)
from bankside.hw.array.words import KEY_BITS, tag_bits
from bankside.isa.array_machine import ArrayMachine

#: Operands of RUN that all its iterations share.
SHARED = ("q", "out", "set", "free", "signal", "window", "causal", "group")


def context_layout(machine: ArrayMachine) -> data.StructLayout:
    """One iteration: addresses (bus words) of its operands, mask, tag, place in its RUN.

    limit, position: of the keys that exist and of the query in column 0, relative to the tile's
    first key. first, last: it begins, ends a row block. final: the last tile of its RUN.
    """
    row, column = row_bits(machine), column_bits(machine)
    return data.StructLayout(
        {
            "tag": tag_bits(machine),
            "tile": TILE_BITS,
            **dict.fromkeys(("k", "v"), row),
            **dict.fromkeys(("q", "s", "out"), column),
            **dict.fromkeys(("limit", "position", "window"), KEY_BITS),
            "group": GROUP_BITS,
            "signal": ENGINES,
            **dict.fromkeys(("causal", "set", "free", "first", "last", "final"), 1),
        }
    )


def _walk_layout(machine: ArrayMachine) -> data.StructLayout:
    row, column = row_bits(machine), column_bits(machine)
    return data.StructLayout(
        {
            "tile": TILE_BITS,
            "left": TILE_BITS,
            **dict.fromkeys(("k", "v"), row),
            "s": column,
            **dict.fromkeys(("kv_place", "s_place"), COUNT_BITS),
            **dict.fromkeys(("limit", "position"), KEY_BITS),
        }
    )


class Iterations(wiring.Component):
    """Steps through the tiles of one RUN after the other, by additions only.

    Members
    -------
    head : In
        The RUN that waits.
    begin, proceed : In
        An iteration starts: the first tile of `head`, or the next one of the RUN under way.
    kernel_en : In
        A new schedule begins: tags start again.
    under_way, each : Out
        A RUN has tiles left; it takes a token of the load engine for every one.
    context : Out
        The iteration that starts in this cycle.
    """

    def __init__(self, machine: ArrayMachine) -> None:
        self._machine = machine
        super().__init__(
            {
                "head": In(run_layout(machine)),
                "begin": In(1),
                "proceed": In(1),
                "kernel_en": In(1),
                "under_way": Out(1),
                "each": Out(1),
                "context": Out(context_layout(machine)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        machine = self._machine
        held, run = Signal(run_layout(machine)), Signal(run_layout(machine))
        stored, place = Signal(_walk_layout(machine)), Signal(_walk_layout(machine))
        tag = Signal(tag_bits(machine))
        m.d.comb += [
            self.under_way.eq(stored.left != 0),
            self.each.eq(held.each),
            run.eq(Mux(self.begin, self.head, held)),
            place.eq(stored),
        ]
        with m.If(self.begin):
            self._first(m, place)
            m.d.sync += held.eq(self.head)
        with m.If(self.begin | self.proceed):
            self._step(m, run, place, stored)
            m.d.sync += tag.eq(Mux(tag == machine.tags - 1, 0, tag + 1))
        with m.If(self.kernel_en):
            m.d.sync += tag.eq(0)
        m.d.comb += self.context.tag.eq(tag)
        self._context(m, run, place)
        return m

    def _first(self, m: Module, place: data.View) -> None:
        head = self.head
        m.d.comb += [
            place.tile.eq(0),
            place.left.eq(head.tiles),
            place.k.eq(head.k + head.kv_start),
            place.v.eq(head.v + head.kv_start),
            place.s.eq(head.s),
            place.kv_place.eq(head.kv_phase),
            place.s_place.eq(0),
            place.limit.eq(head.keys - 1 - head.first_key),
            place.position.eq(head.position - head.first_key),
        ]

    def _step(self, m: Module, run: data.View, place: data.View, stored: data.View) -> None:
        """The tile after `place`."""
        m.d.sync += [
            stored.tile.eq(place.tile + 1),
            stored.left.eq(place.left - 1),
            stored.limit.eq(place.limit - self._machine.rows),
            stored.position.eq(place.position - self._machine.rows),
        ]
        for count, ring, moves in (
            ("kv_place", run.kv_ring, (("k", run.kv_step), ("v", run.kv_step))),
            ("s_place", run.s_ring, (("s", run.s_step),)),
        ):
            following = Signal(COUNT_BITS, name=f"next_{count}")
            wraps = Signal(name=f"wrap_{count}")
            m.d.comb += [following.eq(place[count] + 1), wraps.eq(following == ring)]
            m.d.sync += stored[count].eq(Mux(wraps, 0, following))
            for name, step in moves:
                m.d.sync += stored[name].eq(Mux(wraps, run[name], place[name] + step))

    def _context(self, m: Module, run: data.View, place: data.View) -> None:
        context = self.context
        m.d.comb += [context[name].eq(run[name]) for name in SHARED]
        m.d.comb += [
            context[name].eq(place[name]) for name in ("tile", "k", "v", "s", "limit", "position")
        ]
        m.d.comb += [
            context.final.eq(place.left == 1),
            context.first.eq(run.first & (place.tile == 0)),
            context.last.eq(run.last & context.final),
        ]
