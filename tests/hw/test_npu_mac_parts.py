"""Parts of the npu's MAC path: illegal tiles, the divider."""

import sys
from pathlib import Path
from random import Random

import pytest

from bankside.hw.arith.requantise import MBQM_LATENCY
from bankside.hw.lib.testing import simulate
from bankside.hw.npu.mac.average import Average
from bankside.hw.npu.mac.engine import MacEngine
from bankside.hw.npu.operation import opcode, register_shapes
from bankside.isa.machines import load_machine
from bankside.isa.numerics_npu import average

sys.path.insert(0, str(Path(__file__).parent))
from npu_mac_reference import Image, random_layer  # noqa: E402


@pytest.mark.parametrize("spoil", ["none", "width", "flags", "rest", "end"])
def test_illegal_tiles(spoil: str) -> None:
    """A header that is none, or a tile at the end of the buffer, is told in the cycle it shows."""
    machine = load_machine("hw/presets/npu_u55_32.yaml")
    image = Image(machine, Random(5))
    reg = random_layer(image, "CONV", small=True, kernel_h=2, ifm_c=32, ofm_c=8).reg
    at = 8 * reg["weights"]
    if spoil == "end":
        tile = bytes([8, 0, 0, *(0,) * 5])
        reg["weights"] = machine.weight_words - 1
        image.weights[-8:] = tile
    elif spoil != "none":
        byte, value = {"width": (0, 9), "flags": (2, 2), "rest": (7, 1)}[spoil]
        image.weights[at + byte] = value
    dut, seen = MacEngine(machine), []

    async def weights(ctx) -> None:
        port = dut.weights
        while True:
            _, _, en, address, bad = await ctx.tick().sample(
                port.en, port.address, dut.illegal_weights
            )
            seen.append(bad)
            if en:
                word = image.weights[8 * address : 8 * address + 8]
                ctx.set(port.data, int.from_bytes(word, "little"))

    async def bench(ctx) -> None:
        values = {n: int(reg[n]) for n in register_shapes(machine)}
        ctx.set(dut.operation.payload, {"opcode": opcode("CONV"), "mode": 0, **values})
        ctx.set(dut.operation.valid, 1)
        await ctx.tick()
        ctx.set(dut.operation.valid, 0)
        for _ in range(30):
            await ctx.tick()

    simulate(dut, bench, background=(weights,))
    # s = 0, the header is read in cycle 4, on the port in cycle 5, the word after it read there.
    assert seen.index(1) == 5 if spoil != "none" else not any(seen)


def test_average() -> None:
    """Every sum of int8 values that a window can have at its extremes, and random ones."""
    dut, random = Average(), Random(9)
    cases = [(s * 128 * n, n) for n in (1, 2, 3, 255, 256, 65025) for s in (-1, 0)]
    cases += [(s, 0) for s in (0, 5, -5)]
    for _ in range(3000):
        n = random.choice((random.randint(1, 9), random.randint(1, 65025)))
        cases.append((random.randint(-128 * n, 127 * n), n))
    plan = [*cases, *[None] * MBQM_LATENCY]

    async def bench(ctx) -> None:
        for t, case in enumerate(plan):
            ctx.set(dut.i_valid, case is not None)
            if case is not None:
                ctx.set(dut.total, case[0])
                ctx.set(dut.count, case[1])
            if t >= MBQM_LATENCY:
                total, count = plan[t - MBQM_LATENCY]
                assert ctx.get(dut.y) == average(total, count), (total, count)
            await ctx.tick()

    simulate(dut, bench)
