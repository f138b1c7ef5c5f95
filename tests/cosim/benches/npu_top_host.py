"""Host and memories of the whole `npu` machine: cocotbext-axi on its three ports; what must not
happen after the end of a stream.
"""

import os
from random import Random

import cocotb
import numpy as np
from axi_checkers import ChannelChecker, FailingRam, pause_all
from cocotb.triggers import ClockCycles, FallingEdge, ReadOnly
from cocotbext.axi import (
    AxiBus,
    AxiLiteBus,
    AxiLiteMaster,
    AxiRam,
    AxiRamRead,
    AxiReadBus,
    AxiResp,
)

from bankside.config import HardwareConfig
from bankside.isa.npu_commands import REGIONS
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine
from bankside.isa.npu_registers import CONTROL, QUEUE_ALIGNMENT, STATUS, addresses
from bankside.isa.program import Builder, Program
from bankside.isa.spec import load_spec

#: Small buffers: they are wiped often. The bus of `u55` is a quarter of a word, that of `llm` four.
PROFILES = {
    "u55": "{macs: 32, profile: u55, shared_words: 1024, weight_bytes: 8192",
    "llm": "{macs: 64, profile: llm, shared_words: 2048, weight_bytes: 32768",
}
MACHINES = {
    name: NpuMachine.of(
        HardwareConfig.parse(
            f"name: bench_{name}\nengine: npu\nnpu: {text}, banks: 8, accumulators: 16}}\n"
            "memory: {bytes: 262144, outstanding: 4}\n"
        )
    )
    for name, text in PROFILES.items()
}
PROFILE = os.environ.get("BANKSIDE_PROFILE", "u55")
MACHINE = MACHINES[PROFILE]
SPEC = load_spec("npu")
BEAT = MACHINE.bus_bytes
SHARED_BYTES = MACHINE.shared_words * WORD_BYTES
#: Bytes of the shared buffer that the fault tests fill and compare: transfers of many bursts.
USED = max(4096, 256 * BEAT)
REGISTER = addresses()
START, CLEAR = (1 << field.lsb for field in CONTROL.fields)
PROGRAM_MEMORY = 1 << 20


class HaltChecker:
    """After the end no burst begins and no beat with strobes is offered: fails the test otherwise.

    The cycle after the last one of the stream is the first one; what was offered before may stay.
    """

    CHANNELS = ("m0_axi_ar", "m0_axi_aw", "m0_axi_w", "m1_axi_ar")

    def __init__(self, dut) -> None:
        self.dut, self.muted = dut, 0

    def start(self) -> "HaltChecker":
        cocotb.start_soon(self._run())
        return self

    async def _run(self) -> None:
        dut, ran, over = self.dut, False, False
        offered = dict.fromkeys(self.CHANNELS, False)
        while True:
            await FallingEdge(dut.clk)
            await ReadOnly()
            running = bool(int(dut.events.value) & 1)
            over = (over or ran) and not running
            for channel in offered:
                valid = int(dut[f"{channel}valid"].value)
                if over and valid and not offered[channel]:
                    assert channel == "m0_axi_w", f"{channel}: a burst begins after the end"
                    assert not int(dut.m0_axi_wstrb.value), "m0_axi_w: strobes after the end"
                    self.muted += 1
                ready = int(dut[f"{channel}ready"].value)
                offered[channel] = bool(valid and not ready)
            ran = running


