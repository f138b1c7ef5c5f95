"""Every command, register, block operation and stall reason of the `array` engine has all its
partners; a missing one is named.
"""

import copy
from pathlib import Path

import numpy as np
import pytest

from bankside.config import HardwareConfig
from bankside.hw.array.control.stalls import REASON
from bankside.isa import array_schedule
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.array_schedule import Block, Schedule
from bankside.isa.machines import verify_program
from bankside.isa.program import Builder, Program
from bankside.isa.spec import Spec, load_spec, parse_spec
from bankside.sim.agree import Trio, compare_bits, compare_cycles
from bankside.sim.golden.array import ArrayGolden
from bankside.sim.golden.array_blocks import Blocks
from bankside.sim.timing.array import ArrayTiming
from bankside.sim.timing.array_schedule import STALLS
from bankside.strict_yaml import load_yaml

ROOT = Path(__file__).parents[2]
ARRAY = load_spec("array")
MACHINE = ArrayMachine.of(HardwareConfig.load("array_4x4"))
N = MACHINE.bus_elements
#: Registers that only move data, on which time does not depend.
TIMELESS = {
    "bank", "bank_step", "buf", "buf_step", "ring", "ring_phase", "q", "k", "v", "kv_step",
    "kv_ring", "kv_phase", "s", "s_step", "s_ring", "out", "position", "group", "keys", "first_key",
    "window", "causal",
}  # fmt: skip


def quoted(*patterns: str) -> str:
    """Source text of files of the project."""
    return "".join(path.read_text() for pattern in patterns for path in sorted(ROOT.glob(pattern)))


GOLDEN = quoted("sim/golden/array*.py")
TIMING = quoted("sim/timing/array*.py")
CONTROL = quoted("hw/array/control/*.py")
RTL = CONTROL + quoted("hw/array/*.py")
CHECKS = quoted("isa/array_*.py")
DOCUMENT = (ROOT / "docs" / "array.md").read_text()


# --- commands -----------------------------------------------------------------------------------


def registers(b: Builder, **values: int) -> None:
    for name, value in values.items():
        b.SET(reg=name, value=value)


def load(b: Builder, side: str, banks: int, words: int, buf: int = 0, **tokens: str) -> None:
    registers(
        b, mem=0, outer=1, inner=banks, inner_bytes=2 * N * words, beats=words, buf=buf, ring=1
    )
    b.LOAD(side=side, **tokens)


def filled(b: Builder) -> None:
    load(b, "row", MACHINE.rows, 3)
    load(b, "column", MACHINE.columns, 6, signal="compute,store")


def stored(b: Builder) -> None:
    filled(b)
    registers(b, mem=2 * N * 40, inner_bytes=2 * N, inner=2, beats=1, bank=1, buf=2)
    b.STORE(wait="load")


def attended(b: Builder) -> None:
    """Two tiles of a one-pass kernel, one after the other."""
    ops = (("qk", 4), ("lm", 1), ("exp", 7), ("sld", 1), ("slnv", 4), ("rcp", 1), ("av", 4))
    at = {"qk": 0, "lm": 4, "exp": 4 + MACHINE.maximum_latency}
    at["sld"] = at["exp"] + 7
    at["slnv"] = at["sld"] + 1
    at["rcp"] = at["slnv"] + 4
    at["av"] = at["rcp"] + MACHINE.divider_latency
    blocks = tuple(Block(op, at[op], length) for op, length in ops)
    Schedule(at["av"] + 4, blocks).marked().emit(b)
    filled(b)
    registers(b, k=0, v=1, kv_step=1, kv_ring=2, q=1, out=3, group=1, keys=7)
    b.RUN(tiles=2, first=1, last=1, wait="load", signal="store")
    registers(b, mem=2 * N * 40, inner=MACHINE.columns, inner_bytes=2 * N, beats=1, buf=3)
    b.STORE(wait="load,compute")


