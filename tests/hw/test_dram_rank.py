"""A DRAM rank holds real bits: data in and out at the cycles of the standard."""

import random

import pytest
from amaranth.sim import Simulator

from bankside.hw.dram.array import BankArray
from bankside.hw.dram.rank import DramRank
from bankside.isa.dram.streams import dense_stream
from bankside.isa.dram.table import load_standard

GEOMETRY = {"bank_groups": 2, "banks_per_group": 2, "rows": 2, "columns": 2}


def simulate(dut, testbench):
    sim = Simulator(dut)
    sim.add_clock(1e-9)
    sim.add_testbench(testbench)
    sim.run()


def test_bank_array_reads_what_was_written():
    dut = BankArray(16, rows=4, columns=8)

    async def write(ctx, row, column, value):
        ctx.set(dut.write_en, 1)
        ctx.set(dut.write_row, row)
        ctx.set(dut.write_column, column)
        ctx.set(dut.write_data, value)
        await ctx.tick()
        ctx.set(dut.write_en, 0)

    async def read(ctx, row, column):
        ctx.set(dut.read_en, 1)
        ctx.set(dut.read_row, row)
        ctx.set(dut.read_column, column)
        await ctx.tick()
        ctx.set(dut.read_en, 0)
        return ctx.get(dut.read_data)

    async def testbench(ctx):
        places = [(row, column) for row in range(4) for column in range(8)]
        assert [await read(ctx, *p) for p in places] == [0] * 32
        for index, place in enumerate(places):
            await write(ctx, *place, 1000 + index)
        assert [await read(ctx, *p) for p in places] == list(range(1000, 1032))
        # Held until the next read, also when the cell changes.
        await write(ctx, 3, 7, 5)
        assert ctx.get(dut.read_data) == 1031
        assert await read(ctx, 3, 7) == 5

    simulate(dut, testbench)


@pytest.mark.parametrize("name", ["ddr4_3200", "ddr5_4800"])
def test_rank_against_a_dictionary(name):
    """Random legal commands; a model that knows only latencies and a dictionary of bursts."""
    std = load_standard(name, geometry=GEOMETRY)
    chips = 2
    dut = DramRank(std, chips)
    commands = ("ACT", "PRE", "RD", "WR", "RDA", "WRA")
    stream = dense_stream(std, 77, 160, commands=commands)
    rng = random.Random(78)
    columns = [rng.randrange(2) for _ in stream]
    p = std.params
    takes, gives, checked = {}, {}, []

    async def testbench(ctx):
        open_rows, cells, at = {}, {}, 0
        for cycle in range(stream[-1].cycle + p["nCL"] + p["nCWL"] + 2 * p["nBL"]):
            assert ctx.get(dut.write_take) == (cycle in takes)
            if cycle in takes:
                burst = [rng.getrandbits(std.slice_bits) for _ in range(chips)]
                ctx.set(dut.write_data, burst)
                cells[takes[cycle]] = burst
            assert ctx.get(dut.read_valid) == (cycle in gives)
            if cycle in gives:
                expected = cells.get(gives[cycle], [0] * chips)
                assert [ctx.get(dut.read_data[i]) for i in range(chips)] == expected
                checked.append(any(expected))
            now = stream[at] if at < len(stream) and stream[at].cycle == cycle else None
            ctx.set(dut.valid, now is not None)
            if now is not None:
                ctx.set(dut.command, std.code(now.command))
                ctx.set(dut.bank, now.bank)
                ctx.set(dut.row, now.row)
                ctx.set(dut.column, columns[at])
                assert (ctx.get(dut.accept), ctx.get(dut.violation)) == (1, 0)
                if now.command == "ACT":
                    open_rows[now.bank] = now.row
                place = now.bank, open_rows.get(now.bank), columns[at]
                if now.command.startswith("RD"):
                    gives[cycle + p["nCL"] + p["nBL"]] = place
                if now.command.startswith("WR"):
                    takes[cycle + p["nCWL"] + p["nBL"]] = place
                at += 1
            await ctx.tick()

    simulate(dut, testbench)
    assert len(checked) > 15 and sum(checked) > 5, "too few reads of written data"


def test_refused_commands_change_nothing():
    std = load_standard("ddr4_3200", geometry=GEOMETRY)
    dut = DramRank(std, 1)
    p = std.params

    async def present(ctx, name, bank=0, row=0, column=0):
        ctx.set(dut.valid, 1)
        ctx.set(dut.command, std.code(name))
        ctx.set(dut.bank, bank)
        ctx.set(dut.row, row)
        ctx.set(dut.column, column)
        answer = ctx.get(dut.violation)
        await ctx.tick()
        ctx.set(dut.valid, 0)
        return answer

    async def testbench(ctx):
        ctx.set(dut.write_data, [0xABCD])
        assert await present(ctx, "ACT", 1, row=1) == 0
        early = await present(ctx, "WR", 1)
        assert "nRCD" in std.violation_text(early)
        assert await present(ctx, "RD", 0) == 4
        for _ in range(60):
            assert ctx.get(dut.write_take) == 0 and ctx.get(dut.read_valid) == 0
            await ctx.tick()
        assert await present(ctx, "RD", 1) == 0
        await ctx.tick().repeat(p["nCL"] + p["nBL"] - 1)
        assert ctx.get(dut.read_valid) == 1 and ctx.get(dut.read_data[0]) == 0

    simulate(dut, testbench)
