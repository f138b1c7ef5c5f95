"""Arithmetic units compiled by Verilator against NumPy, exhaustively where that is cheap."""

import ctypes

import numpy as np
import pytest

from bankside.hw.arith.units import COMBINATIONAL
from bankside.hw.lib.unit import flat_ports
from bankside.isa import numerics as ref
from bankside.isa import numerics_np as fast
from bankside.isa.numerics_vectors import FP16_CORNERS, FP32_CORNERS
from bankside.sim.elaborate import to_verilog
from bankside.sim.rtl.verilate import build_library

pytestmark = pytest.mark.slow

SEED = 31
CHUNK = 1 << 20

SHIM = """\
#include "V{top}.h"
#include "bankside_shim.h"

extern "C" void evaluate(uint64_t count, const uint64_t* in, uint64_t* out) {{
    bankside::Model<V{top}> model;
    auto& top = *model.top;
    for (uint64_t i = 0; i < count; ++i) {{
{puts}
        model.settle();
{gets}
    }}
}}
"""


class Compiled:
    """A combinational unit as a function of columns of operands (int64) to columns of results."""

    def __init__(self, name, folder):
        component = COMBINATIONAL[name]()
        ports = flat_ports(component)
        inputs = [(p, len(v)) for p, (v, io) in ports.items() if io == "i"]
        self.outputs = [(p, v.shape()) for p, (v, io) in ports.items() if io == "o"]
        self.inputs = [p for p, _ in inputs]
        puts = [
            f"        bankside::put(top.{p}, {w}, in[{k} * count + i]);"
            for k, (p, w) in enumerate(inputs)
        ]
        gets = [
            f"        out[{k} * count + i] = bankside::get(top.{p});"
            for k, (p, _) in enumerate(self.outputs)
        ]
        top = f"bankside_{name}"
        shim = folder / f"{name}_shim.cpp"
        shim.write_text(SHIM.format(top=top, puts="\n".join(puts), gets="\n".join(gets)))
        self.library = build_library(to_verilog(component, top), top, shim)

    def __call__(self, **columns):
        """Results by port name, sign extended where the port is signed."""
        rows = np.stack([np.asarray(columns[p], dtype=np.int64) for p in self.inputs])
        out = np.empty((len(self.outputs), rows.shape[1]), dtype=np.uint64)
        self.library.evaluate(
            ctypes.c_uint64(rows.shape[1]),
            ctypes.c_void_p(rows.ctypes.data),
            ctypes.c_void_p(out.ctypes.data),
        )
        return {
            p: _extend(o.view(np.int64), s) for (p, s), o in zip(self.outputs, out, strict=True)
        }


def _extend(words, shape):
    lift = 64 - shape.width
    return words << lift >> lift if shape.signed else words


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arith")
    return lambda name: Compiled(name, folder)


@pytest.fixture
def rng():
    return np.random.default_rng(SEED)


def f32(bits):
    return bits.astype(np.uint32).view(np.float32)


def words(values):
    return values.view(np.uint32).astype(np.int64)


