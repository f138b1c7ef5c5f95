"""Cells of keys and values against the memory of the golden model that programs have filled."""

import numpy as np
import pytest

from bankside.config import PimHardware
from bankside.fault_injection.llm.placement import ACCESS_ELEMENTS, Placement
from bankside.isa.machine import Machine
from bankside.mapping.lower_pim import KvLayout, PimKernels, Shape
from bankside.sim.golden.pim import PimGolden

CASES = [
    ("pim_tiny_ddr4", Shape(1, 2, 2, 8, 60), None),
    ("dimm_pim_ddr5", Shape(2, 2, 2, 64, 40), None),
    ("dimm_pim_ddr4", Shape(2, 10, 10, 24, 40), 1),
]


def placement(machine: str, shape: Shape, nhc: int | None) -> Placement:
    return Placement(KvLayout.of(Machine.of(PimHardware.load(machine)), shape, nhc=nhc))


@pytest.mark.parametrize(("machine", "shape", "nhc"), CASES)
def test_every_element_lies_where_the_programs_put_it(machine, shape, nhc) -> None:
    place = placement(machine, shape, nhc)
    numbers = np.random.default_rng(2).integers(1, 1 << 16, place.shape).astype(np.uint16)
    golden, kernels = PimGolden(place.machine), PimKernels(place.layout)
    for layer, (k, v) in enumerate(numbers):
        for program in kernels.append(layer, 0, k, v):
            golden.run(program)
    at = place.cells
    found = golden.memory[at.chip, at.bank, at.row, at.column, at.position]
    assert np.array_equal(found, numbers.reshape(-1))


@pytest.mark.parametrize(("machine", "shape", "nhc"), CASES)
def test_accesses_and_elements_are_inverse(machine, shape, nhc) -> None:
    place = placement(machine, shape, nhc)
    number = np.arange(int(np.prod(place.shape)))
    access = place.access(place.cells)
    there = place.elements(access)[number, place.cells.chip]
    assert there.shape == (len(number), ACCESS_ELEMENTS)
    assert (there == number[:, None]).sum() == len(number)
    bank, row, _ = place.coordinates(access)
    assert np.array_equal(bank, place.cells.bank) and np.array_equal(row, place.cells.row)


def test_live_accesses_grow_with_the_tokens() -> None:
    place = placement(*CASES[1])
    few, all_of = place.live(3), place.live(40)
    assert set(few) < set(all_of)
    tokens = place.tokens(place.elements(few))
    assert set(tokens[tokens >= 0].tolist()) == {0, 1, 2}
    # Three tokens, two layers, keys and values, two columns each: one access per column in DDR5.
    assert len(few) == 3 * 2 * 2 * 2
