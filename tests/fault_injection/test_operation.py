"""Results of single operations: found where they are, changed as the fault changed them.

What the referee delivers with a wrong operand is compared with the golden model of a program whose
operand is wrong from the beginning: nobody else knows where a result lies.
"""

from pathlib import Path

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.fault_injection.operation import Operation, places_of
from bankside.fault_injection.workloads import build_workload, operation_of
from bankside.isa.machines import load_machine
from bankside.isa.program import Program
from bankside.mapping.lower_array import ArrayKernels, AttentionShape
from bankside.mapping.lower_pim import KvLayout, PimKernels, Shape
from bankside.sim.faults import STORE, Action
from bankside.sim.golden.array import ArrayGolden
from bankside.sim.golden.pim import PimGolden
from bankside.sim.rtl.referee import Delivered, Referee
from bankside.strict_yaml import Locations

LINES = Locations(Path("x.yaml"), {})


def built(name: str, work: dict) -> tuple[Program, Operation]:
    machine = load_machine(name)
    program = build_workload(machine, work, Path(), LINES)
    return program, operation_of(machine, work, Path(), program, LINES)


def delivered(
    address: list[int], golden: list[int], faulty: list[int], sizes=(64, 64)
) -> Delivered:
    def data(x: list[int]) -> np.ndarray:
        return np.array(x, np.uint8)

    return Delivered(np.array(address, np.int64), data(golden), data(faulty), *sizes)


# --- known numbers --------------------------------------------------------------------------------


def test_bytes_become_signed_numbers() -> None:
    """Two rows of two 16-bit numbers, rows 8 bytes apart from byte 16 on."""
    operation = Operation("npu", "gemm", 16, np.array([[16, 18], [24, 26]]))
    found = operation.change(delivered([17, 26, 27], [0x01, 0xFF, 0x00], [0x80, 0x01, 0xFF]))
    assert found.golden.tolist() == [[0x100, 0], [0, 0xFF]]
    assert found.faulty.tolist() == [[-0x8000, 0], [0, 0x01 - 0x100]]
    assert (found.outside, found.whole) == (0, True)


def test_what_lies_outside_is_counted() -> None:
    operation = Operation("npu", "gemm", 8, np.array([[3, 2, 9]]))
    found = operation.change(delivered([0, 2, 10, 63], [0, 5, 0, 0], [1, 0xFE, 1, 1], (64, 60)))
    assert found.golden.tolist() == [[0, 5, 0]] and found.faulty.tolist() == [[0, -2, 0]]
    assert (found.outside, found.whole) == (3, False)


def test_places_follow_what_moves_numbers() -> None:
    """Beyond 65,536 numbers too."""
    shape = (300, 400)
    found = places_of(lambda memory: memory[250:, 7:9].T, shape)
    row, column = np.mgrid[250:300, 7:9]
    assert np.array_equal(found, (2 * (400 * row + column)).T)


# --- against the golden models --------------------------------------------------------------------


def test_attention_of_an_array_with_a_wrong_operand() -> None:
    """A bit of the store that is wrong from cycle 0 on; that byte itself is not of the result."""
    work = {"queries": 3, "keys": 6, "heads": 2, "kv_heads": 1}
    machine = load_machine("array_4x4")
    program, operation = built("array_4x4", {"attention": work})
    kernels = ArrayKernels(machine, AttentionShape(3, 6, 2, 1, 8, 8))
    referee, random, seen = Referee(machine), np.random.default_rng(4), 0
    golden = kernels.collect([ArrayGolden(machine).run(program)])
    for address in random.permutation(np.flatnonzero(program.host_in.reshape(-1)))[:12]:
        mask = 1 << int(random.integers(8, 14))
        image = program.host_in.copy().reshape(-1)
        image[address] ^= mask
        wrong = Program("array", program.words, image.reshape(program.host_in.shape))
        wanted = kernels.collect([ArrayGolden(machine).run(wrong)])
        byte = 2 * int(address) + (mask > 0xFF)
        referee.run(program, [[Action("flip", STORE, byte, mask >> 8, None, 0)]])
        found = operation.change(referee.delivered())
        assert found.golden.shape == (3, 16) and found.whole and found.outside == 1
        change = (golden ^ wanted).reshape(3, 16).astype(np.int16)
        assert np.array_equal(found.golden ^ found.faulty, change)
        seen += bool(change.any())
    assert seen > 6


