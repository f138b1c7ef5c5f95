# amaranth: UnusedElaboratable=no
"""Chip and rank in the Amaranth simulator: exact cycles of every transfer, exact bits."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from amaranth.sim import Simulator

from bankside.config import PimHardware
from bankside.errors import ConfigError
from bankside.hw.pim.chip import Chip
from bankside.hw.pim.layouts import command_codes, command_layout
from bankside.hw.pim.rank import MAX_OPEN_INTERVALS, PimRank
from bankside.isa import numerics as ref
from bankside.isa.dram.standard import State
from bankside.isa.machine import Machine

sys.path.insert(0, str(Path(__file__).parents[1] / "cosim" / "benches"))
from pim_chip_model import ChipModel, Issue, Traffic, join  # noqa: E402
from pim_chip_twins import FAULTS, Twin  # noqa: E402


def machine(standard="ddr4_3200", groups=2, per_group=2, lanes=2) -> Machine:
    geometry = {"bank_groups": groups, "banks_per_group": per_group, "columns": 16, "rows": 4}
    pim = {"query_lanes": lanes, "result_buffer_words": 8, "shared_buffer_words": 64}
    dram = {"standard": standard, "chips": 2, **geometry}
    data = {"name": "test", "engine": "pim", "dram": dram, "pim": pim}
    return Machine.of(PimHardware.model_validate(data))


MACHINES = {
    "ddr4": machine(),
    "ddr4_8banks": machine("ddr4_2400", groups=2, per_group=4, lanes=1),
    "ddr5": machine("ddr5_4800", groups=4, per_group=2, lanes=2),
}
DDR4 = MACHINES["ddr4"]


def run(dut, bench) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()


def simulate(rank: Machine, issues: list[Issue], dut=None, fault: int = 0) -> dict[int, int]:
    """Bursts of the RTL by cycle; the data of a write are on the bus in their cycle only."""
    dut = dut or Chip(rank)
    codes, layout = command_codes(rank), command_layout(rank)
    by_cycle = {issue.cycle: issue for issue in issues}
    writes = {i.cycle + rank.write_latency: i.data for i in issues if i.name[:2] == "WR"}
    bursts = {}

    async def bench(ctx):
        if fault:
            ctx.set(dut.fault, fault)
        for cycle in range(issues[-1].cycle + 2 * rank.read_latency):
            issue = by_cycle.get(cycle)
            ctx.set(dut.valid, issue is not None)
            # A chip must not look at a command that is not valid, nor at the bus too early.
            fields = issue.operands if issue else {}
            code = codes[issue.name] if issue else cycle % len(codes)
            ctx.set(dut.command, layout.const({**fields, "code": code}))
            ctx.set(dut.wdata, writes.get(cycle, 0x5A5A << cycle % 8))
            if ctx.get(dut.rvalid):
                bursts[cycle] = ctx.get(dut.rdata)
            await ctx.tick()

    run(dut, bench)
    return bursts


@pytest.mark.parametrize(
    ("name", "seed", "steps"),
    [("ddr4", 0, 150), ("ddr4", 1, 150), ("ddr4_8banks", 0, 150), ("ddr5", 0, 100)],
)
def test_random_commands(name, seed, steps):
    issues = Traffic(MACHINES[name], seed).make(steps)
    names = {issue.name for issue in issues}
    assert {"MAC", "WRR", "RDRB", "WRSB", "WR", "RD", "LDSB", "ACTA"} <= names
    want = ChipModel(MACHINES[name]).run(issues)
    got = simulate(MACHINES[name], issues)
    assert len(want) > 10
    assert got.keys() == want.keys(), f"seed {seed}: wrong cycles"
    wrong = {c: (hex(got[c]), hex(want[c])) for c in want if got[c] != want[c]}
    assert not wrong, f"seed {seed}: {wrong}"


@pytest.mark.parametrize("fault", ["late_burst", "late_write", "half"])
def test_random_commands_notice_a_bad_twin(fault):
    issues = Traffic(DDR4, 1).make(150)
    number = 1 + list(FAULTS).index(fault)
    assert simulate(DDR4, issues, Twin(DDR4), number) != ChipModel(DDR4).run(issues)


def issue_list(*commands: tuple) -> list[Issue]:
    """(cycle, name, operands[, data]) each."""
    return [Issue(cycle, name, ops, *data) for cycle, name, ops, *data in commands]


@pytest.mark.parametrize("name", MACHINES)
def test_write_and_read_arrive_in_their_cycles(name):
    rank = MACHINES[name]
    word = 0x1234_5678_9ABC_DEF0
    issues = issue_list(
        (1, "ACT", {"bank": 3, "row": 2}),
        (100, "WR", {"bank": 3, "col": 5}, word),
        (400, "RD", {"bank": 3, "col": 5}),
        (500, "RD", {"bank": 3, "col": 4}),
    )
    assert simulate(rank, issues) == {400 + rank.read_latency: word, 500 + rank.read_latency: 0}


@pytest.mark.parametrize("k", (0, 2, 255))
def test_scores_and_rescaled_context(k):
    """One token in both modes; lane 1 has its own query, probability and scale step."""
    period, arrival = DDR4.mac_period, DDR4.read_latency
    column, query = [0x3C00, 0x4000, 0xC200, 0x3555], [[0x3C00] * 4, [0x3800, 0xBC00, 0x3C01, 1]]
    scores = [
        ref.adder_tree([ref.fp16_mul(a, b) for a, b in zip(column, q, strict=True)]) for q in query
    ]
    probability = [0x3C00, 0x3801]
    commands = [(1, "ACTA", {"row": 1}), (100, "WR", {"bank": 1, "col": 0}, join(column, 16))]
    for lane in range(2):
        header = {"lane": lane, "header": 1, "kbuf": 1}
        one = join([0, probability[lane], 0, 0], 16)  # bank 1 takes element 1
        commands += [
            (200 + lane * 8, "WRSB", {"lane": lane, "sb": 3}, join(query[lane], 16)),
            (300 + lane * 8, "WRSB", {"lane": lane, "sb": 5}, one),
            (400 + lane * 8, "WRSB", header, 0x7700 | k * (1 - lane)),
        ]
    mac = {"col": 0}
    commands += [
        (500, "WRR", {"mode": 0, "sb": 3, "rb": 1, "cpt": 1}),
        (510, "MAC", mac),
        (500 + 100, "WRR", {"mode": 1, "sb": 5, "rb": 1, "cpt": 1, "rescale": 1, "kbuf": 1}),
        (610, "MAC", mac),
    ]
    # What the first MAC writes at t+3L is there for a read at t'+L only from the next cycle.
    reads = [(510 + 2 * period, 0, 0), (511 + 2 * period, 0, 0), (700, 0, 0), (720, 1, 0)]
    for cycle, lane, half in reads:
        commands.append((cycle, "RDRB", {"bank": 1, "lane": lane, "rb": 1, "half": half}))
    got = simulate(DDR4, sorted(issue_list(*commands), key=lambda i: i.cycle))
    sums = []
    for lane in range(2):
        products = [ref.fp16_mul(a, probability[lane]) for a in column]
        old = [ref.fp32_scale_down(v, k if lane == 0 else 0) for v in (scores[lane], 0)]
        sums.append(join([ref.fp32_add(o, p) for o, p in zip(old, products, strict=False)], 32))
    values = [0, scores[0], *sums]
    assert got == {c + arrival: v for (c, _, _), v in zip(reads, values, strict=True)}


@pytest.mark.parametrize("early", (0, 1))
def test_load_of_the_shared_buffer_is_complete_after_L_plus_1(early):
    """A MAC whose operand is read in cycle t+L+2 uses the loaded column, one cycle earlier not."""
    period = DDR4.mac_period
    column = join([0x3C00, 0, 0, 0], 16)
    issues = issue_list(
        (1, "ACTA", {"row": 1}),
        (100, "WR", {"bank": 0, "col": 0}, column),
        (200, "WRR", {"mode": 0, "sb": 0, "rb": 0, "cpt": 1}),
        (300, "LDSB", {"bank": 0, "col": 0, "lane": 0, "sb": 0}),
        # Closer than the timing table allows, to see the very cycle.
        (302 - early, "MAC", {"col": 0}),
        (400, "RDRB", {"bank": 0, "lane": 0, "rb": 0, "half": 0}),
    )
    expected = 0 if early else 0x3F800000
    assert simulate(DDR4, issues) == {400 + DDR4.read_latency: expected}
    assert 400 > 302 + 3 * period


def test_rows_that_change_too_early_are_refused():
    std = DDR4.std
    short = {**std.params, "nRTP": 1, "nRP": 2}
    with pytest.raises(ConfigError, match="nRTP \\+ nRP >= nCCD_L"):
        Chip(Machine(DDR4.config, replace(std, params=short)))


# --- rank ---------------------------------------------------------------------------------------


def play_rank(commands: list[tuple], end: int, *, writes=None, rank: Machine = DDR4) -> dict:
    """Outputs of a rank after `commands` (cycle, name, operands) at cycle `end`."""
    dut, codes, layout = PimRank(rank), command_codes(rank), command_layout(rank)
    by_cycle = {cycle: layout.const({"code": codes[n], **ops}) for cycle, n, ops in commands}
    seen = {"accept": {}, "bursts": {}}

    async def bench(ctx):
        for cycle in range(end):
            ctx.set(dut.valid, cycle in by_cycle)
            ctx.set(dut.command, by_cycle.get(cycle, layout.const({})))
            ctx.set(dut.wdata, (writes or {}).get(cycle, [0] * rank.chips))
            if cycle in by_cycle:
                seen["accept"][cycle] = ctx.get(dut.accept)
            if ctx.get(dut.rvalid):
                seen["bursts"][cycle] = [ctx.get(dut.rdata[c]) for c in range(rank.chips)]
            await ctx.tick()
        for port in ("violation", "violation_cycle", "unrefreshable"):
            seen[port] = ctx.get(getattr(dut, port))

    run(dut, bench)
    return seen


def test_rank_has_data_of_its_own_in_every_chip():
    words = [0x1111222233334444, 0xAAAABBBBCCCCDDDD]
    commands = [
        (2, "ACT", {"bank": 2, "row": 1}),
        (30, "WR", {"bank": 2, "col": 3}),
        (90, "RD", {"bank": 2, "col": 3}),
    ]
    seen = play_rank(commands, 130, writes={30 + DDR4.write_latency: words})
    assert seen["bursts"] == {90 + DDR4.read_latency: words}
    assert seen["violation"] == 0
    assert all(seen["accept"].values())


def test_rank_refuses_an_illegal_command_and_remembers_the_first():
    words = [0x1111222233334444, 0xAAAABBBBCCCCDDDD]
    delay = DDR4.std.params["nRCD"]
    commands = [
        (5, "ACT", {"bank": 2, "row": 1}),
        (5 + delay - 1, "WR", {"bank": 2, "col": 3}),  # one cycle too early
        (60, "RD", {"bank": 1, "col": 3}),  # closed
        (90, "RD", {"bank": 2, "col": 3}),
    ]
    seen = play_rank(commands, 130, writes={5 + delay - 1 + DDR4.write_latency: words})
    assert seen["accept"] == {5: 1, 5 + delay - 1: 0, 60: 0, 90: 1}
    assert seen["violation_cycle"] == 5 + delay - 1
    row = DDR4.std.constraints[seen["violation"] - 16]
    assert (row.preceding, row.latency) == (("ACT",), delay)
    assert "WR" in row.following
    # The refused write left no trace, and the refused read sent nothing.
    assert seen["bursts"] == {90 + DDR4.read_latency: [0, 0]}


def test_rank_tells_a_closed_bank_from_a_timing_error():
    seen = play_rank([(9, "RD", {"bank": 1, "col": 0})], 12)
    assert (seen["violation"], seen["violation_cycle"]) == (State.BANK_CLOSED, 9)


@pytest.mark.parametrize("extra", (0, 1))
def test_rank_flags_rows_that_keep_refresh_away(extra):
    """nREFI of the machine is shortened, or the test would take a hundred thousand cycles."""
    params = {**DDR4.std.params, "nREFI": 40}
    quick = Machine(DDR4.config, replace(DDR4.std, params=params))
    limit = MAX_OPEN_INTERVALS * 40
    # The bank is open from the cycle after its activation up to that of its precharge.
    commands = [(4, "ACT", {"bank": 0, "row": 0}), (4 + limit + extra, "PREA", {})]
    seen = play_rank(commands, 4 + limit + 5, rank=quick)
    assert seen["unrefreshable"] == extra
