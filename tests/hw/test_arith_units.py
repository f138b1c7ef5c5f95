# amaranth: UnusedElaboratable=no
"""Arithmetic units in the Amaranth simulator against the integer reference."""

import pytest
from amaranth.hdl import C, Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from bankside.hw.arith.fp32 import order_key, order_unkey
from bankside.hw.arith.recip import Reciprocal
from bankside.hw.arith.units import COMBINATIONAL
from bankside.isa import numerics as ref
from bankside.isa.numerics_vectors import (
    DENOM_CORNERS,
    FP32_CORNERS,
    UNITS,
    random_denominator,
    random_fp32,
)

SEED = 20250419


def mismatches(dut, unit, operands) -> list[str]:
    """Drive every operand through the combinational `dut`; describe each wrong output."""
    wrong = []

    async def bench(ctx):
        for values in operands:
            for name, value in zip(unit.inputs, values, strict=True):
                ctx.set(getattr(dut, name), value)
            await ctx.delay(1e-9)
            got = tuple(ctx.get(getattr(dut, name)) for name in unit.outputs)
            want = unit.reference(*values)
            if got != want:
                wrong.append(f"{values} -> {got}, expected {want}")

    simulator = Simulator(dut)
    simulator.add_testbench(bench)
    simulator.run()
    return wrong


def test_every_unit_has_vectors_and_every_vector_a_unit():
    assert COMBINATIONAL.keys() == UNITS.keys()


@pytest.mark.parametrize("name", COMBINATIONAL)
def test_unit_equals_reference(name):
    unit = UNITS[name]
    wrong = mismatches(COMBINATIONAL[name](), unit, unit.operands(SEED, 1500))
    assert not wrong, f"seed {SEED}: " + "; ".join(wrong[:3])


class _Twin(wiring.Component):
    """A unit followed by a mistake, with the ports of the unit."""

    def __init__(self, name, mistake):
        self._unit, self._vectors, self._mistake = COMBINATIONAL[name](), UNITS[name], mistake
        super().__init__(dict(self._unit.signature.members))

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = self._unit
        ports = {n: getattr(self._unit, n) for n in self._vectors.inputs + self._vectors.outputs}
        for n in self._vectors.inputs:
            m.d.comb += ports[n].eq(getattr(self, n))
        for n in self._vectors.outputs:
            m.d.comb += getattr(self, n).eq(ports[n])
        m.d.comb += self._mistake(self, ports)
        return m


# One typical design error per unit; each touches few operands.
MISTAKES = {
    "fp16_mul": lambda t, p: t.y[31].eq(t.a[15] ^ t.b[15]),  # -0
    "fp32_add": lambda t, p: t.y.eq(p["y"] - (p["y"][:23] == 1)),
    "scale_down": lambda t, p: t.y.eq(p["y"] | (t.a[23:31] == t.k) << 23),
    "score_to_fixed": lambda t, p: t.fixed.eq(p["fixed"] + (p["fixed"] == -1)),  # truncation
    "ceil_int": lambda t, p: t.ceil.eq(p["ceil"] - (p["ceil"] == 1)),
    "softmax_distance": lambda t, p: t.n.eq(p["n"][:4]),
    "exp2_to_fp16": lambda t, p: t.p.eq(p["p"] & ~(p["p"] < 4)),
    "normalise": lambda t, p: t.y[:15].eq(p["y"][:15] + (p["y"][:15] == 0x7BFF)),
}


@pytest.mark.parametrize("name", COMBINATIONAL)
def test_mistake_is_found(name):
    unit = UNITS[name]
    assert mismatches(_Twin(name, MISTAKES[name]), unit, unit.operands(SEED, 500))


