"""Tokens between the three engines. Ref: docs/array.md section 4."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.array.control.layouts import COMPUTE, LOAD, SPEC, TokenSignature

TOKEN_BITS = SPEC.token_max.bit_length()


class Tokens(wiring.Component):
    """A counter for each ordered pair of engines, 0 after reset.

    Members
    -------
    load, compute, store : In(TokenSignature)
        One port per engine.
    second : Out
        The load engine has given the compute engine at least two tokens.
    each : In
        The compute engine takes a token of the load engine for a tile, beside `compute.take`.
    free : In, 2 bits
        Tokens that the load engine is given for rows of tiles, beside `compute.give`.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                **{name: In(TokenSignature()) for name in SPEC.engines},
                "second": Out(1),
                "each": In(1),
                "free": In(2),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        ports = [getattr(self, name) for name in SPEC.engines]
        for giver, source in enumerate(ports):
            for taker, target in enumerate(ports):
                if giver == taker:
                    continue
                name = f"{SPEC.engines[giver]}_to_{SPEC.engines[taker]}"
                count = Signal(TOKEN_BITS, name=name)
                given, taken = source.give[taker], target.take[giver]
                if (giver, taker) == (LOAD, COMPUTE):
                    taken = taken + self.each
                    m.d.comb += self.second.eq(count > 1)
                if (giver, taker) == (COMPUTE, LOAD):
                    given = given + self.free
                m.d.comb += target.present[giver].eq(count != 0)
                m.d.sync += count.eq(count + given - taken)
        return m
