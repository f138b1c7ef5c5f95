# amaranth: UnusedElaboratable=no
"""Areas: known cells, blocks, protection, libraries, hardened cells."""

import json
import sys
from pathlib import Path

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from bankside.errors import ConfigError
from bankside.fault_injection.area import (
    GATES,
    Cells,
    Technology,
    area_of,
    block_areas,
    candidate_areas,
)
from bankside.fault_injection.protect import protected
from bankside.fault_injection.yosys import run_script
from bankside.sim.elaborate import to_json

sys.path.insert(0, str(Path(__file__).parent / "protect"))

from protect_blocks import Mixed  # noqa: E402
from protect_harness import TOP, Harness  # noqa: E402

NAME = "bankside_known"
LIBRARY = """
library(small) {
  cell(INV) { area : 1.5; pin(A) { direction : input; }
    pin(Y) { direction : output; function : "A'"; } }
  cell(NAND2) { area : 2.0; pin(A) { direction : input; } pin(B) { direction : input; }
    pin(Y) { direction : output; function : "(A B)'"; } }
  cell(BUF) { area : 20.0; pin(A) { direction : input; }
    pin(Y) { direction : output; function : "A"; } }
  cell(NOR2) { area : 20.0; pin(A) { direction : input; } pin(B) { direction : input; }
    pin(Y) { direction : output; function : "(A+B)'"; } }
  cell(XOR2) { area : 30.0; pin(A) { direction : input; } pin(B) { direction : input; }
    pin(Y) { direction : output; function : "(A^B)"; } }
  cell(DFF) { area : 9.0; ff(IQ, IQN) { next_state : "D"; clocked_on : "C"; }
    pin(C) { direction : input; clock : true; } pin(D) { direction : input; }
    pin(Q) { direction : output; function : "IQ"; } }
}
"""


class Known(wiring.Component):
    """`width` NANDs of two inputs, a register of as many bits, a memory of 4 words."""

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__({"a": In(width), "b": In(width), "y": Out(width), "z": Out(width)})

    def elaborate(self, platform) -> Module:
        m = Module()
        held = Signal(self.width, reset_less=True)
        m.submodules.cells = cells = memory.Memory(shape=self.width, depth=4, init=[])
        write, read = cells.write_port(), cells.read_port(domain="comb")
        m.d.sync += held.eq(~(self.a & self.b))
        m.d.comb += [
            self.y.eq(held), write.data.eq(self.a), write.addr.eq(self.b), write.en.eq(self.a[0]),
            read.addr.eq(self.b), self.z.eq(read.data),
        ]  # fmt: skip
        return m


@pytest.mark.parametrize("width", [2, 5])
def test_known_cells(width):
    """A NAND is 1 GE, a flip-flop 4 (16 transistors), a memory bit 1.5 (6 transistors)."""
    found = area_of(to_json(Known(width), NAME), NAME)
    expected = Cells(width, 4 * width, 1.5 * 4 * width, width, 4 * width)
    assert found.parts == {"": expected} and found.unit == "GE"
    assert found.total == expected.total == 11 * width


def test_gate_table_is_that_of_yosys(tmp_path):
    """One of each gate, counted by `stat -tech cmos`."""
    pins = {1: "A", 2: "AB", 3: "ABC", 4: "ABCD"}
    inputs = {"NOT": 1, "MUX": 2, "NMUX": 2, "AOI3": 3, "OAI3": 3, "AOI4": 4, "OAI4": 4}
    for gate, transistors in GATES.items():
        ports = [*pins[inputs.get(gate, 2)], *("S" if "MUX" in gate else "")]
        connections = {port: [2 + i] for i, port in enumerate([*ports, "Y"])}
        cell = {"type": f"$_{gate}_", "parameters": {}, "attributes": {},
                "connections": connections}  # fmt: skip
        module = {"attributes": {}, "ports": {}, "cells": {"c": cell}, "netnames": {}}
        source, output = tmp_path / f"{gate}.json", tmp_path / f"{gate}.stat"
        source.write_text(json.dumps({"modules": {"m": module}}))
        command = f"tee -q -o {output} stat -json -tech cmos"
        run_script([f"read_json {source}", command], "count", [output])
        found = json.loads(output.read_text())["modules"]["\\m"]["estimated_num_transistors"]
        assert int(found.rstrip("+")) == transistors, gate


