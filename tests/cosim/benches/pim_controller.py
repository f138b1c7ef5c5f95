"""Bench of the controller: legality, tokens and exact cycles of random programs.

The bench plays the rank unit. BANKSIDE_PRESET names the machine, BANKSIDE_PARAMS (JSON) replaces
DRAM parameters of the checkers' machine, BANKSIDE_PROGRAMS is the number of random programs.
"""

import itertools
import json
import os

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge, Timer
from pim_checkers import PIM, BusChecker, TokenChecker

from bankside.config import HardwareConfig
from bankside.hw.pim.controller.controller import Controller
from bankside.hw.pim.controller.stalls import COUNTER_BITS
from bankside.hw.pim.layouts import command_layout
from bankside.hw.pim.rank_unit.ports import host_layout, rank_layout
from bankside.isa.dram.table import load_standard
from bankside.isa.machine import Machine
from bankside.sim.random_programs import random_programs
from bankside.sim.rtl.cocotb_runner import Bench
from bankside.sim.timing.pim import PimTiming

PERIOD_NS = 10
RANK, HOST = PIM.engines.index("rank"), PIM.engines.index("host")


def make_machine(preset: str, params: dict[str, int]) -> Machine:
    """The preset with some DRAM parameters replaced (cycles)."""
    config = HardwareConfig.load(preset)
    dram = config.dram
    geometry = {key: getattr(dram, key) for key in
                ("bank_groups", "banks_per_group", "columns", "rows")}  # fmt: skip
    return Machine(config, load_standard(dram.standard, geometry=geometry, params=params))


DEFAULT = {"BANKSIDE_PRESET": "pim_tiny_ddr4", "BANKSIDE_PARAMS": "{}", "BANKSIDE_PROGRAMS": "6"}
UNITS = {
    "pim_controller": Bench(lambda: Controller(make_machine("pim_tiny_ddr4", {})), env=DEFAULT)
}


class Unit:
    """One engine of the rank unit: busy for the documented number of cycles."""

    def __init__(self, dut, name: str) -> None:
        self.busy, self.done = dut[f"{name}_busy"], dut[f"{name}_done"]
        self.left = 0

    def drive(self) -> None:
        self.busy.value, self.done.value = int(self.left > 0), int(self.left == 1)
        self.left -= self.left > 0


class Play:
    """Drives the controller cycle by cycle and feeds the checkers."""

    def __init__(self, dut, machine: Machine) -> None:
        self.dut, self.machine = dut, machine
        self.now, self.bus = 0, BusChecker(machine)
        self.units = {RANK: Unit(dut, "rank"), HOST: Unit(dut, "host")}
        self.layout = command_layout(machine)
        self.lanes = 1

    async def tick(self) -> None:
        await RisingEdge(self.dut.clk)
        await Timer(1, unit="ns")
        for unit in self.units.values():
            unit.drive()
        await Timer(1, unit="ns")
        self.now += 1

    async def reset(self) -> None:
        dut = self.dut
        for port in ("program_en", "program_addr", "program_data", "start", "rank_busy",
                     "rank_done", "host_busy", "host_done"):  # fmt: skip
            dut[port].value = 0
        dut.refresh.value = int(self.machine.refresh)
        cocotb.start_soon(Clock(dut.clk, PERIOD_NS, unit="ns").start())
        dut.rst.value = 1
        for _ in range(3):
            await self.tick()
        dut.rst.value = 0
        await self.tick()

    async def run(self, program) -> tuple[list, dict[str, int], int]:
        """DRAM commands (cycle, code, bank), stall counters, cycles of one program."""
        dut = self.dut
        while not dut.ready.value:
            await self.tick()
        dut.program_en.value = 1
        for address, word in enumerate(program.words):
            dut.program_addr.value, dut.program_data.value = address, word
            await self.tick()
        dut.program_en.value, dut.start.value = 0, 1
        await self.tick()
        dut.start.value = 0
        await Timer(1, unit="ns")
        tokens, commands, limit = TokenChecker(self.machine, program), [], 200_000
        for cycle in range(limit):
            assert not dut.error.value, f"refused at command {dut.pc.value.to_unsigned()}"
            self.observe(cycle, tokens, commands)
            assert not tokens.errors and not self.bus.errors, [*tokens.errors, *self.bus.errors]
            finished = bool(dut.done.value)
            await self.tick()
            if finished:
                break
        else:
            raise AssertionError(f"not finished after {limit} cycles")
        tokens.finish()
        assert not tokens.errors, tokens.errors
        packed = dut.counts.value.to_unsigned()
        mask = (1 << COUNTER_BITS) - 1
        counts = {r: packed >> COUNTER_BITS * i & mask for i, r in enumerate(PIM.stalls)}
        return commands, counts, cycle + 1

    def observe(self, cycle: int, tokens: TokenChecker, commands: list) -> None:
        dut = self.dut
        tokens.begin(cycle)
        if dut.command_valid.value:
            view = self.layout.from_bits(dut.command.value.to_unsigned())
            self.bus.command(self.now, view["code"], view["bank"], view["row"])
            commands.append((cycle, view["code"], view["bank"]))
        last, load = dut.last.value.to_unsigned(), dut.load.value.to_unsigned()
        for engine in range(4):
            if last >> engine & 1:
                tokens.last(cycle, engine)
        for engine in range(4):
            if load >> engine & 1:
                opcode = dut.loaded.value.to_unsigned() >> 6 * engine & 63
                tokens.load(cycle, engine, opcode)
                self.start_unit(engine, opcode)

    def start_unit(self, engine: int, opcode: int) -> None:
        """The rank unit takes the command that its port shows; docs/pim.md section 4."""
        step, lanes = self.machine.step, self.dut.geometry.value.to_unsigned() >> 10
        if engine == HOST:
            assert self.dut.host_start.value
            bits = self.dut.host_command.value.to_unsigned()
            steps = host_layout(self.machine).from_bits(bits)["count"]
        elif engine == RANK:
            assert self.dut.rank_start.value
            bits = self.dut.rank_command.value.to_unsigned()
            view = rank_layout(self.machine).from_bits(bits)
            once = 2 * view["count"] + 29 if view["norm"] else (
                view["groups"] * self.machine.banks + 5
            )  # fmt: skip
            steps = lanes * once
        else:
            return
        self.units[engine].left = steps * step


@cocotb.test()
async def random_programs_are_legal_and_exact(dut) -> None:
    """Every command legal, every token accounted for, every cycle as the timing model says."""
    env, seed = os.environ, cocotb.RANDOM_SEED
    machine = make_machine(env["BANKSIDE_PRESET"], json.loads(env["BANKSIDE_PARAMS"]))
    bench, timing = Play(dut, machine), PimTiming(machine)
    await bench.reset()
    programs = random_programs(np.random.default_rng(seed), machine)
    count = int(env["BANKSIDE_PROGRAMS"])
    for number, program in enumerate(itertools.islice(programs, count)):
        commands, counts, cycles = await bench.run(program)
        want = timing.run(program, trace=True)
        expected = [tuple(c) for c in want.commands[["cycle", "code", "bank"]].tolist()]
        where = f"seed {seed}: program {number}"
        assert commands == expected, f"{where}: commands differ from the timing model"
        assert (counts, cycles) == (want.counters, want.cycles), f"{where}: {counts}, {cycles}"
    assert bench.bus.seen > 100