def random_fp32(rng, count, low=1, high=254):
    """Normal FP32 bits; a quarter has at most six significant bits."""
    low, high = np.broadcast_to(low, count), np.broadcast_to(high, count)
    significand = rng.integers(0, 1 << 23, count)
    significand[: count // 4] &= 0x7E0000
    return rng.integers(0, 2, count) << 31 | rng.integers(low, high + 1) << 23 | significand


def test_multiplier_all_left_operands(compiled, rng):
    """Every FP16 against all corners and against random ones: 19 million products."""
    unit = compiled("fp16_mul")
    left = np.arange(1 << 16)
    for right in [*FP16_CORNERS, *rng.integers(0, 1 << 16, 270).tolist()]:
        b = np.full_like(left, right)
        want = words(fast.fp16_mul(left.astype(np.uint16), b.astype(np.uint16)))
        assert (unit(a=left, b=b)["y"] == want).all(), f"b = 0x{right:04x}"


def test_multiplier_all_significands(compiled):
    """Every pair of normal significands once, and every pair of subnormals."""
    unit = compiled("fp16_mul")
    low = np.arange(1024)
    for field_a, field_b in ((15, 16), (0, 0), (0, 31)):
        a = np.repeat(field_a << 10 | low, 1024)
        b = np.tile(field_b << 10 | low, 1024)
        want = words(fast.fp16_mul(a.astype(np.uint16), b.astype(np.uint16)))
        assert (unit(a=a, b=b)["y"] == want).all()


def test_adder_on_millions_of_near_pairs(compiled, rng):
    unit = compiled("fp32_add")
    for step in range(12):
        a = random_fp32(rng, CHUNK)
        field = a >> 23 & 255
        spread = (2, 28, 254)[step % 3]
        b = random_fp32(rng, CHUNK, np.maximum(field - spread, 1), np.minimum(field + spread, 254))
        b[::64] = a[::64] ^ 1 << 31
        b[1::64] = 0
        want = words(fast.fp32_add(f32(a), f32(b)))
        wrong = np.flatnonzero(unit(a=a, b=b)["y"] != want)
        assert not len(wrong), f"seed {SEED}: 0x{a[wrong[0]]:08x} + 0x{b[wrong[0]]:08x}"


def test_adder_all_alignments_of_corner_significands(compiled):
    """Every exponent difference with the significands that make ties, carries and cancellations."""
    unit = compiled("fp32_add")
    shapes = np.array([0, 1, 2, 3, 0x3FFFFF, 0x400000, 0x400001, 0x7FFFFD, 0x7FFFFE, 0x7FFFFF])
    grids = np.meshgrid(np.arange(1, 255), shapes, np.arange(1, 255, 3), shapes, [0, 1])
    ea, fa, eb, fb, sign = (g.ravel() for g in grids)
    a, b = ea << 23 | fa, sign << 31 | eb << 23 | fb
    assert (unit(a=a, b=b)["y"] == words(fast.fp32_add(f32(a), f32(b)))).all()


def test_scale_down_all_exponents_and_steps(compiled):
    unit = compiled("scale_down")
    significands = np.array([0, 1, 0x2AAAAA, 0x7FFFFF])
    field, k, significand, sign = (
        g.ravel() for g in np.meshgrid(np.arange(1, 255), np.arange(256), significands, [0, 1])
    )
    a = sign << 31 | field << 23 | significand
    assert (unit(a=a, k=k)["y"] == words(fast.fp32_scale_down(f32(a), k))).all()
    assert not unit(a=np.zeros(256), k=np.arange(256))["y"].any()


def test_score_conversions_at_all_exponents(compiled, rng):
    to_fixed, to_ceil = compiled("score_to_fixed"), compiled("ceil_int")
    corners = np.array([c for c in FP32_CORNERS if c >> 23 <= ref.SCORE_EXP_MAX])
    s = np.concatenate([corners, random_fp32(rng, CHUNK, 1, ref.SCORE_EXP_MAX)])
    assert (to_fixed(s=s)["fixed"] == fast.score_to_fixed(f32(s))).all()
    assert (to_ceil(s=s)["ceil"] == fast.ceil_int(f32(s))).all()


def test_softmax_distance_around_the_maximum(compiled, rng):
    unit = compiled("softmax_distance")
    s = random_fp32(rng, CHUNK, 100, 140)
    m = fast.ceil_int(f32(s)) + rng.integers(0, 28, CHUNK)
    fx = fast.softmax_distance(m, f32(s))
    out = unit(maximum=m, s=s)
    assert (out["n"] == np.minimum(fx >> 16, ref.EXP2_ZERO_N)).all()
    assert (out["f"] == (fx & 0xFFFF)).all()


def test_exp2_exhaustively(compiled):
    """Every input of the exponential: 32 x 65536."""
    unit = compiled("exp2_to_fp16")
    fx = np.arange(32 << 16)
    out = unit(n=fx >> 16, f=fx & 0xFFFF)
    p = fast.exp2_to_fp16(fx)
    assert (out["p"] == p).all()
    assert (out["p24"] == fast.p24(p).astype(np.int64)).all()


def test_normalise_around_the_fp16_range(compiled, rng):
    unit = compiled("normalise")
    for _ in range(4):
        bits = rng.integers(0, 48, CHUNK)
        q, e = fast.reciprocal(
            (np.int64(1) << bits) | rng.integers(0, 1 << 48, CHUNK) % (np.int64(1) << bits)
        )
        field = np.clip(e + 88 + rng.integers(-14, 35, CHUNK), 1, 254)
        acc = random_fp32(rng, CHUNK, field, field)
        assert (unit(acc=acc, q=q, e=e)["y"] == fast.normalise(f32(acc), q, e)).all()


def test_comparison_can_fail(compiled):
    """The compiled multiplier is not the product of the next left operand."""
    left = np.arange(1, 1 << 12)
    b = np.full_like(left, 0x3C00)
    wrong = words(fast.fp16_mul((left + 1).astype(np.uint16), b.astype(np.uint16)))
    assert (compiled("fp16_mul")(a=left, b=b)["y"] != wrong).all()
