"""The Python rules: every edge of every table, the fast answer against the slow one, mutations."""

import random
from dataclasses import replace

import pytest

from bankside.errors import SpecError
from bankside.isa.dram.rules import RankRules
from bankside.isa.dram.standard import FIRST_TIMING_CODE, STALL_TAGS, State
from bankside.isa.dram.streams import dense_stream, edge_streams
from bankside.isa.dram.table import load_standard, standard_names
from bankside.sim.dram_edges import check_edges

VARIANTS = [(name, {}) for name in standard_names()]
VARIANTS += [("ddr4_3200", {"multi_activate_faw": "waived", "rd_to_wr": 11, "trfc_ns": 360})]


@pytest.mark.parametrize("name, options", VARIANTS)
def test_every_edge(name, options):
    std = load_standard(name, options=options)
    edges = list(edge_streams(std))
    report = check_edges(std, edges, execution="rules")
    assert report.clean, report.failures
    assert report.rows == len(std.constraints), "a row without an edge that binds"
    for edge in edges:
        rules = RankRules(std)
        for command in edge.stream[:-1]:
            rules.issue(command.command, command.bank, 0, command.cycle)
        last = edge.stream[-1]
        cycle, stall = rules.earliest(last.command, last.bank, last.cycle - 1)
        # Another row may end in the same cycle; then the larger code takes the blame.
        assert cycle == last.cycle and stall >= edge.row.stall
        assert rules.earliest(last.command, last.bank, last.cycle) == (last.cycle, 0)


@pytest.mark.parametrize("name", standard_names())
def test_edges_notice_a_changed_row(name):
    """One row shorter or longer by a cycle: exactly its edges fail."""
    std = load_standard(name)
    edges = list(edge_streams(std))
    rng = random.Random(name)
    for index in rng.sample(range(len(std.constraints)), 12):
        row = std.constraints[index]
        own = [e for e in edges if e.row.index == index]
        longer = _with_latency(std, index, row.latency + 1)
        assert len(check_edges(std, own, execution="rules", answering=longer).failures) == len(own)
        shorter = _with_latency(std, index, row.latency - 1)
        failed = len(check_edges(std, own, execution="rules", answering=shorter).failures)
        # Where another row ends in the same cycle, that one still holds the line.
        assert failed == sum(not _is_held(std, edge) for edge in own), row


def _is_held(std, edge):
    """Another row than the edge's own also ends in the last cycle of its stream."""
    rules = RankRules(std)
    *before, last = edge.stream
    for c in before:
        rules.issue(c.command, c.bank, c.row, c.cycle)
    others = [r for r in std.constraints if r.index != edge.row.index]
    return any(_expiry(rules, r, last.command, last.bank) == last.cycle for r in others)


def _with_latency(std, index, latency):
    rows = list(std.constraints)
    rows[index] = replace(rows[index], latency=latency)
    return replace(std, constraints=tuple(rows))


def test_dead_row_is_an_error():
    std = load_standard("ddr4_3200", params={"nFAW": 12})
    with pytest.raises(SpecError, match="row 12 .* can never bind for ACT -> ACT"):
        list(edge_streams(std))


@pytest.mark.parametrize("name, options", VARIANTS)
@pytest.mark.parametrize("seed", range(4))
def test_earliest_agrees_with_check(name, options, seed):
    """The compiled slots and the row-by-row history draw the same line for every command."""
    std = load_standard(name, options=options)
    rng = random.Random(seed)
    rules = RankRules(std)
    now = 0
    for command in dense_stream(std, seed, 500):
        probe = rng.choice(std.commands)
        bank = rng.randrange(std.banks)
        at = rng.randrange(now, command.cycle + 1)
        cycle, stall = rules.earliest(probe.code, bank, at)
        assert _timing_code(rules, probe.name, bank, cycle) == 0
        for earlier in {at, cycle - 1} if cycle > at else ():
            code = _timing_code(rules, probe.name, bank, earlier)
            assert code, f"seed {seed}: {probe.name} at {earlier}: earliest is {cycle}"
        if cycle > at and (code := _timing_code(rules, probe.name, bank, cycle - 1)) != 2:
            last = [
                r.stall for r in std.constraints
                if _expiry(rules, r, probe.name, bank) == cycle
            ]  # fmt: skip
            assert stall == max(last), f"seed {seed}"
        rules.issue(command.command, command.bank, command.row, command.cycle)
        now = command.cycle


