# amaranth: UnusedElaboratable=no
"""Queue, DelayLine and the stream checker in Amaranth's simulator."""

from collections import deque
from random import Random

import pytest
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.lib.delay import DelayLine
from bankside.hw.lib.queue import Queue
from bankside.hw.lib.testing import simulate, stream_check, stream_get, stream_put, stream_put_all

ITEMS = [(7 * i + 3) % 256 for i in range(60)]


@pytest.mark.parametrize("depth", [1, 2, 3, 8])
@pytest.mark.parametrize("idle,stall", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.3, 0.6)])
def test_queue_keeps_items_and_order(depth, idle, stall):
    dut, got = Queue(8, depth), []

    async def producer(ctx):
        await stream_put_all(ctx, dut.i, ITEMS, idle=idle, seed=1)

    async def consumer(ctx):
        random = Random(2)
        while len(got) < len(ITEMS):
            while random.random() < stall:
                await ctx.tick()
            got.append(await stream_get(ctx, dut.o))

    simulate(dut, producer, consumer, background=[stream_check(dut.o)])
    assert got == ITEMS


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_queue_is_exact_in_every_cycle(depth):
    """Item visible one cycle after its push, `ready` until `depth` items are held."""
    dut, random, model = Queue(8, depth), Random(depth), deque()

    async def bench(ctx):
        for cycle in range(400):
            valid, ready, word = random.random() < 0.6, random.random() < 0.5, cycle % 256
            ctx.set(dut.i.valid, valid)
            ctx.set(dut.i.payload, word)
            ctx.set(dut.o.ready, ready)
            assert ctx.get(dut.o.valid) == bool(model)
            assert ctx.get(dut.i.ready) == (len(model) < depth)
            assert ctx.get(dut.level) == len(model)
            push = valid and len(model) < depth
            if model:
                assert ctx.get(dut.o.payload) == model[0]
                if ready:
                    model.popleft()
            if push:
                model.append(word)
            await ctx.tick()

    simulate(dut, bench)


def test_queue_moves_an_item_every_cycle():
    dut, got = Queue(8, 2), []

    async def bench(ctx):
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.o.ready, 1)
        for cycle in range(20):
            ctx.set(dut.i.payload, cycle)
            if ctx.get(dut.o.valid):
                got.append(ctx.get(dut.o.payload))
            await ctx.tick()

    simulate(dut, bench)
    assert got == list(range(19))


def test_queue_of_structures():
    layout = data.StructLayout({"low": 4, "high": 4})
    dut = Queue(layout, 2)

    async def bench(ctx):
        await stream_put(ctx, dut.i, {"low": 3, "high": 9})
        item = await stream_get(ctx, dut.o)
        assert (item.low, item.high) == (3, 9)

    simulate(dut, bench)


def test_queue_refuses_no_places():
    with pytest.raises(ValueError, match="Queue depth must be at least 1, not 0"):
        Queue(8, 0)


@pytest.mark.parametrize("depth", [0, 1, 2, 3, 4, 7, 8, 16, 37])
def test_delay_line_is_exact(depth):
    """Every input, with and without `valid`, and `busy` in every cycle."""
    dut, random = DelayLine(16, depth), Random(depth)
    history = [(0, 0)] * depth  # newest last

    async def bench(ctx):
        for _ in range(6 * depth + 60):
            valid, word = int(random.random() < 0.3), random.getrandbits(16)
            ctx.set(dut.i_valid, valid)
            ctx.set(dut.i_payload, word)
            history.append((valid, word))
            want_valid, want = history[-1 - depth]
            assert ctx.get(dut.o_valid) == want_valid
            assert not want_valid or ctx.get(dut.o_payload) == want
            inside = any(v for v, _ in history[len(history) - 1 - depth : -1])
            assert ctx.get(dut.busy) == inside
            await ctx.tick()

    simulate(dut, bench)


def test_delay_line_refuses_negative_depth():
    with pytest.raises(ValueError, match="must not be negative, not -1"):
        DelayLine(8, -1)


class BadSource(wiring.Component):
    """Breaks one stream rule: `withdraw` drops valid, otherwise the payload moves on."""

    def __init__(self, withdraw: bool) -> None:
        self._withdraw = withdraw
        super().__init__({"o": Out(stream.Signature(8)), "go": In(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        count = Signal(8)
        m.d.sync += count.eq(count + 1)
        m.d.comb += [
            self.o.valid.eq(~count[1] if self._withdraw else 1),
            self.o.payload.eq(Mux(self._withdraw, 0, count)),
        ]
        return m


@pytest.mark.parametrize(
    "withdraw,text", [(True, "valid withdrawn"), (False, "payload changed from 0x0 to 0x1")]
)
def test_checker_notices_a_bad_source(withdraw, text):
    dut = BadSource(withdraw)

    async def bench(ctx):
        for _ in range(10):
            await ctx.tick()

    with pytest.raises(AssertionError, match=text):
        simulate(dut, bench, background=[stream_check(dut.o)])


def test_checker_accepts_a_slow_consumer():
    dut = Queue(8, 2)

    async def bench(ctx):
        await stream_put(ctx, dut.i, 5)
        await ctx.tick().repeat(10)
        assert await stream_get(ctx, dut.o) == 5

    simulate(dut, bench, background=[stream_check(dut.o)])


def test_simulate_does_not_hang():
    dut = Queue(8, 1)

    async def bench(ctx):
        await stream_get(ctx, dut.o)

    with pytest.raises(AssertionError, match="1 of 1 benches did not end in 50 cycles"):
        simulate(dut, bench, limit=50)
