"""Queues and tokens between the front end and the four engines. Ref: docs/pim.md section 4."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.lib.queue import Queue
from bankside.hw.pim.controller.frontend import SPEC, WORD
from bankside.isa.layout import view

ENGINES = len(SPEC.engines)
TOKEN_BITS = SPEC.token_max.bit_length()
#: Most tokens that one engine can give to another in one cycle (its completions have different
#: latencies).
GIFT_BITS = 3


def gifts_layout() -> data.ArrayLayout:
    """Tokens given in this cycle: one count per receiving engine."""
    return data.ArrayLayout(GIFT_BITS, ENGINES)


class TokenBoard(wiring.Component):
    """Counters [from][to]. `gifts` add, `take` (one mask of givers per receiver) subtracts one
    each.

    Members
    -------
    gifts : In, per giving engine
        Tokens given in this cycle per receiver.
    take : In, per receiving engine
        Mask of givers from which one token is taken in this cycle.
    present : Out, per receiving engine
        Mask of givers that have at least one token for it (registered counts).
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "clear": In(1),
                "gifts": In(data.ArrayLayout(gifts_layout(), ENGINES)),
                "take": In(data.ArrayLayout(ENGINES, ENGINES)),
                "present": Out(data.ArrayLayout(ENGINES, ENGINES)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        for giver in range(ENGINES):
            for receiver in range(ENGINES):
                if giver == receiver:
                    continue
                count = Signal(
                    TOKEN_BITS, name=f"token_{SPEC.engines[giver]}_{SPEC.engines[receiver]}"
                )
                m.d.comb += self.present[receiver][giver].eq(count != 0)
                m.d.sync += count.eq(
                    count + self.gifts[giver][receiver] - self.take[receiver][giver]
                )
                with m.If(self.clear):
                    m.d.sync += count.eq(0)
        return m


class Dispatch(wiring.Component):
    """One queue per engine and the load rule.

    Members
    -------
    push, word, full :
        From and to the front end.
    busy : In, per engine
        The engine works on a command (registered).
    load, command : Out, per engine
        The engine takes `command` in this cycle.
    waiting, missing : Out, per engine
        The queue shows a command; mask of the engines whose token it still misses.
    gifts, clear : In
        Tokens given in this cycle; forget all tokens.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        per_engine = data.ArrayLayout(ENGINES, ENGINES)
        super().__init__(
            {
                "push": In(ENGINES),
                "word": In(WORD),
                "full": Out(ENGINES),
                "busy": In(ENGINES),
                "load": Out(ENGINES),
                "command": Out(data.ArrayLayout(WORD, ENGINES)),
                "waiting": Out(ENGINES),
                "missing": Out(per_engine),
                "gifts": In(data.ArrayLayout(gifts_layout(), ENGINES)),
                "clear": In(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.tokens = tokens = TokenBoard()
        m.d.comb += [tokens.gifts.eq(self.gifts), tokens.clear.eq(self.clear)]
        for index, engine in enumerate(SPEC.engines):
            m.submodules[f"queue_{engine}"] = queue = Queue(WORD, self._depth)
            wait = view(SPEC, "MAC", queue.o.payload).wait
            missing = Signal(ENGINES, name=f"missing_{engine}")
            load = Signal(name=f"load_{engine}")
            m.d.comb += [
                queue.i.payload.eq(self.word),
                queue.i.valid.eq(self.push[index]),
                self.full[index].eq(~queue.i.ready),
                missing.eq(wait & ~tokens.present[index]),
                self.missing[index].eq(missing),
                self.waiting[index].eq(queue.o.valid),
                self.command[index].eq(queue.o.payload),
                load.eq(queue.o.valid & ~self.busy[index] & (missing == 0)),
                queue.o.ready.eq(load),
                self.load[index].eq(load),
                tokens.take[index].eq(Mux(load, wait, 0)),
            ]
        return m
