"""cocotb bench for the speed comparison: one program on a machine with AXI ports, with host and
memories; the cycles of one trace bit are recorded.

It does per cycle what the C++ shims of the `rtl` executions do, the way a cocotb user writes it.
Input and output files are named by the environment (BANKSIDE_SPEED_IN, BANKSIDE_SPEED_OUT, numpy
archives; `bankside.sim.bench.cocotb_axi` writes and reads them).
"""

import os
import time
from collections import deque

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ReadOnly, RisingEdge, Timer

_SETTLED = Timer(1, unit="ns")


async def _write(dut, address: int, value: int) -> None:
    """A register of the host; the machine takes address and data at once."""
    dut.s_axil_awaddr.value, dut.s_axil_wdata.value, dut.s_axil_wstrb.value = address, value, 255
    dut.s_axil_awvalid.value = dut.s_axil_wvalid.value = dut.s_axil_bready.value = 1
    while True:
        await ReadOnly()
        ready = int(dut.s_axil_awready.value) and int(dut.s_axil_wready.value)
        await RisingEdge(dut.clk)
        await _SETTLED
        if ready:
            break
    dut.s_axil_awvalid.value = dut.s_axil_wvalid.value = 0


async def _start(dut, given) -> None:
    """Reset, registers; returns in a cycle in which the inputs can be driven."""
    for name in ("awvalid", "wvalid", "bready", "arvalid", "rready"):
        getattr(dut, f"s_axil_{name}").value = 0
    for prefix in map(str, given["prefixes"]):
        for name in ("arready", "awready", "wready", "rvalid", "bvalid"):
            if hasattr(dut, f"{prefix}{name}"):
                getattr(dut, f"{prefix}{name}").value = 0
    dut.rst.value = 1
    Clock(dut.clk, 10, unit="ns").start()
    for _ in range(3):
        await RisingEdge(dut.clk)
    await _SETTLED
    dut.rst.value = 0
    for address, value in given["registers"]:
        await _write(dut, int(address), int(value))


class Memory:
    """Memory at one port: `drive` sets the inputs of a cycle from the outputs of that cycle."""

    def __init__(self, dut, prefix: str, data: bytes, timing) -> None:
        self.dut, self.prefix, self.data = dut, prefix, bytearray(data)
        self.bus = len(getattr(dut, f"{prefix}rdata")) // 8
        self.read_latency, self.write_latency, self.beat = map(int, timing)
        self.reads: deque = deque()
        self.writes: deque = deque()
        self.responses: deque = deque()
        self.next_read = self.next_write = 0
        self.writable = hasattr(dut, f"{prefix}awvalid")
        self._port("arready").value = 1
        self._port("rresp").value = 0
        if self.writable:
            self._port("awready").value = 1
            self._port("bresp").value = 0

    def _port(self, name: str):
        return getattr(self.dut, self.prefix + name)

    def drive(self, now: int) -> None:
        self._accept("ar", self.reads, now)
        self._read(now)
        if not self.writable:
            return
        self._accept("aw", self.writes, now)
        self._write(now)
        answer = (
            bool(self.responses) and self.responses[0] <= now and int(self._port("bready").value)
        )
        self._port("bvalid").value = int(answer)
        if answer:
            self.responses.popleft()

    def _accept(self, channel: str, bursts: deque, now: int) -> None:
        if int(self._port(f"{channel}valid").value):
            beats = int(self._port(f"{channel}len").value) + 1
            bursts.append([int(self._port(f"{channel}addr").value), beats, now])

    def _read(self, now: int) -> None:
        ready = bool(self.reads) and now >= self.reads[0][2] + self.read_latency
        ready = ready and now >= self.next_read and int(self._port("rready").value)
        self._port("rvalid").value = int(ready)
        if not ready:
            return
        burst = self.reads[0]
        word = self.data[burst[0] : burst[0] + self.bus]
        self._port("rdata").value = int.from_bytes(word, "little")
        self._port("rlast").value = burst[1] == 1
        burst[0], burst[1], self.next_read = burst[0] + self.bus, burst[1] - 1, now + self.beat
        if not burst[1]:
            self.reads.popleft()

    def _write(self, now: int) -> None:
        ready = now >= self.next_write
        self._port("wready").value = int(ready)
        if not (ready and int(self._port("wvalid").value)):
            return
        burst, strobes = self.writes[0], int(self._port("wstrb").value)
        word = int(self._port("wdata").value).to_bytes(self.bus, "little")
        for i in range(self.bus):
            if strobes >> i & 1:
                self.data[burst[0] + i] = word[i]
        burst[0], self.next_write = burst[0] + self.bus, now + self.beat
        if int(self._port("wlast").value):
            self.responses.append(now + self.write_latency)
            self.writes.popleft()


@cocotb.test()
async def speed(dut) -> None:
    """Run the program, record trace bit and memory, write them with the time it took."""
    given = np.load(os.environ["BANKSIDE_SPEED_IN"])
    await _start(dut, given)
    watched, running = int(given["watched"]), int(given["running"])
    memories = [
        Memory(dut, str(prefix), given[str(prefix)].tobytes(), given["timing"])
        for prefix in given["prefixes"]
    ]
    while not int(dut.events.value) >> running & 1:
        await RisingEdge(dut.clk)
        await _SETTLED
    seen, cycle = [], 0
    begin = time.process_time()
    while int(dut.events.value) >> running & 1:
        for memory in memories:
            memory.drive(cycle)
        await ReadOnly()
        if int(dut.events.value) >> watched & 1:
            seen.append(cycle)
        await RisingEdge(dut.clk)
        await _SETTLED
        cycle += 1
    seconds = time.process_time() - begin
    np.savez(
        os.environ["BANKSIDE_SPEED_OUT"], seconds=seconds, cycles=cycle, seen=np.array(seen),
        image=np.frombuffer(bytes(memories[0].data), "<u2"),
    )  # fmt: skip
