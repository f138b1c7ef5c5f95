"""Host registers of the `npu` engine behind AXI4-Lite."""

import random

import pytest

from bankside.hw.axi.signatures import Resp
from bankside.hw.lib.testing import simulate
from bankside.hw.npu.registers import ADDRESS_MAP_BITS, HostRegisters
from bankside.isa.npu_registers import WRITE, addresses, registers

AT = addresses()
OKAY, SLVERR = Resp.OKAY.value, Resp.SLVERR.value
START, CLEAR = 1, 2


class Host:
    """Writes and reads over AXI4-Lite; records pulses of `start` and cycles of `clear`."""

    def __init__(self, dut: HostRegisters) -> None:
        self.dut, self.starts, self.clears = dut, 0, 0

    async def tick(self, ctx) -> None:
        self.starts += ctx.get(self.dut.start)
        self.clears += ctx.get(self.dut.clear)
        await ctx.tick()

    async def write(self, ctx, address: int, value: int, strobe: int = 255) -> int:
        axi = self.dut.axi
        values = {"awaddr": address, "wdata": value, "wstrb": strobe}
        for name, number in (values | {"awvalid": 1, "wvalid": 1, "bready": 1}).items():
            ctx.set(getattr(axi, name), number)
        await self.tick(ctx)
        ctx.set(axi.awvalid, 0)
        ctx.set(axi.wvalid, 0)
        while not ctx.get(axi.bvalid):
            await self.tick(ctx)
        answer = ctx.get(axi.bresp)
        await self.tick(ctx)
        return answer.value

    async def read(self, ctx, address: int) -> tuple[int, int]:
        axi = self.dut.axi
        for name, number in {"araddr": address, "arvalid": 1, "rready": 1}.items():
            ctx.set(getattr(axi, name), number)
        await self.tick(ctx)
        ctx.set(axi.arvalid, 0)
        while not ctx.get(axi.rvalid):
            await self.tick(ctx)
        answer = ctx.get(axi.rresp).value, ctx.get(axi.rdata)
        await self.tick(ctx)
        return answer


def with_host(bench) -> Host:
    dut = HostRegisters()
    host = Host(dut)

    async def run(ctx):
        ctx.set(dut.quiet, 1)
        await bench(ctx, dut, host)

    simulate(dut, run)
    return host


KEPT = [name for name, _, register in registers() if register.access == "rw"]


def test_kept_registers_hold_what_is_written():
    async def bench(ctx, dut, host):
        rng, held = random.Random(1), {}
        for name in KEPT:
            width = 33 if name.endswith("size") and name != "qsize" else 32
            held[name] = rng.getrandbits(width) & (~127 if name == "qbase" else ~0)
            assert await host.write(ctx, AT[name], held[name]) == OKAY
        for name in KEPT:
            assert await host.read(ctx, AT[name]) == (OKAY, held[name])
        assert (ctx.get(dut.qbase), ctx.get(dut.qsize)) == (held["qbase"], held["qsize"])
        for i in range(8):
            region = dut.regions[i]
            found = (ctx.get(region.base), ctx.get(region.size))
            assert found == (held[f"region{i}.base"], held[f"region{i}.size"])

    with_host(bench)


def test_every_register_shows_its_own_value():
    async def bench(ctx, dut, host):
        ctx.set(dut.cycle, 0xABCDEF012345)
        for i, count in enumerate(dut.counts):
            ctx.set(count, 1000 + i)
        assert await host.read(ctx, AT["cycles"]) == (OKAY, 0xABCDEF012345)
        for i, name in enumerate(n for n in AT if n.startswith("counters.")):
            assert await host.read(ctx, AT[name]) == (OKAY, 1000 + i)

    with_host(bench)


def test_addresses_without_a_register_answer_with_an_error():
    readable = {at for _, at, register in registers() if register.access != WRITE}
    writable = {at for _, at, register in registers() if WRITE in register.access}

    async def bench(ctx, dut, host):
        for address in range(0, 1 << ADDRESS_MAP_BITS, 8):
            read, _ = await host.read(ctx, address)
            assert read == (OKAY if address in readable else SLVERR), hex(address)
            write = await host.write(ctx, address, 0)
            assert write == (OKAY if address in writable else SLVERR), hex(address)

    with_host(bench)


