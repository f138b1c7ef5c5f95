"""Golden model of the `array` engine: against a scalar reading of the page, and its order rules."""

import importlib.util
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from bankside.errors import ProgramError
from bankside.isa import numerics_array_np as fp
from bankside.isa.array_schedule import FORMATS, Block, Schedule, fixed_length
from bankside.isa.program import Builder
from bankside.sim.golden import array_compute
from bankside.sim.golden.array import ArrayGolden
from bankside.sim.golden.array_schedule import Schedule as GoldenSchedule


def _sibling(name: str) -> ModuleType:
    """A module of this folder that is no test."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


kernels = _sibling("array_kernels")
KERNELS, RowBlock, machine_of = kernels.KERNELS, kernels.RowBlock, kernels.machine_of
ScalarArray = _sibling("reference_array_golden").ScalarArray

# Operations in their order; legal schedules and some that only the order of blocks defines.
SEQUENCES = [
    ("qk", "lm", "exp", "sld", "slnv", "rcp", "av"),
    ("qk", "lm", "exp", "sld", "slnv", "drain"),
    ("qk", "drain"),
    ("qk", "drain", "passx", "fill", "slnv", "rcp", "av"),
    ("qk", "drain", "passx", "rcp"),
    ("qk", "slnv", "one", "av"),
    ("qk", "sld", "rcp"),
    ("fill", "slnv", "one", "av"),
    ("fill", "sld", "slnv"),
    ("passx", "fill", "slnv", "rcp", "av"),
    ("passx", "rcp"),
    ("passd", "fill", "slnv", "one", "av"),
    ("rcp", "passd"),
    ("slnv", "av"),
    ("slnv", "fill"),
    ("exp", "sld", "qk", "lm"),
    ("fill", "qk", "drain", "sld", "passx"),
]


def random_schedule(rng, machine, ops) -> Schedule:
    start, blocks = 0, []
    for op in ops:
        length = fixed_length(op, machine) or int(rng.integers(1, 7))
        blocks.append(Block(op, start, length))
        start += length
    flags = {"chunked": bool(rng.integers(2)), "correct": bool(rng.integers(2))}
    return Schedule(start, tuple(blocks), str(rng.choice(FORMATS)), **flags).marked()


def random_bits(rng, shape, fmt: int) -> np.ndarray:
    """Numbers around one, zeros, small and large ones."""
    size = np.exp2(rng.choice([0, 1, 3, -3, -12, -24], shape))
    values = rng.standard_normal(shape) * size * (rng.random(shape) < 0.9)
    return fp.round16(values.astype(np.float32), fmt)


def random_registers(rng) -> dict[str, int]:
    tile = int(rng.integers(1, 4))
    return {
        "q": int(rng.integers(0, 3)), "k": int(rng.integers(0, 4)), "v": int(rng.integers(0, 4)),
        "kv_step": int(rng.integers(0, 4)), "kv_ring": int(rng.integers(1, 5)),
        "kv_phase": int(rng.integers(0, 4)), "s": int(rng.integers(4, 8)), "s_step": tile,
        "s_ring": int(rng.integers(1, 5)), "out": int(rng.integers(24, 28)),
        "position": int(rng.integers(0, 20)), "group": int(rng.integers(1, 3)),
        "keys": int(rng.integers(1, 24)), "first_key": int(rng.integers(0, 3)),
        "window": int(rng.choice([0, 0, 1, 5])), "causal": int(rng.integers(0, 2)),
    }  # fmt: skip


def emit_run(b: Builder, registers: dict[str, int], **operands) -> None:
    for name, value in registers.items():
        b.SET(reg=name, value=value)
    b.RUN(**operands)


def small_machine(rng):
    return machine_of(
        int(rng.integers(2, 6)), int(rng.integers(2, 5)), bus_bytes=8, row_words=32,
        column_words=32, lane_words=8, chunk_words=16, score_registers=int(rng.integers(1, 4)),
    )  # fmt: skip


def bits(x: np.ndarray) -> list:
    return (x.view(np.uint32) if x.dtype == np.float32 else x).tolist()


def assert_same_state(golden: ArrayGolden, scalar: ScalarArray) -> None:
    state = golden.compute.blocks
    assert golden.column.tolist() == scalar.column
    for name in ("s", "k", "mtop", "m", "l", "q", "e", "acc", "chunk", "msnap"):
        assert bits(getattr(state, name)) == getattr(scalar, name), name


@pytest.mark.parametrize("seed", range(60))
def test_equals_the_scalar_reading(seed):
    """Chains of kernels on random data; each finds what the ones before left."""
    rng = np.random.default_rng(seed)
    machine = small_machine(rng)
    golden = ArrayGolden(machine)
    fmt = int(rng.integers(2))
    golden.row[:] = random_bits(rng, golden.row.shape, fmt)
    golden.column[:] = random_bits(rng, golden.column.shape, fmt)
    scalar = ScalarArray(machine, golden.row, golden.column)
    for _ in range(4):
        schedule = random_schedule(rng, machine, SEQUENCES[rng.integers(len(SEQUENCES))])
        b = Builder("array", machine.bus_elements)
        schedule.emit(b)
        scalar.kernel(schedule)
        for _ in range(2):
            run = {"tiles": int(rng.integers(1, 7)), "first": int(rng.integers(2)),
                   "last": int(rng.integers(2)), "set": int(rng.integers(2))}  # fmt: skip
            registers = random_registers(rng)
            emit_run(b, registers, **run)
            scalar.run(registers, **run)
        golden.run(b.build())
        assert_same_state(golden, scalar)


def data(rng, machine, e, f, keys, fmt=0):
    shapes = ((machine.columns, e), (keys, e), (keys, f))
    return [fp.round16(rng.standard_normal(s).astype(np.float32), fmt) for s in shapes]


def outcome(block: RowBlock) -> list:
    program = block.program()
    return block.collect(ArrayGolden(block.machine).run(program), program).tolist()


@pytest.mark.parametrize("kernel", KERNELS)
def test_many_tiles_at_once_equal_one_after_the_other(kernel, monkeypatch):
    machine = machine_of(4, 6, bus_bytes=8)
    block = RowBlock(machine, kernel, *data(np.random.default_rng(1), machine, 9, 5, 70))
    together = outcome(block)
    assert len(set(map(tuple, together))) == machine.columns
    monkeypatch.setattr(array_compute, "_BATCH_ELEMENTS", 3 * 9 * 6)
    assert outcome(block) == together
    monkeypatch.setattr(GoldenSchedule, "separable", False)
    assert outcome(block) == together


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("ring", [1, 2, 5])
def test_streamed_keys_give_the_same_bits(kernel, ring):
    machine = machine_of(4, 6, bus_bytes=8)
    arguments = data(np.random.default_rng(2), machine, 9, 5, 61)
    resident = outcome(RowBlock(machine, kernel, *arguments))
    assert outcome(RowBlock(machine, kernel, *arguments, ring=ring)) == resident


def test_separable_schedules():
    """The kernels may run many tiles at once; schedules with a memory may not."""
    machine = machine_of(4, 4)
    rng = np.random.default_rng(0)

    def separable(ops, **flags):
        b = Builder("array", machine.bus_elements)
        Schedule(64, random_schedule(rng, machine, ops).blocks, **flags).emit(b)
        golden = ArrayGolden(machine)
        golden.run(b.build())
        return golden.compute.schedule.separable

    for steps in KERNELS.values():
        assert all(separable(ops, **flags) for ops, flags in steps)
    assert not separable(("slnv", "fill"))
    assert not separable(("qk", "drain", "passx"), chunked=False)
    assert not separable(("rcp", "passd"))
    assert not separable(("qk", "lm", "drain", "fill"), correct=True)


# --- transfers --------------------------------------------------------------------------------


def transfer(b: Builder, name: str, registers: dict[str, int], **operands) -> None:
    full = {
        "mem": 0,
        "outer": 1,
        "outer_bytes": 0,
        "inner": 1,
        "inner_bytes": 0,
        "beats": 1,
        "bank": 0,
        "bank_step": 0,
        "buf": 0,
        "buf_step": 0,
        "ring": 1,
        "ring_phase": 0,
    }
    for key, value in {**full, **registers}.items():
        b.SET(reg=key, value=value)
    b.emit(name, **operands)


@pytest.mark.parametrize("side", ["row", "column"])
def test_load_walks_as_described(side):
    machine = machine_of(6, 5, bus_bytes=8, row_words=64, column_words=64)
    registers = {"mem": 24, "outer": 4, "outer_bytes": 80, "inner": 2, "inner_bytes": 40,
                 "beats": 3, "bank": 0, "bank_step": 1, "buf": 7, "buf_step": 10, "ring": 3,
                 "ring_phase": 2}  # fmt: skip
    b = Builder("array", 4)
    image = np.arange(400, dtype=np.uint16).reshape(-1, 4)
    b.host_in.append(image)
    transfer(b, "LOAD", registers, side=side)
    golden = ArrayGolden(machine)
    golden.run(b.build())
    want = np.zeros((6 if side == "row" else 5, 64, 4), np.uint16)
    for i, ring in enumerate((2, 0, 1, 2)):
        for j in range(2):
            at = 3 + 10 * i + 5 * j
            want[i + j, 7 + 10 * ring :][:3] = image[at : at + 3]
    found = golden.row if side == "row" else golden.column
    assert (found.reshape(want.shape) == want).all()
    assert not (golden.column if side == "row" else golden.row).any()


def test_store_is_the_way_back():
    machine = machine_of(4, 5, bus_bytes=8)
    registers = {"mem": 80, "outer": 2, "outer_bytes": 8, "inner": 5, "inner_bytes": 16,
                 "beats": 1, "buf": 3, "buf_step": 6, "ring": 2, "ring_phase": 1}  # fmt: skip
    b = Builder("array", 4)
    image = np.arange(80, dtype=np.uint16).reshape(-1, 4)
    b.host_in.append(image)
    transfer(b, "LOAD", {**registers, "mem": 0}, side="column", signal="store")
    transfer(b, "STORE", registers, wait="load")
    got = ArrayGolden(machine).run(b.build()).outputs
    assert (got[:10] == image[:10]).all() and (got[10:] == image[:10]).all()


def test_memory_beyond_the_image_is_zero_and_comes_anew():
    machine = machine_of(4, 4, bus_bytes=8)
    b = Builder("array", 4)
    b.host_in.append(np.full((1, 4), 7, np.uint16))
    transfer(b, "LOAD", {"mem": 8, "buf": 1}, side="column")
    transfer(b, "LOAD", {}, side="column")
    b.BARRIER()
    transfer(b, "STORE", {"mem": 8})
    program, golden = b.build(), ArrayGolden(machine)
    for _ in range(2):
        assert golden.run(program).outputs.tolist() == [[7] * 4]
        assert golden.column[0, :8].tolist() == [7] * 4 + [0] * 4


# --- state ------------------------------------------------------------------------------------


def test_a_row_block_goes_on_in_the_next_program_until_reset():
    machine = machine_of(4, 4, bus_bytes=8)
    block = RowBlock(machine, "one pass", *data(np.random.default_rng(3), machine, 8, 4, 32))
    whole = outcome(block)
    golden, program = ArrayGolden(machine), block.program()
    instructions = [program.spec.decode(word) for word in program.words]
    run = next(i for i, ins in enumerate(instructions) if ins.name == "RUN")

    def with_run(**operands):
        words = list(program.words)
        words[run] = program.spec.encode("RUN", tiles=block.tiles, **operands)
        return type(program)("array", tuple(words), program.host_in, program.outputs)

    golden.run(with_run(first=1))
    twice = with_run(last=1)
    again = block.collect(golden.run(twice), twice).tolist()
    # Every key counts twice: the same weights, summed in another order.
    close = [fp.decode(np.array(x, np.uint16), 0) for x in (again, whole)]
    np.testing.assert_allclose(*close, rtol=2e-3, atol=1e-4)
    golden.reset()
    assert not golden.row.any() and not golden.compute.blocks.acc.any()
    assert block.collect(golden.run(program), program).tolist() == whole


# --- tokens -----------------------------------------------------------------------------------


def load_command(b: Builder, **operands) -> None:
    transfer(b, "LOAD", {}, side="row", **operands)


def test_tokens_order_the_engines_against_the_program():
    """The store stands last, yet a load waits for it."""
    machine = machine_of(4, 4, bus_bytes=8)
    b = Builder("array", 4)
    b.host_in.append(np.arange(12, dtype=np.uint16).reshape(3, 4))
    transfer(b, "LOAD", {}, side="column", signal="store")
    transfer(b, "LOAD", {"mem": 8}, side="column", wait="store")
    transfer(b, "STORE", {"mem": 16}, wait="load", signal="load")
    golden = ArrayGolden(machine)
    outputs = golden.run(b.build()).outputs
    assert outputs[2].tolist() == [0, 1, 2, 3] and golden.column[0, :4].tolist() == [4, 5, 6, 7]


def test_a_missing_token_is_named():
    machine = machine_of(4, 4, bus_bytes=8)
    b = Builder("array", 4)
    load_command(b, wait="compute")
    with pytest.raises(ProgramError) as error:
        ArrayGolden(machine).run(b.build())
    text = str(error.value)
    assert "(HALT) waits for engine load for ever" in text
    assert "at command 12 (LOAD) waits for a token of compute" in text
    assert "add the missing signal" in text


def test_a_circle_is_named_with_the_step():
    machine = machine_of(4, 4, bus_bytes=8)
    b = Builder("array", 4)
    Schedule(4, (Block("qk", 0, 4),)).marked().emit(b)
    for name in ("kv_ring", "s_ring"):
        b.SET(reg=name, value=1)
    transfer(b, "LOAD", {"outer": 3}, side="row", each=1, wait="store", signal="compute")
    transfer(b, "STORE", {}, signal="load")
    b.RUN(tiles=2, each=1, signal="store")
    with pytest.raises(ProgramError) as error:
        ArrayGolden(machine).run(b.build())
    text = str(error.value)
    assert "step 1 waits for a token of store" in text
    assert "engine compute at command" in text and "waits for a token of load" in text


def test_a_full_queue_stops_the_front_end():
    """More waiting loads than the queue holds: the RUN behind them, which they wait for, never
    gets there. With one load less it does."""

    def program(loads: int):
        b = Builder("array", 4)
        Schedule(4, (Block("qk", 0, 4, free=True),)).marked().emit(b)
        b.SET(reg="kv_ring", value=1)
        for _ in range(loads):
            load_command(b, wait="compute")
        b.RUN(tiles=4, free=1)
        return b.build()

    machine = machine_of(4, 4, bus_bytes=8, queue_depth=3)
    ArrayGolden(machine).run(program(3))
    with pytest.raises(ProgramError, match=r"\(LOAD\) waits for the full queue of engine load"):
        ArrayGolden(machine).run(program(4))


# --- refusals ---------------------------------------------------------------------------------


def refused(machine, prepare, pattern: str) -> None:
    b = Builder("array", machine.bus_elements)
    prepare(b)
    with pytest.raises(ProgramError, match=pattern):
        ArrayGolden(machine).run(b.build())


def test_refusals():
    machine = machine_of(4, 4, bus_bytes=8, row_words=8, column_words=8, lane_words=4,
                         chunk_words=2, bytes=1 << 12)  # fmt: skip
    kernels = {
        "qk": Schedule(8, (Block("qk", 0, 4),)).marked(),
        "slnv": Schedule(8, (Block("slnv", 0, 8),)).marked(),
        "fill": Schedule(8, (Block("fill", 0, 4),), correct=True).marked(),
        "undone": Schedule(8, (Block("qk", 0, 4),)),
    }

    def run(kernel, tiles=1, **registers):
        def prepare(b):
            kernels[kernel].emit(b)
            emit_run(b, {"kv_ring": 4, "s_ring": 4, **registers}, tiles=tiles)

        return prepare  # fmt: skip

    def move(name="LOAD", **registers):
        return lambda b: transfer(b, name, registers)

    cases = [
        (run("undone"), "0 blocks marked `done`"),
        (run("qk", kv_ring=0), "kv_ring = 0; SET it to at least 1"),
        (run("qk", k=8), "reads bus word 8 of the row banks"),
        (run("qk", tiles=4, kv_step=3), "reads bus word 9 of the row banks"),
        (run("qk", q=8), "bus word 8 of the column banks .register q"),
        (run("slnv"), "lane has 4 accumulators"),
        (run("fill", tiles=3), "maxima of 2"),
        (move(outer=0), "outer is 0; SET it to at least 1"),
        (move(mem=4), "mem = 4; expected a multiple of the 8 bytes"),
        (move(mem=4096), "reaches byte 4096 of main memory, which has 4096"),
        (move(bank=4), "uses bank 4, bus word 0; expected banks below 4"),
        (move("STORE", buf=8), "uses bank 0, bus word 8; expected banks below 4 and words below 8"),
        (lambda b: b.host_in.append(np.zeros((513, 4), np.uint16)), "at most 512 rows of 4"),
        (lambda b: b.BLOCK(index=0, op="av"), "BLOCK av has index 0; expected an index in 8..11"),
    ]
    for prepare, pattern in cases:
        refused(machine, prepare, pattern)


def test_results_of_kernels_agree_with_each_other():
    """Five ways to compute the same attention, within their rounding to 16 bits."""
    machine = machine_of(4, 6, bus_bytes=8)
    arguments = data(np.random.default_rng(5), machine, 8, 8, 45)
    results = [fp.decode(np.array(outcome(RowBlock(machine, kernel, *arguments)), np.uint16), 0)
               for kernel in KERNELS]  # fmt: skip
    for a, b in pairwise(results):
        np.testing.assert_allclose(a, b, atol=4e-3)
