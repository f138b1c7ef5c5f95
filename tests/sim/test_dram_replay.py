"""Replay of command streams: golden traces, illegal streams, the command line."""

import json
import os
from itertools import islice
from pathlib import Path

import pytest
from click.testing import CliRunner

from bankside.cli import main
from bankside.errors import ProgramError
from bankside.isa.dram.streams import dense_stream, edge_streams
from bankside.isa.dram.table import load_standard
from bankside.isa.dram.trace import read_trace
from bankside.sim.dram_edges import check_edges
from bankside.sim.dram_replay import replay

STD = load_standard("ddr4_3200")
GOLDEN = Path(os.environ.get("BANKSIDE_REF", "../shared/ref")) / "dram" / "golden"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason=f"no golden traces in {GOLDEN}; set BANKSIDE_REF"
)
TRACES = [
    "c2_newrow_1bank.dramsim3.trace.gz",
    "c2_newrow_1bank.ramulator2.csv.gz",
    "c3_pingpong_1outstanding.dramsim3.trace.gz",
    "c3_pingpong_1outstanding.ramulator2.csv.gz",
]
ILLEGAL = "2 activate 0 0 0 0 0x0 0x0\n23 read 0 0 0 0 0x0 0x0\n30 read 0 0 0 1 0x0 0x0\n"


@needs_golden
@pytest.mark.parametrize("trace", TRACES)
def test_golden_prefix_in_rtl(trace):
    report = replay(read_trace(GOLDEN / trace, STD, limit=2400), STD, execution="both")
    assert report.clean, report
    assert (report.commands, report.accepted) == (2400, 2400)
    # Everything but the first command waits for a row of the table.
    assert report.timing_bound == report.refused_one_cycle_early == 2399


@needs_golden
@pytest.mark.parametrize("parameter", ["nRCD", "nRP", "nRAS", "nRC"])
def test_golden_traces_notice_a_raised_timing(parameter):
    mutant = load_standard("ddr4_3200", params={parameter: STD.params[parameter] + 1})
    trace = GOLDEN / TRACES[0]
    assert replay(read_trace(trace, STD, limit=50), STD, execution="rules").refused == 0
    assert replay(read_trace(trace, STD, limit=50), mutant, execution="rules").refused > 0


def test_dense_stream_in_rtl():
    """Writes, turnarounds, refresh and PIM commands, which the golden traces lack."""
    stream = dense_stream(STD, 99, 3000)
    report = replay(stream, STD, execution="both")
    assert report.clean, report
    assert report.accepted == 3000 and report.timing_bound > 1500


@pytest.mark.parametrize("execution", ["rules", "rtl", "both"])
def test_illegal_commands_are_refused_with_their_codes(execution, tmp_path):
    path = tmp_path / "illegal.trace"
    path.write_text(ILLEGAL)
    report = replay(read_trace(path, STD), STD, execution=execution)
    assert (report.accepted, report.refused) == (1, 2)
    assert report.refusals == {"ROW13_RCD": 1, "BANK_CLOSED": 1}
    assert (
        "cycle 23: RD bank 0: row 13: bank: ACT -> RD RDA WR WRA nRCD = 22"
        in (report.first_refusals[0])
    )
    assert not report.clean and not report.disagreements


def test_a_trace_of_another_speed_grade_is_refused():
    slow = load_standard("ddr4_2400")
    report = replay(dense_stream(slow, 4, 300), STD, execution="rules")
    assert report.refused > 10 and not report.clean


def test_bad_arguments():
    stream = dense_stream(STD, 4, 5)
    with pytest.raises(ProgramError, match="unknown execution 'verilog'"):
        replay(stream, STD, execution="verilog")
    with pytest.raises(ProgramError, match="expected increasing cycles"):
        replay([stream[1], stream[0]], STD, execution="rules")


def test_edge_check_notices_another_table():
    edges = list(islice(edge_streams(STD), 60))
    assert check_edges(STD, edges, execution="rules").clean
    longer = load_standard("ddr4_3200", params={"nRTP": 13})
    report = check_edges(STD, edges, execution="rules", answering=longer)
    assert not report.clean and "RD -> PRE: rules refuse at t" in "\n".join(report.failures)
    shorter = load_standard("ddr4_3200", params={"nRTP": 11})
    report = check_edges(STD, edges, execution="rules", answering=shorter)
    assert "RD -> PRE: rules answer code 0 at t-1" in "\n".join(report.failures)


def _run(*arguments):
    return CliRunner().invoke(main, ["dram", *map(str, arguments)])


def test_command_line_json(tmp_path):
    path = tmp_path / "good.trace"
    path.write_text(ILLEGAL.replace("23 read", "24 read").splitlines()[0] + "\n24 read 0 0 0 0 0 0")
    result = _run("replay", path, "--standard", "ddr4_3200", "--execution", "rules", "--json")
    assert result.exit_code == 0, result.output
    expected = dict(
        commands=2, accepted=2, refused=0, timing_bound=1, refused_one_cycle_early=1,
        standard="ddr4_3200", execution="rules",
    )  # fmt: skip
    assert json.loads(result.stdout).items() >= expected.items()


def test_command_line_exit_codes(tmp_path):
    path = tmp_path / "illegal.trace"
    path.write_text(ILLEGAL)
    result = _run("replay", path, "--execution", "rules", "--out", tmp_path / "out")
    assert result.exit_code == 1 and "refused 2" in result.output
    written = json.loads((tmp_path / "out" / "dram_replay.json").read_text())
    assert written["refused"] == 2
    assert _run("replay", path, "--execution", "rules", "--limit", 1).exit_code == 0
    for arguments, message in (
        (["replay", tmp_path / "none.trace"], "cannot read the trace"),
        (["replay", path, "--standard", "ddr3"], "ddr3"),
        (["replay", path, "--option", "rd_to_wr"], "expected NAME=VALUE"),
        (["replay", path, "--option", "rd_to_wr=99"], "expected one of 11, 12"),
    ):
        result = _run(*arguments)
        assert result.exit_code == 2 and message in result.output, result.output
    edges = _run("edges", "--standard", "ddr4_2400", "--execution", "rules")
    assert edges.exit_code == 0 and "refused at t-1: 164" in edges.output
