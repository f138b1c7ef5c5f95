"""Checks at dispatch: the same conditions and codes as the checks of isa.npu_commands."""

import random

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from bankside.hw.lib.testing import simulate
from bankside.hw.npu.control.able import Able
from bankside.hw.npu.control.layouts import SPEC
from bankside.hw.npu.control.ranges import Ranges
from bankside.hw.npu.control.registers import StateRegisters
from bankside.hw.npu.control.transfers import Transfers
from bankside.hw.npu.operation import register_shapes
from bankside.isa.machines import load_machine
from bankside.isa.npu_commands import (
    OPERATIONS,
    Command,
    NpuFault,
    commands,
    register_limits,
)
from bankside.sim.random_programs_npu import random_programs

PRESETS = ["npu_u55_32", "npu_llm_32", "npu_llm_256"]
NUMBERS = SPEC.enums["register"]
FAULTS = {
    "able": {"refused": 2},
    "ranges": {"overlap": 6, "outside": 7},
    "transfers": {"unable": 2, "beyond_region": 3, "misaligned": 4, "outside": 7},
}


class Checked(wiring.Component):
    """State registers with all checks behind them. codes: bit i: fault i, of operations, DMA."""

    def __init__(self, machine) -> None:
        super().__init__({"operation_codes": Out(8), "dma_codes": Out(8)})
        self.machine, self.registers = machine, StateRegisters(machine)
        self.able, self.ranges = Able(machine), Ranges(machine)
        self.transfers = Transfers(machine)
        self.opcode, self.mode = Signal(8), Signal(2)

    def elaborate(self, platform):
        m = Module()
        for name in ("registers", "able", "ranges", "transfers"):
            m.submodules[name] = getattr(self, name)
        operation = self.able.operation
        m.d.comb += [
            operation.opcode.eq(self.opcode),
            operation.mode.eq(self.mode),
            *(operation[n].eq(self.registers.state[n]) for n in register_shapes(self.machine)),
            self.ranges.operation.eq(operation),
            self.able.beyond.eq(self.registers.beyond),
            self.transfers.direction.eq(self.mode),
            self.transfers.state.eq(self.registers.state),
        ]
        for part, faults in FAULTS.items():
            codes = self.dma_codes if part == "transfers" else self.operation_codes
            for name, code in faults.items():
                m.d.comb += codes[code].eq(getattr(getattr(self, part), name))
        return m


def expected_code(command: Command, regions) -> int:
    """0: nothing is wrong."""
    try:
        command.check(regions)
    except NpuFault as fault:
        return fault.code
    return 0


def samples(machine, count: int, seed: int):
    """Dispatched commands of legal programs."""
    found = []
    for named in random_programs(np.random.default_rng(seed), machine):
        regions = named.program.regions
        for command in commands(named.program, machine):
            if command.name in (*OPERATIONS, "DMA"):
                found.append((command, regions))
        if len(found) >= count:
            return found[:count]
    raise AssertionError("random programs end")


#: What a register is set to beside its limits: sizes that nearly fit, whole words, signs.
WORDS = (0, 1, 2, 31, 32, 64, 127, 128, 129, 255, 256, 1 << 15, 1 << 16, 1 << 20, 1 << 31,
         (1 << 32) - 1, (1 << 32) - 128, (1 << 32) - 129)  # fmt: skip


def mutations(machine, command: Command, rng: random.Random):
    """Registers that change: at or beside a limit, near what they are, or any word."""
    limits, used = register_limits(machine), list(NUMBERS)
    if command.name == "DMA":
        used = ["region", "offset", "rows", "row_bytes", "row_step", "buf", "buf_step"]
    elif rng.random() < 0.9:
        used = list(command.used())
    for name in rng.sample(used, rng.choice((0, 1, 1, 1, 2))):
        choice = rng.random()
        if choice < 0.35 and name in limits:
            yield name, rng.choice(limits[name]) + rng.choice((-1, 0, 0, 1))
        elif choice < 0.7:
            yield name, command.reg[name] + rng.choice((-1, 1, -32, 32, 128, 2, 5))
        else:
            yield name, rng.choice((*WORDS, rng.getrandbits(32), rng.getrandbits(12)))


def signed_like(name: str, value: int) -> int:
    """The value that a program sees after SET."""
    value &= 0xFFFFFFFF
    shape = register_shapes(load_machine("npu_llm_32")).get(name)
    return value - (value >> 31 << 32) if shape is not None and shape.signed else value


