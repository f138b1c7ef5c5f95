"""Fixed delays."""

from amaranth.hdl import Cat, Module, ShapeLike, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out


class DelayLine(wiring.Component):
    """What goes in comes out exactly `depth` cycles later.

    The valid bits shift through registers; the payloads lie still in a ring memory, so that a long
    line costs little simulation.

    Members
    -------
    i_valid, i_payload : In
    o_valid, o_payload : Out
        The input of `depth` cycles before (depth 0: of this cycle). The payload counts only while
        `o_valid`.
    busy : Out
        A valid item is inside (registered; includes the cycle in which it comes out).
    """

    def __init__(self, shape: ShapeLike, depth: int) -> None:
        if depth < 0:
            raise ValueError(f"DelayLine depth must not be negative, not {depth!r}")
        self._shape, self._depth = shape, depth
        super().__init__(
            {
                "i_valid": In(1),
                "i_payload": In(shape),
                "o_valid": Out(1),
                "o_payload": Out(shape),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        if self._depth == 0:
            m.d.comb += [self.o_valid.eq(self.i_valid), self.o_payload.eq(self.i_payload)]
            return m
        valid = Signal(self._depth)
        m.d.sync += valid.eq(Cat(self.i_valid, valid)[: self._depth])
        m.d.comb += [self.o_valid.eq(valid[-1]), self.busy.eq(valid != 0)]
        if self._depth == 1:
            held = Signal(self._shape)
            m.d.sync += held.eq(self.i_payload)
            m.d.comb += self.o_payload.eq(held)
            return m
        m.submodules.ring = ring = memory.Memory(shape=self._shape, depth=self._depth, init=[])
        write, read = ring.write_port(), ring.read_port(domain="comb")
        place = Signal(range(self._depth))
        m.d.sync += place.eq(place + 1)
        with m.If(place == self._depth - 1):
            m.d.sync += place.eq(0)
        # Written at the end of cycle t, read `depth` cycles later, before it is overwritten.
        m.d.comb += [
            write.en.eq(self.i_valid),
            write.addr.eq(place),
            write.data.eq(self.i_payload),
            read.addr.eq(place),
            self.o_payload.eq(read.data),
        ]
        return m
