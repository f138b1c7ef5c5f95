# amaranth: UnusedElaboratable=no
"""One chip in the Amaranth simulator: exact cycles of every transfer, exact bits of both modes."""

import sys
from pathlib import Path

import pytest
from amaranth.sim import Simulator

from bankside.config import HardwareConfig
from bankside.hw.pim.chip import Chip
from bankside.hw.pim.layouts import command_codes, command_layout
from bankside.isa.machine import Machine

sys.path.insert(0, str(Path(__file__).parent.parent / "cosim" / "benches"))
from pim_chip_model import ChipModel, Issue, Traffic  # noqa: E402


def machine(standard="ddr4_3200", groups=2, per_group=2, lanes=2, **pim) -> Machine:
    dram = {
        "standard": standard, "chips": 2, "rows": 4, "bank_groups": groups, "banks_per_group": per_group,
        "columns": 16,
    }  # fmt: skip
    buffers = {"result_buffer_words": 8, "shared_buffer_words": 64}
    data = {"name": "test", "engine": "pim", "dram": dram, "pim": {"query_lanes": lanes, **buffers, **pim}}
    return Machine.of(HardwareConfig.model_validate(data))


MACHINES = {
    "ddr4": machine(),
    "ddr4_8banks": machine("ddr4_2400", groups=2, per_group=4, lanes=1),
    "ddr4_4lanes": machine(lanes=4),
    "ddr5": machine("ddr5_4800", groups=4, per_group=2, lanes=2),
}


def simulate(rank: Machine, issues: list[Issue], dut: Chip | None = None) -> dict[int, int]:
    """Bursts of the RTL by cycle, when the commands are played and data come in their cycle only."""
    dut = dut or Chip(rank)
    codes, layout = command_codes(rank), command_layout(rank)
    by_cycle = {issue.cycle: issue for issue in issues}
    assert len(by_cycle) == len(issues)
    writes = {i.cycle + rank.write_latency: i.data for i in issues if i.name in ("WR", "WRA", "WRSB")}
    bursts = {}

    async def bench(ctx):
        for cycle in range(issues[-1].cycle + 3 * rank.read_latency):
            issue = by_cycle.get(cycle)
            ctx.set(dut.valid, issue is not None)
            # A chip must not look at a command that is not valid, nor at the bus outside its cycle.
            fields = {"code": codes[issue.name], **issue.operands} if issue else {"code": cycle % len(codes)}
            ctx.set(dut.command, layout.const(fields))
            ctx.set(dut.wdata, writes.get(cycle, (0x5A5A << cycle % 16) & 0xFFFF))
            if ctx.get(dut.rvalid):
                bursts[cycle] = ctx.get(dut.rdata)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()
    return bursts


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("seed", range(2))
def test_random_commands(name, seed):
    issues = Traffic(MACHINES[name], seed).make(250)
    names = {issue.name for issue in issues}
    assert {"MAC", "WRR", "RDRB", "WRSB", "WR", "RD", "LDSB", "ACTA"} <= names
    want = ChipModel(MACHINES[name]).run(issues)
    got = simulate(MACHINES[name], issues)
    assert len(want) > 30
    assert got.keys() == want.keys(), f"seed {seed}: wrong cycles"
    wrong = {c: (hex(got[c]), hex(want[c])) for c in want if got[c] != want[c]}
    assert not wrong, f"seed {seed}: {wrong}"
