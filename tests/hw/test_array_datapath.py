# amaranth: UnusedElaboratable=no
"""The datapath of the `array` engine in the Amaranth simulator, word by word."""

import sys
from pathlib import Path
from random import Random

import pytest

from bankside.hw.array import lanes
from bankside.hw.array.datapath import Datapath
from bankside.hw.lib.delay import DelayLine
from bankside.hw.lib.testing import simulate
from bankside.isa import numerics_array as ref
from bankside.sim.elaborate import to_verilog

sys.path.insert(0, str(Path(__file__).parent))
from array_player import (  # noqa: E402
    Line,
    Setup,
    Tile,
    Word,
    block,
    make_machine,
    play,
    play_all,
)
from array_reference import Reference  # noqa: E402

SEED = 940
MACHINES = {
    "3x4": make_machine(3, 4),
    "4x3": make_machine(
        4, 3, bus_bytes=4, score_registers=3, return_cycles=2, divider_bits=26, lane_words=8
    ),
    "5x2": make_machine(5, 2, bus_bytes=16, score_registers=1, return_cycles=9, divider_bits=7),
}
E, F, S, OUT = 6, 5, 6, 14
"""Query and value length, bus word of the scores, bus word of the results."""


def tiles_of(machine, blocks: int, per_block: int, **masks) -> list[Tile]:
    """Iterations of `blocks` row blocks over the same keys and values."""
    found = []
    limit, position = masks.pop("limit", 1 << 20), masks.pop("position", 0)
    for b in range(blocks):
        for i in range(per_block):
            kv, below = machine.words(E) + machine.words(F), i * machine.rows
            found.append(
                Tile(
                    tag=len(found) % machine.tags,
                    q=b * machine.words(E),
                    k=i * kv,
                    v=i * kv + machine.words(E),
                    s=S + i * machine.words(machine.rows),
                    out=OUT + b * machine.words(F),
                    first=i == 0,
                    set=b % 2,
                    chunk=i,
                    limit=limit - below,
                    position=position - below,
                    **masks,
                )
            )
    return found


def fused(machine, tiles: list[Tile]) -> list[Word]:
    """One pass: the next scores come while the maximum is on its way, results during exp."""
    line, due = Line(machine), None
    line.add("qk", tiles[0], E)
    for tile, after in zip(tiles, [*tiles[1:], None], strict=True):
        start = line.now
        line.add("lm", tile)
        if after and after.tag != tile.tag:
            line.add("qk", after, E)
        line.now = max(line.now, start + machine.maximum_latency)
        if due and due[0] <= line.now + 7 - F:
            line.alongside("av", due[1], F, line.now + 7)
            due = None
        line.add("exp", tile)
        line.add("sld", tile)
        line.add("slnv", tile, F)
        if after and after.tag == tile.tag:
            line.add("qk", after, E)
        if after is None or after.first:
            due_at = line.now + machine.divider_latency
            line.add("rcp", tile)
            if after is None or machine.divider_latency > machine.maximum_latency:
                line.add("av", tile, F, wait=due_at - line.now)
            else:
                due = (due_at, tile)
    assert due is None
    return line.words


def scores(machine, line: Line, tile: Tile) -> None:
    line.add("qk", tile, E)
    line.add("drain", tile, machine.rows)


def wait_for_elements(machine, line: Line, start: int) -> None:
    """Until a block may read what the block that began in cycle `start` returns."""
    delay = min(machine.bus_elements, machine.rows) - 1 + machine.element_latency
    line.now = max(line.now, start + delay)


def two_pass(machine, tiles: list[Tile]) -> list[Word]:
    """Local maxima and numerators per chunk, corrected to the final maximum."""
    line = Line(machine)
    for tile in tiles:
        scores(machine, line, tile)
        wait_for_elements(machine, line, line.now - machine.rows)
        line.add("passx", tile, machine.rows)
    finish(machine, line, tiles, lambda tile: None)
    return line.words