class Bench:
    """Shows commands to the checks and compares the lowest code."""

    def __init__(self, machine) -> None:
        self.machine, self.dut = machine, Checked(machine)
        self.shown = dict.fromkeys(NUMBERS, 0)
        self.codes: dict[tuple[str, int], int] = {}

    async def registers(self, ctx, values) -> None:
        port = self.dut.registers
        ctx.set(port.en, 1)
        for name, value in values.items():
            if self.shown[name] != value:
                ctx.set(port.index, NUMBERS[name])
                ctx.set(port.value, value & 0xFFFFFFFF)
                await ctx.tick()
        self.shown.update(values)
        ctx.set(port.en, 0)

    async def compare(self, ctx, command: Command, regions) -> None:
        dut = self.dut
        await self.registers(ctx, command.reg)
        ctx.set(dut.opcode, SPEC.commands[command.name].opcode)
        transfer = command.name == "DMA"
        ctx.set(dut.mode, command.fields["direction"] if transfer else command.op)
        for i in range(8):
            base, size = regions[i] if i < len(regions) else (0, 0)
            ctx.set(dut.transfers.regions[i].base, base)
            ctx.set(dut.transfers.regions[i].size, size)
        codes = ctx.get(dut.dma_codes if transfer else dut.operation_codes)
        lowest = (codes & -codes).bit_length() - 1 if codes else 0
        expected = expected_code(command, regions)
        assert lowest == expected, f"{command.name} {command.fields} {command.reg}"
        key = (command.name, expected)
        self.codes[key] = self.codes.get(key, 0) + 1


def changed(command: Command, changes) -> Command:
    values = {name: signed_like(name, value) for name, value in changes}
    return Command(command.machine, 0, command.name, command.fields, {**command.reg, **values})


def compared(preset: str, count: int, each: int, seed: int) -> dict[tuple[str, int], int]:
    machine, rng = load_machine(preset), random.Random(seed)
    bench = Bench(machine)

    async def run(ctx):
        for command, regions in samples(machine, count, seed):
            await bench.compare(ctx, command, regions)
            for _ in range(each):
                other = changed(command, mutations(machine, command, rng))
                await bench.compare(ctx, other, regions)

    simulate(bench.dut, run, limit=1_000_000)
    return bench.codes


@pytest.mark.parametrize("preset", PRESETS)
def test_codes_are_those_of_the_program_checks(preset):
    codes = compared(preset, 100, 6, seed=5)
    assert {code for _, code in codes} == {0, 2, 3, 4, 6, 7}


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_codes_of_many_commands(preset):
    codes = compared(preset, 600, 12, seed=6)
    names = {name for name, code in codes if code == 0}
    assert names == {"DMA", *OPERATIONS} - ({"MATMUL"} if "u55" in preset else set())
    assert {name for name, code in codes if code == 2} == names
    written = names - {"DMA"}
    assert {name for name, code in codes if code == 6} == written
    assert {name for name, code in codes if code == 7} == names


# --- single edges -------------------------------------------------------------------------------


def tried(preset: str, name: str, registers: dict[str, int], regions=(), **fields) -> int:
    """Code of the RTL for one command, compared with that of the checks."""
    machine = load_machine(preset)
    values = dict.fromkeys(NUMBERS, 0) | registers
    values = {key: signed_like(key, value) for key, value in values.items()}
    bench = Bench(machine)
    command = Command(machine, 0, name, fields, values)

    async def run(ctx):
        await bench.compare(ctx, command, regions)

    simulate(bench.dut, run)
    return next(iter(bench.codes))[1]


ROWS = {"rows": 2, "row_bytes": 256, "row_step": 512, "buf_step": 256}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),
        ({"offset": 128}, 0),
        ({"offset": 256}, 3),
        ({"rows": 1 << 31, "row_step": 1 << 31}, 3),
        ({"rows": 3, "row_step": 1 << 31}, 3),  # the product is 2^32
        ({"rows": (1 << 17) + 1, "row_step": 1 << 16, "buf_step": 0}, 3),  # 2^33
        ({"rows": (1 << 32) - 1, "row_step": 0, "buf_step": 0}, 0),
        ({"rows": 1, "row_step": 1 << 31, "buf_step": 1 << 31}, 0),
        ({"buf_step": 1 << 31}, 7),
        ({"rows": (1 << 32) - 1, "row_step": 0, "buf_step": 128}, 7),
        ({"rows": (1 << 25) + 1, "row_step": 0, "buf_step": 128}, 7),  # the product is 2^32
        ({"region": 1}, 4),
        ({"region": 7}, 3),
        ({"region": 8}, 3),
    ],
)
def test_edges_of_transfers(changes, code):
    regions = ((1 << 12, 896), (64, 4096))
    registers = ROWS | changes
    assert tried("npu_llm_32", "DMA", registers, regions, direction=0) == code


