"""Every DRAM standard, preset and stall reason has all its partners."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from bankside.config import DRAM_STANDARDS, HardwareConfig, preset_names
from bankside.hw.pim.controller.stalls import REASON
from bankside.hw.pim.layouts import command_codes, command_layout
from bankside.isa.dram.standard import LEVELS, STALL_TAGS
from bankside.isa.dram.table import load_standard, standard_names
from bankside.isa.machine import Machine
from bankside.isa.machines import load_machine
from bankside.isa.spec import load_spec
from bankside.mapping.lower_array import ArrayKernels, AttentionShape, to_bits
from bankside.mapping.lower_pim import KvLayout, PimKernels, Shape
from bankside.sim.elaborate import to_rtlil
from bankside.sim.golden.array import ArrayGolden
from bankside.sim.golden.pim import PimGolden
from bankside.sim.random_programs import random_programs
from bankside.sim.rtl.tops import TOPS, top_of
from bankside.sim.timing.array import ArrayTiming
from bankside.sim.timing.pim import PimTiming
from bankside.sim.timing.stalls import STALLS

ROOT = Path(__file__).parents[2]
PIM = load_spec("pim")


def missing_of_standard(name: str, described: set[str], documented: str) -> list[str]:
    """What a DRAM standard lacks, with the place to add it."""
    lacks = []
    if name not in standard_names():
        lacks.append(f"isa/dram/*.yaml: the grade {name}")
    if name not in DRAM_STANDARDS:
        lacks.append("src/bankside/config.py: entry in DRAM_STANDARDS")
    if name not in described:
        lacks.append("hw/presets: a machine that uses it")
    if f"`{name}`" not in documented:
        lacks.append("docs/dram.md: run `bankside docs`")
    return [f"DRAM standard {name} lacks {partner}" for partner in lacks]


def used_by_presets() -> set[str]:
    return {HardwareConfig.load(name).dram.standard for name in preset_names("pim")}


@pytest.mark.parametrize("name", sorted({*standard_names(), *DRAM_STANDARDS}))
def test_standards_are_complete(name):
    assert missing_of_standard(name, used_by_presets(), (ROOT / "docs/dram.md").read_text()) == []
    standard = load_standard(name)
    assert {row.level for row in standard.constraints} <= set(LEVELS)
    # Every tag of the command bus and the banks is in use, none is unknown.
    assert {STALL_TAGS[row.stall] for row in standard.constraints} >= set(STALL_TAGS) - {"cmd"}


def test_missing_partners_of_a_standard_are_named():
    found = missing_of_standard("ddr6_1", used_by_presets(), "")
    assert found == [
        "DRAM standard ddr6_1 lacks isa/dram/*.yaml: the grade ddr6_1",
        "DRAM standard ddr6_1 lacks src/bankside/config.py: entry in DRAM_STANDARDS",
        "DRAM standard ddr6_1 lacks hw/presets: a machine that uses it",
        "DRAM standard ddr6_1 lacks docs/dram.md: run `bankside docs`",
    ]


@pytest.mark.parametrize("name", preset_names("pim"))
def test_presets_run_on_golden_and_timing(name):
    """Every preset is a machine with a command bus, and attends to a few tokens."""
    config = HardwareConfig.load(name)
    machine = Machine.of(config)
    assert config.name == name
    assert command_layout(machine).size <= 128
    assert command_codes(machine).keys() >= {"ACT", "PRE", "RD", "WR", "REF", "MAC", "RDRB", "WRSB"}
    layout = KvLayout.of(machine, Shape(1, 1, machine.lanes, 16, 70))
    rng = np.random.default_rng(1)
    data = (rng.integers(0, 0x3C00, (h, 16), dtype=np.uint16) for h in (machine.lanes, 1, 1))
    (program,) = PimKernels(layout).decode(0, 70, *data)
    assert PimGolden(machine).run(program).output(program, "o").any()
    assert PimTiming(machine).run(program).cycles > 1000


@pytest.mark.parametrize("name", preset_names("array"))
def test_array_presets_run_on_golden_and_timing(name):
    """Every preset attends to a few keys, streamed and resident."""
    machine = load_machine(name)
    assert machine.config.name == name
    shape = AttentionShape(3, 2 * machine.rows + 1, 2, 1, 8, 8, causal=True)
    rng = np.random.default_rng(1)
    q, k, v = (
        to_bits(rng.standard_normal((1, tokens, heads, 8)), "fp16")
        for tokens, heads in ((3, 2), (shape.keys, 1), (shape.keys, 1))
    )
    for residency in ("stream", "resident"):
        kernels = ArrayKernels(machine, shape, residency=residency)
        programs = kernels.programs(q, k, v)
        golden = ArrayGolden(machine)
        assert kernels.collect([golden.run(program) for program in programs]).all()
        assert all(ArrayTiming(machine).run(program).cycles > 100 for program in programs)


LARGE = ("dimm_pim", "pim_ddr", "array_32x32")
EXPORTED = [name for engine in TOPS for name in preset_names(engine)]


@pytest.mark.parametrize("name", [n for n in EXPORTED if not n.startswith(LARGE)])
def test_presets_elaborate(name):
    top, module = top_of(load_machine(name))
    assert f"module \\{module}\n" in to_rtlil(top, module)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in EXPORTED if n.startswith(LARGE)])
def test_large_presets_elaborate(name):
    top, module = top_of(load_machine(name))
    assert f"module \\{module}\n" in to_rtlil(top, module)


# --- stall reasons ------------------------------------------------------------------------------


def missing_stalls(reasons: tuple[str, ...], document: str) -> list[str]:
    found = []
    for index, reason in enumerate(reasons):
        places = {
            "sim/timing/stalls.py: STALLS": index < len(STALLS) and STALLS[index] == reason,
            "hw/pim/controller/stalls.py: REASON": REASON.get(reason) == index,
            "docs/pim.md: section 7": f"| `{reason}` |" in document,
        }
        found += [f"stall reason {reason} lacks {where}" for where, ok in places.items() if not ok]
    return found


def test_stall_reasons_are_known_everywhere():
    assert missing_stalls(PIM.stalls, (ROOT / "docs/pim.md").read_text()) == []
    assert len(STALLS) == len(REASON) == len(PIM.stalls)


def test_missing_stall_reasons_are_named():
    assert missing_stalls((*PIM.stalls, "lunch"), (ROOT / "docs/pim.md").read_text()) == [
        "stall reason lunch lacks sim/timing/stalls.py: STALLS",
        "stall reason lunch lacks hw/pim/controller/stalls.py: REASON",
        "stall reason lunch lacks docs/pim.md: section 7",
    ]


def test_every_stall_reason_is_met():
    """Random programs wait for everything there is to wait for."""
    machine = Machine.of(HardwareConfig.load("pim_tiny_ddr4"))
    timing, totals = PimTiming(machine), dict.fromkeys(PIM.stalls, 0)
    for program in itertools.islice(random_programs(np.random.default_rng(2), machine), 60):
        for reason, cycles in timing.run(program).counters.items():
            totals[reason] += cycles
    assert [reason for reason, cycles in totals.items() if not cycles] == []
