"""Bench of the sequential reciprocal: quotient, exponent, number of steps, restart."""

from random import Random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge, Timer

from bankside.isa import numerics as ref
from bankside.isa.numerics_vectors import DENOM_CORNERS, random_denominator

STEPS = 13  # two quotient bits per step


async def edge(dut) -> None:
    """Next rising edge, then far enough past it to see the registers."""
    await RisingEdge(dut.clk)
    await Timer(1, unit="ns")


async def divide(dut, denominator: int, rng: Random) -> None:
    """One division with random pauses; checks the step count and the result."""
    dut.denom.value, dut.start.value, dut.ce.value = denominator, 1, rng.getrandbits(1)
    await edge(dut)
    dut.start.value, dut.denom.value = 0, rng.getrandbits(48)
    steps = 0
    while not int(dut.done.value):
        enabled = rng.random() < 0.7
        dut.ce.value = int(enabled)
        await edge(dut)
        steps += enabled
        assert steps <= STEPS, f"{denominator}: not done after {STEPS} steps"
    got = dut.q.value.to_unsigned(), dut.e.value.to_unsigned()
    assert steps == STEPS, f"{denominator}: done after {steps} steps, expected {STEPS}"
    assert got == ref.reciprocal(denominator), f"{denominator} -> {got}"


@cocotb.test()
async def equals_reference(dut) -> None:
    """Quotients of corner and random denominators, with the clock enable toggling."""
    rng = Random(cocotb.RANDOM_SEED)
    Clock(dut.clk, 10, unit="ns").start()
    dut.rst.value, dut.start.value, dut.ce.value, dut.denom.value = 1, 0, 0, 0
    await edge(dut)
    dut.rst.value = 0
    random = [random_denominator(rng) for _ in range(60)]
    for denominator in [*DENOM_CORNERS[::5], *random]:
        await divide(dut, denominator, rng)