def test_library_of_the_user(tmp_path):
    library = tmp_path / "small.lib"
    library.write_text(LIBRARY)
    technology = Technology(liberty=library, memory_bit=0.7)
    found = area_of(to_json(Known(3), NAME), NAME, technology)
    assert found.unit == "small"
    assert found.parts[""] == Cells(3 * 2.0, 3 * 9.0, pytest.approx(12 * 0.7), 3, 12)
    with pytest.raises(ConfigError, match="small.lib says nothing about memories.*memory_bit"):
        area_of(to_json(Known(3), NAME), NAME, Technology(liberty=library))


def test_blocks_and_the_rest():
    """A duplicated block takes twice its area; what compares the copies is in the rest."""
    harness = Harness({name: (Mixed(), "bankside_mixed") for name in "abc"})
    base = area_of(protected(harness, TOP, {}), TOP)
    assert base.total == pytest.approx(sum(c.total for c in base.parts.values()))
    assert base.below("a") == base.parts["a"] + base.parts["a.counter"]
    netlist = protected(harness, TOP, {"a": "dwc", "b": ["tmr", "secded"]})
    rows = {row.block: row for row in block_areas(base, area_of(netlist, TOP), netlist)}
    assert set(rows) == {"a", "b", ""}
    assert rows["a"].protected == 2 * rows["a"].base == 2 * base.below("a").total
    assert rows["b"].mechanisms == ("tmr", "secded")
    # Three of each flip-flop, 8 check bits for the two lanes of 4 bits, voters and decoders.
    bits = base.below("b").flop_bits
    assert rows["b"].added > 2 * 4 * bits + 1.5 * 8 * 4
    c_and_top = base.below("c").total + base.parts[""].total
    assert rows[""].base == pytest.approx(c_and_top)
    # A comparator for each of the outputs, and the alarms.
    assert 0 < rows[""].added < 4 * (len(harness.response) + 10)


def test_copies_are_not_merged():
    """Synthesis sees equal registers with equal inputs and has to keep all three."""
    harness = Harness({"a": (Mixed(), "bankside_mixed")})
    base = area_of(protected(harness, TOP, {}), TOP).below("a")
    tripled = area_of(protected(harness, TOP, {"a": "tmr"}), TOP).below("a")
    assert tripled.flop_bits == 3 * base.flop_bits and tripled.flops == 3 * base.flops
    # At least a majority (4 gates) and a comparison for each bit.
    assert tripled.logic - base.logic > 4 * base.flop_bits


def test_hardened_cells_cost_what_the_user_says():
    harness = Harness({name: (Mixed(), "bankside_mixed") for name in "ab"})
    base = area_of(protected(harness, TOP, {}), TOP)
    options = {"mechanism": "hardened", "rate_factor": 0.1, "area_factor": 1.5, "source": "data"}
    found = area_of(protected(harness, TOP, {"a": options, "a.cells": "none"}), TOP)
    before, after = base.below("a"), found.below("a")
    assert after.flops == pytest.approx(1.5 * before.flops)
    assert (after.logic, after.memory) == (before.logic, before.memory)
    assert found.below("b") == base.below("b")


def test_candidates_add_up():
    """Blocks side by side: the area of a plan is that of its parts, but for the tree of alarms."""
    harness = Harness({name: (Mixed(), "bankside_mixed") for name in "ab"})
    source = to_json(harness, TOP)
    choices = {"a": {"strong": ["tmr", "secded"], "twice": "dwc"}, "b": {"weak": "parity"}}
    found = candidate_areas(source, TOP, choices, Technology())
    assert found["a"]["strong"] > found["b"]["weak"] > 0 and found["a"]["twice"] > 0
    base = area_of(protected(source, TOP, {}), TOP).total
    both = area_of(protected(source, TOP, {"a": ["tmr", "secded"], "b": "parity"}), TOP).total
    expected = found["a"]["strong"] + found["b"]["weak"]
    assert both - base == pytest.approx(expected, abs=3)


def test_mapping_again_costs_nothing(monkeypatch):
    """The second count of the same module runs no Yosys."""
    path = to_json(Known(4), NAME)
    first = area_of(path, NAME)
    monkeypatch.setattr("bankside.fault_injection.area.run_script", None)
    assert area_of(path, NAME) == first
