"""Single commands of the golden model, and programs that it refuses."""

import numpy as np
import pytest

from bankside.config import HardwareConfig
from bankside.errors import ProgramError
from bankside.isa.machine import Machine
from bankside.isa.program import Builder, Program
from bankside.isa.verify import verify
from bankside.sim.golden.pim import PimGolden
from bankside.sim.random_programs import random_fp16

TINY4 = Machine.of(HardwareConfig.load("pim_tiny_ddr4"))
TINY5 = Machine.of(HardwareConfig.load("pim_tiny_ddr5"))
BOTH = pytest.mark.parametrize("machine", [TINY4, TINY5], ids=["ddr4", "ddr5"])


def builder(machine: Machine) -> Builder:
    return Builder("pim", machine.burst_elements)


def run(machine: Machine, b: Builder, model: PimGolden | None = None):
    program = b.build()
    verify(program, machine)
    return (model or PimGolden(machine)).run(program), program


@BOTH
@pytest.mark.parametrize("layout", ["raw", "bit", "head"])
def test_host_data_comes_back_from_the_cells(machine, layout):
    """Written with a re-layout, read with its inverse."""
    data = random_fp16(np.random.default_rng(1), (4, machine.burst_elements))
    b = builder(machine)
    b.GEOM(nhc_log2=1, cpt=2, lanes=1)
    b.send(data, stage=3, layout=layout, signal="array")
    b.OPEN(bank=1, row=5)
    b.WR(bank=1, col=7, count=4, stage=3, wait="host")
    b.RD(bank=1, col=7, count=4, out=9, signal="host")
    b.CLOSE(bank=1)
    b.receive("back", 4, out=9, layout=layout, wait="array")
    result, program = run(machine, b)
    np.testing.assert_array_equal(result.output(program, "back"), data)
    assert result.cycles is None and not result.counters


@BOTH
def test_bit_layout_spreads_neighbours_over_the_chips(machine):
    """Element e of a burst lies whole in chip e mod C."""
    model, b = PimGolden(machine), builder(machine)
    data = np.arange(machine.burst_elements, dtype=np.uint16)
    b.send(data, stage=0, layout="bit")
    run(machine, b, model)
    for chip in range(machine.chips):
        expected = np.arange(chip, machine.burst_elements, machine.chips)
        np.testing.assert_array_equal(model.stage_in[0, chip], expected)


@BOTH
def test_columns_to_the_shared_buffer(machine):
    model, b = PimGolden(machine), builder(machine)
    model.memory[:] = random_fp16(np.random.default_rng(2), model.memory.shape)
    b.OPEN(mode="all", row=2)
    b.LDSB(bank=3, col=4, count=5, sb=11, lane=1)
    b.CLOSE(mode="all")
    run(machine, b, model)
    expected = model.memory[:, 3, 2, 4:9]
    np.testing.assert_array_equal(model.shared[:, 1, 11:16], expected)
    assert not model.shared[:, 0].any()


@BOTH
def test_scores_are_dot_products(machine):
    """Small integers, so that every sum is exact: tree mode, read-out, chip sums, maximum."""
    rng = np.random.default_rng(3)
    model, b = PimGolden(machine), builder(machine)
    cpt, slots = 3, machine.slots_per_burst
    whole = rng.integers(-8, 9, model.memory.shape)
    query = rng.integers(-8, 9, (machine.chips, 2, cpt, machine.elements))
    model.memory[:] = whole.astype(np.float16).view(np.uint16)
    model.shared[:, :, 6 : 6 + cpt] = query.astype(np.float16).view(np.uint16)
    b.GEOM(nhc_log2=1, cpt=cpt, lanes=2)
    b.OPEN(mode="group", row=1)
    b.WRR(mode="tree", sb=6, rb=2, cpt=cpt)
    b.MAC(col=2, count=2)
    b.MAC(col=4, count=slots * cpt - 2, signal="buffer")
    b.CLOSE(mode="all")
    tokens = slots * machine.banks - 1
    b.RDRBS(rb=2, score=5, groups=1, buf=1, valid=tokens, wait="array")
    run(machine, b, model)
    cells = whole[:, :, 1, 2 : 2 + slots * cpt].reshape(
        machine.chips, machine.banks, slots, cpt, machine.elements
    )
    expected = np.einsum("cbsje,clje->lbs", cells, query)
    for lane in range(2):
        words = model.score[5 + lane * machine.banks : 5 + (lane + 1) * machine.banks, 0]
        np.testing.assert_array_equal(words, expected[lane][list(machine.visiting)])
        # The last token (highest bank, last slot) does not exist.
        known = expected[lane].copy()
        known[-1, -1] = -(10**6)
        key = int(model.maximum[1, lane, 0])
        assert np.uint32(key & 0x7FFFFFFF if key >> 31 else key ^ 0xFFFFFFFF).view(
            np.float32
        ) == float(known.max())