# Command -> a legal program that executes it, with hardly anything else.
PROGRAMS = {
    "HALT": lambda b: None,
    "BARRIER": lambda b: (filled_alone(b), b.BARRIER()),
    "SET": lambda b: registers(b, window=5),
    "KERNEL": attended, "BLOCK": attended, "RUN": attended,
    "LOAD": lambda b: filled_alone(b), "STORE": stored,
}  # fmt: skip


def filled_alone(b: Builder) -> None:
    load(b, "column", MACHINE.columns, 6)


def program(name: str) -> Program:
    b = Builder("array", N)
    rng = np.random.default_rng(1)
    b.host_in.append(rng.standard_normal((64, N)).astype(np.float16).view(np.uint16))
    PROGRAMS[name](b)
    return b.build()


def missing_partners(spec: Spec) -> list[str]:
    """One line for every command that something does not know, with the place to add it."""
    found, engines = [], {}
    for name, command in spec.commands.items():
        lacks = []
        if command.engine == "control":
            places = {
                "sim/golden/array.py: the front end": GOLDEN,
                "sim/timing/array_front_end.py: the front end": TIMING,
                "hw/array/control/frontend.py: what it waits for and does": CONTROL,
            }
            lacks += [place for place, text in places.items() if f'"{name}"' not in text]
        else:
            # An engine of all executions executes one command; its queue does not say which.
            other = engines.setdefault(command.engine, name)
            if other != name:
                lacks.append(f"isa/array.yaml: an engine of its own ({command.engine} has {other})")
        if name not in DOCUMENT:
            lacks.append("docs/array.md: what it does, cycle by cycle")
        if name not in PROGRAMS:
            lacks.append("tests/conformance/test_array_partners.py: a program")
        if not command.doc:
            lacks.append("isa/array.yaml: doc")
        found += [f"command {name} lacks {partner}" for partner in lacks]
    return found


def test_no_partner_of_a_command_is_missing():
    assert missing_partners(ARRAY) == []


@pytest.mark.parametrize("engine", [*ARRAY.engines, "control"])
def test_missing_partners_of_a_command_are_named(engine):
    """A command that only the specification knows: every place that lacks it is in the text."""
    data = copy.deepcopy(load_yaml(ARRAY.path)[0])
    data["commands"]["FROB"] = {"opcode": 0x3F, "engine": engine}
    found = missing_partners(parse_spec(data, ARRAY.path))
    assert all(line.startswith("command FROB lacks ") for line in found)
    text = "\n".join(found)
    places = ["docs/array.md", "tests/conformance", "isa/array.yaml: doc"]
    if engine == "control":
        places += ["sim/golden/array.py", "sim/timing/array_front_end.py", "hw/array/control"]
    else:
        places.append(f"an engine of its own ({engine} has ")
    assert [place for place in places if place not in text] == []


@pytest.mark.parametrize("name", ARRAY.commands)
def test_golden_and_timing_execute_it(name):
    chosen = program(name)
    assert name in {ins.name for ins in chosen.instructions()}
    verify_program(chosen, MACHINE)
    ArrayGolden(MACHINE).run(chosen)
    traced = ArrayTiming(MACHINE).run(chosen, trace=True)
    assert traced.cycles == ArrayTiming(MACHINE).run(chosen).cycles
    assert sum(traced.counters.values()) == traced.cycles
    command = ARRAY.commands[name]
    if command.engine != "control":
        events = {(int(m["engine"]), int(m["opcode"])) for m in traced.macros}
        assert (ARRAY.engines.index(command.engine), command.opcode) in events


def test_rtl_executes_every_command():
    """One machine, one program per command, bits and cycles compared."""
    trio = Trio(MACHINE)
    for name in ARRAY.commands:
        rtl, bits, cycles = trio.run(program(name))
        assert (bits, cycles) == (None, None), name
        assert rtl.cycles


