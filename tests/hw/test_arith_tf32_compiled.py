"""Units of the `array` engine compiled by Verilator against NumPy, on millions of operands."""

import ctypes

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring

from bankside.hw.arith.array_units import ARRAY_COMBINATIONAL
from bankside.hw.lib.unit import flat_ports
from bankside.isa import numerics_array as ref
from bankside.isa import numerics_array_np as fast
from bankside.isa.numerics import DENOM_BITS, RECIP_SHIFT
from bankside.sim.elaborate import to_verilog
from bankside.sim.rtl.verilate import build_library

pytestmark = pytest.mark.slow

SEED = 33
COUNT = 1 << 20
TOP = "bankside_array_units"

FUNCTION = """
extern "C" void {unit}(uint64_t count, const uint64_t* in, uint64_t* out) {{
    bankside::Model<V{top}> model;
    auto& top = *model.top;
    for (uint64_t i = 0; i < count; ++i) {{
{puts}
        model.settle();
{gets}
    }}
}}
"""


class Bundle(wiring.Component):
    """All units side by side, ports named `unit_port`: one compilation for all."""

    def __init__(self):
        self.units = {name: make() for name, make in ARRAY_COMBINATIONAL.items()}
        members = {
            f"{name}_{port}": member
            for name, unit in self.units.items()
            for port, member in unit.signature.members.items()
        }
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        for name, unit in self.units.items():
            m.submodules[name] = unit
            for port, (value, io) in flat_ports(unit).items():
                mine = getattr(self, f"{name}_{port}")
                m.d.comb += value.eq(mine) if io == "i" else mine.eq(value)
        return m


def shim_text(units) -> str:
    found = [f'#include "V{TOP}.h"\n#include "bankside_shim.h"\n']
    for name, unit in units.items():
        ports = flat_ports(unit)
        inputs = [(p, len(v)) for p, (v, io) in ports.items() if io == "i"]
        outputs = [p for p, (_, io) in ports.items() if io == "o"]
        puts = [
            f"        bankside::put(top.{name}_{p}, {w}, in[{k} * count + i]);"
            for k, (p, w) in enumerate(inputs)
        ]
        gets = [
            f"        out[{k} * count + i] = bankside::get(top.{name}_{p});"
            for k, p in enumerate(outputs)
        ]
        found.append(
            FUNCTION.format(unit=name, top=TOP, puts="\n".join(puts), gets="\n".join(gets))
        )
    return "".join(found)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """`compiled(unit, port=column, ...)` -> columns of the outputs, by port name."""
    bundle = Bundle()
    shim = tmp_path_factory.mktemp("units") / "shim.cpp"
    shim.write_text(shim_text(bundle.units))
    library = build_library(to_verilog(bundle, TOP), TOP, shim)

    def call(unit, **columns):
        ports = flat_ports(bundle.units[unit])
        inputs = [p for p, (_, io) in ports.items() if io == "i"]
        outputs = [p for p, (_, io) in ports.items() if io == "o"]
        assert columns.keys() == set(inputs)
        rows = np.stack(np.broadcast_arrays(*(columns[p] for p in inputs))).astype(np.int64)
        out = np.empty((len(outputs), rows.shape[1]), dtype=np.int64)
        getattr(library, unit)(
            ctypes.c_uint64(rows.shape[1]),
            ctypes.c_void_p(rows.ctypes.data),
            ctypes.c_void_p(out.ctypes.data),
        )
        return dict(zip(outputs, out, strict=True))

    return call


@pytest.fixture
def rng():
    return np.random.default_rng(SEED)


def f32(bits):
    return np.asarray(bits).astype(np.uint32).view(np.float32)


def words(values):
    return np.asarray(values, np.float32).view(np.uint32).astype(np.int64)


