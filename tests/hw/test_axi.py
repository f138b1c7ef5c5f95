"""AXI in Amaranth's simulator: cutting into bursts, register slave, port names."""

from random import Random

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.axi.burst import BurstSplitter, block_beats
from bankside.hw.axi.lite import AxiLiteSlave
from bankside.hw.axi.signatures import (
    AxiLiteSignature,
    AxiReadSignature,
    AxiWriteSignature,
    connect_prefixed,
    prefixed,
)
from bankside.hw.lib.testing import simulate

# --- bursts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("beat_bytes", [4, 8, 16, 128])
def test_bursts_cover_the_run_and_stay_in_their_block(beat_bytes):
    random = Random(beat_bytes)
    dut = BurstSplitter(beat_bytes=beat_bytes, address_bits=16, count_bits=11)
    runs = [(random.randrange(0, 16384, beat_bytes), random.randint(1, 2047)) for _ in range(30)]
    runs += [(4096 - beat_bytes, beats) for beats in (1, 2, 257)]
    runs += [(0, block_beats(beat_bytes) + extra) for extra in (-1, 0, 1)]

    async def bench(ctx) -> None:
        for address, beats in runs:
            at, left, last = address, beats, False
            while not last:
                ctx.set(dut.address, at)
                ctx.set(dut.beats, left)
                await ctx.delay(1e-10)
                length, last = ctx.get(dut.length), ctx.get(dut.last)
                end = at + length * beat_bytes
                assert 1 <= length <= min(256, left)
                assert at // 4096 == (end - 1) // 4096
                # No burst is shorter than it has to be.
                assert last or end % (block_beats(beat_bytes) * beat_bytes) == 0
                left -= length
                at = end
                assert last or ctx.get(dut.next_address) == at & 0xFFFF
            assert left == 0

    simulate(dut, bench)


# --- AXI4-Lite ------------------------------------------------------------------------------------


class Registers(wiring.Component):
    """A slave with four registers; the others do not exist."""

    def __init__(self) -> None:
        super().__init__({"axi": In(AxiLiteSignature(data_bits=64, address_bits=8))})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.slave = slave = AxiLiteSlave(address_bits=8)
        wiring.connect(m, wiring.flipped(self.axi), slave.axi)
        registers = [Signal(64, name=f"register{i}") for i in range(4)]
        for i, register in enumerate(registers):
            with m.If(slave.write_en & (slave.write_address == i)):
                m.d.sync += register.eq(slave.write_data)
            with m.If(slave.read_address == i):
                m.d.comb += slave.read_data.eq(register)
        m.d.comb += [
            slave.write_error.eq(slave.write_address > 3),
            slave.read_error.eq(slave.read_address > 3),
        ]
        return m


def channel(valid, ready, items, *, idle: float, seed: int, payload):
    """Bench that sends `items` (dictionaries of signal name and value)."""
    random = Random(seed)

    async def bench(ctx) -> None:
        for item in items:
            while random.random() < idle:
                await ctx.tick()
            for name, value in item.items():
                ctx.set(getattr(payload, name), value)
            ctx.set(valid, 1)
            taken = False
            while not taken:
                _, _, taken = await ctx.tick().sample(ready)
            ctx.set(valid, 0)

    return bench


def answers(valid, ready, signals, count, into, *, stall: float, seed: int):
    """Bench that takes `count` answers."""
    random = Random(seed)

    async def bench(ctx) -> None:
        cycle = 0
        while len(into) < count:
            ctx.set(ready, random.random() >= stall)
            _, _, go, back, *values = await ctx.tick().sample(valid, ready, *signals)
            if go and back:
                into.append((cycle, *(getattr(v, "value", v) for v in values)))
            cycle += 1

    return bench


