"""Every command of a command set has all its partners; a missing one is named."""

import copy
import inspect
from pathlib import Path

import numpy as np
import pytest

from bankside.config import HardwareConfig
from bankside.isa.machine import Machine
from bankside.isa.program import Builder, Program
from bankside.isa.spec import Instruction, Spec, load_spec, parse_spec
from bankside.isa.verify import verify
from bankside.sim.agree import Trio, compare_bits, compare_cycles
from bankside.sim.golden.pim import PimGolden
from bankside.sim.timing.decode import Decoder
from bankside.sim.timing.pim import PimTiming
from bankside.strict_yaml import load_yaml

ROOT = Path(__file__).parents[2]
PIM = load_spec("pim")
MACHINE = Machine.of(HardwareConfig.load("pim_tiny_ddr4"))
BURST = np.arange(8, dtype=np.uint16) + 0x3C00


def quoted(folder: str) -> str:
    """Source text of a folder of the project."""
    return "".join(path.read_text() for path in sorted((ROOT / folder).glob("*.py")))


def missing_partners(spec: Spec) -> list[str]:
    """One line for every command that something does not know, with the place to add it."""
    rtl, semantics = quoted("hw/pim/controller"), (ROOT / "docs" / "pim.md").read_text()
    table, found = (ROOT / "docs" / "isa_pim.md").read_text(), []
    front = inspect.getsource(inspect.getmodule(Builder)) + quoted("sim/timing")
    decoder = Decoder(MACHINE, Program("pim", (), np.zeros((0, 8), np.uint16)))
    for name, command in spec.commands.items():
        lacks = []
        if command.engine == "control":
            if f'"{name}"' not in front:
                lacks.append("isa/program.py walk or sim/timing/front_end.py: the front end")
        else:
            if not hasattr(PimGolden, f"_{name.lower()}"):
                lacks.append(f"sim/golden/pim.py: method _{name.lower()}")
            if name not in MACHINE.completions:
                lacks.append("isa/machine.py: entry in Machine.completions")
            operands = {f.name: f.minimum for f in command.fields}
            try:
                shape = getattr(decoder, f"_{command.engine}")(Instruction(name, operands), 1)
                assert shape
            except (KeyError, AttributeError):
                lacks.append(f"sim/timing/decode.py: case in Decoder._{command.engine}")
        if f'"{name}"' not in rtl:
            lacks.append("hw/pim/controller: decoding")
        if f"`{name}`" not in table:
            lacks.append("docs/isa_pim.md: run `bankside docs`")
        if name not in semantics:
            lacks.append("docs/pim.md: what it does, cycle by cycle")
        if name not in PROGRAMS:
            lacks.append("tests/conformance/test_command_partners.py: a program")
        if not command.doc:
            lacks.append(f"isa/{spec.engine}.yaml: doc")
        found += [f"command {name} lacks {partner}" for partner in lacks]
    return found


def rows(b: Builder) -> None:
    b.OPEN(mode="staggered", row=1)


def looped(b: Builder) -> None:
    b.SETA(areg=1, value=2)
    b.LOOP(count=3)
    b.OPEN(mode="group", row=1, areg_en=1, areg=1)
    b.CLOSE(mode="all")
    b.ADDA(areg=1, value=1)
    b.ENDLOOP()


def stored(b: Builder) -> None:
    b.send(BURST, stage=3, layout="bit", signal="array")
    b.OPEN(bank=2, row=1)
    b.WR(bank=2, col=5, stage=3, wait="host")
    b.RD(bank=2, col=5, out=1, signal="host")
    b.CLOSE(bank=2)
    b.receive("x", 1, out=1, layout="bit", wait="array")


def attention(b: Builder) -> None:
    """Every command of scores, softmax and context once."""
    b.GEOM(nhc_log2=1, cpt=2, lanes=1)
    b.send(np.concatenate([BURST] * 2), stage=0, layout="head", signal="buffer")
    b.WRSBQ(stage=0, sb=0, count=2, wait="host", signal="array")
    rows(b)
    b.WRR(mode="tree", sb=0, rb=4, cpt=2)
    b.MAC(col=0, count=4, wait="buffer", signal="buffer")
    b.CLOSE(mode="all")
    b.RDRBS(rb=4, score=0, groups=1, valid=7, wait="array", signal="rank")
    b.SFM(score=0, prob=0, groups=1, valid=7, first=1, wait="buffer", signal="buffer")
    b.WRSBP(prob=0, sb=4, kbuf=0, groups=1, wait="rank", signal="array")
    rows(b)
    b.WRR(mode="acc", rescale=1, sb=4, rb=0, cpt=2)
    b.MAC(col=8, count=4, wait="buffer", signal="buffer")
    b.CLOSE(mode="all")
    b.RDRBC(rb=0, score=64, count=2, wait="array", signal="rank")
    b.NORM(score=64, out=0, count=2, wait="buffer", signal="host")
    b.receive("o", 2, out=0, layout="head", wait="rank")


