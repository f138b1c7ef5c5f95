"""The exported Verilog of every arithmetic unit, under cocotb on both simulators."""

from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring

from bankside.hw.arith.recip import Reciprocal
from bankside.hw.arith.units import COMBINATIONAL
from bankside.isa.numerics_vectors import UNITS
from bankside.sim.rtl.cocotb_runner import (
    SIMULATORS,
    BenchResult,
    missing_simulator,
    run_bench,
)

BENCHES = Path(__file__).parent / "benches"
SEED = 53


class Flipped(wiring.Component):
    """Unit `name`, except that one bit of its first output is wrong for one special result."""

    def __init__(self, name: str) -> None:
        self._unit, self._vectors = COMBINATIONAL[name](), UNITS[name]
        super().__init__(dict(self._unit.signature.members))

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.unit = self._unit
        for port in self._vectors.inputs:
            m.d.comb += getattr(self._unit, port).eq(getattr(self, port))
        for port in self._vectors.outputs:
            m.d.comb += getattr(self, port).eq(getattr(self._unit, port))
        # A zero result is rare enough that only directed operands meet it.
        first = self._vectors.outputs[0]
        result = getattr(self._unit, first)
        m.d.comb += getattr(self, first).eq(result ^ (result == 0))
        return m


def bench(component: wiring.Component, name: str, file: str, simulator: str) -> BenchResult:
    """Run `file` on `component`; the bench needs no signals below the top."""
    if reason := missing_simulator(simulator):
        pytest.skip(reason)
    return run_bench(
        component,
        name,
        BENCHES / file,
        simulator=simulator,
        seed=SEED,
        internals=False,
        check=False,
    )


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("name", COMBINATIONAL)
def test_unit(name, simulator):
    result = bench(COMBINATIONAL[name](), f"bankside_{name}", "arith_comb.py", simulator)
    assert result.tests == 1 and not result.failures, result.summary()


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_reciprocal(simulator):
    result = bench(Reciprocal(2), "bankside_reciprocal", "arith_reciprocal.py", simulator)
    assert result.tests == 1 and not result.failures, result.summary()


@pytest.mark.parametrize("name", ["fp16_mul", "fp32_add", "normalise"])
def test_wrong_unit_fails_its_bench(name):
    result = bench(Flipped(name), f"bankside_bad_{name}", "arith_comb.py", "icarus")
    assert result.failed == ("equals_reference",)
    assert "expected [0]" in result.log


def test_wrong_number_of_steps_fails_its_bench():
    result = bench(Reciprocal(1), "bankside_bad_reciprocal", "arith_reciprocal.py", "icarus")
    assert result.failed == ("equals_reference",)
    assert "not done after 13 steps" in result.log