def three_pass(machine, tiles: list[Tile]) -> list[Word]:
    """All scores, then all exponentials, then probabilities."""
    line = Line(machine)
    for tile in tiles:
        scores(machine, line, tile)
    wait_for_elements(machine, line, line.now - machine.rows)
    for tile in tiles:
        line.add("passx", tile, machine.rows)
    line.add("rcp", tiles[-1])
    wait_for_elements(machine, line, line.now - machine.rows)
    line.now += machine.divider_latency

    def divide(tile):
        start = line.now
        line.add("passd", tile, machine.rows)
        wait_for_elements(machine, line, start)

    finish(machine, line, tiles, divide, one=True)
    return line.words


def finish(machine, line: Line, tiles: list[Tile], before, one: bool = False) -> None:
    wait_for_elements(machine, line, line.now - machine.rows)
    for tile in tiles:
        before(tile)
        line.add("fill", tile, machine.rows)
        line.add("slnv", tile, F)
    line.add("one" if one else "rcp", tiles[-1])
    line.add("av", tiles[-1], F, wait=0 if one else machine.divider_latency - 1)


def compare(*cases: tuple[Setup, list[Word]]) -> None:
    wrong = [
        f"case {k} bank {c} word {i}: {g:#x}, expected {w:#x}"
        for k, (case, got) in enumerate(zip(cases, play_all(list(cases)), strict=True))
        for c, (found, wanted) in enumerate(zip(got, Reference(case[0]).run(case[1]), strict=True))
        for i, (g, w) in enumerate(zip(found, wanted, strict=True))
        if g != w
    ]
    assert not wrong, "; ".join(wrong[:4])


MASKS = {
    "all": {},
    "ragged": {"limit": 6},
    "causal": {"causal": 1, "position": 2, "group": 2},
    "window": {"causal": 1, "window": 3, "position": 6, "group": 1},
    "none": {"limit": -1},
}


@pytest.mark.parametrize("name", MACHINES)
def test_fused_attention(name):
    machine, cases = MACHINES[name], []
    for i, masks in enumerate(MASKS.values()):
        setup = Setup.random(machine, Random(SEED + i), 2.0, format=(ref.FP16, ref.BF16)[i % 2])
        cases.append((setup, fused(machine, tiles_of(machine, 2 if i < 2 else 1, 3, **masks))))
    compare(*cases)


@pytest.mark.parametrize("name", MACHINES)
def test_two_and_three_passes(name):
    machine = MACHINES[name]

    def case(masks, make, fmt, **mode):
        setup = Setup.random(machine, Random(SEED), 2.0, format=fmt, **mode)
        return setup, make(machine, tiles_of(machine, 1, 3, **MASKS[masks]))

    compare(
        case("ragged", two_pass, ref.FP16, chunked=1, correct=1),
        case("all", two_pass, ref.BF16, chunked=1, correct=0),
        case("none", two_pass, ref.BF16, chunked=1, correct=1),
        case("window", three_pass, ref.FP16),
        case("causal", three_pass, ref.BF16),
    )


@pytest.mark.parametrize("spread", [1e-7, 60.0, 6e4])
def test_numbers_at_the_ends_of_the_range(spread):
    """Overflowing scores, subnormal operands, a maximum far from everything."""
    machine, cases = MACHINES["3x4"], []
    for fmt, make in ((ref.FP16, fused), (ref.BF16, fused), (ref.FP16, three_pass)):
        setup = Setup.random(machine, Random(SEED), spread, format=fmt)
        cases.append((setup, make(machine, tiles_of(machine, 1, 3))))
    compare(*cases)


def test_mistakes_are_found(monkeypatch):
    """A return path of one register more, a datapath without its masks."""
    machine = MACHINES["3x4"]
    setup = Setup.random(machine, Random(SEED), 2.0)
    words = fused(machine, tiles_of(machine, 2, 3, limit=6))
    unmasked = fused(machine, tiles_of(machine, 2, 3))
    assert play(setup, words) != Reference(setup).run(unmasked)

    class Longer(DelayLine):
        def __init__(self, shape, depth):
            super().__init__(shape, depth + (depth == machine.return_cycles))

    monkeypatch.setattr(lanes, "DelayLine", Longer)
    assert play(setup, words) != Reference(setup).run(words)


