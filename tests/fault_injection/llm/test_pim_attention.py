"""Attention of many queries at once against the golden model of the rank, in every bit."""

import numpy as np
import pytest

from bankside.config import PimHardware
from bankside.fault_injection.llm import pim_attention
from bankside.isa.machine import Machine
from bankside.mapping.lower_pim import KvLayout, PimKernels, Shape
from bankside.sim.golden.pim import PimGolden


def halves(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.normal(size=shape).astype(np.float16).view(np.uint16)


def case(machine: str, shape: Shape, chunk: int | None, seed: int = 1, wild: bool = False):
    """Layout, q, k, v and what the golden model makes of them for the last twelve positions."""
    layout = KvLayout.of(Machine.of(PimHardware.load(machine)), shape, chunk_slots=chunk)
    random = np.random.default_rng(seed)
    tokens, first = shape.max_tokens, shape.max_tokens - 12
    k, v = (halves(random, tokens, shape.kv_heads, shape.head_dim) for _ in range(2))
    if wild:  # what a flipped exponent makes of them; a rank knows no infinity
        for x, bit in ((k, 0x4000), (v, 0x7C00), (k, 0x7C00)):
            x[random.integers(first), 0, random.integers(shape.head_dim)] ^= bit
    q = halves(random, tokens, shape.query_heads, shape.head_dim)
    kernels, golden = PimKernels(layout), PimGolden(layout.machine)
    for program in kernels.append(0, 0, k, v):
        golden.run(program)
    wanted = [
        kernels.collect([golden.run(p).output(p, "o") for p in kernels.decode(0, t + 1, q[t])])
        for t in range(first, tokens)
    ]
    return layout, q[first:], k, v, first, np.stack(wanted)


@pytest.mark.parametrize("wild", [False, True])
@pytest.mark.parametrize(
    ("machine", "shape", "chunk"),
    [
        ("pim_tiny_ddr4", Shape(1, 2, 4, 8, 40), None),
        ("dimm_pim_ddr5", Shape(1, 2, 2, 64, 50), None),
        ("dimm_pim_ddr4", Shape(1, 2, 2, 64, 70), 1),  # five chunks: the maximum moves on
        ("dimm_pim_ddr4", Shape(1, 3, 6, 20, 40), 1),  # heads and dimensions that do not fill up
    ],
)
def test_bits_are_those_of_the_golden_rank(machine, shape, chunk, wild) -> None:
    layout, q, k, v, first, wanted = case(machine, shape, chunk, wild=wild)
    assert np.array_equal(pim_attention.attend(layout, q, k, v, first), wanted)


def test_blocks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layout, q, k, v, first, wanted = case("dimm_pim_ddr5", Shape(1, 2, 2, 64, 50), None)
    monkeypatch.setattr(pim_attention, "_AT_ONCE", 1)
    assert np.array_equal(pim_attention.attend(layout, q, k, v, first), wanted)


def test_another_order_of_sums_shows() -> None:
    """Chips of a head side by side or not: other sums, other bits."""
    shape = Shape(1, 2, 2, 64, 70)
    _, q, k, v, first, wanted = case("dimm_pim_ddr4", shape, None)
    other = KvLayout.of(Machine.of(PimHardware.load("dimm_pim_ddr4")), shape, nhc=1)
    assert not np.array_equal(pim_attention.attend(other, q, k, v, first), wanted)
