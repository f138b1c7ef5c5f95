"""Every command, register and stall reason of the `npu` engine has all its partners; a missing one
is named.
"""

import copy
import re
from pathlib import Path

import numpy as np
import pytest

from bankside.config import HardwareConfig
from bankside.isa.machines import verify_program
from bankside.isa.npu_commands import OPERATIONS, Command
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.program import Program
from bankside.isa.spec import Spec, load_spec, parse_spec
from bankside.sim.agree import Trio, compare_bits, compare_cycles
from bankside.sim.golden.npu import NpuGolden
from bankside.sim.timing.npu import NpuTiming
from bankside.strict_yaml import load_yaml

ROOT = Path(__file__).parents[2]
NPU = load_spec("npu")
MACHINE = NpuMachine.of(HardwareConfig.load("npu_llm_32"))
ROW = MACHINE.bus_bytes
#: Registers that only move or change data, on which time does not depend.
TIMELESS = {
    "ifm", "ifm_sy", "ifm_sx", "ifm_h", "ifm_w", "ifm_zero", "ifm_bits", "ifm2", "ifm2_sy",
    "ifm2_sx", "ifm2_broadcast", "ifm2_zero", "ifm2_bits", "ofm", "ofm_sy", "ofm_sx", "ofm_zero",
    "ofm_bits", "ofm_min", "ofm_max", "stride_y", "stride_x", "pad_top", "pad_left", "dilation_y",
    "dilation_x", "scale", "rounding", "lut", "a_mult", "a_shift", "b_mult", "b_shift",
    "left_shift", "o_mult", "o_shift", "epsilon", "epsilon_shift", "src", "src_s0", "src_s1",
    "src_s2", "dst", "dst_s0", "dst_s1", "dst_s2", "wide",
}  # fmt: skip


def quoted(*patterns: str) -> str:
    """Source text of files of the project."""
    return "".join(path.read_text() for pattern in patterns for path in sorted(ROOT.glob(pattern)))


GOLDEN = quoted("sim/golden/npu*.py")
CHECKS = quoted("isa/npu_commands.py", "isa/npu_weights.py")
TIMING = quoted("sim/timing/npu*.py")
RTL = quoted("hw/npu/*.py", "hw/npu/*/*.py")
DOCUMENT = (ROOT / "docs" / "npu.md").read_text()
SPECIFICATION = NPU.path.read_text()


# --- commands -----------------------------------------------------------------------------------

# The image: 64 rows that go to word 0 of the shared buffer, 24 of weights, 32 that take results.
DATA, WEIGHTS, STORE = 64 * ROW, 24 * ROW, 32 * ROW
REGIONS = ((0, DATA + WEIGHTS), (DATA + WEIGHTS, STORE))
OFM = 2 * MACHINE.shared_words // MACHINE.config.npu.banks
LOAD = [
    {"rows": 1, "row_bytes": DATA}, ("DMA", {"direction": "to_shared"}),
    {"offset": DATA, "row_bytes": WEIGHTS}, ("DMA", {"direction": "to_weights"}),
    ("DMA_WAIT", {}),
]  # fmt: skip
SAVE = [
    ("KERNEL_WAIT", {}),
    {"region": 1, "offset": 0, "row_bytes": STORE, "buf": OFM * 32},
    ("DMA", {"direction": "to_memory"}),
]
MAP = {
    "ifm_sx": 1, "ifm_sy": 4, "ifm_h": 4, "ifm_w": 4, "ifm_c": 20, "ofm": OFM, "ofm_sx": 1,
    "ofm_sy": 4, "ofm_h": 4, "ofm_w": 4, "ofm_c": 20, "ofm_min": -100, "ofm_max": 99,
}  # fmt: skip
WINDOW = {
    "kernel_h": 2, "kernel_w": 1, "stride_y": 1, "stride_x": 1, "dilation_y": 1, "dilation_x": 1,
    "block": 5, "pad_top": 1,
}  # fmt: skip
RECORDS = {"scale": 64, "scale_mode": 1}
RAW = {"weight_format": 1}
OTHER = {"ifm2": 32, "ifm2_sx": 1, "ifm2_sy": 4}
SCALES = {"o_mult": 1 << 30, "a_mult": 1 << 30, "b_mult": 1 << 30, "left_shift": 2}
COPY = {"n0": 2, "n1": 3, "n2": 5, "src": 3, "src_s0": 64, "src_s1": 1, "src_s2": 3,
        "dst": OFM * 32, "dst_s0": 15, "dst_s1": 5, "dst_s2": 1}  # fmt: skip


def operation(name: str, *registers: dict, **operands) -> list:
    return [*LOAD, *registers, (name, operands), *SAVE]


