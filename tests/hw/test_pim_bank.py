# amaranth: UnusedElaboratable=no
"""The compute unit beside one bank, in the Amaranth simulator, against `isa/numerics`."""

import sys
from itertools import product
from pathlib import Path

import pytest
from amaranth.sim import Simulator

from bankside.config import HardwareConfig
from bankside.hw.pim.bank import Bank
from bankside.isa import numerics as ref
from bankside.isa.machine import Machine
from bankside.isa.numerics_vectors import FP16_CORNERS

sys.path.insert(0, str(Path(__file__).parents[1] / "cosim" / "benches"))
from pim_bank_reference import BankReference, Mac, random_mac, step_fields  # noqa: E402
from pim_bank_twins import BANK_FAULTS, BankTwin  # noqa: E402
from pim_chip_model import Traffic, join, split  # noqa: E402

MACHINES = {
    name: Machine.of(HardwareConfig.load(name)) for name in ("pim_tiny_ddr4", "pim_tiny_ddr5")
}
TINY = MACHINES["pim_tiny_ddr4"]


class Player:
    """Plays MACs on a bank, stage after stage, and reads the result buffer."""

    def __init__(self, ctx, dut, machine: Machine) -> None:
        self.ctx, self.dut, self.machine = ctx, dut, machine

    async def pulse(self, strobe: str, **values) -> None:
        for name, value in values.items():
            self.ctx.set(getattr(self.dut, name), value)
        self.ctx.set(getattr(self.dut, strobe), 1)
        await self.ctx.tick()
        self.ctx.set(getattr(self.dut, strobe), 0)

    async def mac(self, mac: Mac) -> None:
        await self.pulse("write", write_column=mac.column, wdata=mac.cells)
        await self.pulse("read", column=mac.column)
        operands = {"query": mac.query, "probability": mac.probability, "acc_operand": mac.mode}
        await self.pulse("multiply", **operands)
        await self.pulse("add", step=step_fields(mac), k=mac.k)

    async def word(self, lane: int, word: int) -> list[int]:
        found = []
        for half in range(2):
            await self.pulse("read_result", source={"lane": lane, "rb": word, "half": half})
            found += split(self.ctx.get(self.dut.rdata), 32, self.machine.elements // 2)
        return found


def play(dut, machine: Machine, scenario) -> None:
    async def bench(ctx):
        await scenario(Player(ctx, dut, machine))

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()


async def follow(player: Player, mode: int, seed: int, count: int = 60) -> None:
    """Random MACs; every position that was ever written equals the reference after each."""
    machine = player.machine
    traffic, reference = Traffic(machine, seed), BankReference(machine)
    for number in range(count):
        mac = random_mac(machine, traffic, mode, number)
        await player.mac(mac)
        reference.mac(mac)
        for lane in range(machine.lanes):
            got = await player.word(lane, mac.word)
            for i, value in enumerate(got):
                want = reference.result.get((lane, mac.word, i), value)
                assert value == want, f"seed {seed}, MAC {number}: lane {lane}, position {i}"


@pytest.mark.parametrize("mode", (0, 1), ids=("tree", "acc"))
@pytest.mark.parametrize("name", MACHINES)
def test_random_macs(name, mode):
    play(Bank(MACHINES[name]), MACHINES[name], lambda player: follow(player, mode, 11))


@pytest.mark.parametrize("fault", ["never_starts", "no_scale", "operand_of_the_other_mode"])
def test_random_macs_notice_a_bad_twin(fault):
    async def both(player):
        player.ctx.set(player.dut.fault, 1 + list(BANK_FAULTS).index(fault))
        await follow(player, 0, 11)
        await follow(player, 1, 11)

    with pytest.raises(AssertionError, match="seed 11"):
        play(BankTwin(TINY), TINY, both)


def simple(machine: Machine, **changes) -> Mac:
    """A MAC on word 0 that starts anew, all operands zero."""
    everything = (1 << machine.elements) - 1
    zero = [0] * machine.lanes
    fields = {"mode": 0, "column": 0, "cells": 0, "query": zero, "probability": zero, "start": 1}
    return Mac(**{**fields, "word": 0, "mask": everything, "k": zero, **changes})


def test_corner_operands_in_every_position():
    """Every pair of FP16 corners: alone in the tree its exact product comes out."""
    pairs = list(product(FP16_CORNERS, [c | 0x8000 for c in FP16_CORNERS[::3]]))

    async def scenario(player):
        for number, (a, b) in enumerate(pairs):
            shift = 16 * (number % TINY.elements)
            await player.mac(simple(TINY, cells=a << shift, query=[b << shift, a << shift]))
            got = [(await player.word(lane, 0))[0] for lane in range(2)]
            assert got == [ref.fp16_mul(a, b), ref.fp16_mul(a, a)], (hex(a), hex(b))

    play(Bank(TINY), TINY, scenario)


def test_tree_adds_neighbours_first():
    """2^24 + 1 + 1 - 2^24 tells the orders apart: only pairs of neighbours give 1."""
    big, one = 0x6C00, 0x3C00  # 2^12 and 1; the products are 2^24 and 1
    cells = join([big, one, one, big], 16)
    query = join([big, one, one, big | 0x8000], 16)

    async def scenario(player):
        await player.mac(simple(TINY, cells=cells, query=[query, 0]))
        products = [0x4B800000, 0x3F800000, 0x3F800000, 0xCB800000]
        assert (await player.word(0, 0))[0] == ref.adder_tree(products) == 0x3F800000

    play(Bank(TINY), TINY, scenario)


@pytest.mark.parametrize("k", (0, 1, 5, 126, 127, 254, 255))
def test_rescale_then_add(k):
    """acc: one product is there, then it is scaled by 2^-k and another one is added."""
    first, second = simple(TINY, mode=1, cells=0x4200, probability=[0x3C00] * 2, k=[255, 255]), None
    second = simple(TINY, mode=1, cells=0x1400, probability=[0x3C00] * 2, k=[k, 0])

    async def scenario(player):
        await player.mac(first)
        await player.mac(second)
        three, small = ref.fp16_mul(0x4200, 0x3C00), ref.fp16_mul(0x1400, 0x3C00)
        want = [ref.fp32_add(ref.fp32_scale_down(three, s), small) for s in (k, 0)]
        assert [(await player.word(lane, 0))[0] for lane in range(2)] == want

    play(Bank(TINY), TINY, scenario)


def test_nothing_moves_without_a_strobe():
    """Results stay while every operand and control field changes but no strobe is given."""

    async def scenario(player):
        ctx, dut = player.ctx, player.dut
        await player.mac(simple(TINY, cells=0x4200, query=[0x4200, 0x3C00]))
        before = [await player.word(lane, 0) for lane in range(2)]
        for number in range(20):
            step = {"mode": number & 1, "start": number >> 1 & 1, "rb": 0, "mask": 15}
            ctx.set(dut.step, step)
            ctx.set(dut.k, [number, 255])
            ctx.set(dut.query, [number * 77, 0x7BFF])
            ctx.set(dut.wdata, number)
            await ctx.tick()
        assert [await player.word(lane, 0) for lane in range(2)] == before
        assert before[0][0] == ref.fp16_mul(0x4200, 0x4200)

    play(Bank(TINY), TINY, scenario)
