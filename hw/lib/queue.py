"""First-in first-out queue between two streams."""

from amaranth.hdl import Module, ShapeLike, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out


class Queue(wiring.Component):
    """Holds up to `depth` items, takes one and gives one per cycle.

    An item pushed in cycle t is at the output in cycle t+1.

    Members
    -------
    i : In(stream)
        `ready` while fewer than `depth` items were held at the start of the cycle.
    o : Out(stream)
        The oldest item.
    level : Out
        Items held at the start of the cycle.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, shape: ShapeLike, depth: int) -> None:
        if depth < 1:
            raise ValueError(f"Queue depth must be at least 1, not {depth!r}")
        self._shape, self._depth = shape, depth
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "level": Out(range(depth + 1)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.items = items = memory.Memory(shape=self._shape, depth=self._depth, init=[])
        write, read = items.write_port(), items.read_port(domain="comb")
        head, tail = Signal(range(self._depth)), Signal(range(self._depth))
        push, pop = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(self.level != self._depth),
            self.o.valid.eq(self.level != 0),
            push.eq(self.i.valid & self.i.ready),
            pop.eq(self.o.valid & self.o.ready),
            write.en.eq(push),
            write.addr.eq(tail),
            write.data.eq(self.i.payload),
            read.addr.eq(head),
            self.o.payload.eq(read.data),
        ]
        for pointer, move in ((head, pop), (tail, push)):
            with m.If(move):
                m.d.sync += pointer.eq(pointer + 1)
                with m.If(pointer == self._depth - 1):
                    m.d.sync += pointer.eq(0)
        m.d.sync += self.level.eq(self.level + push - pop)
        return m