class _TruncatingAdd(wiring.Component):
    """Aligns by cutting the smaller operand off and never rounds."""

    def __init__(self):
        super().__init__({"a": In(32), "b": In(32), "y": Out(32)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = COMBINATIONAL["fp32_add"]()
        far = Signal()
        m.d.comb += [
            far.eq(self.a[23:31] >= self.b[23:31] + 24),
            unit.a.eq(self.a),
            unit.b.eq(self.b),
            self.y.eq(unit.y),
        ]
        with m.If(far & (self.b[23:31] != 0)):
            m.d.comb += self.y.eq(self.a)
        return m


def test_adder_that_drops_far_operands_is_found():
    unit = UNITS["fp32_add"]
    wrong = mismatches(_TruncatingAdd(), unit, unit.operands(SEED, 0))
    assert wrong


def test_order_key_equals_reference_and_inverts():
    class Keys(wiring.Component):
        def __init__(self):
            super().__init__({"s": In(32), "key": Out(32), "back": Out(32)})

        def elaborate(self, platform):
            m = Module()
            m.d.comb += [self.key.eq(order_key(self.s)), self.back.eq(order_unkey(self.key))]
            return m

    dut = Keys()

    async def bench(ctx):
        for s in [*FP32_CORNERS, *(c | 1 << 31 for c in FP32_CORNERS if c)]:
            ctx.set(dut.s, s)
            await ctx.delay(1e-9)
            assert (ctx.get(dut.key), ctx.get(dut.back)) == (ref.order_key(s), s)

    simulator = Simulator(dut)
    simulator.add_testbench(bench)
    simulator.run()


def run_reciprocal(dut, bench) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()


async def divide(ctx, dut, denominator: int, pause) -> int:
    """Start a division, step it until done; return the number of enabled steps."""
    ctx.set(dut.denom, denominator)
    ctx.set(dut.start, 1)
    ctx.set(dut.ce, 0)
    await ctx.tick()
    ctx.set(dut.start, 0)
    ctx.set(dut.denom, 0)
    steps = 0
    while not ctx.get(dut.done):
        enabled = not pause()
        ctx.set(dut.ce, enabled)
        await ctx.tick()
        steps += enabled
        assert steps <= dut.steps, "more steps than stated"
    return steps


@pytest.mark.parametrize("bits_per_step", [1, 2, 3, 4, 7, 13, 26])
def test_reciprocal_equals_reference_in_the_stated_steps(bits_per_step):
    from random import Random

    rng = Random(SEED + bits_per_step)
    dut = Reciprocal(bits_per_step)
    random = [random_denominator(rng) for _ in range(60)]
    operands = [*(DENOM_CORNERS if bits_per_step == 2 else DENOM_CORNERS[::9]), *random]

    async def bench(ctx):
        for denominator in operands:
            steps = await divide(ctx, dut, denominator, lambda: rng.random() < 0.2)
            assert steps == dut.steps == -(-26 // bits_per_step)
            got = (ctx.get(dut.q), ctx.get(dut.e))
            assert got == ref.reciprocal(denominator), f"denominator {denominator}"

    run_reciprocal(dut, bench)


def test_reciprocal_restarts_and_holds_its_result():
    dut = Reciprocal(13)

    async def bench(ctx):
        ctx.set(dut.denom, 12345)
        ctx.set(dut.start, 1)
        ctx.set(dut.ce, 1)
        await ctx.tick().repeat(5)  # start wins over stepping
        assert not ctx.get(dut.done)
        ctx.set(dut.denom, 3 << 24)
        await ctx.tick()
        ctx.set(dut.start, 0)
        await ctx.tick().repeat(dut.steps)
        for _ in range(3):
            assert ctx.get(dut.done)
            assert (ctx.get(dut.q), ctx.get(dut.e)) == ref.reciprocal(3 << 24)
            await ctx.tick()

    run_reciprocal(dut, bench)


@pytest.mark.parametrize("bits", [0, 27])
def test_reciprocal_refuses_impossible_step_sizes(bits):
    with pytest.raises(ValueError, match=f"bits_per_step = {bits}, expected 1..26"):
        Reciprocal(bits)


def test_random_fp32_stays_normal():
    from random import Random

    rng = Random(SEED)
    assert all(1 <= random_fp32(rng) >> 23 & 255 <= 254 for _ in range(1000))


def test_words_stay_narrow_in_the_export():
    """Wires above 64 bits cost a compiled simulator a function call per operation."""
    from amaranth.back import rtlil

    for name, unit in COMBINATIONAL.items():
        text = rtlil.convert(unit(), name=f"bankside_{name}")
        widths = [int(line.split()[2]) for line in text.splitlines() if "wire width" in line]
        assert max(widths) <= 64, f"{name} has a wire of {max(widths)} bits"


def test_wide_wire_would_be_seen():
    from amaranth.back import rtlil

    class Wide(wiring.Component):
        def __init__(self):
            super().__init__({"a": In(64), "y": Out(64)})

        def elaborate(self, platform):
            m = Module()
            m.d.comb += self.y.eq((Cat(self.a, C(1, 1)) + 1) >> 1)
            return m

    text = rtlil.convert(Wide(), name="bankside_wide")
    assert any("wire width 66" in line for line in text.splitlines())
