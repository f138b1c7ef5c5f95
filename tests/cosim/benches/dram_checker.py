"""Bench of the device-side checker: scoreboard of the Python rules, row coverage, protocol.

The standard comes in the environment variable DRAM_STANDARD.
"""

import os
import random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, Timer

from bankside.isa.dram.rules import RankRules
from bankside.isa.dram.standard import FIRST_TIMING_CODE
from bankside.isa.dram.streams import StreamCommand, dense_stream, edge_streams
from bankside.isa.dram.table import load_standard

STD = load_standard(os.environ["DRAM_STANDARD"])
PERIOD = 10
COUNT = 250


class Driver:
    """Presents commands 1 ns after the falling clock edge of a cycle, counted from reset."""

    def __init__(self, dut) -> None:
        self.dut = dut
        self.cycle = 0

    async def reset(self) -> None:
        self.dut.valid.value = 0
        self.dut.rst.value = 1
        await FallingEdge(self.dut.clk)
        await FallingEdge(self.dut.clk)
        self.dut.rst.value = 0
        await Timer(1, unit="ns")
        self.cycle = 0

    async def advance(self, cycle: int) -> None:
        """To the same point of `cycle`, with nothing presented at the edges between."""
        self.dut.valid.value = 0
        if cycle > self.cycle:
            await Timer((cycle - self.cycle) * PERIOD, unit="ns")
        self.cycle = cycle

    async def ask(self, command: StreamCommand, *, commit: bool) -> tuple[int, int]:
        """(accept, violation) in this cycle; with `commit` the clock edge takes the command."""
        dut = self.dut
        dut.valid.value = 1
        dut.command.value = STD.code(command.command)
        dut.bank.value = command.bank
        dut.row.value = command.row
        await Timer(1, unit="ns")
        answer = int(dut.accept.value), int(dut.violation.value)
        if not commit:
            dut.valid.value = 0
        await Timer(PERIOD - 1, unit="ns")
        self.cycle += 1
        return answer


async def start(dut) -> Driver:
    Clock(dut.clk, PERIOD, unit="ns").start()
    for port in (dut.valid, dut.command, dut.bank, dut.row):
        port.value = 0
    driver = Driver(dut)
    await driver.reset()
    return driver


def expected(rules: RankRules, command: StreamCommand, cycle: int) -> tuple[int, int]:
    found = rules.check(command.command, command.bank, cycle)
    return (1, 0) if found is None else (0, found.code)


@cocotb.test()
async def equals_rules(dut) -> None:
    """A dense legal stream with other commands in the gaps: the same verdict each time."""
    driver = await start(dut)
    rules, rng = RankRules(STD), random.Random(cocotb.RANDOM_SEED)
    seen = set()
    for command in dense_stream(STD, cocotb.RANDOM_SEED, COUNT):
        # The command itself one cycle early, and some other one before that.
        early = [command] if command.cycle - 1 >= driver.cycle else []
        if command.cycle - 1 > driver.cycle:
            at = rng.randrange(driver.cycle, command.cycle - 1)
            other = rng.choice(STD.commands).name
            early.insert(0, StreamCommand(at, other, rng.randrange(STD.banks), rng.randrange(4)))
        for attempt in early:
            cycle = min(attempt.cycle, command.cycle - 1)
            want = expected(rules, attempt, cycle)
            await driver.advance(cycle)
            # A legal one would change the stream; it is only looked at.
            got = await driver.ask(attempt, commit=not want[0] and rng.random() < 0.5)
            assert got == want, f"{attempt} at {cycle}: {got}, expected {want}"
            seen.add(got[1])
        await driver.advance(command.cycle)
        got = await driver.ask(command, commit=True)
        assert got == (1, 0), f"{command}: violation {got[1]} {STD.violation_text(got[1])}"
        rules.issue(command.command, command.bank, command.row, command.cycle)
        open_banks = sum(1 << b for b, row in enumerate(rules.open_rows) if row is not None)
        assert int(dut.open_mask.value) == open_banks
    rows = {code for code in seen if code >= FIRST_TIMING_CODE}
    assert len(rows) >= 8 and len(seen - rows) >= 4, f"too little coverage: {sorted(seen)}"


@cocotb.test()
async def edges_are_exact(dut) -> None:
    """Some edges of the table, among them one of each parameter: refused at t-1, legal at t."""
    driver = await start(dut)
    rng = random.Random(cocotb.RANDOM_SEED)
    by_text: dict[str, list] = {}
    for edge in edge_streams(STD):
        # Waiting for a refresh takes most of the time and shows nothing special.
        if edge.row.latency < 150:
            by_text.setdefault(edge.row.text, []).append(edge)
    for choices in by_text.values():
        edge = rng.choice(choices)
        await driver.reset()
        *before, last = edge.stream
        for command in before:
            await driver.advance(command.cycle)
            assert await driver.ask(command, commit=True) == (1, 0), f"{edge.row}: {command}"
        await driver.advance(last.cycle - 1)
        accept, code = await driver.ask(last, commit=False)
        assert not accept and code >= FIRST_TIMING_CODE, f"{edge.row}: {last} accepted early"
        assert await driver.ask(last, commit=True) == (1, 0), f"{edge.row}: {last} refused"