def random_fp32(rng, count=COUNT, low=1, high=254):
    """Normal FP32 bits; a quarter has at most six significant bits."""
    significand = rng.integers(0, 1 << 23, count)
    significand[: count // 4] &= 0x7E0000
    return rng.integers(0, 2, count) << 31 | rng.integers(low, high + 1, count) << 23 | significand


def every_field(fractions):
    """All exponents and signs with each of `fractions`, and zero."""
    grids = np.meshgrid(np.arange(1, 255) << 23, np.asarray(fractions), [0, 1 << 31])
    return np.append(sum(g.ravel() for g in grids), 0)


EDGES = sorted({f ^ d for s in range(24) for f in ((1 << s) & 0x7FFFFF, (0x7FFFFF >> s))
                for d in (0, 1, 0x400000)})  # fmt: skip
"""Fractions of one or of many bits: ties, carries and their neighbours at every place."""


def test_multiplier_on_all_pairs_of_significands(compiled, rng):
    a = np.repeat(np.arange(1024) << 13, 1024) | rng.integers(1, 255, COUNT) << 23
    b = np.tile(np.arange(1024) << 13, 1024) | rng.integers(1, 255, COUNT) << 23
    for sign in (0, 1 << 31):
        want = words(fast.tf32_mul(f32(a | sign), f32(b)))
        assert (compiled("tf32_mul", a=a | sign, b=b)["y"] == want).all()


@pytest.mark.parametrize("fmt", [ref.FP16, ref.BF16])
def test_rounding(compiled, rng, fmt):
    for x in (every_field(EDGES), random_fp32(rng), random_fp32(rng, low=98, high=146)):
        got = compiled("round16", x=x, format=fmt)["y"]
        assert (got == fast.round16(f32(x), fmt)).all()


def test_to_tf32_and_ceiling(compiled, rng):
    for x in (every_field(EDGES), random_fp32(rng), random_fp32(rng, low=120, high=155)):
        assert (compiled("to_tf32", x=x)["y"] == words(fast.to_tf32(f32(x)))).all()
        assert (compiled("ceil32", x=x)["y"] == words(fast.ceil32(f32(x)))).all()


def test_reduced_arguments(compiled, rng):
    edges = every_field(EDGES)
    for x in (edges[edges >> 31 == 1], random_fp32(rng, low=108, high=135) | 1 << 31):
        got = compiled("exp2_split", x=x)
        n, f = fast.exp2_split(f32(x))
        assert (got["n"] == n).all() and (got["f"] == words(f)).all()
        got = compiled("distance", x=x)
        assert (got["n"] << 16 | got["f"]).tolist() == fast.distance(f32(x)).tolist()


def test_steps(compiled, rng):
    old = np.rint(rng.normal(0, 1, COUNT) * 2.0 ** rng.integers(0, 40, COUNT)).astype(np.float32)
    gap = np.rint(rng.random(COUNT) * 2.0 ** rng.integers(0, 12, COUNT)).astype(np.float32)
    new = fast.fp32_add(old, gap)
    difference = fast.fp32_add(new, -old + np.float32(0))
    got = compiled("step", new=words(new), old=words(old + np.float32(0)),
                   difference=words(difference))  # fmt: skip
    assert (got["k"] == fast.step(new, old)).all()


def reciprocals(rng, count):
    """(q, e) of denominators of every length."""
    e = rng.integers(0, DENOM_BITS, count)
    found = [(1 << RECIP_SHIFT) // (int(d) | 1 << DENOM_BITS - 1)
             for d in rng.integers(0, 1 << DENOM_BITS - 1, count)]  # fmt: skip
    return np.array(found), e


def test_division(compiled, rng):
    edges = every_field(EDGES)
    x = edges[edges >> 31 == 0]
    assert (compiled("denominator", x=x)["y"] == fast.denominator(f32(x))).all()
    x = random_fp32(rng, low=98, high=154) & 0x7FFFFFFF
    assert (compiled("denominator", x=x)["y"] == fast.denominator(f32(x))).all()
    count = COUNT // 4
    for low, high in ((1, 254), (1, 40), (220, 254)):
        x, (q, e) = random_fp32(rng, count, low, high), reciprocals(rng, count)
        assert (compiled("mulq", x=x, q=q, e=e)["y"] == words(fast.mulq(f32(x), q, e))).all()
