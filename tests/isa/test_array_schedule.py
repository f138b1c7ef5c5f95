"""Schedules of the array: their words, and one refusal per rule of docs/array.md section 3."""

from dataclasses import replace

import pytest

from bankside.errors import ProgramError
from bankside.isa.array_schedule import (
    OPS,
    SCORE_READERS,
    SCORE_WRITERS,
    Block,
    Schedule,
    check,
)
from bankside.isa.machines import load_machine
from bankside.isa.program import Builder
from bankside.isa.spec import load_spec

MACHINE = load_machine("array_4x4")  # R = 4, n = 4, latencies 11 and 12, divider 14


def schedule(*blocks: Block, ii: int = 64, **keys) -> Schedule:
    return Schedule(ii, blocks, **keys).marked()


FUSED = schedule(
    Block("qk", 0, 8), Block("lm", 8, 1), Block("exp", 19, 7), Block("sld", 26, 1),
    Block("slnv", 27, 8), Block("rcp", 35, 1), Block("av", 49, 8),
)  # fmt: skip
BANKS = schedule(
    Block("qk", 0, 8), Block("drain", 8, 4), Block("passx", 23, 4), Block("fill", 38, 4),
    Block("slnv", 42, 8), Block("rcp", 27, 1), Block("av", 50, 8), chunked=True,
)  # fmt: skip


def test_legal() -> None:
    check(FUSED, MACHINE)
    check(BANKS, MACHINE)


def test_words_and_back() -> None:
    for kernel in (FUSED, replace(BANKS, format="bf16", correct=True)):
        builder = Builder("array", MACHINE.bus_elements)
        kernel.emit(builder)
        assert Schedule.decode(builder.build().instructions()) == kernel


def test_operations_are_those_of_the_specification() -> None:
    assert set(OPS) == set(load_spec("array").enums["block_op"])


