"""Attention of the golden model against float64: within the stated bound, whatever the input."""

import zlib

import numpy as np
import pytest

from bankside.config import HardwareConfig
from bankside.isa import numerics_np as fp
from bankside.isa.attention_bound import Depths, attention_bound, exact_attention
from bankside.isa.machine import Machine
from bankside.isa.verify import verify
from bankside.mapping.lower_pim import KvLayout, PimKernels, Shape
from bankside.sim.golden.pim import PimGolden

MACHINES = {
    name: Machine.of(HardwareConfig.load(name))
    for name in ("pim_tiny_ddr4", "pim_tiny_ddr5", "dimm_pim_ddr4", "dimm_pim_ddr5",
                 "pim_ddr4_gqa8", "pim_ddr5_gqa4")
}  # fmt: skip
# (machine, N_hc, KV heads, queries per KV head, head_dim, tokens, slots per chunk)
SHAPES = [
    ("pim_tiny_ddr4", 1, 2, 1, 8, 1, 8),
    ("pim_tiny_ddr4", 2, 2, 2, 16, 37, 4),
    ("pim_tiny_ddr4", 1, 1, 2, 12, 121, 2),
    ("pim_tiny_ddr5", 2, 1, 2, 16, 67, 2),
    ("pim_tiny_ddr5", 1, 3, 1, 13, 3, 2),
    ("dimm_pim_ddr4", 1, 8, 1, 64, 41, 2),
    ("dimm_pim_ddr4", 2, 4, 1, 128, 150, 2),
    ("dimm_pim_ddr4", 4, 2, 1, 64, 333, 4),
    ("dimm_pim_ddr4", 8, 1, 1, 80, 1, 16),
    # Rows whose slots are no power of two: 3 of them in chunks of 3, of 2, and 5 in chunks of 5.
    ("pim_tiny_ddr5", 2, 2, 1, 132, 46, 4),
    ("pim_tiny_ddr5", 2, 2, 1, 132, 30, 2),
    ("dimm_pim_ddr4", 1, 8, 1, 80, 181, 16),
    ("dimm_pim_ddr5", 1, 5, 1, 64, 17, 2),
    ("dimm_pim_ddr5", 8, 1, 1, 128, 199, 4),
    ("pim_ddr4_gqa8", 4, 2, 8, 64, 77, 8),
    ("pim_ddr5_gqa4", 2, 4, 4, 32, 130, 4),
]
NORMAL, EXTREME = "normal", "any bits"
KINDS = [NORMAL, "large negative", "all equal", "one dominant", "subnormal", "rising maximum",
         "cancelling", "worst rounding", EXTREME]  # fmt: skip


def to_fp16(values: np.ndarray) -> np.ndarray:
    """FP16 bits, saturated below the exponent that other FP16 formats reserve."""
    return np.clip(values, -65504, 65504).astype(np.float16).view(np.uint16)


def worst_scores() -> tuple[float, float]:
    """Two FP16 scores in -1..0, one whose weight is rounded up most, one down most."""
    scores = np.arange(0x9000, 0xBC00, dtype=np.uint16).view(np.float16).astype(np.float64)
    bits = fp.softmax_term(np.zeros(len(scores), np.int64), scores.astype(np.float32))
    error = fp.fp16_decode(bits) / np.exp2(scores) - 1
    return scores[error.argmax()], scores[error.argmin()]