def test_a_difference_would_be_noticed():
    golden, timing = ArrayGolden(MACHINE), ArrayTiming(MACHINE)
    a, b = program("STORE"), program("RUN")
    first, second = golden.run(a), golden.run(b)
    assert compare_bits(first, second) is not None
    assert compare_cycles(timing.run(a, trace=True), timing.run(b, trace=True)) is not None


# --- registers and block operations -------------------------------------------------------------


def missing_of_register(name: str) -> list[str]:
    places = {
        "sim/golden: its use": f'"{name}"' in GOLDEN + CHECKS,
        "sim/timing/array_front_end.py: its use, or TIMELESS here": (
            f'"{name}"' in TIMING or name in TIMELESS
        ),
        "hw/array: its use": f'"{name}"' in RTL,
        "isa/array_*.py: its check": f'"{name}"' in CHECKS,
        "docs/array.md: what it means": f"`{name}`" in DOCUMENT,
    }
    return [f"register {name} lacks {place}" for place, ok in places.items() if not ok]


@pytest.mark.parametrize("name", ARRAY.enums["register"])
def test_no_partner_of_a_register_is_missing(name):
    assert missing_of_register(name) == []


def test_missing_partners_of_a_register_are_named():
    places = [line.partition(" lacks ")[2].split(":")[0] for line in missing_of_register("lunch")]
    assert places == [
        "sim/golden", "sim/timing/array_front_end.py", "hw/array", "isa/array_*.py",
        "docs/array.md",
    ]  # fmt: skip
    assert TIMELESS < set(ARRAY.enums["register"])


def missing_of_operation(name: str) -> list[str]:
    on_lanes = name in array_schedule.LANE_OPS
    places = {
        "isa/array_schedule.py: PE_OPS or LANE_OPS": name in array_schedule.OPS,
        "sim/golden/array_blocks.py: a method": hasattr(Blocks, f"_{name}"),
        "sim/timing/array_schedule.py: its reason": on_lanes or f'"{name}"' in TIMING,
        "hw/array/control/issue.py: its words": f'"{name}"' in quoted("hw/array/control/issue.py"),
        "docs/array.md: a line of the table": f"| `{name}` |" in DOCUMENT,
    }
    return [f"block {name} lacks {place}" for place, ok in places.items() if not ok]


@pytest.mark.parametrize("name", ARRAY.enums["block_op"])
def test_no_partner_of_a_block_operation_is_missing(name):
    assert missing_of_operation(name) == []


def test_missing_partners_of_a_block_operation_are_named():
    assert len(missing_of_operation("lunch")) == 5
    assert set(array_schedule.OPS) == set(ARRAY.enums["block_op"])


# --- stall reasons ------------------------------------------------------------------------------


def missing_stalls(reasons: tuple[str, ...]) -> list[str]:
    found = []
    for index, reason in enumerate(reasons):
        places = {
            "sim/timing/array_schedule.py: an index": f'"{reason}"' in TIMING,
            "hw/array/control/stalls.py: REASON": REASON.get(reason) == index,
            "hw/array/control/stalls.py: a case": f'"{reason}"' in CONTROL,
            "docs/array.md: section 5": f"| `{reason}` |" in DOCUMENT,
        }
        found += [f"stall reason {reason} lacks {where}" for where, ok in places.items() if not ok]
    return found


def test_stall_reasons_are_known_everywhere():
    assert missing_stalls(ARRAY.stalls) == []
    assert len(STALLS) == len(REASON) == len(ARRAY.stalls)


def test_missing_stall_reasons_are_named():
    assert missing_stalls((*ARRAY.stalls, "lunch")) == [
        "stall reason lunch lacks sim/timing/array_schedule.py: an index",
        "stall reason lunch lacks hw/array/control/stalls.py: REASON",
        "stall reason lunch lacks hw/array/control/stalls.py: a case",
        "stall reason lunch lacks docs/array.md: section 5",
    ]
