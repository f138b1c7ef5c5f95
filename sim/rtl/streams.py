"""Stream drivers, monitors and protocol checkers for cocotb, from flattened port names.

A cycle lasts from one falling edge of the clock to the next: inputs change at the falling edge,
everything is sampled once it has settled, and the rising edge in the middle takes it. So Verilator
and Icarus, which differ in what they show right after a rising edge, see the same.

The rules of a stream: `valid` once raised stays until `ready` is seen, with the payload unchanged;
an item moves in a cycle in which both are 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly

__all__ = ["StreamChecker", "StreamDriver", "StreamMonitor", "StreamPorts", "start_clock"]


async def start_clock(dut: Any, *, reset_cycles: int = 2, period_ns: int = 10) -> None:
    """Start `dut.clk`, hold `dut.rst` for `reset_cycles`; returns at a falling edge."""
    dut.rst.value = 1
    Clock(dut.clk, period_ns, unit="ns").start()
    for _ in range(reset_cycles + 1):
        await FallingEdge(dut.clk)
    dut.rst.value = 0


class StreamPorts:
    """Handles of stream `name` of `dut`: `<name>__valid`, `__ready`, `__payload`.

    A missing `valid` or `ready` port (an always_valid or always_ready stream) counts as 1.
    """

    def __init__(self, dut: Any, name: str) -> None:
        self.name = name
        self.clk = dut.clk
        self.rst = dut.rst
        self.payload = _port(dut, f"{name}__payload")
        self.valid = _port(dut, f"{name}__valid")
        self.ready = _port(dut, f"{name}__ready")
        if self.payload is None:
            raise ValueError(f"{dut._name} has no port {name}__payload; is {name!r} a stream?")

    def sample(self) -> tuple[bool, bool, int | None]:
        """(valid, ready, payload or None where it has unknown bits); call when settled."""
        payload = self.payload.value
        known = payload.to_unsigned() if payload.is_resolvable else None
        return self._bit(self.valid), self._bit(self.ready), known

    def _bit(self, port: Any) -> bool:
        if port is None:
            return True
        value = port.value
        assert value.is_resolvable, f"stream {self.name}: {port._name} is {value}"
        return bool(value)

    async def settled(self) -> tuple[bool, bool, int | None]:
        """Wait for the next falling edge and return the sample of the cycle that starts there."""
        await FallingEdge(self.clk)
        await ReadOnly()
        return self.sample()


def _port(dut: Any, name: str) -> Any:
    """Handle of a port, or None if there is no such port."""
    return getattr(dut, name) if hasattr(dut, name) else None


class StreamDriver:
    """Puts items into an input stream, with idle cycles between them at probability `idle`."""

    def __init__(
        self, dut: Any, name: str, *, idle: float = 0.0, random: Random | None = None
    ) -> None:
        self.ports = StreamPorts(dut, name)
        self._idle = idle
        self._random = random or Random(0)
        if self.ports.valid is not None:
            self.ports.valid.value = 0
        self.ports.payload.value = 0

    async def put(self, payload: int) -> None:
        """Offer `payload` until it is taken. Call at a falling edge; returns at a falling edge."""
        ports = self.ports
        while self._idle and self._random.random() < self._idle:
            await FallingEdge(ports.clk)
        ports.payload.value = payload
        if ports.valid is not None:
            ports.valid.value = 1
        taken = False
        while not taken:
            await ReadOnly()
            _, taken, _ = ports.sample()
            await FallingEdge(ports.clk)
        if ports.valid is not None:
            ports.valid.value = 0
            # What lies on the bus without `valid` must not matter.
            ports.payload.value = self._random.getrandbits(len(ports.payload))

    async def put_all(self, items: Iterable[int]) -> None:
        """`put` each of `items`."""
        for item in items:
            await self.put(item)


class StreamMonitor:
    """Takes every item of an output stream; `ready` is withheld at probability `stall`.

    `items` is what came, `cycles` the cycle of each, counted from `start`. With `drive=False` it
    only listens, to any stream.
    """

    def __init__(
        self,
        dut: Any,
        name: str,
        *,
        stall: float = 0.0,
        random: Random | None = None,
        drive: bool = True,
        on_item: Callable[[int], None] | None = None,
    ) -> None:
        self.ports = StreamPorts(dut, name)
        self.items: list[int] = []
        self.cycles: list[int] = []
        self.cycle = 0
        self._stall = stall
        self._random = random or Random(0)
        self._drive = drive and self.ports.ready is not None
        self._on_item = on_item
        if self._drive:
            self.ports.ready.value = 0

    def start(self) -> StreamMonitor:
        """Run in the background from the next falling edge on."""
        self._task = cocotb.start_soon(self._run())
        return self

    def stop(self) -> None:
        """Listen no longer."""
        self._task.cancel()

    async def wait_for(self, count: int, limit: int = 10_000) -> list[int]:
        """The first `count` items; fails when they have not come within `limit` more cycles."""
        for _ in range(limit):
            if len(self.items) >= count:
                return self.items[:count]
            await FallingEdge(self.ports.clk)
        raise AssertionError(
            f"stream {self.ports.name}: {len(self.items)} of {count} items after {limit} cycles"
        )

    async def _run(self) -> None:
        ports = self.ports
        while True:
            await FallingEdge(ports.clk)
            if self._drive:
                ports.ready.value = int(self._random.random() >= self._stall)
            await ReadOnly()
            valid, ready, payload = ports.sample()
            if valid and ready and not ports.rst.value:
                assert payload is not None, f"stream {ports.name}: item with unknown bits"
                self.items.append(payload)
                self.cycles.append(self.cycle)
                if self._on_item:
                    self._on_item(payload)
            self.cycle += 1


class StreamChecker:
    """Fails the test when the producer of a stream breaks the rules."""

    def __init__(self, dut: Any, name: str) -> None:
        self.ports = StreamPorts(dut, name)

    def start(self) -> StreamChecker:
        """Run in the background from the next falling edge on."""
        cocotb.start_soon(self._run())
        return self

    async def _run(self) -> None:
        offered: int | None = None
        waiting = False
        while True:
            valid, ready, payload = await self.ports.settled()
            if self.ports.rst.value:
                waiting = False
                continue
            name = self.ports.name
            if waiting:
                assert valid, f"stream {name}: valid withdrawn before ready"
                assert payload == offered, (
                    f"stream {name}: payload changed from {offered!r} to {payload!r} before ready"
                )
            assert not (valid and payload is None), f"stream {name}: unknown bits while valid"
            waiting, offered = valid and not ready, payload