def test_attention_of_a_rank_with_wrong_bursts() -> None:
    """A wire of the host's bus that is inverted all the time: every burst in has that bit wrong."""
    machine = load_machine("pim_tiny_ddr4")
    program, operation = built("pim_tiny_ddr4", {"decode": {"tokens": 5, "head_dim": 16}})
    kernels = PimKernels(KvLayout.of(machine, Shape(1, 1, 1, 16, 5), 1))
    referee = Referee(machine)

    def collected(given: Program) -> np.ndarray:
        bursts = PimGolden(machine).run(given).outputs
        return kernels.collect([bursts[at : at + count] for at, count in given.outputs.values()])

    golden = collected(program)
    for bit in (9, 60, 121):
        bursts = program.host_in.copy()
        bursts[:, bit // 16] ^= np.uint16(1 << bit % 16)
        wrong = Program("pim", program.words, bursts, program.outputs)
        referee.run(program, [[Action("force", "host_in__payload", 0, 1 << bit, None, 0)]])
        found = operation.change(referee.delivered())
        change = (golden ^ collected(wrong)).reshape(1, 16).astype(np.int16)
        assert np.array_equal(found.golden ^ found.faulty, change) and change.any()
        assert found.outside == 0 and found.whole


def test_work_that_is_no_single_operation_is_refused() -> None:
    with pytest.raises(ConfigError, match="product is not one operation of a language model.*gpt_"):
        built("array_4x4", {"product": {"m": 4, "k": 4, "n": 4}})


@pytest.mark.parametrize(
    ("work", "message"),
    [
        ({"gpt_product": {"product": "gait"}}, "'gait' is none of a decoder layer .did you mean"),
        ({"gpt_product": {"layer": 9}}, "layer: is 9; the model has 4"),
        ({"gpt_attention": {"rows": 20}}, "rows: is 20; the text has 12 bytes"),
        ({"gpt_product": {"text": "x" * 300}}, "text: 300 bytes up to 120; the model takes 256"),
    ],
)
def test_bad_pieces_are_named(work: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        built("npu_llm_32", work)


def test_pieces_of_the_gpt() -> None:
    """Where a result lies, by the golden run: 16 bits of one row, 8 bits of two."""
    from bankside.sim.golden.npu import NpuGolden

    for work, shape, bits in (
        ({"gpt_product": {"product": "down"}}, (1, 128), 16),
        ({"gpt_attention": {"rows": 2}}, (2, 128), 8),
    ):
        program, operation = built("npu_llm_32", work)
        assert (operation.places.shape, operation.bits) == (shape, bits)
        memory = NpuGolden(load_machine("npu_llm_32")).run(program).outputs
        after, before = (np.ascontiguousarray(x).view(np.uint8).reshape(-1) for x in
                         (memory, program.host_in))  # fmt: skip
        written = np.flatnonzero(after[: len(before)] != before)
        inside = operation.places.reshape(-1, 1) + np.arange(bits // 8)
        assert len(written) > 50 and set(written) <= set(inside.reshape(-1).tolist())


@pytest.mark.slow  # compiles a machine
def test_a_product_of_the_gpt_with_a_wrong_operand() -> None:
    """A byte of the input row that is wrong from cycle 0 on, against the integer model."""
    from bankside.fault_injection.workloads_gpt import GptProduct, _pieces
    from bankside.mapping.llm import quantise_np

    machine, what = load_machine("npu_llm_32"), GptProduct(product="down", layer=1)
    program, operation = built("npu_llm_32", {"gpt_product": what.model_dump()})
    pieces, given = _pieces(machine, what, Path())
    part, x = pieces.linear("down"), given.products["down"][-1:]
    first = program.regions[-2][0]  # operands
    image = np.ascontiguousarray(program.host_in).view(np.int8).reshape(-1)
    assert np.array_equal(image[first : first + x.size], x.reshape(-1))
    referee, golden = Referee(machine), quantise_np.linear(x, part)
    for channel, bit in ((0, 0), (17, 6), (383, 7)):
        wrong = x.astype(np.int8)
        wrong[0, channel] ^= np.int8(-128 if bit == 7 else 1 << bit)
        wanted = quantise_np.linear(wrong.astype(np.int64), part)
        referee.run(program, [[Action("flip", STORE, first + channel, 1 << bit, None, 0)]])
        found = operation.change(referee.delivered())
        assert np.array_equal(found.golden ^ found.faulty, (golden ^ wanted).astype(np.int16))
        assert found.outside == 1 and found.whole and (golden != wanted).any()