COPY = {"n0": 2, "n1": 2, "n2": 2, "src": 1000, "src_s2": 1, "dst": 2000, "dst_s2": 1}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),
        ({"src_s0": -1000}, 0),
        ({"src_s0": -1001}, 7),
        ({"src_s0": 998}, 0),
        ({"src_s0": 999}, 6),
        ({"n0": 65535, "src_s0": -65536}, 7),
        ({"n0": 65536}, 2),
        ({"wide": 1}, 2),
        ({"wide": 1, "src": 960, "src_s2": 32, "dst": 1984, "dst_s2": 32}, 0),
    ],
)
def test_edges_of_copies(changes, code):
    assert tried("npu_u55_32", "COPY", COPY | changes) == code


CONV = {
    "ifm_sx": 1, "ifm_h": 1, "ifm_w": 1, "ifm_c": 32, "ofm": 40, "ofm_h": 1, "ofm_w": 1,
    "ofm_c": 8, "kernel_h": 1, "kernel_w": 1, "stride_y": 1, "stride_x": 1, "dilation_y": 1,
    "dilation_x": 1, "block": 4, "weight_format": 1, "scale_mode": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changes", "code"),
    [
        ("CONV", {}, 0),
        ("CONV", {"kernel_h": 255, "kernel_w": 255, "ifm_c": 65535, "ofm_c": 65535}, 6),
        ("CONV", {"kernel_h": 255, "kernel_w": 2}, 7),
        ("CONV", {"kernel_h": 255, "kernel_w": 1, "ofm_c": 4}, 0),
        ("DEPTHWISE", {"ifm_c": 8, "weight_format": 2}, 2),
        ("DEPTHWISE", {"ifm_c": 8}, 0),
        ("CONV", {"weight_mode": 1, "weight_format": 2}, 0),
    ],
)
def test_edges_of_weights(name, changes, code):
    assert tried("npu_llm_32", name, CONV | changes) == code


U55, LLM = "npu_u55_32", "npu_llm_32"
MATMUL = {"ifm2": 80, "ifm2_sx": 1}


@pytest.mark.parametrize(
    ("preset", "name", "changes", "code"),
    [
        (LLM, "CONV", {"weight_format": 0}, 2),
        (U55, "CONV", {"weight_format": 0}, 0),
        (U55, "CONV", {"weight_format": 1}, 2),
        (U55, "CONV", {"weight_format": 0, "weight_mode": 1}, 2),
        (U55, "MATMUL", MATMUL, 2),
        (LLM, "MATMUL", MATMUL, 0),
        (LLM, "MATMUL", MATMUL | {"ifm2_bits": 1}, 2),
        (LLM, "MATMUL", MATMUL | {"ifm2_zero": -128}, 0),
        (LLM, "MATMUL", MATMUL | {"ifm2_zero": 128}, 2),
        (LLM, "CONV", {"ifm2_zero": 128}, 0),
        (LLM, "CONV", {"ifm_zero": -129}, 2),
        (LLM, "CONV", {"ifm_bits": 1}, 2),
        (LLM, "DEPTHWISE", {}, 2),
        (LLM, "POOL", {"ifm_c": 8}, 0),
        (LLM, "POOL", {}, 2),
        (LLM, "POOL", {"ifm_c": 8, "ofm_bits": 1}, 2),
        (LLM, "CONV", {"ofm_bits": 1}, 0),
        (LLM, "CONV", {"ofm_bits": 1, "lut_enable": 1, "lut": 80}, 2),
        (LLM, "CONV", {"lut_enable": 1, "lut": 80}, 0),
        (LLM, "CONV", {"lut_enable": 1, "lut": 1 << 14}, 2),
        (LLM, "CONV", {"lut": 1 << 14}, 0),
        (LLM, "CONV", {"block": 0}, 2),
        (LLM, "CONV", {"block": 65}, 2),
        (LLM, "CONV", {"weights": 1 << 20}, 2),
    ],
)
def test_layers_that_there_are_not(preset, name, changes, code):
    fields = {"mode": 0} if name == "POOL" else {}
    assert tried(preset, name, CONV | changes, **fields) == code