def moved(kernel: Schedule, op: str, by: int) -> Schedule:
    """The same with one block moved by some slots."""
    at = {b.op: kernel.begin(b) for b in kernel.blocks} | {op: kernel.begin(kernel.block(op)) + by}
    blocks = tuple(
        replace(b, start=at[b.op] % kernel.ii, stage=at[b.op] // kernel.ii) for b in kernel.blocks
    )
    return replace(kernel, blocks=blocks)


def message(kernel: Schedule) -> str:
    with pytest.raises(ProgramError) as error:
        check(kernel.marked(), MACHINE)
    return str(error.value).removeprefix("schedule: ")


@pytest.mark.parametrize(
    ("kernel", "op", "first", "needed", "why"),
    [
        (FUSED, "exp", "lm", 11, "the running maximum"),
        (FUSED, "av", "rcp", 14, "the divider's result"),
        (BANKS, "passx", "drain", 15, "the scores in the column banks"),
        (BANKS, "fill", "passx", 15, "the probabilities in the column banks"),
    ],
)
def test_distance_one_short(kernel, op: str, first: str, needed: int, why: str) -> None:
    """What follows moves along, so that only this distance becomes too short."""
    order = [b.op for b in sorted(kernel.blocks, key=kernel.begin)]
    early = kernel
    for later in order[order.index(op) :]:
        early = moved(early, later, -1) if later != "rcp" or op == "rcp" else early
    assert message(early) == (
        f"{op} begins {needed - 1} slots after {first}; {why} need at least {needed}: move one of "
        f"them or raise ii"
    )


@pytest.mark.parametrize(
    ("blocks", "keys", "expected"),
    [
        ((), {}, "has no blocks; add BLOCK commands after KERNEL"),
        (
            (Block("qk", 0, 8), Block("qk", 8, 8)), {},
            "has several blocks qk; join them into one",
        ),
        (
            (Block("qk", 60, 8),), {},
            ("qk takes the slots 60..67, the pass has 0..63; begin it earlier, in the next stage, "
            "or raise ii"),
        ),
        ((Block("drain", 0, 5),), {}, "drain is 5 slots long; array_4x4 needs 4"),
        (
            (Block("slnv", 0, 300),), {"ii": 400},
            ("slnv is 300 slots long, an accumulator set holds 256 words; split the values or "
            "raise array.lane_words"),
        ),
        (
            (Block("qk", 0, 8), Block("slnv", 7, 8)), {},
            ("qk (slots 0..7) and slnv (slots 7..14) share slots of the 2D array; slnv can begin "
            "at 8"),
        ),
        (
            (Block("slnv", 0, 8), Block("av", 7, 8, 1)), {},
            "slnv (slots 0..7) and av (slots 7..14) share slots of the lanes; av can begin at 8",
        ),
        (
            (Block("qk", 0, 8), Block("drain", 8, 4), Block("passx", 30, 4)), {},
            ("passx needs the maximum of all tiles, which drain of the same schedule has not seen; "
            "set chunked, or put them into two schedules"),
        ),
        (
            (Block("rcp", 0, 1), Block("one", 1, 1), Block("av", 20, 4)), {},
            "has rcp and one; keep the one that `av` shall use",
        ),
        (
            (Block("qk", 0, 8), Block("drain", 8, 4, 2)), {"ii": 12},
            ("qk of the iteration 2 later begins -8 slots after drain; the 2 score registers need "
            "at least 4: move one of them or raise ii"),
        ),
        (
            (Block("sld", 0, 1), Block("rcp", 1, 1, 1)), {},
            ("sld of the iteration 1 later begins -1 slots after rcp; the denominator need at "
            "least 1: move one of them or raise ii"),
        ),
    ],
)  # fmt: skip
def test_refused(blocks, keys, expected: str) -> None:
    kernel = Schedule(keys.get("ii", 64), blocks)
    with pytest.raises(ProgramError) as error:
        check(kernel.marked() if blocks else kernel, MACHINE)
    assert str(error.value) == f"schedule: {expected}"


def test_score_registers() -> None:
    """Two of them: what `qk` has made can be used up to the end of the next pass."""
    blocks = (Block("qk", 0, 8), Block("drain", 8, 4, 1))
    check(Schedule(12, blocks).marked(), MACHINE)
    one = load_machine("array_4x4")
    array = one.config.array.model_copy(update={"score_registers": 1})
    with pytest.raises(ProgramError, match="qk of the iteration 1 later begins -8 slots after dr"):
        check(
            Schedule(12, blocks).marked(),
            type(one).of(one.config.model_copy(update={"array": array})),
        )


def test_marks() -> None:
    def marks(**flags: str) -> Schedule:
        blocks = tuple(
            replace(b, free=b.op == flags["free"], done=b.op == flags["done"]) for b in FUSED.blocks
        )
        return replace(FUSED, blocks=blocks)

    check(marks(free="slnv", done="av"), MACHINE)
    check(marks(free="av", done="av"), MACHINE)
    with pytest.raises(ProgramError, match="slnv is marked done; mark av, which ends last"):
        check(marks(free="slnv", done="slnv"), MACHINE)
    with pytest.raises(ProgramError, match="no block is marked done; mark av"):
        check(marks(free="slnv", done=""), MACHINE)
    with pytest.raises(ProgramError, match="qk is marked free; .* not before the end of slnv"):
        check(marks(free="qk", done="av"), MACHINE)


def test_places() -> None:
    builder = Builder("array", MACHINE.bus_elements)
    builder.KERNEL(ii=20)
    builder.BLOCK(index=8, op="qk", start=0, length=4)
    with pytest.raises(ProgramError, match="block qk: stands at place 8; use one of 0..7"):
        Schedule.decode(builder.build().instructions())
    builder = Builder("array", MACHINE.bus_elements)
    builder.BLOCK(index=0, op="qk", start=0, length=4)
    with pytest.raises(ProgramError, match="BLOCK without KERNEL"):
        Schedule.decode(builder.build().instructions())


def test_scores_are_free_again() -> None:
    """Iterations until the column words of a tile's scores can be used again, slot by slot."""
    late = MACHINE.element_latency
    for ii in range(20, 70):
        kernel = replace(BANKS, ii=64)
        users = {b.op: kernel.begin(b) for b in kernel.blocks}
        blocks = tuple(
            replace(b, start=users[b.op] % ii, stage=users[b.op] // ii) for b in kernel.blocks
        )
        kernel = Schedule(ii, blocks, chunked=True)
        reads = [users[op] + j for op in SCORE_READERS if op in users for j in range(4)]
        writes = [users[op] + j + late for op in SCORE_WRITERS if op in users for j in range(4)]
        ring = kernel.score_ring(MACHINE)
        first_write, last = min(writes), max([*writes, *reads])
        # The first thing the next user does is the write of `drain`.
        assert first_write + ring * ii > max(reads)
        assert first_write + ring * ii > max(writes) - 4
        assert ring == 1 or (ring - 1) * ii < last - min([*reads, *writes]) + 1
