"""cocotb bench for the speed comparison: one program on the `array` machine, with host and main
memory, every pass recorded.

It does per cycle what the C++ shim of the `rtl` execution does, the way a cocotb user writes it.
Input and output files are named by the environment (BANKSIDE_SPEED_IN, BANKSIDE_SPEED_OUT, numpy
archives).
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
    """Reset, program, start; returns in a cycle in which the inputs can be driven."""
    for name in ("awvalid", "wvalid", "bready", "arvalid", "rready"):
        getattr(dut, f"s_axil_{name}").value = 0
    for name in ("arready", "awready", "wready", "rvalid", "bvalid"):
        getattr(dut, f"m_axi_{name}").value = 0
    dut.rst.value = 1
    Clock(dut.clk, 10, unit="ns").start()
    for _ in range(3):
        await RisingEdge(dut.clk)
    await _SETTLED
    dut.rst.value = 0
    for index, word in enumerate(given["words"]):
        await _write(dut, int(given["program"]) + 8 * index, int(word))
    await _write(dut, int(given["control"]), int(given["start"]))


class Memory:
    """Main memory: `drive` sets the inputs of a cycle from the outputs of that cycle."""

    def __init__(self, dut, given) -> None:
        self.dut, self.data = dut, bytearray(given["image"].tobytes())
        self.bus, self.read_latency, self.write_latency, self.beat = map(int, given["memory"])
        self.reads: deque = deque()
        self.writes: deque = deque()
        self.responses: deque = deque()
        self.next_read = self.next_write = 0
        dut.m_axi_arready.value = dut.m_axi_awready.value = 1
        dut.m_axi_rresp.value = dut.m_axi_bresp.value = 0

    def drive(self, now: int) -> None:
        dut = self.dut
        for port, bursts in (("ar", self.reads), ("aw", self.writes)):
            if int(getattr(dut, f"m_axi_{port}valid").value):
                beats = int(getattr(dut, f"m_axi_{port}len").value) + 1
                bursts.append([int(getattr(dut, f"m_axi_{port}addr").value), beats, now])
        self._read(now)
        self._write(now)
        answer = bool(self.responses) and self.responses[0] <= now
        dut.m_axi_bvalid.value = int(answer)
        if answer:
            self.responses.popleft()

    def _read(self, now: int) -> None:
        dut, bus = self.dut, self.bus
        ready = bool(self.reads) and now >= self.reads[0][2] + self.read_latency
        ready = ready and now >= self.next_read
        dut.m_axi_rvalid.value = int(ready)
        if not ready:
            return
        burst = self.reads[0]
        word = self.data[burst[0] : burst[0] + bus]
        dut.m_axi_rdata.value, dut.m_axi_rlast.value = int.from_bytes(word, "little"), burst[1] == 1
        burst[0], burst[1], self.next_read = burst[0] + bus, burst[1] - 1, now + self.beat
        if not burst[1]:
            self.reads.popleft()

    def _write(self, now: int) -> None:
        dut, bus = self.dut, self.bus
        ready = now >= self.next_write
        dut.m_axi_wready.value = int(ready)
        if not (ready and int(dut.m_axi_wvalid.value)):
            return
        burst = self.writes[0]
        word = int(dut.m_axi_wdata.value).to_bytes(bus, "little")
        self.data[burst[0] : burst[0] + bus] = word
        burst[0], self.next_write = burst[0] + bus, now + self.beat
        if int(dut.m_axi_wlast.value):
            self.responses.append(now + self.write_latency)
            self.writes.popleft()


@cocotb.test()
async def speed(dut) -> None:
    """Run the program, record passes and memory, write them with the time it took."""
    given = np.load(os.environ["BANKSIDE_SPEED_IN"])
    await _start(dut, given)
    memory, slot, running = Memory(dut, given), int(given["slot"]), int(given["running"])
    while not int(dut.events.value) >> running & 1:
        await RisingEdge(dut.clk)
        await _SETTLED
    passes, cycle = [], 0
    begin = time.process_time()
    while int(dut.events.value) >> running & 1:
        memory.drive(cycle)
        await ReadOnly()
        if int(dut.events.value) >> slot & 1:
            passes.append(cycle)
        await RisingEdge(dut.clk)
        await _SETTLED
        cycle += 1
    seconds = time.process_time() - begin
    np.savez(
        os.environ["BANKSIDE_SPEED_OUT"], seconds=seconds, cycles=cycle, passes=np.array(passes),
        image=np.frombuffer(bytes(memory.data), "<u2"),
    )  # fmt: skip
