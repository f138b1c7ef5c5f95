"""Matrix products on the array: right, legal, and with the cycles of SCALE-Sim."""

import numpy as np
import pytest

from bankside.config import HardwareConfig
from bankside.errors import ConfigError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.array_verify import verify
from bankside.isa.machines import load_machine
from bankside.mapping.gemm_array import (
    MODES,
    SCHEDULES,
    GemmKernels,
    GemmShape,
    os_cycles,
    ws_cycles,
)
from bankside.mapping.lower_array import to_bits
from bankside.sim.golden.array import ArrayGolden
from bankside.sim.timing.array import ArrayTiming

SHAPES = [(16, 16, 16), (20, 9, 33), (50, 13, 3), (7, 40, 12), (1, 1, 1), (64, 64, 64)]
CLOSED = {"os": os_cycles, "ws": ws_cycles}


def machine(**keys: int) -> ArrayMachine:
    array = {"rows": 4, "columns": 4, "bus_bytes": 8} | keys
    lines = "".join(f"  {key}: {value}\n" for key, value in array.items())
    return ArrayMachine.of(HardwareConfig.parse(f"name: test\nengine: array\narray:\n{lines}"))


MACHINES = {
    "4x4": machine(),
    "5x7": machine(rows=5, columns=7, queue_depth=1, column_words=48, row_words=36),
    "2x16": machine(rows=2, columns=16),
    "stripes": machine(lane_words=16, program_words=128),
    "16x16": load_machine("array_16x16"),
}


def run(kernels: GemmKernels, seed: int = 0) -> tuple[float, int]:
    """Largest error against float64 relative to the largest result, and cycles."""
    s, rng = kernels.shape, np.random.default_rng(seed)
    a = to_bits(rng.normal(size=(s.m, s.k)), "fp16")
    b = to_bits(rng.normal(size=(s.k, s.n)), "fp16")
    programs = kernels.programs(a, b)
    for program in programs:
        verify(program, kernels.machine)
    golden, timing = ArrayGolden(kernels.machine), ArrayTiming(kernels.machine)
    found = kernels.collect([golden.run(program) for program in programs])
    wide = a.view(np.float16).astype(np.float64) @ b.view(np.float16).astype(np.float64)
    error = np.abs(found.view(np.float16) - wide).max() / np.abs(wide).max()
    return float(error), sum(timing.run(program).cycles for program in programs)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MACHINES)
def test_products(name: str, mode: str, schedule: str) -> None:
    for size in SHAPES:
        kernels = GemmKernels(MACHINES[name], GemmShape(*size), mode, schedule)
        error, cycles = run(kernels)
        assert error < 1e-3, size
        assert cycles > kernels.compute_cycles, size


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["4x4", "5x7", "2x16", "16x16"])
def test_closed_forms(name: str, mode: str) -> None:
    """The schedule that waits for the array to empty has exactly SCALE-Sim's cycles."""
    there = MACHINES[name]
    for size in SHAPES:
        shape = GemmShape(*size)
        kernels = GemmKernels(there, shape, mode, "scale_sim")
        assert kernels.compute_cycles == CLOSED[mode](shape, there.rows, there.columns), size
        quicker = GemmKernels(there, shape, mode, "pipelined")
        assert quicker.compute_cycles <= kernels.compute_cycles


def test_cycles_of_scale_sim() -> None:
    """Measured with SCALE-Sim 3.0.0 on a 32 x 32 array: 256^3 and 512^3."""
    found = [
        closed(GemmShape(size, size, size), 32, 32) for size in (256, 512) for closed in
        (ws_cycles, os_cycles)
    ]  # fmt: skip
    assert found == [22_399, 20_351, 155_135, 146_943]


def test_measured_cycles_follow_the_schedule() -> None:
    """On top come the first loads and the last store, whatever the length of the product."""
    for schedule in SCHEDULES:
        found = set()
        for columns in (64, 128, 256):
            kernels = GemmKernels(MACHINES["16x16"], GemmShape(256, 64, columns), "os", schedule)
            found.add(run(kernels)[1] - kernels.compute_cycles)
        # A first tile of 64 bus words, and a last block of 256 to store.
        assert len(found) == 1 and 320 < found.pop() < 600


REFUSED = {
    "long": (
        {}, (4, 4090, 4), "os",
        ("product: 4090 elements per row of the array; a pass has room for 4083: split k into "
        "parts and add them"),
    ),
    "rows": (
        {"row_words": 4}, (4, 20, 4), "os",
        ("test: array.row_words is 4, a row of 20 elements needs 5; split k into parts or raise "
        "array.row_words"),
    ),
    "columns": (
        {"column_words": 8}, (4, 20, 4), "os",
        ("test: array.column_words is 8, two columns of 20 elements and the results of 2 tiles "
        "needs 12; split k into parts or raise array.column_words"),
    ),
    "stripes": (
        {"row_words": 9}, (20, 4, 4), "ws",
        ("test: array.row_words is 9, 2 stripes of 20 rows needs 10; use fewer rows, lower "
        "array.lane_words or raise array.row_words"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit(name: str) -> None:
    keys, size, mode, message = REFUSED[name]
    with pytest.raises(ConfigError) as error:
        GemmKernels(machine(**keys), GemmShape(*size), mode)
    assert str(error.value) == message


def test_wrong_names_and_data() -> None:
    with pytest.raises(ConfigError, match="mode 'is' is not known; choose from: os, ws"):
        GemmKernels(machine(), GemmShape(4, 4, 4), "is")
    with pytest.raises(ConfigError, match="product: k is 0; expected at least 1"):
        GemmShape(4, 0, 4)
    kernels = GemmKernels(machine(), GemmShape(4, 5, 6))
    with pytest.raises(ConfigError, match=r"B: uint16 \[4, 6\]; expected uint16 bits \[5, 6\]"):
        kernels.programs(np.zeros((4, 5), np.uint16), np.zeros((4, 6), np.uint16))