def _timing_code(rules, name, bank, cycle):
    """The violation code without the rules about open rows; 2 when the command bus is taken."""
    if cycle < rules._bus >> 4:
        return int(State.BUS_BUSY)
    return rules._timing_violation(name, bank, cycle)


def _expiry(rules, row, name, bank):
    if name not in row.following:
        return None
    times = [rules._nth_last(row, i) for i in rules.std.touched_instances(name, bank, row.level)]
    return max((t + row.latency for t in times if t is not None), default=None)


@pytest.mark.parametrize(
    "before, command, bank, state",
    [
        ([], "RD", 0, State.BANK_CLOSED),
        ([], "WRA", 3, State.BANK_CLOSED),
        ([], "LDSB", 3, State.BANK_CLOSED),
        ([("ACT", 1)], "RD", 0, State.BANK_CLOSED),
        ([("ACT", 1), ("PRE", 1)], "RD", 1, State.BANK_CLOSED),
        ([("ACT", 1), ("RDA", 1)], "RD", 1, State.BANK_CLOSED),
        ([("ACT", 1)], "ACT", 1, State.BANK_OPEN),
        ([("ACT", 5)], "ACT4", 1, State.BANK_OPEN),
        ([("ACT", 5)], "ACTA", 0, State.BANK_OPEN),
        ([("ACT4", 2)], "ACT", 14, State.BANK_OPEN),
        ([("ACT", 5)], "REF", 0, State.REFRESH_OPEN),
        ([], "MAC", 0, State.ANY_BANK_CLOSED),
        ([("ACTA", 0), ("PRE", 7)], "MAC", 0, State.ANY_BANK_CLOSED),
        ([("ACT4", 0), ("ACT4", 1), ("ACT4", 2)], "MAC", 0, State.ANY_BANK_CLOSED),
        ([], 15, 0, State.BAD_COMMAND),
    ],
)
def test_state_rules(before, command, bank, state):
    std = load_standard("ddr4_3200")
    rules = RankRules(std)
    cycle = 0
    for name, where in before:
        assert rules.check(name, where, cycle) is None
        rules.issue(name, where, 9, cycle)
        cycle += 1000
    found = rules.check(command, bank, cycle)
    assert found.code == state and found.name == state.name and found.text


def test_state_rules_allow():
    std = load_standard("ddr4_3200")
    rules = RankRules(std)
    for cycle, (name, bank) in enumerate(
        [("PRE", 0), ("PREA", 0), ("RDRB", 0), ("WRSB", 0), ("WRR", 0), ("REF", 0), ("ACTA", 0),
         ("MAC", 0), ("LDSB", 3), ("RDA", 3), ("PREA", 0), ("REF", 0)]
    ):  # fmt: skip
        assert rules.check(name, bank, cycle * 1000) is None, name
        rules.issue(name, bank, 7, cycle * 1000)
        if name == "ACTA":
            assert rules.open_rows == [7] * 16
    assert rules.open_rows == [None] * 16
    assert rules.check("PRE", 0, 11000).code == State.BUS_BUSY
    with pytest.raises(SpecError, match="bank 16 does not exist"):
        rules.check("PRE", 16, 99999)


def test_refresh_overdue():
    std = load_standard("ddr4_3200")
    limit = 9 * std.params["nREFI"]
    strict, lax = RankRules(std, refresh_required=True), RankRules(std)
    assert strict.check("ACT", 0, limit) is None
    assert strict.check("ACT", 0, limit + 1).code == State.REFRESH_OVERDUE
    assert lax.check("ACT", 0, limit + 1) is None
    assert strict.check("REF", 0, limit + 1) is None and strict.check("PREA", 0, limit + 1) is None
    strict.issue("REF", 0, 0, limit)
    assert strict.check("ACT", 0, 2 * limit) is None
    assert strict.check("ACT", 0, 2 * limit + 1).code == State.REFRESH_OVERDUE