@pytest.mark.parametrize(
    ("name", "value", "strobe"),
    [("qbase", 64, 255), ("qbase", 1 << 32, 255), ("qsize", 1 << 32, 255), ("qsize", 5, 15)],
)
def test_values_that_do_not_fit_are_refused(name, value, strobe):
    async def bench(ctx, dut, host):
        assert await host.write(ctx, AT[name], 128) == OKAY
        assert await host.write(ctx, AT[name], value, strobe) == SLVERR
        assert await host.read(ctx, AT[name]) == (OKAY, 128)

    with_host(bench)


def test_status_shows_the_state_at_its_bits():
    async def bench(ctx, dut, host):
        assert await host.read(ctx, AT["status"]) == (OKAY, 0)
        ctx.set(dut.running, 1)
        ctx.set(dut.position, 0x12345678)
        assert await host.read(ctx, AT["status"]) == (OKAY, 0x12345678 << 32 | 1)
        ctx.set(dut.running, 0)
        ctx.set(dut.quiet, 0)
        assert (await host.read(ctx, AT["status"]))[1] & 15 == 1, "bursts are under way"
        ctx.set(dut.quiet, 1)
        ctx.set(dut.halted, 1)
        ctx.set(dut.fault, 5)
        assert await host.read(ctx, AT["status"]) == (OKAY, 0x12345678 << 32 | 5 << 8 | 4)

    with_host(bench)


def test_start_is_a_pulse_and_refused_while_it_cannot_be():
    async def bench(ctx, dut, host):
        assert await host.write(ctx, AT["control"], START) == OKAY
        assert host.starts == 1
        for name, value in (("running", 1), ("quiet", 0), ("halted", 1)):
            ctx.set(getattr(dut, name), value)
            assert await host.write(ctx, AT["control"], START) == SLVERR
            ctx.set(getattr(dut, name), name == "quiet")
        ctx.set(dut.running, 1)
        for name in KEPT:
            assert await host.write(ctx, AT[name], 128) == SLVERR
        assert host.starts == 1

    with_host(bench)


async def pulse(ctx, host, signal) -> None:
    ctx.set(signal, 1)
    await host.tick(ctx)
    ctx.set(signal, 0)


async def status(ctx, host) -> int:
    return (await host.read(ctx, AT["status"]))[1]


def test_done_stays_until_a_start_or_the_end_of_a_clear():
    async def bench(ctx, dut, host):
        await pulse(ctx, host, dut.done)
        assert await status(ctx, host) == 2
        await host.write(ctx, AT["control"], START)
        assert await status(ctx, host) == 0
        await pulse(ctx, host, dut.done)
        await host.write(ctx, AT["control"], CLEAR)
        assert ctx.get(dut.clear) and await host.write(ctx, AT["control"], START) == SLVERR
        assert await status(ctx, host) == 2
        await pulse(ctx, host, dut.cleared)
        assert not ctx.get(dut.clear) and await status(ctx, host) == 0

    with_host(bench)


def test_interrupts_raise_the_line_and_clear_takes_it_back_while_a_stream_runs():
    async def bench(ctx, dut, host):
        ctx.set(dut.running, 1)
        ctx.set(dut.interrupt_code, 0xBEEF)
        await pulse(ctx, host, dut.interrupt)
        ctx.set(dut.interrupt_code, 0)
        assert ctx.get(dut.line) and await status(ctx, host) == 0xBEEF << 16 | 9
        await host.write(ctx, AT["control"], CLEAR)
        assert not ctx.get(dut.line) and await status(ctx, host) == 1
        assert host.clears == 0, "a stream that runs is not reset"
        ctx.set(dut.interrupt_code, 3)
        await pulse(ctx, host, dut.interrupt)
        ctx.set(dut.running, 0)
        assert await status(ctx, host) == 3 << 16 | 8
        await host.write(ctx, AT["control"], START)
        assert not ctx.get(dut.line)

    with_host(bench)
