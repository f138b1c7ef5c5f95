"""Passes: slots, stages, ends. Ref: docs/array.md section 3, "Iterations"."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.array.control.blocks import STAGES
from bankside.hw.array.control.layouts import bits
from bankside.hw.array.words import INDEX_BITS


def younger(stage) -> Cat:
    """Mask of the stages of iterations younger than that of `stage`."""
    return Cat(Const(index, bits(STAGES)) < stage for index in range(STAGES))


class Passes(wiring.Component):
    """Counts the slots of the pass and moves the iterations from stage to stage.

    Members
    -------
    ii, more : In
        Of the schedule.
    start : In
        At a boundary: the next pass starts an iteration.
    done, done_stage : In
        This slot is the `done` slot of the iteration in that stage.
    boundary : Out
        In this cycle it is decided which pass follows.
    active, slot : Out
        A pass runs, and its slot.
    exists : Out, per stage
        There is an iteration.
    newest : Out
        Place of the iteration in stage 0, counted modulo the stages; that in stage s stands s
        places before.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "ii": In(INDEX_BITS),
                "more": In(STAGES),
                "start": In(1),
                "done": In(1),
                "done_stage": In(bits(STAGES)),
                "boundary": Out(1),
                "active": Out(1),
                "slot": Out(INDEX_BITS),
                "exists": Out(STAGES),
                "newest": Out(bits(STAGES)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        early, staying = Signal(), Signal(STAGES)
        m.d.comb += [
            early.eq(self.done & ~(self.exists & younger(self.done_stage)).any()),
            self.boundary.eq(~self.active | (self.slot + 1 == self.ii)),
            staying.eq(self.exists & self.more),
        ]
        m.d.sync += self.slot.eq(self.slot + 1)
        # A `done` slot at the end of a full pass is a boundary like any other.
        with m.If(self.boundary):
            m.d.sync += [
                self.active.eq(self.start | staying.any()),
                self.slot.eq(0),
                self.exists.eq(Cat(self.start, staying)),
                self.newest.eq(self.newest + 1),
            ]
        with m.Elif(early):
            m.d.sync += [self.active.eq(0), self.exists.eq(0)]
        return m
