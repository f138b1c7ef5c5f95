"""Device checker and controller timers in RTL against the Python rules, edge by edge and at random.

The compiled model answers for whole command lists; one short Amaranth simulation covers the ports
that it does not reach.
"""

import random

import numpy as np
import pytest
from amaranth.sim import Simulator

from bankside.errors import ProgramError
from bankside.hw.dram.checker import TimingChecker
from bankside.hw.dram.timers import IssueTimers
from bankside.isa.dram.rules import RankRules
from bankside.isa.dram.standard import FIRST_TIMING_CODE
from bankside.isa.dram.streams import dense_stream, edge_streams
from bankside.isa.dram.table import load_standard, standard_names
from bankside.sim.dram_edges import check_edges
from bankside.sim.rtl.dram_device import (
    COMMIT,
    EVENT_DTYPE,
    PEEK,
    RESET,
    CompiledRank,
    compiled_rank,
)


@pytest.mark.parametrize("name", standard_names())
def test_every_edge(name):
    """Legal at t, refused at t-1: device, timers and rules agree on every edge of the table."""
    std = load_standard(name)
    report = check_edges(std, list(edge_streams(std)), execution="both")
    assert report.clean, report.failures
    assert report.rows == len(std.constraints)


@pytest.mark.parametrize("name", standard_names())
@pytest.mark.parametrize("seed", [11, 12])
def test_random_commands_in_lock_step(name, seed):
    """Legal and illegal commands at random cycles: the same codes, legality and stall reasons."""
    std = load_standard(name)
    events, expected = _random_events(std, seed, 4000)
    answers = compiled_rank(load_standard(name)).play(
        np.array([(0, RESET, 0, 0, 0), *events], EVENT_DTYPE)
    )[1:]
    for index, (violation, legal, stall, open_mask) in enumerate(expected):
        got = tuple(int(v) for v in answers[index])
        want = (int(violation == 0), violation, legal, stall, open_mask)
        assert got == want, f"seed {seed}, event {index}: {events[index]}"
    codes = {e[0] for e in expected}
    assert {3, 4, 5, 6} <= codes, "state rules must occur"
    assert len({c for c in codes if c >= FIRST_TIMING_CODE}) > 0.7 * len(std.constraints)


def _random_events(std, seed, count):
    """Events and the answers of the Python rules: (violation, legal, stall, open banks)."""
    rng = random.Random(seed)
    rules = RankRules(std)
    weights = [{"REF": 0.04, "PREA": 0.1, "ACTA": 0.4}.get(c.name, 1) for c in std.commands]
    events, expected, cycle = [], [], 0
    while len(events) < count:
        command, bank = rng.choices(std.commands, weights)[0], rng.randrange(std.banks)
        row = rng.randrange(std.geometry.rows)
        earliest, stall = rules.earliest(command.code, bank, cycle)
        at = max(cycle, earliest - rng.choice([0, 0, 1, 1, 2, 30]))
        commits = rng.random() < 0.6
        found = rules.check(command.code, bank, at)
        events.append((at, COMMIT if commits else PEEK, command.code, bank, row))
        is_legal = at >= earliest
        mask = sum(1 << i for i, r in enumerate(rules.open_rows) if r is not None)
        stall = 0 if is_legal else rules.earliest(command.code, bank, at)[1]
        expected.append((found.code if found else 0, int(is_legal), stall, mask))
        if commits and found is None:
            rules.issue(command.code, bank, row, at)
        cycle = at + commits
    return events, expected


def test_known_bad_twin_is_caught():
    """A device built from a table with one latency one cycle short or long is found out."""
    std = load_standard("ddr4_3200")
    stream = dense_stream(std, 1, 3000)
    events = [
        (c.cycle - early, PEEK if early else COMMIT, std.code(c.command), c.bank, c.row)
        for before, c in zip([None, *stream], stream, strict=False)
        for early in (1, 0)
        if not early or (before is not None and c.cycle - 1 > before.cycle)
    ]
    twin = CompiledRank(std, device=load_standard("ddr4_3200", params={"nWTR_L": 11, "nRTP": 13}))
    good, bad = (
        rank.play(np.array([(0, RESET, 0, 0, 0), *events], EVENT_DTYPE))[1:]
        for rank in (compiled_rank(std), twin)
    )
    commits = np.array([e[1] == COMMIT for e in events])
    assert good["accept"][commits].all()
    # A precharge one cycle late for nRTP 12 is early for nRTP 13.
    assert not bad["accept"][commits].all()
    # The controller's timers, built from the right table, disagree with the short turnaround.
    assert np.any((bad["accept"] == 1) & (bad["legal"] == 0))
    assert not np.any((good["accept"] == 1) & (good["legal"] == 0))


