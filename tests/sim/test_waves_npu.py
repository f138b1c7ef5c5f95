"""Recordings of the npu: where in the VCD a cycle of the program is."""

import numpy as np
import pytest

from bankside.isa.machines import load_machine
from bankside.sim.random_npu_graphs import network_program
from bankside.sim.timing.npu import NpuTiming
from bankside.sim.waves import TICKS_PER_CYCLE, first_tick, record_program

MACHINE = load_machine("npu_u55_32")
STARTED = "TOP.bankside_npu_top.trace.kernel.started"


def rises(vcd, path):
    """Times at which a signal of one bit becomes 1."""
    scope, code, now, found = [], None, 0, []
    for line in vcd.read_text().splitlines():
        words = line.split()
        if words[:1] == ["$scope"]:
            scope.append(words[2])
        elif words[:1] == ["$upscope"]:
            scope.pop()
        elif words[:1] == ["$var"] and ".".join((*scope, words[4])) == path:
            code = words[3]
        elif line.startswith("#"):
            now = int(line[1:])
        elif code and line == f"1{code}":
            found.append(now)
    assert code, f"no signal {path}"
    return found


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 3000])
def test_operations_start_at_the_ticks_of_their_cycles(tmp_path, first):
    """The edge that ends cycle c is at its tick; what a register shows from there on is c + 1."""
    program = network_program(np.random.default_rng(1), MACHINE)
    timed = NpuTiming(MACHINE).run(program, trace=True)
    kernel = timed.macros[timed.macros["engine"] == timed.macros["engine"].max()]
    starts = [cycle for cycle in sorted(kernel["load"].tolist()) if cycle > first]
    assert len(starts) >= 2
    vcd = tmp_path / "npu.vcd"
    assert record_program(MACHINE, program, vcd, first, timed.cycles - 1).cycles == timed.cycles
    origin = first_tick(vcd)
    assert rises(vcd, STARTED) == [
        origin + TICKS_PER_CYCLE * (cycle - 1 - first) for cycle in starts
    ]
