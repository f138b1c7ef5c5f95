"""Bench of the rank unit: the scenarios of `rank_scenarios` on the exported Verilog.

Environment: RANK_MACHINE, RANK_GEOMETRY (JSON arguments of `make_machine` and `Geometry`).
"""

import json
import os
from random import Random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge, Timer
from rank_reference import Geometry, make_machine
from rank_scenarios import RankDriver, attention_scenario, relayout_scenario

PERIOD_NS = 20  # room for the settling times within a cycle


class CocotbPorts:
    """Scenario adapter: values are driven after an edge and read once they have settled."""

    def __init__(self, dut) -> None:
        self.dut = dut
        self.settled = True

    def set(self, port: str, value: int) -> None:
        self.dut[port].value = value
        self.settled = False

    async def get(self, port: str) -> int:
        if not self.settled:
            await Timer(1, unit="ns")
            self.settled = True
        value = self.dut[port].value
        assert value.is_resolvable, f"{port} is {value}, expected zeros and ones"
        return int(value)

    async def tick(self) -> None:
        await RisingEdge(self.dut.clk)
        await Timer(1, unit="ns")
        self.settled = True


async def start(dut) -> RankDriver:
    """Reset the unit with every input at zero."""
    machine = make_machine(**json.loads(os.environ["RANK_MACHINE"]))
    geometry = Geometry(**json.loads(os.environ["RANK_GEOMETRY"]))
    ports = CocotbPorts(dut)
    driver = RankDriver(ports, machine, geometry, Random(cocotb.RANDOM_SEED))
    for port in ("host_start", "host_command", "host_in__valid", "host_in__payload", "rank_start",
                 "host_out__ready", "rank_command", "stage_en", "stage_address", "read_data",
                 "read_out", "read_out_address", "read_valid", "read_info", "prob_en",
                 "prob_address"):  # fmt: skip
        ports.set(port, 0)
    Clock(dut.clk, PERIOD_NS, unit="ns").start()
    dut.rst.value = 1
    await ports.tick()
    dut.rst.value = 0
    await ports.tick()
    return driver


@cocotb.test()
async def relayout(dut) -> None:
    """Both stagings with every re-layout, with and without a slow host."""
    await relayout_scenario(await start(dut))


@cocotb.test()
async def attention(dut) -> None:
    """Scores, softmax of several chunks, context sums, normalisation."""
    await attention_scenario(await start(dut))