# Command -> commands of a legal program that executes it, with hardly anything else.
PROGRAMS = {
    "STOP": [],
    "IRQ": [("IRQ", {"code": 7})],
    "SET": [{"ifm_h": 5}],
    "PMU": [("PMU", {"enable": 0}), ("PMU", {"enable": 1})],
    "DMA": LOAD,
    "DMA_WAIT": LOAD,
    "KERNEL_WAIT": [("KERNEL_WAIT", {})],
    "CONV": operation("CONV", MAP, WINDOW, RECORDS, RAW),
    "DEPTHWISE": operation("DEPTHWISE", MAP, WINDOW, RECORDS, RAW),
    "MATMUL": operation("MATMUL", MAP, WINDOW, RECORDS, OTHER),
    "POOL": operation("POOL", MAP, WINDOW, mode="average"),
    "ELEMENTWISE": operation("ELEMENTWISE", MAP, OTHER, SCALES, op="sub"),
    "SOFTMAX": operation("SOFTMAX", MAP, {"lut": 96}),
    "NORM": operation("NORM", MAP, {"scale": 64, "o_shift": 50}, mode="layer"),
    "COPY": operation("COPY", COPY),
}


def program(name: str) -> Program:
    words = []
    for command in (*PROGRAMS[name], ("STOP", {})):
        if isinstance(command, dict):
            words += [NPU.encode("SET", reg=r, value=v & 0xFFFFFFFF) for r, v in command.items()]
        else:
            words.append(NPU.encode(command[0], **command[1]))
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, DATA + WEIGHTS + STORE, dtype=np.uint8)
    records = image[64 * 32 : 96 * 32].reshape(-1, 16)
    records[:, 1:4], records[:, 7], records[:, 8], records[:, 9:] = 0, 80, 0xF7, 0  # shift -9
    image[96 * 32 : 128 * 32].reshape(-1, 4)[:, 3] &= 127  # exponentials
    rows = image.view("<u2").reshape(-1, MACHINE.burst_elements).astype(np.uint16)
    return Program("npu", tuple(words), rows, regions=REGIONS)


def missing_partners(spec: Spec) -> list[str]:
    """One line for every command that something does not know, with the place to add it."""
    found = []
    for name, command in spec.commands.items():
        lacks = []
        places = {
            "sim/timing/npu*.py: its cycles": TIMING,
            "hw/npu: what executes it": RTL,
        }
        if command.engine == "control":
            # Golden model and checks pass over the other ones: they have no bits.
            places |= {"isa/npu_commands.py: the end": CHECKS} if name == "STOP" else {}
        else:
            places |= {
                "isa/npu_commands.py: its checks": CHECKS,
                "sim/golden/npu*.py: its bits": GOLDEN + CHECKS,
            }
        lacks += [place for place, text in places.items() if f'"{name}"' not in text]
        if name not in DOCUMENT:
            lacks.append("docs/npu.md: what it does, cycle by cycle")
        if name not in PROGRAMS:
            lacks.append("tests/conformance/test_npu_partners.py: a program")
        if not command.doc:
            lacks.append("isa/npu.yaml: doc")
        found += [f"command {name} lacks {partner}" for partner in lacks]
    return found


def test_no_partner_of_a_command_is_missing():
    assert missing_partners(NPU) == []
    kernel = {name for name, command in NPU.commands.items() if command.engine == "kernel"}
    assert set(OPERATIONS) == kernel


@pytest.mark.parametrize("engine", [*NPU.engines, "control"])
def test_missing_partners_of_a_command_are_named(engine):
    """A command that only the specification knows: every place that lacks it is in the text."""
    data = copy.deepcopy(load_yaml(NPU.path)[0])
    data["commands"]["FROB"] = {"opcode": 0x3F, "engine": engine}
    found = missing_partners(parse_spec(data, NPU.path))
    assert all(line.startswith("command FROB lacks ") for line in found)
    text = "\n".join(found)
    places = ["docs/npu.md", "tests/conformance", "isa/npu.yaml: doc", "sim/timing", "hw/npu"]
    places += [] if engine == "control" else ["isa/npu_commands.py", "sim/golden"]
    assert [place for place in places if place not in text] == []


@pytest.mark.parametrize("name", NPU.commands)
def test_golden_and_timing_execute_it(name):
    chosen = program(name)
    assert name in {ins.name for ins in chosen.instructions()}
    verify_program(chosen, MACHINE)
    NpuGolden(MACHINE).run(chosen)
    traced = NpuTiming(MACHINE).run(chosen, trace=True)
    assert traced.cycles == NpuTiming(MACHINE).run(chosen).cycles
    assert sum(traced.counters.values()) == traced.cycles - (name == "PMU")
    command = NPU.commands[name]
    if command.engine != "control":
        events = {(int(m["engine"]), int(m["opcode"])) for m in traced.macros}
        assert (NPU.engines.index(command.engine), command.opcode) in events


