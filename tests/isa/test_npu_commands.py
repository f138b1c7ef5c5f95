"""Registers, ranges and limits of the npu's commands."""

import numpy as np
import pytest

from bankside.errors import ProgramError
from bankside.hw.npu.operation import register_shapes
from bankside.isa.machines import load_machine
from bankside.isa.npu_commands import REGION, NpuFault, Range, commands, register_limits
from bankside.isa.program import Builder, Program
from bankside.isa.spec import load_spec

PRESETS = [f"npu_{profile}_{macs}" for profile in ("u55", "llm") for macs in (32, 64, 128, 256)]
U55, LLM = load_machine("npu_u55_32"), load_machine("npu_llm_256")


def listed(b: Builder, machine=U55) -> list:
    program = Program("npu", tuple(b.words), np.zeros((0, machine.burst_elements), np.uint16))
    return list(commands(program, machine))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_queue_holds_every_value_within_the_limits(preset):
    """Both ends fit the widths of a dispatched operation, and flags use all of theirs."""
    machine = load_machine(preset)
    shapes = register_shapes(machine)
    for name, (low, high) in register_limits(machine).items():
        shape = shapes[name]
        least = -(1 << shape.width - 1) if shape.signed else 0
        assert least <= low and high <= least + (1 << shape.width) - 1, name


def test_every_register_of_an_operation_has_limits_or_takes_any_word():
    """Only multipliers and the epsilon take any 32 bits; o_shift's limits depend on the command."""
    free = set(register_shapes(U55)) - set(register_limits(U55))
    assert free == {"a_mult", "b_mult", "o_mult", "epsilon"}


def test_commands_copy_the_registers_signed_where_they_are():
    b = Builder("npu", 4)
    b.SET(reg="ofm_min", value=0xFFFFFF80)
    b.SET(reg="offset", value=0xFFFFFF80)
    b.COPY()
    b.SET(reg="ofm_min", value=5)
    b.SOFTMAX()
    b.STOP()
    found = [c for c in listed(b) if c.name in ("COPY", "SOFTMAX")]
    assert [(c.pc, c.reg["ofm_min"], c.reg["offset"]) for c in found] == [
        (2, -128, 0xFFFFFF80), (4, 5, 0xFFFFFF80),
    ]  # fmt: skip
    assert set(found[0].reg) == set(load_spec("npu").enums["register"])


def test_ranges_of_maps_tables_and_copies():
    b = Builder("npu", 4)
    registers = {
        "ifm": 10, "ifm_sy": 7, "ifm_sx": 2, "ifm_h": 3, "ifm_w": 4, "ifm_c": 33, "ofm": 100,
        "ofm_sy": 9, "ofm_sx": 3, "ofm_h": 2, "ofm_w": 3, "ofm_c": 17, "ofm_bits": 1, "scale": 200,
        "scale_mode": 1, "lut": 300, "lut_enable": 1, "src": 100, "src_s0": 0xFFFFFFF0, "n0": 3,
        "n1": 2, "n2": 1, "src_s1": 5, "dst": 500, "dst_s0": 4, "dst_s1": 2,
    }  # fmt: skip
    for name, value in registers.items():
        b.SET(reg=name, value=value)
    b.CONV()
    b.COPY()
    b.STOP()
    conv, copy = [c for c in listed(b) if c.name in ("CONV", "COPY")]
    # Last input word: 10 + 2 * 7 + 3 * 2 + 1; last output word: 100 + 9 + 2 * 3 + 1.
    assert conv.reads() == [
        Range("ifm", 320, 32 * 32), Range("scale", 200 * 32, 209 * 32), Range("lut", 9600, 9856),
    ]  # fmt: skip
    assert conv.writes() == Range("ofm", 3200, 117 * 32)
    assert copy.reads() == [Range("src", 68, 106)] and copy.writes() == Range("dst", 500, 511)


def test_ranges_meet_only_where_they_share_a_byte():
    assert Range("a", 0, 10).meets(Range("b", 9, 10)) and Range("a", 9, 10).meets(Range("b", 0, 20))
    assert not Range("a", 0, 10).meets(Range("b", 10, 20))


def test_faults_carry_code_and_position():
    b = Builder("npu", 4)
    for name, value in {"rows": 1, "row_bytes": 8}.items():
        b.SET(reg=name, value=value)
    b.DMA(direction="to_shared")
    b.STOP()
    command = next(c for c in listed(b) if c.name == "DMA")
    with pytest.raises(NpuFault, match=r"command 2 \(DMA\): bytes 0..7 of region 0.*\(fault 3\)"):
        command.check(())
    command.check(((0, 8),))
    try:
        command.check(())
    except ProgramError as error:
        assert (error.code, error.position) == (REGION, 2)


def test_weights_of_fixed_size_end_within_the_buffer():
    """The last word that fits, and one more."""
    b = Builder("npu", LLM.burst_elements)
    registers = {
        "ifm_h": 1, "ifm_w": 1, "ifm_c": 32, "kernel_h": 1, "kernel_w": 1, "stride_y": 1,
        "stride_x": 1, "dilation_y": 1, "dilation_x": 1, "ofm": 1, "ofm_h": 1, "ofm_w": 1,
        "ofm_c": 16, "block": 1, "weight_format": 1, "scale_mode": 2,
    }  # fmt: skip
    for name, value in registers.items():
        b.SET(reg=name, value=value)
    for first in (LLM.weight_words - 2, LLM.weight_words - 1):
        b.SET(reg="weights", value=first)
        b.CONV()
    b.STOP()
    good, bad = [c for c in listed(b, LLM) if c.name == "CONV"]
    good.check(())
    with pytest.raises(NpuFault, match="weights take words 511..512 of the weight buffer"):
        bad.check(())
