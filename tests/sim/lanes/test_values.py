"""Values from outside: what does not fit is refused, by both engines with the same words."""

import sys
from pathlib import Path

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.sim.elaborate import to_json
from bankside.sim.lanes.lanes import Lanes, ints, limbs
from bankside.sim.lanes.numpy_lanes import NumpyLanes

sys.path.insert(0, str(Path(__file__).parent))

from random_design import RandomDesign  # noqa: E402

#: in1 has 33 bits, in2 32, in3 5, in5 1; memory1 13 words of 9 bits, r4 33 bits.
ROWS = limbs(range(16), 33)


@pytest.fixture(scope="module")
def netlist() -> Path:
    return to_json(RandomDesign(0), "bankside_random")


@pytest.fixture(scope="module", params=[Lanes, NumpyLanes], ids=lambda c: c.__name__)
def lanes(request, netlist):
    return request.param(netlist)


def with_limb(lane: int, limb: int, value: int) -> np.ndarray:
    rows = ROWS.astype(np.int64)
    rows[lane, limb] = value
    return rows


WRONG = {
    # --- names ---
    "unknown": (lambda e: e.set("adress", 0), r"no input 'adress' in the design; nearest: address"),
    "output": (lambda e: e.set("o3", 0), r"no input 'o3' in the design; it is of kind output"),
    "register": (lambda e: e.get("r4"), r"no output 'r4' in the design; it is of kind flop"),
    "flop": (lambda e: e.read("r5"), r"no flop 'r5' in the design; nearest: r"),
    "memory": (lambda e: e.read_memory("memory", 0), r"no memory 'memory' .* nearest: memory"),
    "net": (lambda e: e.find("net", "v1"), r"no net 'v1' .*have no nets: make them with nets=True"),
    # --- integers ---
    "wide": (lambda e: e.set("in3", 32),
             r"input 'in3' has 5 bits; got .*: 0x20; expected 0 to 2\^5 - 1: cut it with & 0x1f"),
    "one bit": (lambda e: e.set("in5", 2), r"'in5' has 1 bits; got a value with more: 0x2;"),
    "limbs": (lambda e: e.set("in1", 1 << 33), r"'in1' has 33 bits; .*more: 0x200000000;"),
    "negative": (lambda e: e.set("in2", -1), r"'in2' has 32 bits; got a negative value: -1;"),
    "in a flop": (lambda e: e.write("r4", 1 << 33), r"flop 'r4' has 33 bits; got a value with mo"),
    "in a word": (lambda e: e.write_memory("memory1", 0, 512), r"memory 'memory1' has 9 bits; got"),
    "numpy": (lambda e: e.set("in3", np.uint64(32)), r"'in3' has 5 bits; got a value with more"),
    # --- arrays ---
    "one lane": (lambda e: e.set("in1", with_limb(3, 1, 2)),
                 r"'in1' has 33 bits; got a value with more: 0x200000003 in lane 3; expected"),
    "a limb": (lambda e: e.set("in1", with_limb(2, 0, 1 << 32)),
               r"'in1': limb 0 of lane 2 is 4294967296; expected 0 to 2\^32 - 1: `limbs\(values, "),
    "a negative limb": (lambda e: e.set("in1", with_limb(5, 0, -1)), r"limb 0 of lane 5 is -1;"),
    "a lane too few": (lambda e: e.set("in1", ROWS[1:]),
                       r"input 'in1' of 33 bits: values of shape \[15, 2\]; expected \[16, 2\]"),
    "limbs too few": (lambda e: e.write("r4", ROWS[:, 0]), r"shape \[16\]; expected \[16, 2\]"),
    "limbs first": (lambda e: e.set("in1", ROWS.T), r"shape \[2, 16\]; expected \[16, 2\]"),
    "floats": (lambda e: e.set("in3", np.ones(16)), r"values of type float64; expected an integer"),
    "objects": (lambda e: e.set("in1", np.array([1 << 32] * 16, object)), r"values of type object"),
    "text": (lambda e: e.set("in3", "1"), r"input 'in3': values of type <U1; expected an integer"),
    # --- words, cycles ---
    "word": (lambda e: e.read_memory("memory1", 13),
             r"memory 'memory1' has 13 words; got word 13; expected 0 to 12"),
    "last word": (lambda e: e.write_memory("memory1", -1, 0), r"13 words; got word -1; expected 0"),
    "back": (lambda e: e.step(-1), r"-1 cycles; expected 0 or more: lanes cannot go back"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values(lanes, name) -> None:
    """Refused, and nothing has changed."""
    act, message = WRONG[name]
    for port in ("in1", "in2", "in3", "in5"):
        lanes.set(port, 1)
    lanes.write("r4", 5)
    lanes.write_memory("memory1", 12, 7)
    lanes.settle()
    before = [lanes.get(f"o{i}").tolist() for i in range(71)]
    with pytest.raises(ConfigError, match=message):
        act(lanes)
    lanes.settle()
    assert [lanes.get(f"o{i}").tolist() for i in range(71)] == before
    assert ints(lanes.read("r4")) == [5] * 16
    assert ints(lanes.read_memory("memory1", 12)) == [7] * 16


def test_values_that_fit(lanes) -> None:
    """Everything up to the last bit; one limb may be without its dimension. Ports are shown."""
    for values, width, port in (
        (list(range((1 << 33) - 16, 1 << 33)), 33, "in1"),
        (list(range(16, 32)), 5, "in3"),
        ([0, 1] * 8, 1, "in5"),
    ):
        shapes = [limbs(values, width)]
        if width <= 32:
            shapes += [np.array(values, np.int64), np.array(values, np.uint8)]
        for rows in shapes:
            lanes.set(port, rows)
            lanes.settle()
            assert ints(lanes.get(f"o{port[2:]}")) == values
    lanes.set("in5", np.array([False, True] * 8))
    lanes.set("in3", np.int8(31))
    lanes.settle()
    assert ints(lanes.get("o5")) == [0, 1] * 8 and ints(lanes.get("o3")) == [31] * 16


@pytest.mark.parametrize("engine", [Lanes, NumpyLanes])
def test_lanes_that_are_none(engine, netlist) -> None:
    with pytest.raises(ConfigError, match="0 lanes; expected 1 or more"):
        engine(netlist, 0)


@pytest.mark.parametrize("engine", [Lanes, NumpyLanes])
def test_lanes_that_are_closed(engine, netlist) -> None:
    lanes = engine(netlist)
    lanes.close()
    for act in (
        lanes.settle, lanes.step, lambda: lanes.set("in3", 1), lambda: lanes.get("o3"),
        lambda: lanes.read("r4"), lambda: lanes.read_memory("memory1", 0),
        lambda: lanes.write_memory("memory1", 0, 1),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=r"these lanes are closed; reset\(\) makes new ones"):
            act()
    lanes.reset()
    lanes.set("in3", 9)
    lanes.settle()
    assert ints(lanes.get("o3")) == [9] * 16
