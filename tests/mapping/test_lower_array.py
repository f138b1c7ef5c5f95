"""Attention programs of the array: legal, and right, for every binding and many shapes."""

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from bankside.errors import ConfigError, ProgramError
from bankside.isa.array_commands import Transfer
from bankside.isa.array_verify import dispatched, verify
from bankside.isa.machines import load_machine
from bankside.mapping.lower_array import ArrayKernels, AttentionShape, scaled_queries
from bankside.sim.golden.array import ArrayGolden
from bankside.sim.timing.array import ArrayTiming


def _sibling(name: str) -> ModuleType:
    """A module that lies beside this file."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


helpers = _sibling("array_attention")
Attention, BINDINGS, machine = helpers.Attention, helpers.BINDINGS, helpers.machine
LIMIT = {"fp16": 0.004, "bf16": 0.03}
SHAPES = {
    "plain": AttentionShape(10, 50, 2, 2, 8, 8),
    "grouped": AttentionShape(9, 60, 4, 2, 12, 8),
    "causal_grouped": AttentionShape(7, 7, 6, 2, 8, 8, causal=True),
    "group_wider_than_array": AttentionShape(3, 40, 8, 1, 8, 12, causal=True, first_position=10),
    "window": AttentionShape(20, 70, 2, 2, 8, 8, batch=2, causal=True, window=20),
    "window_alone": AttentionShape(9, 41, 1, 1, 8, 4, window=6),
    "beyond_the_keys": AttentionShape(6, 11, 1, 1, 8, 8, causal=True, window=4, first_position=9),
    "no_keys_met": AttentionShape(5, 4, 1, 1, 4, 4, window=2, first_position=30),
    "one_query": AttentionShape(1, 33, 1, 1, 3, 5, batch=6),
    "decode": AttentionShape(1, 29, 4, 2, 8, 8, batch=3, causal=True),
    "one_key": AttentionShape(4, 1, 1, 1, 5, 7),
    "wide_values": AttentionShape(6, 20, 1, 1, 8, 20),
    "wide_keys": AttentionShape(6, 20, 1, 1, 30, 6),
    "many_heads": AttentionShape(4, 30, 5, 5, 8, 8),
}
MACHINES = {
    "4x4": {},
    "tight": {"column_words": 40, "row_words": 24, "queue_depth": 1},
    "5x7": {"rows": 5, "columns": 7, "column_words": 64, "row_words": 40, "queue_depth": 2},
    "2x40": {"rows": 2, "columns": 40},
    "12x3": {"rows": 12, "columns": 3, "return_cycles": 40},
    "deep": {"rows": 3, "columns": 9, "bus_bytes": 16, "score_registers": 8, "return_cycles": 1},
    "one_register": {"rows": 2, "columns": 2, "bus_bytes": 4, "score_registers": 1},
}


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str, binding: str) -> None:
    for residency in ("stream", "resident"):
        assert (
            Attention(machine(), SHAPES[name], binding, "fp16", residency).error() < LIMIT["fp16"]
        )


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("name", MACHINES)
def test_machines(name: str, binding: str) -> None:
    """What a machine cannot hold is refused, everything else is right."""
    fitting = 0
    for shape in (SHAPES["plain"], SHAPES["window"], SHAPES["decode"], SHAPES["many_heads"]):
        try:
            run = Attention(machine(**MACHINES[name]), shape, binding)
        except ConfigError as error:
            assert "array." in str(error)
        else:
            fitting += 1
            assert run.error() < LIMIT["fp16"]
    assert fitting >= (2 if name == "tight" else 4)


@pytest.mark.parametrize("binding", BINDINGS)
def test_bf16(binding: str) -> None:
    run = Attention(load_machine("array_6x10"), SHAPES["causal_grouped"], binding, "bf16")
    assert run.error() < LIMIT["bf16"]


@pytest.mark.parametrize("binding", BINDINGS)
def test_several_programs(binding: str) -> None:
    """Program memory, then main memory, holds only a part of the blocks."""
    shape = AttentionShape(24, 24, 3, 3, 8, 8, causal=True)
    for keys in ({"program_words": 200}, {"memory_bytes": 1 << 15}):
        run = Attention(machine(**keys), shape, binding)
        assert len(run.programs) > 1
        assert run.error() < LIMIT["fp16"]


def test_programs_stand_alone() -> None:
    """In any order, and twice: no program needs what another one leaves."""
    shape = AttentionShape(24, 40, 2, 2, 8, 8)
    run = Attention(machine(program_words=150), shape, "cascade")
    programs = run.programs
    order = np.random.default_rng(1).permutation(len(programs))
    golden, results = ArrayGolden(run.machine), {}
    for index in [*order, *order]:
        results[index] = golden.run(programs[index])
    found = run.kernels.collect([results[index] for index in range(len(programs))])
    numbers = helpers.numbers
    wide = helpers.reference(shape, run.q, numbers(run.k, "fp16"), numbers(run.v, "fp16"))
    assert np.abs(numbers(found, "fp16") - wide).max() < LIMIT["fp16"]


def test_masked_tiles_are_skipped() -> None:
    kernels = ArrayKernels(machine(), AttentionShape(16, 16, 1, 1, 8, 8, causal=True))
    assert [(b.first_tile, b.tiles) for b in kernels.blocks] == [(0, 1), (0, 2), (0, 3), (0, 4)]
    window = AttentionShape(16, 16, 1, 1, 8, 8, causal=True, window=4)
    blocks = ArrayKernels(machine(), window).blocks
    assert [(b.first_tile, b.tiles) for b in blocks] == [(0, 1), (0, 2), (1, 2), (2, 2)]


def test_columns_share_keys() -> None:
    """Two queries of four heads that share a key head need one block of eight columns."""
    shape = AttentionShape(2, 20, 4, 1, 8, 8, causal=True)
    blocks = ArrayKernels(machine(columns=8), shape).blocks
    assert [(b.used, b.position, b.group) for b in blocks] == [(8, 18, 4)]


def test_keys_stay_or_stream() -> None:
    """Resident keys are read from memory once, streamed ones once per block of queries."""
    shape = AttentionShape(16, 32, 1, 1, 8, 8)
    rows = {}
    for residency in ("resident", "stream"):
        programs = Attention(machine(), shape, residency=residency).programs
        commands = [c for program in programs for c in dispatched(program, machine())]
        rows[residency] = sum(
            c.reg["outer"] for c in commands if isinstance(c, Transfer) and c.row_side
        )
    assert rows == {"resident": 8, "stream": 4 * 8}


@pytest.mark.parametrize(("residency", "most"), [("stream", 141.0), ("resident", 141.0)])
def test_runs_flow_without_draining(residency: str, most: float) -> None:
    """E = F = 64 at 16 x 16: 137 slots per tile and less than 3 % on top, over 16 blocks."""
    run = Attention(
        load_machine("array_16x16"), AttentionShape(256, 256, 1, 1, 64, 64), residency=residency
    )
    timing = ArrayTiming(run.machine)
    cycles = sum(timing.run(program).cycles for program in run.programs)
    tiles = sum(block.tiles for block in run.kernels.blocks)
    assert tiles == 256 and cycles / tiles < most


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("residency", ["stream", "resident"])
def test_every_token_is_needed(binding: str, residency: str) -> None:
    """Without one of its waits or signals, a program is refused (or another order implies it)."""
    run = Attention(machine(), AttentionShape(20, 40, 2, 2, 8, 8), binding, residency=residency)
    (program,) = run.programs
    spared, refused = [], 0
    for pc, ins in enumerate(program.instructions()):
        for name in ("wait", "signal"):
            mask = ins.fields.get(name, 0)
            for bit in range(3):
                if mask >> bit & 1:
                    lsb = program.spec.commands[ins.name].field_map[name].lsb
                    word = program.words[pc] & ~(1 << lsb + bit)
                    words = (*program.words[:pc], word, *program.words[pc + 1 :])
                    try:
                        verify(dataclasses.replace(program, words=words), run.machine)
                        spared.append((ins.name, name))
                    except ProgramError:
                        refused += 1
    # A KERNEL between two blocks orders them as the queries' token does.
    implied = (
        {("LOAD", "wait")} if binding.startswith("flat") and residency == "resident" else set()
    )
    assert refused > 20 and set(spared) <= implied


REFUSED = {
    "lane_words": (
        {"lane_words": 8}, AttentionShape(4, 4, 1, 1, 8, 9), "interleaved",
        ("test: array.lane_words is 8, a value of 9 elements needs 9; use shorter values or raise "
        "array.lane_words"),
    ),
    "scores": (
        {"column_words": 20}, AttentionShape(4, 100, 1, 1, 8, 8), "flat",
        ("test: array.column_words is 20, two queries, two results and the scores of 25 tiles in "
        "each column needs 33; use at most 48 keys, the binding unfused or interleaved, or raise "
        "array.column_words"),
    ),
    "chunks": (
        {"chunk_words": 4}, AttentionShape(4, 100, 1, 1, 8, 8), "flat_2pass",
        ("test: array.chunk_words is 4, a maximum per tile of 100 keys needs 25; use a one-pass "
        "binding (interleaved, cascade) or raise array.chunk_words"),
    ),
    "ring": (
        {"row_words": 3}, AttentionShape(4, 9, 1, 1, 8, 8), "interleaved",
        "test: array.row_words is 3, one tile needs 4; use shorter heads or raise array.row_words",
    ),
    "ranges": (
        {"row_words": 3}, AttentionShape(4, 9, 1, 1, 8, 8), "unfused",
        ("test: array.row_words is 3, two tiles of keys needs 4; use shorter heads or raise "
        "array.row_words"),
    ),
    "memory": (
        {"memory_bytes": 4096}, AttentionShape(4, 99, 1, 1, 8, 8), "interleaved",
        ("test: memory.bytes is 4096, 99 keys and 4 queries of one head need 12288; use fewer keys "
        "or raise memory.bytes"),
    ),
    "program": (
        {"program_words": 40}, AttentionShape(4, 99, 1, 1, 8, 8), "interleaved",
        ("test: array.program_words is 40, a block of 25 key tiles needs 52; use fewer keys or "
        "raise array.program_words"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit(name: str) -> None:
    keys, shape, binding, message = REFUSED[name]
    with pytest.raises(ConfigError) as error:
        ArrayKernels(machine(**keys), shape, binding)
    assert str(error.value) == message


def test_resident_keys_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"array.row_words is 24, keeping 40 keys needs 40; use"):
        ArrayKernels(machine(row_words=24), AttentionShape(9, 40, 1, 1, 8, 8), residency="resident")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"queries": 0}, "queries is 0; expected at least 1"),
        ({"heads": 3, "kv_heads": 2}, "3 query heads do not divide into 2 key heads"),
        ({"queries": 9, "causal": True}, "9 queries after 4 keys begin at position -5"),
        ({"window": -1}, "a window of -1"),
        ({"keys": 1 << 23, "first_position": 0}, "keys and positions end at 8388607"),
    ],
)
def test_impossible_shapes(keys: dict, message: str) -> None:
    sizes = {"queries": 4, "keys": 4, "heads": 1, "kv_heads": 1, "e": 8, "f": 8}
    with pytest.raises(ConfigError, match=message):
        AttentionShape(**(sizes | keys))


def test_wrong_data_and_names() -> None:
    shape = AttentionShape(4, 4, 1, 1, 8, 8)
    kernels = ArrayKernels(machine(), shape)
    q = scaled_queries(np.zeros((1, 4, 1, 8)), "fp16")
    with pytest.raises(ConfigError, match=r"k: uint16 \[1, 3, 1, 8\]; expected .*\[1, 4, 1, 8\]"):
        kernels.programs(q, q[:, :3], q)
    with pytest.raises(ConfigError, match="format 'fp8' is not known; choose from: fp16, bf16"):
        ArrayKernels(machine(), shape, format="fp8")
    with pytest.raises(ConfigError, match=r"unknown binding 'interleave' \(did you mean"):
        ArrayKernels(machine(), shape, "interleave")


@pytest.mark.parametrize("binding", BINDINGS)
def test_long_sequences(binding: str) -> None:
    shape = AttentionShape(40, 3000, 2, 1, 64, 48, causal=True)
    for residency in ("stream", "auto"):
        run = Attention(load_machine("array_16x16"), shape, binding, residency=residency)
        assert run.error() < LIMIT["fp16"]
