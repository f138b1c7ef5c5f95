"""Vector unit in Amaranth's simulator: bits against isa.numerics_npu, every event in its cycle."""

import sys
from pathlib import Path
from random import Random

import pytest

from bankside.hw.lib.testing import simulate
from bankside.hw.npu.operation import VECTOR_OPERATIONS, opcode
from bankside.hw.npu.vector.engine import VectorEngine
from bankside.hw.npu.vector.norm import MAX_CHANNELS

sys.path.insert(0, str(Path(__file__).parents[1] / "cosim" / "benches"))

import npu_vector_reference as reference  # noqa: E402

MACS = (32, 64, 256)  # V = 1, 2, 8


class Player:
    """Runs operations on an engine with a shared buffer around it."""

    def __init__(self, dut: VectorEngine, macs: int) -> None:
        self.dut, self.machine = dut, reference.make_machine(macs)
        self.content = bytearray(32 * reference.WORDS)
        self.events: list[tuple[int, str]] = []
        self.cycle = 0
        self.writes: list[tuple[int, int]] = []

    def _ports(self, ctx) -> dict:
        """Reads and the write of this cycle."""
        found = {}
        for name in ("read0", "read1", "read2"):
            port = getattr(self.dut, name)
            if ctx.get(port.en):
                at = 32 * ctx.get(port.address)
                found[port] = int.from_bytes(self.content[at : at + 32], "little")
        return found

    def _write(self, ctx) -> None:
        port = self.dut.write0
        if not ctx.get(port.en):
            return
        address, data, mask = (ctx.get(v) for v in (port.address, port.data, port.mask))
        assert mask, f"cycle {self.cycle}: a write of nothing"
        self.writes.append((address, mask))
        for k in range(32):
            if mask >> k & 1:
                self.content[32 * address + k] = data >> 8 * k & 255

    async def tick(self, ctx) -> None:
        for name in ("started", "steps_done", "complete"):
            if ctx.get(getattr(self.dut, name)):
                self.events.append((self.cycle, name))
        found = self._ports(ctx)
        self._write(ctx)
        await ctx.tick()
        self.cycle += 1
        for port, word in found.items():
            ctx.set(port.data, word)

    async def run(self, ctx, op: dict[str, int]) -> None:
        """One operation from its start to the cycle in which it is complete."""
        dut = self.dut
        ctx.set(dut.operation.payload, op)
        ctx.set(dut.operation.valid, 1)
        assert ctx.get(dut.idle) and ctx.get(dut.started) and ctx.get(dut.operation.ready)
        start, total = self.cycle, reference.duration(self.machine, op)
        self.events.clear()
        self.writes.clear()
        await self.tick(ctx)
        ctx.set(dut.operation.valid, 0)
        ctx.set(dut.operation.payload, {})
        kind = 1 << [opcode(name) for name in VECTOR_OPERATIONS].index(op["opcode"])
        for _ in range(1, total):
            assert not ctx.get(dut.idle) and ctx.get(dut.kind) == kind
            await self.tick(ctx)
        assert ctx.get(dut.idle) and not ctx.get(dut.kind)
        end = start + total
        wanted = [(start, "started"), (end - 9, "steps_done"), (end - 1, "complete")]
        assert self.events == wanted, (op, [(c - start, n) for c, n in self.events])


def difference(found: bytes, wanted: bytes) -> list[tuple[int, int, int]]:
    pairs = enumerate(zip(found, wanted, strict=True))
    return [(at, a, b) for at, (a, b) in pairs if a != b][:8]