def test_blame_is_the_latest_row_and_the_larger_code_among_equals():
    std = load_standard("ddr4_3200")
    rules = RankRules(std)
    for bank, cycle in ((0, 0), (4, 4), (8, 8), (12, 12)):
        rules.issue("ACT", bank, 0, cycle)
    # Window of four activations (34) against tRRD_S (16): the window is later.
    assert rules.earliest("ACT", 1, 13) == (34, STALL_TAGS.index("faw"))
    rules.issue("PREA", 0, 0, 52 + 12)
    # tRC of bank 0 and tRP end together at 74 only if both say so: tRP alone is later here.
    assert rules.earliest("ACT", 0, 65) == (86, STALL_TAGS.index("rp"))
    waived = RankRules(load_standard("ddr4_3200", options={"multi_activate_faw": "waived"}))
    waived.issue("ACT", 0, 0, 0)
    # tRRD_L at rank level and tRRD_S: the former, tag rrd.
    assert waived.earliest("ACT4", 1, 1) == (8, STALL_TAGS.index("rrd"))


def test_names_and_codes_are_the_same_command():
    std = load_standard("ddr5_4800")
    by_name, by_code = RankRules(std), RankRules(std)
    for c in dense_stream(std, 3, 500):
        code = std.code(c.command)
        assert by_name.earliest(c.command, c.bank, 0) == by_code.earliest(code, c.bank, 0)
        by_name.issue(c.command, c.bank, c.row, c.cycle)
        by_code.issue(code, c.bank, c.row, c.cycle)
        assert by_name.open_rows == by_code.open_rows


@pytest.mark.parametrize("name", standard_names())
def test_shifted_history_behaves_the_same(name):
    std = load_standard(name)
    stream = dense_stream(std, 5, 400)
    plain, moved = RankRules(std), RankRules(std)
    for c in stream[:200]:
        plain.issue(c.command, c.bank, c.row, c.cycle)
        moved.issue(c.command, c.bank, c.row, c.cycle)
    moved.shift(12345)
    now = stream[199].cycle
    assert moved.relative_state(now + 12345) == plain.relative_state(now)
    for c in stream[200:]:
        plain_answer = plain.earliest(c.command, c.bank, now)
        cycle, stall = moved.earliest(c.command, c.bank, now + 12345)
        assert (cycle - 12345, stall) == plain_answer
        assert moved.check(c.command, c.bank, c.cycle + 12345) is None
        plain.issue(c.command, c.bank, c.row, c.cycle)
        moved.issue(c.command, c.bank, c.row, c.cycle + 12345)
        assert moved.relative_state(c.cycle + 12345) == plain.relative_state(c.cycle)
    # Not everything is equal: one more command makes a difference.
    plain.issue("PREA", 0, 0, c.cycle + 5000)
    assert moved.relative_state(c.cycle + 17345) != plain.relative_state(c.cycle + 5000)


def _refused(stream, std):
    """The first violation code of a stream, 0 when it is legal throughout."""
    rules = RankRules(std)
    for c in stream:
        found = rules.check(c.command, c.bank, c.cycle)
        if found is not None:
            return found.code
        rules.issue(c.command, c.bank, c.row, c.cycle)
    return 0


@pytest.mark.parametrize("name", standard_names())
def test_mutation_raising_any_timing_is_noticed(name):
    std = load_standard(name)
    stream = dense_stream(std, 2024, 6000)
    assert _refused(stream, std) == 0
    for parameter, value in std.params.items():
        if parameter == "nREFI":
            continue  # the next test
        mutant = load_standard(name, params={parameter: value + 1})
        assert _refused(stream, mutant) >= FIRST_TIMING_CODE, f"{parameter} + 1 went unnoticed"


def test_mutation_of_the_refresh_interval_is_noticed():
    std = load_standard("ddr4_3200")
    longer = load_standard("ddr4_3200", params={"nREFI": std.params["nREFI"] + 1})
    cycle = 9 * std.params["nREFI"] + 1
    assert RankRules(std, refresh_required=True).check("ACT", 0, cycle)
    assert not RankRules(longer, refresh_required=True).check("ACT", 0, cycle)