def inputs(kind: str, rng: np.random.Generator, shape: Shape, tokens: int):
    """q [query heads, d], k and v [tokens, KV heads, d] as FP16 bits."""
    dim = shape.head_dim
    q = rng.standard_normal((shape.query_heads, dim)) * np.log2(np.e) / np.sqrt(dim)
    k = rng.standard_normal((tokens, shape.kv_heads, dim))
    v = rng.standard_normal((tokens, shape.kv_heads, dim))
    if kind == "large negative":
        q, k = np.abs(q) + 1, -np.abs(k) * 30 - 400
    elif kind == "all equal":
        k = np.broadcast_to(k[:1], k.shape)
    elif kind == "one dominant":
        k = k * 0.1
        k[tokens // 2] = 20 * np.sign(q[:: shape.group])
        v[tokens // 2] *= 300
    elif kind == "subnormal":
        v = v * 2.0**-22
        k, q = k * 2.0**-20, q * 2.0**-20
    elif kind == "rising maximum":
        q = np.abs(q)
        k = np.abs(k) * np.linspace(0.01, 12, tokens)[:, None, None]
    elif kind == "cancelling":
        v = np.where(np.arange(tokens)[:, None, None] % 2, 1000.0, -1000.0) + v * 0.01
        k = k * 0.01
    elif kind == "worst rounding":
        q[:], k[:], v[:] = 0, 0, 1000
        q[:, 0], k[::2, :, 0], k[1::2, :, 0] = 1, *worst_scores()
        v[1::2] = -1000
    elif kind == EXTREME:
        sizes = ((shape.query_heads, dim), k.shape, v.shape)
        return [rng.integers(0, 1 << 16, size, dtype=np.uint16) for size in sizes]
    return to_fp16(q), to_fp16(k), to_fp16(v)


def run_golden(machine: Machine, layout: KvLayout, q, k, v) -> np.ndarray:
    """Append all tokens, attend; FP16 bits [query heads, d]."""
    kernels, model = PimKernels(layout), PimGolden(machine)
    programs = kernels.append(0, 0, k[:-1], v[:-1])
    attend = kernels.decode(0, len(k), q, k[-1], v[-1])
    for program in programs:
        model.run(program)
    results = []
    for program in attend:
        verify(program, machine)
        results.append(model.run(program).output(program, "o"))
    return kernels.collect(results)


def ratios(layout: KvLayout, tokens: int, output, q, k, v) -> np.ndarray:
    """Error divided by its bound, [query heads, d]."""
    depths = Depths.of(layout.machine, nhc=layout.nhc, cpt=layout.cpt, tokens=tokens)
    found = []
    for head in range(len(q)):
        kv = head // layout.shape.group
        arguments = [fp.fp16_decode(x).astype(np.float64) for x in (q[head], k[:, kv], v[:, kv])]
        error = fp.fp16_decode(output[head]).astype(np.float64) - exact_attention(*arguments)
        found.append(np.abs(error) / attention_bound(*arguments, depths))
    return np.array(found)


def case(shape_index: int, kind: str):
    name, nhc, kv_heads, group, dim, tokens, slots = SHAPES[shape_index]
    machine, shape = MACHINES[name], Shape(1, kv_heads, kv_heads * group, dim, tokens)
    layout = KvLayout.of(machine, shape, nhc, slots)
    rng = np.random.default_rng(zlib.crc32(f"{shape_index} {kind}".encode()))
    return machine, layout, tokens, inputs(kind, rng, shape, tokens)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape_index", range(len(SHAPES)),
                         ids=lambda i: "-".join(map(str, SHAPES[i])))  # fmt: skip
def test_within_the_bound(shape_index, kind):
    machine, layout, tokens, data = case(shape_index, kind)
    found = ratios(layout, tokens, run_golden(machine, layout, *data), *data)
    assert found.max() <= 1, f"{kind}: {found.max():.3f} of the bound"


def test_the_bound_is_not_generous():
    """Two weights rounded in opposite ways come to half of it: the other half is for a sum that
    is rounded, too, in the direction that hurts."""
    worst = 0.0
    for shape_index in (1, 5, 11):
        machine, layout, tokens, data = case(shape_index, "worst rounding")
        worst = max(worst, ratios(layout, tokens, run_golden(machine, layout, *data), *data).max())
    print(f"worst {worst:.3f} of the bound")
    assert worst > 0.4


@pytest.mark.parametrize("shape_index", [1, 5])
def test_a_coarser_softmax_exceeds_the_bound(shape_index, monkeypatch):
    """Probabilities with three bits less are noticed on the same inputs."""
    exact = fp.softmax_term
    monkeypatch.setattr(fp, "softmax_term", lambda m, s: exact(m, s) & np.uint16(0xFFF8))
    machine, layout, tokens, data = case(shape_index, "worst rounding")
    assert ratios(layout, tokens, run_golden(machine, layout, *data), *data).max() > 1


def test_a_lost_token_exceeds_the_bound():
    machine, layout, tokens, (q, k, v) = case(1, NORMAL)
    output = run_golden(machine, layout, q, k, v)
    changed = v.copy()
    changed[5] ^= np.uint16(0x8000)
    assert ratios(layout, tokens, output, q, k, v).max() <= 1
    assert ratios(layout, tokens, output, q, k, changed).max() > 1


def test_one_token_is_copied():
    """A single token has weight one: the output is its value, bit by bit."""
    machine, layout, tokens, (q, k, v) = case(0, NORMAL)
    output = run_golden(machine, layout, q, k, v)
    np.testing.assert_array_equal(output, v[0].repeat(layout.shape.group, axis=0))