@pytest.mark.parametrize("name", OPERATIONS)
def test_its_program_computes_something(name):
    """Results that differ, and other results for other inputs."""
    chosen = program(name)
    results = NpuGolden(MACHINE).run(chosen).outputs[-32:].view(np.uint8)
    assert len(set(results.reshape(-1).tolist())) > 8
    image = chosen.host_in.copy()
    image[:8] ^= 0x0101
    other = Program("npu", chosen.words, image, regions=REGIONS)
    assert not np.array_equal(NpuGolden(MACHINE).run(other).outputs[-32:].view(np.uint8), results)


def test_rtl_executes_every_command():
    """One machine, one program per command, bits and cycles compared."""
    trio = Trio(MACHINE)
    for name in NPU.commands:
        rtl, bits, cycles = trio.run(program(name))
        assert (bits, cycles) == (None, None), name
        assert rtl.cycles


def test_a_difference_would_be_noticed():
    golden, timing = NpuGolden(MACHINE), NpuTiming(MACHINE)
    a, b = program("CONV"), program("MATMUL")
    first, second = golden.run(a), golden.run(b)
    assert compare_bits(first, second) is not None
    assert compare_cycles(timing.run(a, trace=True), timing.run(b, trace=True)) is not None


# --- registers ----------------------------------------------------------------------------------


def checked_registers() -> set[str]:
    """Registers whose range is checked by the operations that use them."""
    found = set()
    for name in OPERATIONS:
        for op in range(4 if name == "ELEMENTWISE" else 1):
            for mode in (0, 1):
                registers = dict.fromkeys(NPU.enums["register"], mode)
                found |= set(Command(MACHINE, 0, name, {"op": op}, registers).used())
    return found


def missing_of_register(name: str) -> list[str]:
    alone = f"    {name}: "
    lines = [line for line in SPECIFICATION.splitlines() if line.startswith(alone)]
    used = name in checked_registers() or f'"{name}"' in GOLDEN + CHECKS
    places = {
        "isa/npu_commands.py: its check, or sim/golden: its use": used,
        "sim/timing/npu*.py: its use, or TIMELESS here": f'"{name}"' in TIMING or name in TIMELESS,
        "hw/npu: its use": re.search(rf'"{name}"|state\.{name}\b', RTL) is not None,
        "isa/npu.yaml: its number": len(lines) == 1,
    }
    return [f"register {name} lacks {place}" for place, ok in places.items() if not ok]


@pytest.mark.parametrize("name", NPU.enums["register"])
def test_no_partner_of_a_register_is_missing(name):
    assert missing_of_register(name) == []


def test_missing_partners_of_a_register_are_named():
    places = [line.partition(" lacks ")[2].split(":")[0] for line in missing_of_register("lunch")]
    assert places == [
        "isa/npu_commands.py", "sim/timing/npu*.py", "hw/npu", "isa/npu.yaml",
    ]  # fmt: skip
    assert TIMELESS < set(NPU.enums["register"])


@pytest.mark.parametrize("name", sorted(TIMELESS))
def test_time_does_not_depend_on_it(name):
    """The timing model, with two values in it."""
    for operated in OPERATIONS:
        chosen = program(operated)
        at = next(i for i, w in enumerate(chosen.words) if NPU.decode(w).name == operated)
        found = []
        for value in (0, 3):
            words = list(chosen.words)
            words.insert(at, NPU.encode("SET", reg=name, value=value))
            changed = Program("npu", tuple(words), chosen.host_in, regions=REGIONS)
            found.append(NpuTiming(MACHINE).run(changed, trace=True))
        assert compare_cycles(*found) is None


# --- stall reasons ------------------------------------------------------------------------------


def missing_stalls(reasons: tuple[str, ...]) -> list[str]:
    found = []
    kernel = {name.lower() for name in OPERATIONS}  # counted under their name
    for reason in reasons:
        places = {
            "sim/timing/npu*.py: its cycles": f'"{reason}"' in TIMING or reason in kernel,
            "hw/npu: a case": f'"{reason}"' in RTL,
            "docs/npu.md: section 8": f"`{reason}`" in DOCUMENT,
        }
        found += [f"stall reason {reason} lacks {where}" for where, ok in places.items() if not ok]
    return found


def test_stall_reasons_are_known_everywhere():
    assert missing_stalls(NPU.stalls) == []
    assert list(NpuTiming(MACHINE).run(program("STOP")).counters) == list(NPU.stalls)


def test_missing_stall_reasons_are_named():
    assert missing_stalls((*NPU.stalls, "lunch")) == [
        "stall reason lunch lacks sim/timing/npu*.py: its cycles",
        "stall reason lunch lacks hw/npu: a case",
        "stall reason lunch lacks docs/npu.md: section 8",
    ]
