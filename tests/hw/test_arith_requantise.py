"""Multiplication and rounding shifts of the npu against the integer reference."""

from random import Random

import pytest

from bankside.hw.arith.requantise import MBQM_LATENCY, Mbqm, Rdbpot, Rounding, Srdhm
from bankside.hw.lib.testing import simulate
from bankside.isa import numerics_npu as ref

_EDGES = (0, 1, -1, 2, -2, 3, 1 << 30, -(1 << 30), (1 << 30) + 1, (1 << 31) - 1, -(1 << 31))


def _value(random: Random) -> int:
    if random.random() < 0.3:
        return random.choice(_EDGES)
    return random.getrandbits(32) - (1 << 31) >> random.randrange(32)


def test_srdhm() -> None:
    dut, random = Srdhm(), Random(1)
    pairs = [(a, b) for a in _EDGES for b in _EDGES]
    pairs += [(_value(random), _value(random)) for _ in range(2000)]

    async def bench(ctx) -> None:
        for a, b in pairs:
            ctx.set(dut.a, a)
            ctx.set(dut.b, b)
            assert ctx.get(dut.y) == ref.srdhm(a, b), (a, b)

    simulate(dut, bench)


@pytest.mark.parametrize("bits", [5, 6])
def test_rdbpot(bits: int) -> None:
    dut, random = Rdbpot(bits), Random(bits)
    pairs = [(x, e) for x in _EDGES for e in range(min(63, 1 << bits))]
    pairs += [(_value(random), random.randrange(min(63, 1 << bits))) for _ in range(2000)]
    # Exact halves, where the direction of the tie shows.
    pairs += [
        (s * (2 * k + 1) << e - 1, e) for e in range(1, 25) for k in (0, 1, 5) for s in (1, -1)
    ]

    async def bench(ctx) -> None:
        for x, e in pairs:
            ctx.set(dut.x, x)
            ctx.set(dut.e, e)
            assert ctx.get(dut.y) == ref.rdbpot(x, e), (x, e)

    simulate(dut, bench)


def _cases(random: Random, count: int) -> list[tuple[int, int, int, int]]:
    cases = []
    for _ in range(count):
        x, mult = _value(random), _value(random)
        shift = random.choice((ref.SHIFT_MIN, 0, ref.SHIFT_MAX, random.randint(-31, 30)))
        if random.random() < 0.3:  # ties of the single roundings
            mult = 1 << random.randrange(31)
        cases.append((x, mult, shift, random.randrange(4)))
    return cases


@pytest.mark.parametrize("latency", [MBQM_LATENCY - 1, MBQM_LATENCY])
def test_mbqm_pipeline(latency: int) -> None:
    """Every input comes out after the latency, with gaps between them as they come."""
    dut, random = Mbqm(latency), Random(3)
    cases = [
        (x, y, s, r)
        for x in (-(1 << 31), 5)
        for y in (-(1 << 31), 1)
        for s in (-31, 0, 30)
        for r in range(4)
    ] + _cases(random, 3000)
    plan = [case if random.random() < 0.8 else None for case in cases]
    plan += [None] * latency

    async def bench(ctx) -> None:
        for t, case in enumerate(plan):
            due = plan[t - latency] if t >= latency else None
            ctx.set(dut.i_valid, case is not None)
            if case is not None:
                x, mult, shift, rounding = case
                ctx.set(dut.x, x)
                ctx.set(dut.mult, mult)
                ctx.set(dut.shift, shift)
                ctx.set(dut.rounding, Rounding(rounding))
            assert ctx.get(dut.o_valid) == (due is not None)
            if due is not None:
                assert ctx.get(dut.y) == ref.mbqm(*due), due
            await ctx.tick()

    simulate(dut, bench)
