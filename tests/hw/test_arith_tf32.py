# amaranth: UnusedElaboratable=no
"""Units of the `array` engine in the Amaranth simulator against the integer reference."""

from itertools import product

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from bankside.hw.arith.array_units import ARRAY_COMBINATIONAL
from bankside.hw.arith.compare import above
from bankside.isa import numerics_array as ref
from bankside.isa.numerics import order_key
from bankside.isa.numerics_array_vectors import ARRAY_UNITS, FP32_SIGNED

SEED = 20251125


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
                shown = ["; ".join(f"{v:#x}" for v in part) for part in (values, got, want)]
                wrong.append("{} -> {}, expected {}".format(*shown))

    simulator = Simulator(dut)
    simulator.add_testbench(bench)
    simulator.run()
    return wrong


def test_every_unit_has_vectors_and_every_vector_a_unit():
    assert ARRAY_COMBINATIONAL.keys() == ARRAY_UNITS.keys()


@pytest.mark.parametrize("name", ARRAY_COMBINATIONAL)
def test_unit_equals_reference(name):
    unit = ARRAY_UNITS[name]
    wrong = mismatches(ARRAY_COMBINATIONAL[name](), unit, unit.operands(SEED, 2000))
    assert not wrong, f"seed {SEED}: " + "; ".join(wrong[:3])


@pytest.mark.parametrize("fmt", [ref.FP16, ref.BF16])
def test_every_pattern_decodes(fmt):
    unit = ARRAY_UNITS["decode"]
    wrong = mismatches(ARRAY_COMBINATIONAL["decode"](), unit, [(b, fmt) for b in range(1 << 16)])
    assert not wrong, "; ".join(wrong[:3])


class _Twin(wiring.Component):
    """A unit followed by a mistake, with the ports of the unit."""

    def __init__(self, name, mistake):
        self._unit, self._vectors, self._mistake = (
            ARRAY_COMBINATIONAL[name](),
            ARRAY_UNITS[name],
            mistake,
        )
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


# Typical design errors, each of which touches few operands.
MISTAKES = {
    "decode": [
        lambda t, p: t.y[31].eq(t.bits[15]),  # -0
        lambda t, p: t.y[23:31].eq(p["y"][23:31] | (t.format & (t.bits[7:15] == 255))),
    ],
    "to_tf32": [
        lambda t, p: t.y.eq(p["y"] + ((t.x[:14] == 0x1000) << 13)),  # ties upward
        lambda t, p: t.y[:31].eq(p["y"][:31] + ((t.x[:31] >= 0x7F7FF000) << 13)),
    ],
    "tf32_mul": [
        lambda t, p: t.y[31].eq(t.a[31] ^ t.b[31]),
        lambda t, p: t.y.eq(p["y"] + (p["y"][:31] == 0x7F7FFFFF)),
    ],
    "exp2_split": [
        lambda t, p: t.f[31].eq(p["f"][31] | (p["f"] == 0)),
        lambda t, p: t.n.eq(p["n"] - (p["n"] == 127)),
        lambda t, p: t.f[13:23].eq(p["f"][13:23] & ~1),  # truncated, not rounded
    ],
    "distance": [
        lambda t, p: t.n.eq(p["n"][:4]),
        lambda t, p: t.f.eq(p["f"] + (p["f"] == 65535)),
    ],
    "ceil32": [
        lambda t, p: t.y[31].eq(t.x[31]),
        lambda t, p: t.y[:23].eq(p["y"][:23] | (t.x == ref.MARKER)),
    ],
    "round16": [
        lambda t, p: t.y[:15].eq(p["y"][:15] + (p["y"][:15] == 0x7BFF)),
        lambda t, p: t.y[:15].eq(p["y"][:15] + (t.format & (p["y"][:15] == 0x7F7F))),
        lambda t, p: t.y[15].eq(t.x[31]),
    ],
    "step": [
        lambda t, p: t.k.eq(p["k"] & ~(p["k"] == 255)),
        lambda t, p: t.k.eq(p["k"] | (t.new == t.old)),
    ],
    "denominator": [
        lambda t, p: t.y.eq(p["y"] & ~(p["y"] == 1)),
        lambda t, p: t.y.eq(p["y"] + (t.x[23:31] == 151)),
    ],
    "mulq": [
        lambda t, p: t.y[31].eq(t.x[31]),
        lambda t, p: t.y.eq(p["y"] & ~(p["q"] == 1 << 25)),
        lambda t, p: t.y.eq(p["y"] + (p["y"][:31] == 0x7F7FFFFF)),
    ],
}


@pytest.mark.parametrize(
    ("name", "index"), [(name, i) for name, found in MISTAKES.items() for i in range(len(found))]
)
def test_mistake_is_found(name, index):
    unit = ARRAY_UNITS[name]
    twin = _Twin(name, MISTAKES[name][index])
    assert mismatches(twin, unit, unit.operands(SEED, 500))


def test_every_unit_has_a_mistake():
    assert MISTAKES.keys() == ARRAY_COMBINATIONAL.keys()


def test_words_stay_narrow_in_the_export():
    """Wires above 64 bits cost a compiled simulator a function call per operation."""
    for name, unit in ARRAY_COMBINATIONAL.items():
        text = rtlil.convert(unit(), name=f"bankside_{name}")
        widths = [int(line.split()[2]) for line in text.splitlines() if "wire width" in line]
        assert max(widths) <= 64, f"{name} has a wire of {max(widths)} bits"


def test_above_is_the_order_of_the_keys():
    class Above(wiring.Component):
        def __init__(self):
            super().__init__({"a": In(32), "b": In(32), "y": Out(1)})

        def elaborate(self, platform):
            m = Module()
            m.d.comb += self.y.eq(above(self.a, self.b))
            return m

    dut, values = Above(), (*FP32_SIGNED, ref.MARKER, 0xFF7FFFFF)

    async def bench(ctx):
        for a, b in product(values, repeat=2):
            ctx.set(dut.a, a)
            ctx.set(dut.b, b)
            await ctx.delay(1e-9)
            assert ctx.get(dut.y) == (order_key(a) > order_key(b)), f"{a:#x} > {b:#x}"

    simulator = Simulator(dut)
    simulator.add_testbench(bench)
    simulator.run()