def test_unknown_code_and_events_in_the_past():
    rank = compiled_rank(load_standard("ddr4_3200"))
    answers = rank.play(np.array([(0, RESET, 0, 0, 0), (5, COMMIT, 15, 0, 0)], EVENT_DTYPE))
    assert (answers["violation"][1], answers["accept"][1]) == (1, 0)
    with pytest.raises(ProgramError, match="event 0 at cycle 5 comes after"):
        rank.play(np.array([(5, COMMIT, 0, 0, 0)], EVENT_DTYPE))


def simulate(dut, testbench):
    sim = Simulator(dut)
    sim.add_clock(1e-9)
    sim.add_testbench(testbench)
    sim.run()


def test_checker_ports_and_refresh_deadline():
    std = load_standard("ddr4_3200", params={"nREFI": 20}, geometry={"rows": 32})
    dut = TimingChecker(std, refresh_required=True)

    async def present(ctx, name, bank=0, row=0):
        ctx.set(dut.valid, 1)
        ctx.set(dut.command, std.code(name))
        ctx.set(dut.bank, bank)
        ctx.set(dut.row, row)
        answer = ctx.get(dut.accept), ctx.get(dut.violation)
        await ctx.tick()
        ctx.set(dut.valid, 0)
        return answer

    async def testbench(ctx):
        ctx.set(dut.command, std.code("RD"))
        assert (ctx.get(dut.accept), ctx.get(dut.violation)) == (0, 0), "nothing was presented"
        assert await present(ctx, "ACT", 6, 21) == (1, 0)
        assert ctx.get(dut.open_mask) == 1 << 6 and ctx.get(dut.open_row[6]) == 21
        assert await present(ctx, "ACT", 6, 22) == (0, 3)
        assert ctx.get(dut.open_row[6]) == 21, "a refused command changes nothing"
        # Cycle 2; the deadline is 9 x 20 cycles after reset, the last good cycle is 180.
        await ctx.tick().repeat(178)
        assert await present(ctx, "RD", 6) == (1, 0)
        assert await present(ctx, "RDRB", 2) == (0, 7)
        await ctx.tick().repeat(20)
        assert await present(ctx, "PRE", 6) == (1, 0), "a precharge is always welcome"
        await ctx.tick().repeat(30)
        assert await present(ctx, "REF") == (1, 0)
        assert ctx.get(dut.open_mask) == 0

    simulate(dut, testbench)


def test_timers_answer_several_queries_at_once():
    std = load_standard("ddr5_4800", geometry={"rows": 32})
    dut = IssueTimers(std, queries=3)

    async def testbench(ctx):
        rules = RankRules(std)
        cycle = 0
        asked = [("ACT", 2), ("RD", 0), ("ACTA", 0)]
        for query, (name, bank) in zip(dut.query, asked, strict=True):
            ctx.set(query.command, std.code(name))
            ctx.set(query.bank, bank)
        for c in dense_stream(std, 7, 25, commands=("ACT", "RD", "PRE", "WR", "ACT4")):
            while cycle <= c.cycle:
                ctx.set(dut.issue.valid, cycle == c.cycle)
                ctx.set(dut.issue.command, std.code(c.command))
                ctx.set(dut.issue.bank, c.bank)
                for query, (name, bank) in zip(dut.query, asked, strict=True):
                    # The one-command-per-cycle rule is the issuer's, so it is masked here.
                    earliest, stall = rules.earliest(name, bank, cycle)
                    assert ctx.get(query.legal) == (earliest == cycle)
                    assert ctx.get(query.stall) == stall
                await ctx.tick()
                cycle += 1
            rules.issue(c.command, c.bank, 0, c.cycle)

    simulate(dut, testbench)