class Host:
    """Drives the machine as software would. Pauses of every channel take `share` of the cycles."""

    def __init__(self, dut, share: float) -> None:
        self.dut, self.random = dut, Random(cocotb.RANDOM_SEED)
        self.queue_at = 0
        self.master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        size = MACHINE.config.memory.bytes
        self.ram = AxiRam(AxiBus.from_prefix(dut, "m0_axi"), dut.clk, dut.rst, size=size)
        self.words = AxiRamRead(
            AxiReadBus.from_prefix(dut, "m1_axi"), dut.clk, dut.rst, size=PROGRAM_MEMORY
        )
        self.fail = FailingRam(self.ram)
        write, read = self.ram.write_if, self.ram.read_if
        pause_all(
            [write.aw_channel, write.w_channel, write.b_channel, read.ar_channel, read.r_channel,
             self.words.ar_channel, self.words.r_channel], self.random, share,
        )  # fmt: skip
        self.checkers = [ChannelChecker(dut, "m0_axi_", name).start() for name in ("ar", "aw", "w")]
        self.checkers.append(ChannelChecker(dut, "m1_axi_", "ar").start())
        self.checkers += [ChannelChecker(dut, "s_axil_", name).start() for name in ("b", "r")]
        self.halt = HaltChecker(dut).start()

    # --- registers ------------------------------------------------------------------------------

    async def read(self, name: str) -> int:
        found = await self.master.read(REGISTER[name], 8)
        assert found.resp == AxiResp.OKAY, f"register {name}: {found.resp}"
        return int.from_bytes(found.data, "little")

    async def write(self, name: str, value: int) -> bool:
        """Whether the machine took it."""
        done = await self.master.write(REGISTER[name], value.to_bytes(8, "little"))
        return done.resp == AxiResp.OKAY

    async def status(self) -> dict[str, int]:
        """Fields of the status register."""
        value = await self.read("status")
        return {f.name: value >> f.lsb & (1 << f.width) - 1 for f in STATUS.fields}

    # --- programs -------------------------------------------------------------------------------

    async def start(self, program: Program) -> None:
        """Puts the commands somewhere else each time."""
        self.queue_at = self.random.randrange(0, PROGRAM_MEMORY // 2, QUEUE_ALIGNMENT)
        self.ram.write(0, program.host_in.astype("<u2").tobytes())
        self.words.write(self.queue_at, np.array(program.words, "<u8").tobytes())
        registers = {"qbase": self.queue_at, "qsize": len(program.words)}
        regions = [*program.regions, *[(0, 0)] * REGIONS][:REGIONS]
        for i, (base, size) in enumerate(regions):
            registers |= {f"region{i}.base": base, f"region{i}.size": size}
        for name, value in registers.items():
            assert await self.write(name, value), f"{name} = {value:#x} is refused"
        assert await self.write("control", START)

    async def finish(self, limit: int = 60_000) -> dict[str, int]:
        """Status after the end of the stream that runs."""
        for _ in range(limit // 50):
            status = await self.status()
            if not status["running"]:
                return status
            await ClockCycles(self.dut.clk, 50)
        raise AssertionError(f"not finished: {status}")

    async def run(self, program: Program) -> dict[str, int]:
        await self.start(program)
        return await self.finish()

    async def run_well(self, program: Program, where: str = "") -> None:
        """Done, without a fault, at its last command."""
        status = await self.run(program)
        assert status["done"] and not status["fault"], f"{where}: {status}"
        assert status["position"] == len(program.words) - 1, f"{where}: {status}"

    async def clear(self) -> None:
        assert await self.write("control", CLEAR)
        for _ in range(20):
            status = await self.status()
            if not any(status.values()):
                return
        raise AssertionError(f"the machine does not come to rest: {status}")

    def memory(self, program: Program) -> np.ndarray:
        """What stands where the image of `program` stood."""
        found = np.frombuffer(self.ram.read(0, program.host_in.nbytes), "<u2")
        return found.reshape(program.host_in.shape).copy()


class FailingWords:
    """The burst that fetches command `word` fails, as long as `active`."""

    def __init__(self, host: Host, word: int) -> None:
        self.active, access = True, host.words._read

        async def hooked(address, length):
            wanted = host.queue_at + 8 * word
            if self.active and address <= wanted < address + length:
                raise ValueError(f"address {address:#x} fails on purpose")
            return await access(address, length)

        host.words._read = hooked


# --- short programs -----------------------------------------------------------------------------


def set_registers(b: Builder, **registers: int) -> None:
    for name, value in registers.items():
        b.SET(reg=name, value=value & 0xFFFFFFFF)


def transfer(b: Builder, direction: str, size: int, **registers: int) -> None:
    """One row of `size` bytes; from byte 0 of region 0 and buffer unless `registers` say else."""
    where = {"region": 0, "offset": 0, "rows": 1, "buf": 0} | registers
    set_registers(b, row_bytes=size, **where)
    b.DMA(direction=direction)


def image(size: int) -> np.ndarray:
    """`size` bytes of zeros, a row per beat."""
    return np.zeros((size // BEAT, BEAT // 2), np.uint16)


def wipe() -> Program:
    """Zeros into both buffers: no reset clears them, golden models begin with zeros."""
    rows, b = image(USED), Builder("npu", BEAT // 2)
    for direction, end in (
        ("to_shared", SHARED_BYTES),
        ("to_weights", MACHINE.config.npu.weight_bytes),
    ):
        transfer(b, direction, USED, rows=end // USED, row_step=0, buf_step=USED)
    b.STOP()
    return Program("npu", tuple(b.words), rows, regions=((0, rows.nbytes),))


def dump() -> Program:
    """The part of the buffer that was filled to memory."""
    rows, b = image(USED), Builder("npu", BEAT // 2)
    transfer(b, "to_memory", USED)
    b.STOP()
    return Program("npu", tuple(b.words), rows, regions=((0, rows.nbytes),))