# Command -> a legal program that executes it, with hardly anything else.
PROGRAMS = {
    "HALT": lambda b: None,
    "BARRIER": lambda b: b.BARRIER(),
    "LOOP": looped, "ENDLOOP": looped, "SETA": looped, "ADDA": looped,
    "GEOM": lambda b: b.GEOM(nhc_log2=1, cpt=3, lanes=2),
    "OPEN": lambda b: (rows(b), b.CLOSE(mode="all")),
    "CLOSE": lambda b: b.CLOSE(bank=1),
    "REF": lambda b: b.REF(),
    "WRR": lambda b: b.WRR(mode="acc", kbuf=1, sb=4, rb=2, cpt=3),
    "WR": stored, "RD": stored, "HWR": stored, "HRD": stored,
    "LDSB": lambda b: (b.OPEN(bank=1), b.LDSB(bank=1, col=3, count=2, sb=9, lane=1),
                       b.CLOSE(bank=1)),
    "MAC": attention, "WRSBQ": attention, "WRSBP": attention, "RDRBS": attention,
    "RDRBC": attention, "SFM": attention, "NORM": attention,
}  # fmt: skip


def program(name: str) -> Program:
    b = Builder("pim", MACHINE.burst_elements)
    PROGRAMS[name](b)
    return b.build()


def test_no_partner_is_missing():
    assert missing_partners(PIM) == []


@pytest.mark.parametrize("engine", [*PIM.engines, "control"])
def test_missing_partners_are_named(engine):
    """A command that only the specification knows: every place that lacks it is in the text."""
    data = copy.deepcopy(load_yaml(PIM.path)[0])
    data["commands"]["FROB"] = {"opcode": 0x3F, "engine": engine}
    found = missing_partners(parse_spec(data, PIM.path))
    assert all(line.startswith("command FROB lacks ") for line in found)
    text = "\n".join(found)
    places = ["hw/pim/controller", "docs/isa_pim.md", "docs/pim.md", "tests/conformance",
              "isa/pim.yaml: doc"]  # fmt: skip
    if engine == "control":
        places.append("isa/program.py")
    else:
        places += ["sim/golden/pim.py: method _frob", "isa/machine.py"]
    if engine == "array":
        places.append("sim/timing/decode.py: case in Decoder._array")
    assert [place for place in places if place not in text] == []


@pytest.mark.parametrize("name", PIM.commands)
def test_golden_and_timing_execute_it(name):
    chosen = program(name)
    assert name in {ins.name for ins in chosen.instructions()}
    verify(chosen, MACHINE)
    PimGolden(MACHINE).run(chosen)
    traced = PimTiming(MACHINE).run(chosen, trace=True)
    assert traced.cycles == PimTiming(MACHINE).run(chosen).cycles
    assert sum(traced.counters.values()) == traced.cycles
    command = PIM.commands[name]
    if command.engine != "control":
        engine = PIM.engines.index(command.engine)
        events = {(int(m["engine"]), int(m["opcode"])) for m in traced.macros}
        assert (engine, command.opcode) in events


def test_rtl_executes_every_command():
    """One machine, one program per command, bits and cycles compared."""
    trio = Trio(MACHINE)
    for name in PIM.commands:
        rtl, bits, cycles = trio.run(program(name))
        assert (bits, cycles) == (None, None), name
        assert rtl.cycles


def test_a_difference_would_be_noticed():
    golden, timing = PimGolden(MACHINE), PimTiming(MACHINE)
    a, b = program("HRD"), program("NORM")
    first, second = golden.run(a), golden.run(b)
    assert compare_bits(first, second) is not None
    assert compare_cycles(timing.run(a, trace=True), timing.run(b, trace=True)) is not None
