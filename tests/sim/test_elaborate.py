# amaranth: UnusedElaboratable=no
"""Exported Verilog: memories, hierarchy, cache; refused by name where it cannot be made."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from amaranth.hdl import Instance, Module
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from bankside.errors import ToolError
from bankside.hw.lib.queue import Queue
from bankside.hw.lib.unit import Unit
from bankside.sim import elaborate
from bankside.sim.elaborate import to_json, to_rtlil, to_verilog
from bankside.sim.rtl.tools import find_verilator, run_tool


@pytest.fixture(autouse=True)
def build(tmp_path, monkeypatch):
    monkeypatch.setenv("BANKSIDE_BUILD", str(tmp_path / "build"))
    return tmp_path / "build"


class Store(wiring.Component):
    """Memory with a write port of four lanes, a clocked and a combinational read port."""

    def __init__(self, depth: int = 8192, init=()) -> None:
        self.depth, self.init = depth, tuple(init)
        super().__init__({"a": In(range(depth)), "en": In(4), "d": In(64),
                          "clocked": Out(64), "direct": Out(64)})  # fmt: skip

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.cells = cells = memory.Memory(shape=64, depth=self.depth, init=self.init)
        write = cells.write_port(granularity=16)
        clocked, direct = cells.read_port(), cells.read_port(domain="comb")
        m.d.comb += [
            write.addr.eq(self.a), write.en.eq(self.en), write.data.eq(self.d),
            clocked.addr.eq(self.a), direct.addr.eq(self.a),
            self.clocked.eq(clocked.data), self.direct.eq(direct.data),
        ]  # fmt: skip
        return m


class Stores(wiring.Component):
    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__({"a": In(13), "en": In(4), "d": In(64), "y": Out(64)})

    def elaborate(self, platform) -> Module:
        m = Module()
        total = 0
        for i in range(self.count):
            m.submodules[f"store{i}"] = store = Unit(Store(), "bankside_store")
            m.d.comb += [store.a.eq(self.a), store.en.eq(self.en), store.d.eq(self.d + i)]
            total = total ^ store.clocked
        m.d.comb += self.y.eq(total)
        return m


def test_memory_is_a_plain_array_with_lanes():
    text = to_verilog(Store(), "bankside_store").read_text()
    assert "reg [63:0] cells [8191:0];" in text
    assert "cells[a][31:16] <= d[31:16];" in text
    assert "assign direct = cells[a];" in text
    assert text.count("\n") < 150, "zero contents must not be written word by word"


def test_contents_that_are_not_zero_stay():
    text = to_verilog(Store(4, [0, 5]), "bankside_store").read_text()
    assert "cells[1] = 64'h0000000000000005;" in text


def test_units_are_modules_of_one_text():
    text = to_verilog(Stores(16), "bankside_stores").read_text()
    assert re.findall(r"^module (\w+)", text, re.MULTILINE) == ["bankside_store", "bankside_stores"]
    assert len(re.findall(r"^  bankside_store store\d+ \(", text, re.MULTILINE)) == 16


@pytest.mark.parametrize("component", [Store(), Store(4, [1, 2]), Stores(3), Queue(8, 4)])
def test_tools_accept_it(component, tmp_path):
    path = to_verilog(component, "bankside_top")
    root = find_verilator()
    run_tool([root.binary, "--lint-only", "-Wno-style", "-Wno-lint", "-Wno-MULTITOP", path], "lint")
    if shutil.which("iverilog"):
        run_tool(["iverilog", "-g2005", "-Wall", "-o", tmp_path / "x", path], "compile")


@pytest.mark.skipif(not shutil.which("iverilog"), reason="Icarus Verilog is missing")
def test_memory_starts_at_zero(tmp_path):
    path = to_verilog(Store(), "bankside_store")
    bench = tmp_path / "bench.v"
    bench.write_text("""
        module bench; reg [12:0] a; wire [63:0] direct, clocked;
        bankside_store dut(.clk(1'b0), .rst(1'b0), .a(a), .en(4'd0), .d(64'd0),
                           .direct(direct), .clocked(clocked));
        initial begin a = 8191; #1 $display("%h", direct); a = 0; #1 $display("%h", direct); end
        endmodule""")
    subprocess.run(["iverilog", "-o", tmp_path / "x", bench, path], check=True)
    done = subprocess.run(["vvp", tmp_path / "x"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0" * 16, "0" * 16]


def test_json_netlist():
    netlist = json.loads(to_json(Stores(2), "bankside_stores").read_text())
    cells = netlist["modules"]["bankside_store"]["cells"].values()
    assert "$mem_v2" in {cell["type"] for cell in cells}
    ports = netlist["modules"]["bankside_stores"]["ports"]
    assert len(ports["d"]["bits"]) == 64 and ports["d"]["direction"] == "input"


def test_submodule_names_are_plain_identifiers():
    class Outer(wiring.Component):
        def __init__(self) -> None:
            super().__init__({"a": In(13), "y": Out(64)})

        def elaborate(self, platform) -> Module:
            m = Module()
            m.submodules.inner = inner = Store()
            m.d.comb += [inner.a.eq(self.a), self.y.eq(inner.clocked)]
            return m

    assert "\\bankside_outer__inner\n" in to_rtlil(Outer(), "bankside_outer")


def test_second_call_makes_nothing(monkeypatch):
    first = to_verilog(Store(), "bankside_store")
    monkeypatch.setattr(elaborate, "_run_yosys", None)
    assert to_verilog(Store(), "bankside_store") == first


def test_cache_can_be_left_out():
    first = to_verilog(Queue(8, 2), "bankside_queue")
    again = to_verilog(Queue(8, 2), "bankside_queue", cache=False)
    assert again != first and again.read_text() == first.read_text()


def test_known_parameters_need_no_elaboration(monkeypatch):
    first = to_verilog(Queue(8, 2), "bankside_queue")
    monkeypatch.setattr(elaborate, "to_rtlil", None)
    assert to_verilog(Queue(8, 2), "bankside_queue") == first
    with pytest.raises(TypeError):
        to_verilog(Queue(8, 3), "bankside_queue")


def test_changed_sources_are_elaborated_again(monkeypatch):
    first = to_verilog(Queue(8, 2), "bankside_queue")
    monkeypatch.setattr(elaborate, "_sources_hash", lambda: "changed")
    calls = []
    real = elaborate.to_rtlil
    monkeypatch.setattr(elaborate, "to_rtlil", lambda *a: calls.append(1) or real(*a))
    # The RTL is the same, so the file is; but it was looked at.
    assert to_verilog(Queue(8, 2), "bankside_queue") == first and calls


def test_code_of_others_is_always_elaborated(monkeypatch):
    class Patched(Queue):
        extra = 0

    first = to_verilog(Patched(8, 2), "bankside_queue")
    calls = []
    real = elaborate.to_rtlil
    monkeypatch.setattr(elaborate, "to_rtlil", lambda *a: calls.append(1) or real(*a))
    assert to_verilog(Patched(8, 2), "bankside_queue") == first and calls


def test_a_lost_file_is_made_again(build):
    first = to_verilog(Queue(8, 2), "bankside_queue")
    shutil.rmtree(first.parent)
    assert to_verilog(Queue(8, 2), "bankside_queue").read_text().startswith("/* Generated by Yosys")


class Hole(wiring.Component):
    """Instantiates a module that nobody has."""

    def __init__(self) -> None:
        super().__init__({"a": In(1), "y": Out(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.x = Instance("nowhere", i_a=self.a, o_y=self.y)
        return m


def test_a_missing_module_is_named(build):
    with pytest.raises(ToolError, match=r"(?s)could not convert 'bankside_hole'.*nowhere"):
        to_verilog(Hole(), "bankside_hole")
    left = [p for p in Path(build).rglob("*") if p.is_file() and p.suffix in (".v", ".il", ".ys")]
    assert left == []


def test_no_name_that_waveform_viewers_refuse() -> None:
    """A colon in a signal name makes GTKWave give up on the whole file."""
    text = to_verilog(Queue(8, 3), "bankside_queue", cache=False).read_text()
    declared = re.findall(r"^ *(?:reg|wire) (?:\[\d+:\d+\] )?(\\?\S+)", text, re.MULTILINE)
    assert any("bankside_start_" in name for name in declared), "the rewritten registers are gone"
    assert not [name for name in declared if ":" in name]