def distances(machine) -> dict[str, tuple[int, list[Word], list[Word]]]:
    """Name -> smallest distance, words before, words that begin so much after the last of them."""
    tile = Tile(k=0, v=3, s=S, out=OUT, first=True)
    line = Line(machine)
    line.add("one", tile)
    line.add("qk", tile, E)
    line.add("drain", tile, machine.rows)
    line.add("passx", tile, machine.rows, wait=60)
    line.add("slnv", tile, F)
    before = {op: [*line.words, Word(line.now, op, 0, tile, True)] for op in ("lm", "rcp")}
    line.add("drain", tile, machine.rows)
    exp = [*block(0, "exp", tile), *block(7, "slnv", tile, F), *block(60, "av", tile, F)]
    return {
        "maximum": (machine.maximum_latency, before["lm"], exp),
        "divider": (machine.divider_latency, before["rcp"], block(0, "av", tile, F)),
        # The first word reads the bus word that the last of `bus_elements` elements completes.
        "element": (
            machine.element_latency,
            line.words[: machine.bus_elements - machine.rows],
            block(0, "passx", tile, machine.bus_elements),
        ),
    }


@pytest.mark.parametrize("what", ["maximum", "divider", "element"])
def test_distance_is_enough_and_needed(what):
    machine = MACHINES["4x3"]
    distance, before, after = distances(machine)[what]
    setup = Setup.random(machine, Random(SEED), 2.0)

    def at(start):
        return [*before, *(Word(w.at + start, w.op, w.j, w.tile, w.last) for w in after)]

    last = before[-1].at
    compare((setup, at(last + distance)))
    early = at(last + distance - 1)
    assert play(setup, early) != Reference(setup).run(early)


def first_seen(machine, setup: Setup, column: int) -> tuple[int, int]:
    """(Cycle, value) in which a read of column `column` first shows what a lane returned.

    The word of cycle 1 sends element S through the lane unchanged; the bank is cleared meanwhile.
    """
    seen = []
    place = {"en": 1, "bank": column, "address": S}

    async def watch(ctx, dut, cycle):
        # The edge of this column has read the element in cycle 2 + column.
        clear = {"en": cycle == 3 + column, "bank": column, "address": S, "data": 0}
        ctx.set(dut.column_write, clear)
        ctx.set(dut.column_read, place)
        seen.append(ctx.get(dut.column_data) & 0xFFFF)

    tile = Tile(s=S)
    play(setup, [*block(0, "one", tile), *block(1, "passd", tile, 1)], watch)
    # Data shown in a cycle are those of a read in the cycle before.
    first = next(x for x in range(5 + column, len(seen)) if seen[x])
    return first - 1, seen[first]


@pytest.mark.parametrize("name", MACHINES)
def test_elements_return_in_the_stated_cycle(name):
    """An element of the word of cycle t is written at the end of t + 4 + R + ret + c."""
    machine = MACHINES[name]
    setup = Setup.random(machine, Random(SEED))
    for column in range(machine.columns):
        setup.columns[column][S] = 0x3C01 + column
        written = 1 + 4 + machine.rows + machine.return_cycles + column
        assert first_seen(machine, setup, column) == (written + 1, 0x3C01 + column)


def test_banks_of_the_engines_ports():
    """A read shows what was there before a write of the same cycle, and stays until the next."""
    machine = MACHINES["4x3"]
    dut = Datapath(machine)
    found = []

    async def bench(ctx):
        for value in (7, 9):
            ctx.set(dut.column_write, {"en": 1, "bank": 2, "address": 3, "data": value})
            ctx.set(dut.column_read, {"en": 1, "bank": 2, "address": 3})
            await ctx.tick()
            found.append(ctx.get(dut.column_data))
        ctx.set(dut.column_write, {"en": 0, "bank": 2, "address": 3, "data": 1})
        for _ in range(2):
            await ctx.tick()
            ctx.set(dut.column_read, {"en": 0, "bank": 0, "address": 0})
            found.append(ctx.get(dut.column_data))

    simulate(dut, bench)
    assert found == [0, 7, 9, 9]


def test_bodies_are_shared_in_the_export():
    """One body for all PEs, lanes, feeders and edges."""
    machine = MACHINES["3x4"]
    text = to_verilog(Datapath(machine), "bankside_array_datapath").read_text()
    for part, count in (("pe", 12), ("lane", 4), ("back", 4), ("feeder", 3), ("edge", 4)):
        assert text.count(f"module bankside_array_{part}(") == 1, part
        assert text.count(f"\n  bankside_array_{part} ") == count, part
