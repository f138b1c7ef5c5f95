"""Command traces: both formats, and every way a file can be wrong."""

import gzip
import os
from pathlib import Path

import pytest

from bankside.errors import ProgramError
from bankside.isa.dram.table import load_standard
from bankside.isa.dram.trace import STYLES, TraceCommand, read_trace, write_trace

STD = load_standard("ddr4_3200")
GOLDEN = Path(os.environ.get("BANKSIDE_REF", "../shared/ref")) / "dram" / "golden"
DRAMSIM3 = (
    "2 activate 0 0 1 2 0x1f 0x0\n24   read   0 0 1 2  0x1f 0x7f\n60 precharge 0 0 1 2 0x20 0x0\n"
)
RAMULATOR2 = (
    "clock,command,Channel,Rank,BankGroup,Bank,Row,Column,type,source\n"
    "2,ACT,0,0,1,2,31,0,0,0\n24,RD,0,0,1,2,31,127,0,0\n60,PREpb,0,0,1,2,32,0,0,0\n"
)


def _read(tmp_path, text, name="t.trace"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    return list(read_trace(path, STD))


def test_both_formats_say_the_same(tmp_path):
    first = _read(tmp_path, DRAMSIM3)
    second = _read(tmp_path, RAMULATOR2, "t.csv.gz")
    fields = [[(c.clock, c.command, c.bank, c.row, c.column) for c in t] for t in (first, second)]
    assert fields[0] == fields[1]
    assert fields[0] == [(2, "ACT", 6, 31, 0), (24, "RD", 6, 31, 127), (60, "PRE", 6, 32, 0)]
    assert [c.line for c in second] == [2, 3, 4]


def test_rank_wide_commands(tmp_path):
    text = RAMULATOR2 + "100,PREab,0,0,-1,-1,-1,-1,-1,-1\n200,REFab,0,0,-1,-1,-1,-1,-1,-1\n"
    assert [c.command for c in _read(tmp_path, text)[-2:]] == ["PREA", "REF"]
    text = DRAMSIM3 + "200 refresh 0 0 -1 -1 0x0 0x0\n"
    assert _read(tmp_path, text)[-1].command == "REF"


@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz"])
def test_write_and_read_back(tmp_path, name):
    commands = _read(tmp_path, DRAMSIM3 + "200 refresh 0 0 0 0 0x0 0x0\n")
    write_trace(tmp_path / name, commands, STD)
    again = list(read_trace(tmp_path / name, STD))
    key = [(c.clock, c.command, c.bank, c.row) for c in commands]
    assert [(c.clock, c.command, c.bank, c.row) for c in again] == key


def test_pim_commands_cannot_be_exported(tmp_path):
    command = _read(tmp_path, DRAMSIM3)[0]
    object.__setattr__(command, "command", "MAC")
    with pytest.raises(ProgramError, match="MAC at clock 2 has no name"):
        write_trace(tmp_path / "x.csv", [command], STD)
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no command in the file"),
        (DRAMSIM3 + "61 activate 0 0 1 2 0x1f\n", "t.trace:4: 7 fields"),
        (DRAMSIM3 + "61 actuate 0 0 1 2 0x1f 0x0\n", "t.trace:4: unknown command 'actuate'"),
        (DRAMSIM3 + "61 self_refresh_enter 0 0 1 2 0x1f 0x0\n", "unknown command"),
        (DRAMSIM3 + "60 activate 0 0 1 2 0x1f 0x0\n", "t.trace:4: clock 60 after 60"),
        (DRAMSIM3 + "6x activate 0 0 1 2 0x1f 0x0\n", "t.trace:4: .*'6x'; expected whole numbers"),
        (DRAMSIM3 + "61 activate 0 1 1 2 0x1f 0x0\n", "rank 1 does not exist"),
        (DRAMSIM3 + "61 activate 1 0 1 2 0x1f 0x0\n", "channel 1 does not exist"),
        (DRAMSIM3 + "61 activate 0 0 4 2 0x1f 0x0\n", "bank group 4 does not exist .* 0..3"),
        (DRAMSIM3 + "61 activate 0 0 1 2 0x10000 0x0\n", "row 65536 does not exist"),
        (DRAMSIM3 + "61 read 0 0 1 2 0x1 0x80\n", "column 128 does not exist"),
        (DRAMSIM3 + "61 read 0 0 1 -1 0x1 0x0\n", "bank -1 does not exist"),
        (RAMULATOR2 + "61,ACT,0,0\n", "t.trace:5: 4 fields"),
        (RAMULATOR2 + "61,REFsb,0,0,0,0,0,0,0,0\n", "unknown command 'REFsb'"),
        ("clock,cmd,Channel\n", "t.trace:1: header"),
        ("\xff\xfe", "cannot read the trace"),
    ],
)
def test_bad_traces(tmp_path, text, message):
    with pytest.raises(ProgramError, match=message):
        _read(tmp_path, text)


