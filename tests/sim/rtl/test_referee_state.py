"""Writes to registers of a Verilated model from outside: kept, seen by readers, or refused."""

import ctypes
import re
from pathlib import Path

import pytest

from bankside.errors import ToolError
from bankside.sim.rtl.state import _Declared
from bankside.sim.rtl.verilate import build_library

SHIM = Path(__file__).parents[1] / "shims" / "state_shim.cpp"
# `shown` and `copied` are other names of `count`; `sum` is a register that is computed from one of
# them; `cells` is a memory that is read without a clock.
VERILOG = """
module bankside_state(clk, rst, en, y, z);
  input clk; input rst; input en; output [7:0] y; output [7:0] z;
  reg [7:0] count = 0;
  reg [7:0] sum = 0;
  reg [7:0] cells [3:0];
  wire [7:0] shown;
  reg [7:0] copied;
  assign shown = count;
  always @* copied = shown;
  assign y = copied ^ 8'h55;
  assign z = cells[1];
  always @(posedge clk) begin
    count <= copied + en;
    sum <= sum + shown;
    if (en) cells[copied[1:0]] <= copied;
  end
  wire [7:0] bankside_seen_0 = ~count;
  wire [7:0] bankside_seen_1 = ~sum;
  reg [31:0] bankside_at_2 = 0;
  wire [7:0] bankside_seen_2 = ~cells[bankside_at_2];
endmodule
"""
WRITABLE = ("count", "sum", "cells", "shown", "copied", "bankside_at_2")
READABLE = tuple(f"bankside_seen_{i}" for i in range(3))
KEPT, NOT_KEPT, NOT_SEEN = range(3)


class Design:
    """The compiled design; sites are numbered in the order in which they are added."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        library.state_new.restype = ctypes.c_void_p
        for name in ("shown", "word"):
            getattr(library, f"state_{name}").restype = ctypes.c_uint64
        self.handle = ctypes.c_void_p(library.state_new())
        self.sites = 0

    def add(self, variable: str, number: int, select: str = "") -> int:
        names = (variable, f"bankside_seen_{number}", select)
        assert self.call("add", *(name.encode() for name in names))
        self.sites += 1
        return self.sites - 1

    def call(self, name: str, *arguments) -> int:
        numbers = (ctypes.c_uint64(a) if isinstance(a, int) else a for a in arguments)
        return getattr(self.library, f"state_{name}")(self.handle, *numbers)


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> ctypes.CDLL:
    verilog = tmp_path_factory.mktemp("state") / "bankside_state.v"
    verilog.write_text(VERILOG)
    lines = [f'public_flat_rw -module "bankside_state" -var "{n}"' for n in WRITABLE]
    lines += [f'public_flat_rd -module "bankside_state" -var "{n}"' for n in READABLE]
    return build_library(verilog, "bankside_state", SHIM, shared=(), vlt="\n".join(lines) + "\n")


@pytest.fixture
def design(library):
    design = Design(library)
    yield design
    design.call("delete")


def test_registers_and_memories_are_proven(design):
    sites = [design.add("count", 0), design.add("sum", 1), design.add("cells", 2, "bankside_at_2")]
    for step in range(3):
        for site in sites[:2]:
            for mask in (*(1 << bit for bit in range(8)), 255):
                assert design.call("prove", site, 0, mask) == KEPT
        for word in range(4):
            assert design.call("prove", sites[2], word, 255) == KEPT
        design.call("step", step % 2)


def test_a_proof_changes_nothing(library):
    proven, other = Design(library), Design(library)
    site = proven.add("count", 0)
    for _ in range(5):
        proven.call("prove", site, 0, 255)
        assert proven.call("shown") == other.call("shown")
        for machine in (proven, other):
            machine.call("step", 1)


@pytest.mark.parametrize("alias", ["shown", "copied"])
def test_other_names_of_a_register_are_refused(design, alias):
    """The known-bad twin: what is written to the other name is lost, and the proof says so."""
    bad = design.add(alias, 0)
    design.call("step", 1)
    before = design.call("shown")
    design.call("write", bad, 0, 0xF0)
    design.call("step", 0)
    assert design.call("shown") == before  # lost, and nothing else says so
    assert design.call("prove", bad, 0, 255) in (NOT_KEPT, NOT_SEEN)


def test_the_witness_of_another_register_proves_nothing(design):
    assert design.call("prove", design.add("count", 1), 0, 255) == NOT_SEEN


def test_what_is_written_takes_part_in_the_next_edge(design):
    site = design.add("count", 0)
    design.call("write", site, 0, 0x31)
    assert design.call("shown") == 0x31 ^ 0x55  # logic follows without a clock edge
    design.call("step", 1)  # also what clocked blocks read: cells[1] becomes 0x31
    assert (design.call("shown"), design.call("word")) == (0x32 ^ 0x55, 0x31)


def test_a_name_that_is_none(design):
    assert not design.call("add", b"cuont", b"bankside_seen_0", b"")
    assert not design.call("add", b"count", b"bankside_seen_9", b"")
    assert not design.call("add", b"cells", b"bankside_seen_2", b"bankside_at_7")


# --- names --------------------------------------------------------------------------------------

WIRED = """
module wired(clk, \\data[0] , \\data[1] );
  input clk;
  output [3:0] \\data[0] ;
  wire [3:0] \\data[0] ;
  output [3:0] \\data[1] ;
  wire [3:0] \\data[1] ;
  wire [7:0] whole;
  wire [7:0] swapped;
  wire [7:0] half;
  reg [7:0] _0_;
  reg [3:0] held = 4'h0;
  always @(posedge clk) begin
    _0_ <= cells[1];
    held <= _0_[3:0];
  end
  assign { \\data[1] , \\data[0]  } = _0_;
  assign whole[7:2] = { \\data[1] , \\data[0] [3:2] };
  assign whole[1] = \\data[0] [1];
  assign whole[0] = \\data[0] [0];
  assign swapped = { \\data[0] , \\data[1]  };
  assign half = { \\data[1] , held };
endmodule
"""


@pytest.mark.parametrize(
    ("net", "width", "variable"),
    [("whole", 8, "_0_"), ("_0_", 8, "_0_"), ("held", 4, "held")],
)
def test_a_register_is_found_behind_parts_of_its_word(net, width, variable):
    bits = list(range(2, 2 + width))
    found = _Declared.of(WIRED).register("wired", {tuple(bits): [net]}, bits, "cells.read0")
    assert (found.path, found.variable, found.width) == (net, variable, width)


@pytest.mark.parametrize(
    ("net", "width"), [("swapped", 8), ("half", 8), ("data[0]", 4), ("nothing", 8)]
)
def test_what_is_not_the_whole_register_in_order_is_refused(net, width):
    """A write to it would go to other bits."""
    bits = list(range(2, 2 + width))
    with pytest.raises(ToolError, match=f"no register for {re.escape(repr(net))}"):
        _Declared.of(WIRED).register("wired", {tuple(bits): [net]}, bits, "cells.read0")
