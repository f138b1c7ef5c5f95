"""Helpers for tests in Amaranth's own simulator: run, put and get stream items, check streams.

They wait by single ticks: a bench that is dropped inside `repeat` or `until`, because another one
failed, leaves a generator behind that Python complains about.
"""

from collections.abc import Awaitable, Callable, Iterable
from random import Random
from typing import Any

from amaranth.hdl import ClockDomain, Elaboratable, Module, ValueCastable
from amaranth.lib import stream
from amaranth.sim import Simulator

__all__ = ["simulate", "stream_check", "stream_get", "stream_put", "stream_put_all"]

Testbench = Callable[[Any], Awaitable[None]]


def simulate(
    dut: Elaboratable,
    *benches: Testbench,
    background: Iterable[Testbench] = (),
    limit: int = 10_000,
) -> None:
    """Run `benches` (`async def bench(ctx)`) on `dut` until all have ended.

    Raises AssertionError when that takes more than `limit` clock cycles: a bench that waits for
    something that never comes fails instead of hanging.
    """
    top = Module()
    top.domains.sync = ClockDomain()  # even for a purely combinational `dut`
    top.submodules.dut = dut
    simulator = Simulator(top)
    simulator.add_clock(1e-9)
    running = len(benches)

    def counted(bench: Testbench) -> Testbench:
        async def run(ctx: Any) -> None:
            nonlocal running
            await bench(ctx)
            running -= 1

        return run

    async def watchdog(ctx: Any) -> None:
        for _ in range(limit):
            await ctx.tick()
        assert not running, f"{running} of {len(benches)} benches did not end in {limit} cycles"

    for bench in benches:
        simulator.add_testbench(counted(bench))
    for bench in (*background, watchdog):
        simulator.add_testbench(bench, background=True)
    simulator.run()


async def stream_put(ctx: Any, s: stream.Interface, payload: Any) -> None:
    """Offer `payload` on `s` until it is taken."""
    ctx.set(s.payload, payload)
    ctx.set(s.valid, 1)
    taken = False
    while not taken:
        _, _, taken = await ctx.tick().sample(s.ready)
    ctx.set(s.valid, 0)


async def stream_put_all(
    ctx: Any, s: stream.Interface, items: Iterable[Any], *, idle: float = 0.0, seed: int = 0
) -> None:
    """`stream_put` each of `items`, after idle cycles at probability `idle`."""
    random = Random(seed)
    for item in items:
        while idle and random.random() < idle:
            await ctx.tick()
        await stream_put(ctx, s, item)


async def stream_get(ctx: Any, s: stream.Interface) -> Any:
    """Take one item from `s` and return its payload."""
    ctx.set(s.ready, 1)
    valid, payload = False, None
    while not valid:
        _, _, valid, payload = await ctx.tick().sample(s.valid, s.payload)
    ctx.set(s.ready, 0)
    return payload


def stream_check(s: stream.Interface) -> Testbench:
    """Background bench: AssertionError when the producer of `s` breaks the stream rules."""
    payload = s.payload.as_value() if isinstance(s.payload, ValueCastable) else s.payload

    async def check(ctx: Any) -> None:
        waiting, offered = False, 0
        while True:
            _, reset, valid, ready, word = await ctx.tick().sample(s.valid, s.ready, payload)
            if waiting and not reset:
                assert valid, "valid withdrawn before ready"
                assert word == offered, f"payload changed from {offered:#x} to {word:#x}"
            waiting, offered = valid and not ready and not reset, word

    return check