def test_unreadable_files(tmp_path):
    with pytest.raises(ProgramError, match="absent.trace: cannot read the trace .No such file"):
        list(read_trace(tmp_path / "absent.trace", STD))
    whole = gzip.compress(DRAMSIM3.encode() * 1)
    for name, content in (("cut.gz", whole[:-9]), ("not.gz", DRAMSIM3.encode())):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ProgramError, match=f"{name}: cannot read the trace"):
            list(read_trace(tmp_path / name, STD))


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden traces in {GOLDEN}")
@pytest.mark.parametrize("workload", ["c2_newrow_1bank", "c3_pingpong_1outstanding"])
def test_golden_traces_of_both_simulators_agree(workload):
    """Clock, command and bank of all 29,999; row and column except for precharges."""
    files = [GOLDEN / f"{workload}.dramsim3.trace.gz", GOLDEN / f"{workload}.ramulator2.csv.gz"]
    first, second = (list(read_trace(f, STD)) for f in files)
    assert len(first) == 29_999

    def key(c):
        address = () if c.command == "PRE" else (c.row, c.column)
        return c.clock, c.command, c.bank, *address

    assert [key(c) for c in first] == [key(c) for c in second]


def test_parts_that_a_command_does_not_have_may_be_minus_one(tmp_path):
    """As DRAMsim3 writes the commands around a refresh."""
    text = DRAMSIM3 + "90 precharge -1 0 1 2 -0x1 -0x1\n112 refresh -1 0 -1 -1 -0x1 -0x1\n"
    last = _read(tmp_path, text)[-2:]
    assert [(c.command, c.channel, c.row) for c in last] == [("PRE", 0, 0), ("REF", 0, 0)]
    with pytest.raises(ProgramError, match="row -1 does not exist"):
        _read(tmp_path, "2 activate 0 0 0 0 -0x1 0x0\n")


def test_one_rank_of_a_larger_trace(tmp_path):
    text = "2 activate 0 0 0 0 0x1 0x0\n2 activate 1 0 0 0 0x2 0x0\n3 activate 0 1 0 0 0x3 0x0\n"
    (tmp_path / "t").write_text(text)
    rows = {only: [c.row for c in read_trace(tmp_path / "t", STD, only=only)]
            for only in ((0, 0), (1, 0), (0, 1))}  # fmt: skip
    assert rows == {(0, 0): [1], (1, 0): [2], (0, 1): [3]}
    with pytest.raises(ProgramError, match="channel 1 does not exist"):
        list(read_trace(tmp_path / "t", STD))


@pytest.mark.parametrize("style", STYLES)
def test_styles_hold_channel_and_rank(tmp_path, style):
    commands = [TraceCommand(5, "ACT", 6, 31, 4, 0, 1, 1), TraceCommand(9, "REF", 0, 0, 0, 0, 1, 0)]
    write_trace(tmp_path / "t", commands, STD, style=style)
    for expected in commands:
        place = (expected.channel, expected.rank)
        (found,) = read_trace(tmp_path / "t", STD, only=place)
        assert (found.clock, found.command, found.bank, found.row, found.column) == (
            expected.clock, expected.command, expected.bank, expected.row, expected.column,
        )  # fmt: skip


def test_styles_refuse_what_they_cannot_express(tmp_path):
    with pytest.raises(ProgramError, match="PREA at clock 5 has no name in a dramsim3 trace"):
        write_trace(tmp_path / "t", [TraceCommand(5, "PREA", 0, 0, 0, 0)], STD, style="dramsim3")
    with pytest.raises(ProgramError, match="unknown trace style 'vcd'"):
        write_trace(tmp_path / "t", [], STD, style="vcd")
