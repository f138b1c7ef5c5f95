"""Parts of the npu's MAC path: refused operations, illegal tiles, the divider."""

import sys
from pathlib import Path
from random import Random

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.arith.requantise import MBQM_LATENCY
from bankside.hw.lib.testing import simulate
from bankside.hw.npu.mac.average import Average
from bankside.hw.npu.mac.check import mac_refused
from bankside.hw.npu.mac.engine import MacEngine
from bankside.hw.npu.operation import MAC_OPERATIONS, opcode, operation_layout, register_shapes
from bankside.isa.machines import load_machine
from bankside.isa.npu_commands import UNABLE, Command, NpuFault
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.numerics_npu import average

sys.path.insert(0, str(Path(__file__).parent))
from npu_mac_reference import Image, random_layer  # noqa: E402


class _Check(wiring.Component):
    def __init__(self, machine: NpuMachine) -> None:
        self.machine = machine
        super().__init__({"operation": In(operation_layout(machine)), "refused": Out(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.d.comb += self.refused.eq(mac_refused(self.machine, self.operation))
        return m


def _unable(machine: NpuMachine, name: str, reg: dict[str, int]) -> bool:
    fields = {"mode": 0} if name == "POOL" else {}
    try:
        Command(machine, 0, name, fields, reg).check(())
    except NpuFault as fault:
        return fault.code == UNABLE
    return False


def _spoilt(random: Random, reg: dict[str, int]) -> dict[str, int]:
    """`reg` with up to two registers changed, mostly to a value at a limit."""
    changes = {
        **dict.fromkeys(("ofm_h", "ofm_w", "ofm_c", "ifm_c", "ifm_h", "ifm_w"), (0, 1)),
        **dict.fromkeys(("kernel_h", "kernel_w", "stride_y", "stride_x"), (0, 1)),
        **dict.fromkeys(("dilation_y", "dilation_x", "ifm_bits", "ifm2_bits"), (0, 1)),
        **dict.fromkeys(("ofm_bits", "lut_enable", "weight_mode"), (0, 1)),
        **dict.fromkeys(("weight_format", "scale_mode"), (0, 1, 2, 3)),
        **dict.fromkeys(("ifm_zero", "ifm2_zero"), (-129, -128, 127, 128, 32767)),
        "block": (0, 1, 64, 65, 65535),
    }
    names = random.sample(sorted(changes), random.randrange(3))
    return {**reg, **{name: random.choice(changes[name]) for name in names}}


@pytest.mark.parametrize("name", ["u55_64", "llm_64"])
def test_refused_operations(name: str) -> None:
    """As the program check says: fault 2, in hardware."""
    machine = load_machine(f"hw/presets/npu_{name}.yaml")
    dut, random = _Check(machine), Random(name)
    cases = []
    for _ in range(400):
        kind = random.choice(MAC_OPERATIONS)
        fixed = {"small": True} if machine.wide or kind != "MATMUL" else {}
        reg = random_layer(Image(machine, random), kind, **fixed).reg
        cases.append((kind, _spoilt(random, reg)))
    refused = [_unable(machine, kind, reg) for kind, reg in cases]
    assert 100 < sum(refused) < 300

    async def bench(ctx) -> None:
        for (kind, reg), expected in zip(cases, refused, strict=True):
            values = {n: int(reg[n]) for n in register_shapes(machine)}
            ctx.set(dut.operation, {"opcode": opcode(kind), "mode": 0, **values})
            assert ctx.get(dut.refused) == expected, (kind, reg)

    simulate(dut, bench)


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
