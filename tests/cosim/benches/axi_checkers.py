"""For benches with AXI ports: rules of a channel, random back-pressure, clock and reset."""

import os
from collections.abc import Iterator
from random import Random
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly

#: Channel -> its payload; the manager drives those of the first row.
PAYLOADS = {
    "aw": ("addr", "len", "size", "burst"), "w": ("data", "strb", "last"),
    "ar": ("addr", "len", "size", "burst"),
    "b": ("resp",), "r": ("data", "resp", "last"),
}  # fmt: skip


async def start(dut: Any) -> None:
    """Run the clock and reset; returns at a falling edge. BANKSIDE_FAULT chooses the fault of a
    twin; unset for machines that have a signal of that name themselves.
    """
    if "BANKSIDE_FAULT" in os.environ and hasattr(dut, "fault"):
        dut.fault.value = int(os.environ["BANKSIDE_FAULT"])
    dut.rst.value = 1
    Clock(dut.clk, 10, unit="ns").start()
    for _ in range(4):
        await FallingEdge(dut.clk)
    dut.rst.value = 0
    await FallingEdge(dut.clk)


def pauses(random: Random, share: float) -> Iterator[bool]:
    """For `set_pause_generator`: pause in this share of the cycles, in runs of random length."""
    while True:
        yield from [False] * random.randint(1, 8)
        if share:
            yield from [True] * int(random.expovariate((1 - share) / (4.5 * share)) + 0.5)


def pause_all(channels: list[Any], random: Random, share: float) -> None:
    """Random pauses on every channel of bus models."""
    for channel in channels:
        channel.set_pause_generator(pauses(Random(random.random()), share))


class ChannelChecker:
    """Fails the test when a channel withdraws `valid` or changes its payload before `ready`, and
    when it offers unknown bits.
    """

    def __init__(self, dut: Any, prefix: str, channel: str) -> None:
        self.name = prefix + channel
        self.dut, self.offers, self.moved = dut, 0, 0
        self.valid = dut[f"{self.name}valid"]
        self.ready = dut[f"{self.name}ready"]
        names = [f"{self.name}{field}" for field in PAYLOADS[channel]]
        self.payload = [dut[name] for name in names if hasattr(dut, name)]

    def start(self) -> "ChannelChecker":
        """Run in the background."""
        cocotb.start_soon(self._run())
        return self

    async def _run(self) -> None:
        waiting: list | None = None
        while True:
            await FallingEdge(self.dut.clk)
            await ReadOnly()
            if self.dut.rst.value:
                waiting = None
                continue
            valid, ready = self.valid.value, self.ready.value
            assert valid.is_resolvable and ready.is_resolvable, f"{self.name}: unknown handshake"
            offer = None
            if valid:
                values = [signal.value for signal in self.payload]
                assert all(v.is_resolvable for v in values), f"{self.name}: unknown bits"
                offer = [int(v) for v in values]
            if waiting is not None:
                assert offer is not None, f"{self.name}: valid withdrawn before ready"
                assert offer == waiting, f"{self.name}: payload changed before ready"
            self.offers += waiting is None and offer is not None
            self.moved += bool(valid and ready)
            waiting = offer if valid and not ready else None


class FailingRam:
    """Hooks a memory's read and write so that bursts into the given bytes fail."""

    def __init__(self, ram: Any) -> None:
        self.first = self.last = -1
        for side, name in ((ram.read_if, "_read"), (ram.write_if, "_write")):
            setattr(side, name, self._hooked(getattr(side, name)))

    def _hooked(self, access):
        async def hooked(address, what):
            if self.first <= address < self.last:
                raise ValueError(f"address {address:#x} fails on purpose")
            return await access(address, what)

        return hooked