@pytest.mark.parametrize("kind", reference.KINDS)
@pytest.mark.parametrize("macs", MACS)
def test_random_operations(macs: int, kind: str) -> None:
    """Some back to back, some after a pause; bytes that are not written stay."""
    dut = VectorEngine(reference.make_machine(macs))
    random = Random(f"{macs} {kind}")
    player = Player(dut, macs)

    async def bench(ctx) -> None:
        for number in range(6):
            op = reference.random_operation(random, kind)
            before = reference.fill(random, op)
            player.content[:] = before
            for _ in range(random.choice((0, 0, 3))):
                await player.tick(ctx)
            await player.run(ctx, op)
            wanted = reference.apply(op, before)
            wrong = difference(player.content, wanted)
            assert not wrong, f"{macs} {kind} {number}: {wrong} {op}"

    simulate(dut, bench, limit=100_000)


WIDE = {"ofm_bits": 1, "ofm_zero": 0, "ofm_min": -(1 << 15), "ofm_max": (1 << 15) - 1}
NORM_CORNERS = [{"o_shift": shift} for shift in (127, 125, 101, 93, 64, 63, 59, 0, -35, -100)]
CORNERS = {
    "softmax": [{"ofm_min": -100, "ofm_max": 100, "ofm_zero": zero} for zero in (-90, 0, 90)],
    "rms": [c | {"epsilon": e} | WIDE for c in NORM_CORNERS for e in (0, 1)],
}


@pytest.mark.parametrize("kind,zeros", [("softmax", True), ("rms", False), ("rms", True)])
def test_corners(kind: str, zeros: bool) -> None:
    """An empty sum of softmax; shifts beyond every product and sums of squares of 0."""
    dut, random = VectorEngine(reference.make_machine(32)), Random(8)
    player = Player(dut, 32)

    async def bench(ctx) -> None:
        for corner in CORNERS[kind]:
            op = reference.random_operation(random, kind) | corner | {"ofm_c": 9, "ofm_h": 1}
            op |= {"ofm": reference.OFM, "ofm_w": 2, "ifm_bits": int(kind != "softmax")}
            content = bytearray(random.randbytes(32 * reference.WORDS))
            if zeros:  # inputs without their zero point, or the table of softmax
                area = (reference.PARAMETERS, reference.OFM)
                if kind == "rms":
                    area, op["ifm_zero"] = (reference.IFM, reference.IFM2), 0
                content[32 * area[0] : 32 * area[1]] = bytes(32 * (area[1] - area[0]))
            player.content[:] = content
            await player.run(ctx, op)
            wanted = reference.apply(op, bytes(content))
            assert not difference(player.content, wanted), corner

    simulate(dut, bench, limit=100_000)


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("sign", [1, -1])
def test_norm_of_as_many_channels_as_there_may_be(kind: str, sign: int) -> None:
    """The largest sums that there are: every value 65535 (or minus that) away from the zero."""
    machine = reference.make_machine(32)
    dut, random = VectorEngine(machine), Random(1)
    player = Player(dut, 32)
    op = reference.random_operation(random, kind)
    low, high = -(1 << 15), (1 << 15) - 1
    value, zero = (high, low) if sign > 0 else (low, high)
    op |= {"ofm_c": MAX_CHANNELS, "ofm_h": 1, "ofm_w": 1, "ifm": 0, "ifm_bits": 1, "ifm_zero": zero}
    op |= {"ofm": 768, "ofm_bits": 0, "ofm_min": -128, "ofm_max": 127, "ofm_zero": 0}
    op |= {"epsilon": kind == "rms", "epsilon_shift": 60, "scale": 256}
    op |= {"o_shift": 55 if kind == "rms" else 44}
    content = bytearray(random.randbytes(32 * reference.WORDS))
    content[: 2 * MAX_CHANNELS] = value.to_bytes(2, "little", signed=True) * MAX_CHANNELS
    # One different value, so that LayerNorm has something to normalise.
    content[100:102] = bytes(2)
    player.content[:] = content

    async def bench(ctx) -> None:
        await player.run(ctx, op)
        wanted = reference.apply(op, bytes(content))
        assert not difference(player.content, wanted)
        assert len(set(wanted[32 * 768 : 32 * 768 + MAX_CHANNELS])) > 2

    simulate(dut, bench, limit=100_000)