@pytest.mark.parametrize("idle,stall", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.4, 0.4)])
def test_registers(idle, stall):
    """Each write and read is answered in order, at one per cycle when nobody waits."""
    random, dut = Random(int(10 * idle + 100 * stall)), Registers()
    axi, count = dut.axi, 60
    writes = [(8 * random.randrange(6), random.getrandbits(64)) for _ in range(count)]
    strobes = [255 if random.random() < 0.8 else random.randrange(255) for _ in writes]
    got: list = []
    benches = [
        channel(axi.awvalid, axi.awready, [{"awaddr": a} for a, _ in writes], idle=idle, seed=1,
                payload=axi),
        channel(axi.wvalid, axi.wready,
                [{"wdata": d, "wstrb": s} for (_, d), s in zip(writes, strobes, strict=True)],
                idle=idle, seed=2, payload=axi),
        answers(axi.bvalid, axi.bready, [axi.bresp], count, got, stall=stall, seed=3),
    ]  # fmt: skip
    expected, values = [], [0] * 4
    for (address, word), strobe in zip(writes, strobes, strict=True):
        good = address < 32 and strobe == 255
        expected.append(0 if good else 2)
        if good:
            values[address // 8] = word
    seen: list = []

    async def read_all(ctx) -> None:
        while len(got) < count:
            await ctx.tick()
        for address in range(0, 48, 8):
            ctx.set(axi.araddr, address)
            ctx.set(axi.arvalid, 1)
            _, _, ready = await ctx.tick().sample(axi.arready)
            assert ready
            ctx.set(axi.arvalid, 0)
            ctx.set(axi.rready, 1)
            valid = False
            while not valid:
                _, _, valid, word, resp = await ctx.tick().sample(axi.rvalid, axi.rdata, axi.rresp)
            ctx.set(axi.rready, 0)
            seen.append((word, resp.value))

    simulate(dut, *benches, read_all)
    assert [resp for _, resp in got] == expected and {0, 2} <= set(expected)
    assert seen == [(value, 0) for value in values] + [(0, 2)] * 2
    if not idle + stall:
        cycles = [cycle for cycle, _ in got]
        assert cycles == list(range(cycles[0], cycles[0] + count))


def test_reads_one_per_cycle():
    dut, got, count = Registers(), [], 20
    axi = dut.axi
    send = channel(axi.arvalid, axi.arready, [{"araddr": 8 * (i % 4)} for i in range(count)],
                   idle=0, seed=0, payload=axi)  # fmt: skip
    take = answers(axi.rvalid, axi.rready, [axi.rdata, axi.rresp], count, got, stall=0, seed=0)
    simulate(dut, send, take)
    assert [cycle - got[0][0] for cycle, *_ in got] == list(range(count))


# --- signatures -----------------------------------------------------------------------------------


class Outer(wiring.Component):
    """A top whose ports are those of the bus, with a prefix."""

    def __init__(self) -> None:
        self.inner = AxiReadSignature(data_bits=32, address_bits=12)
        super().__init__({**prefixed("m_axi_", self.inner), "seen": Out(12)})

    def elaborate(self, platform) -> Module:
        m = Module()
        bus = self.inner.create()
        connect_prefixed(m, self, "m_axi_", bus)
        m.d.comb += [bus.araddr.eq(0x123), self.seen.eq(bus.rdata)]
        return m


def test_prefixed_ports_pass_both_ways():
    dut = Outer()

    async def bench(ctx) -> None:
        ctx.set(dut.m_axi_rdata, 0x456)
        await ctx.delay(1e-10)
        assert (ctx.get(dut.m_axi_araddr), ctx.get(dut.seen)) == (0x123, 0x456)

    simulate(dut, bench)


def test_signatures_compare_by_width():
    for kind in (AxiReadSignature, AxiWriteSignature, AxiLiteSignature):
        one = kind(data_bits=64, address_bits=16)
        assert one == kind(data_bits=64, address_bits=16) and one.size == 3
        assert one != kind(data_bits=32, address_bits=16) != kind(data_bits=32, address_bits=17)
    with pytest.raises(ValueError, match="power of two"):
        AxiReadSignature(data_bits=48, address_bits=16)