@BOTH
def test_accumulator_mode_weighs_the_tokens(machine):
    """Context sums of integers with power-of-two weights, scaled down by 2^-k at slot 0."""
    rng = np.random.default_rng(4)
    model, b = PimGolden(machine), builder(machine)
    cpt, slots, sub = 2, 2, machine.subbanks
    values = rng.integers(-8, 9, model.memory.shape)
    model.memory[:] = values.astype(np.float16).view(np.uint16)
    weight = 2.0 ** -rng.integers(0, 3, (slots, machine.banks))
    words = weight.reshape(slots * sub, machine.elements).astype(np.float16).view(np.uint16)
    model.shared[:, 0, 4 * sub : 4 * sub + len(words)] = words
    model.scale[1, :, 0] = 3
    model.result[..., 9 : 9 + cpt, :] = 64.0
    b.OPEN(mode="all", row=0)
    b.WRR(mode="acc", kbuf=1, rescale=1, sb=4 * sub, rb=9, cpt=cpt)
    b.MAC(col=0, count=slots * cpt)
    b.CLOSE(mode="all")
    run(machine, b, model)
    cells = values[:, :, 0, : slots * cpt].reshape(
        machine.chips, machine.banks, slots, cpt, machine.elements
    )
    expected = 8 + np.einsum("cbsje,sb->cbje", cells, weight)
    np.testing.assert_array_equal(model.result[:, :, 0, 9 : 9 + cpt], expected)


def test_reset_forgets_everything():
    model, b = PimGolden(TINY4), builder(TINY4)
    b.send(np.full(8, 7, np.uint16), stage=0, signal="array")
    b.OPEN(bank=0)
    b.WR(bank=0, wait="host")
    b.CLOSE(bank=0)
    run(TINY4, b, model)
    assert model.memory.any() and model.stage_in.any()
    model.reset()
    assert not model.memory.any() and not model.stage_in.any()


def test_state_lives_on_between_programs():
    model, first, second = PimGolden(TINY4), builder(TINY4), builder(TINY4)
    first.send(np.arange(8, dtype=np.uint16), stage=0, signal="array")
    first.OPEN(bank=2, row=1)
    first.WR(bank=2, col=3, wait="host")
    first.CLOSE(bank=2)
    run(TINY4, first, model)
    second.OPEN(bank=2, row=1)
    second.RD(bank=2, col=3, signal="host")
    second.CLOSE(bank=2)
    second.receive("x", 1, out=0, wait="array")
    result, program = run(TINY4, second, model)
    assert result.output(program, "x").tolist() == [list(range(8))]


# The golden model is also run without `verify`; what it cannot execute it refuses itself.
REFUSED = {
    "open twice": (
        lambda b: (b.OPEN(bank=1), b.OPEN(mode="all")),
        "command 1: OPEN of bank 1, which is open; CLOSE it first",
    ),
    "closed bank": (
        lambda b: b.WR(bank=1),
        "command 0: WR on bank 1, which is closed; OPEN a row first",
    ),
    "closed bank of a MAC": (
        lambda b: (b.OPEN(mode="all"), b.CLOSE(bank=3), b.MAC()),
        "command 2: MAC on bank 3, which is closed; OPEN a row first",
    ),
    "refresh": (
        lambda b: (b.OPEN(bank=1), b.REF()),
        "command 1: REF with an open bank; CLOSE all banks first",
    ),
    "host data": (
        lambda b: b.HWR(count=2),
        "command 0: HWR of 2 bursts, but the host data ends after 0 bursts",
    ),
    "softmax": (lambda b: b.NORM(), "command 0: NORM of lane 0 without a finished SFM"),
    "token": (
        lambda b: (b.RDRBS(), b.WRR(wait="rank"), b.BARRIER()),
        ("command 1 (WRR): engine array waits for a token that no command gives before command 2 "
        "(BARRIER); add the missing signal"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    commands, message = REFUSED[case]
    b = builder(TINY4)
    commands(b)
    with pytest.raises(ProgramError) as error:
        PimGolden(TINY4).run(b.build())
    assert str(error.value) == message


def test_results_without_data_have_no_outputs():
    from bankside.sim.engine import Result

    with pytest.raises(ValueError, match="this execution carries no data; use golden or rtl"):
        Result(None, 3).output(Program("pim", (), np.zeros((0, 8), np.uint16)), "o")
