"""Sequential arithmetic of the vector unit against the integer reference: results and cycles."""

from math import isqrt
from random import Random

import pytest

from bankside.hw.arith.inverse_sqrt import FloorDivide, InverseSqrt
from bankside.hw.arith.softmax_recip import SoftmaxReciprocal
from bankside.hw.lib.testing import simulate
from bankside.isa import numerics_npu as ref


def calculate(dut, inputs: dict[str, str], cases: list[tuple], outputs: tuple[str, ...], cycles):
    """Results of every case, read in the cycle in which they must be there, and one cycle before.

    A third of the calculations is preceded by one that is broken off.
    """
    random, early, results = Random(5), [], []

    async def start(ctx, case, wait: int) -> None:
        for name, value in zip(inputs, case, strict=True):
            ctx.set(getattr(dut, name), value)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        for name in inputs:
            if inputs[name] == "start":
                ctx.set(getattr(dut, name), random.getrandbits(len(getattr(dut, name))))
        for _ in range(wait):
            await ctx.tick()

    def read(ctx) -> tuple[int, ...]:
        return tuple(ctx.get(getattr(dut, name)) for name in outputs)

    async def bench(ctx) -> None:
        for case in cases:
            if random.random() < 0.3:
                await start(ctx, cases[0], random.randrange(cycles))
            await start(ctx, case, cycles - 2)
            early.append(read(ctx))
            await ctx.tick()
            results.append(read(ctx))
            for _ in range(random.choice((0, 3))):
                await ctx.tick()
                assert read(ctx) == results[-1]

    simulate(dut, bench, limit=100_000)
    assert early != results, "the results were there before their time in every case"
    return results


def test_inverse_sqrt() -> None:
    random = Random(2)
    edges = [1, 2, 3, 4, 5, (1 << 62) - 1, (1 << 60) - 1, 1 << 60, 1 << 61, (1 << 60) + 1]
    edges += [(1 << k) + d for k in range(2, 62) for d in (-1, 0, 1)]
    # Arguments about 2^92 / r^2, where the last bit of the root changes.
    for _ in range(100):
        r = random.randrange((1 << 15) + 1, 1 << 16)
        edges += [(1 << 92) // (r * r) + d >> 2 * random.randrange(20) for d in (-1, 0, 1)]
    edges = [s for s in edges if 0 < s < 1 << 62]
    cases = edges + [random.getrandbits(random.randint(1, 62)) or 1 for _ in range(400)]
    got = calculate(
        InverseSqrt(), {"s": "start"}, [(s,) for s in cases], ("r", "half_e"), InverseSqrt.STEPS + 1
    )
    wanted = [(r, e // 2) for r, e in map(ref.inverse_sqrt, cases)]
    assert got == wanted
    assert max(r for r, _ in got) == 1 << 16 and min(r for r, _ in got) == isqrt(1 << 30)


@pytest.mark.parametrize("divisor_bits,quotient_bits", [(13, 26), (4, 9)])
def test_floor_divide(divisor_bits: int, quotient_bits: int) -> None:
    random, cases = Random(divisor_bits), []
    for _ in range(300):
        b = random.choice((1, 3, (1 << divisor_bits) - 1, random.randrange(1, 1 << divisor_bits)))
        top = b << quotient_bits
        a = random.choice((0, top - 1, b * random.randrange(1 << quotient_bits)))
        cases.append((min(max(a + random.randint(-1, 1), 0), top - 1), b))
    dut = FloorDivide(divisor_bits, quotient_bits)
    got = calculate(dut, {"a": "start", "b": "held"}, cases, ("q",), quotient_bits + 1)
    assert got == [(a // b,) for a, b in cases]


def test_softmax_reciprocal() -> None:
    random = Random(3)
    cases = [1, 2, 3, (1 << 32) - 1, 1 << 31, (1 << 31) + 1, (1 << 31) - 1]
    cases += [1 << k for k in range(32)]
    cases += [random.getrandbits(random.randint(1, 32)) or 1 for _ in range(500)]
    dut = SoftmaxReciprocal()
    cycles = SoftmaxReciprocal.STEPS + 1
    got = calculate(dut, {"sum": "start"}, [(s,) for s in cases], ("r", "headroom"), cycles)
    for s, result in zip(cases, got, strict=True):
        h = 32 - s.bit_length()
        assert result == (ref.one_over_one_plus_x(ref.wrap32((s << h) - (1 << 31))), h), s


def test_softmax_reciprocal_multiplies_when_it_is_ready() -> None:
    random, dut = Random(4), SoftmaxReciprocal()

    async def bench(ctx) -> None:
        for _ in range(30):
            ctx.set(dut.sum, random.getrandbits(32) | 1)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            for _ in range(SoftmaxReciprocal.STEPS):
                await ctx.tick()
            for e in (-(1 << 31), (1 << 31) - 1, random.getrandbits(32) - (1 << 31)):
                ctx.set(dut.e, e)
                assert ctx.get(dut.product) == ref.srdhm(ctx.get(dut.r), e)

    simulate(dut, bench)
