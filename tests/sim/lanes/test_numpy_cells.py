"""Every cell on numpy against Yosys' own evaluation of constants, and against the cells in C."""

import itertools
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bankside.errors import ToolError
from bankside.sim.lanes.lanes import Lanes
from bankside.sim.lanes.netlist import COMBINATIONAL, Cell, Part, Word
from bankside.sim.lanes.numpy_cells import Source, compute, parity
from bankside.sim.lanes.numpy_code import held, joined_limbs, split_limbs
from bankside.sim.lanes.numpy_lanes import NumpyLanes

sys.path.insert(0, str(Path(__file__).parent))

from lockstep import agree  # noqa: E402

WIDTHS = (1, 1, 2, 7, 31, 32, 33, 63, 64, 65, 96, 130)
UNARY = ("$not", "$pos", "$neg", "$reduce_and", "$reduce_or", "$reduce_xor", "$reduce_xnor",
         "$reduce_bool", "$logic_not")  # fmt: skip
SHIFTS = ("$shl", "$sshl", "$shr", "$sshr", "$shift", "$shiftx")
SELECTING = ("$mux", "$pmux")
BINARY = tuple(c for c in COMBINATIONAL if c not in (*UNARY, *SELECTING))


def numbers(width: int, rng, count: int) -> list[int]:
    """Corners first."""
    whole = (1 << width) - 1
    corners = [0, whole, 1, whole >> 1, 1 << width - 1, whole ^ 1]
    drawn = [int.from_bytes(rng.bytes(20), "little") & whole for _ in range(count - len(corners))]
    # Numbers of all sizes, for shifts above all.
    return [v & whole for v in corners] + [v >> int(rng.integers(width)) for v in drawn]


def evaluated(kind: str, parameters: dict, operands: dict, width: int) -> list[int]:
    """What numpy says; operands: port -> (width, values)."""
    words = {p: Word(p, w, "input", i) for i, (p, (w, _)) in enumerate(operands.items())}
    inputs = {p: (Part(word, 0, word.width),) for p, word in words.items()}
    cell = Cell(kind, kind, parameters, inputs, Word("Y", width, "cell", len(words)))
    names = {"where": np.where, "minimum": np.minimum, "parity": parity,
             "U": np.uint64, "O": np.object_, "I": np.int64}  # fmt: skip
    source = Source(lambda word: f"w[{word.index}]", names)
    result = source.let(compute(cell, source))
    names["w"] = [_lanes(values, w) for w, values in operands.values()]
    exec("\n".join(source.lines), names)
    count = len(names["w"][0])
    rows = np.broadcast_to(split_limbs(names[result], -(-width // 64)), (count, -(-width // 64)))
    assert names[result].dtype == held(0, width, 1).dtype
    return [sum(int(v) << 64 * i for i, v in enumerate(row)) for row in rows]


def _lanes(values: list[int], width: int) -> np.ndarray:
    limbs = [[v >> 64 * i & (1 << 64) - 1 for i in range(-(-width // 64))] for v in values]
    return joined_limbs(np.array(limbs, np.uint64), width)


@pytest.fixture(scope="module")
def yosys():
    library = pytest.importorskip("pyosys.libyosys")

    def constant(value: int, width: int):
        return library.Const.from_string(format(value, f"0{width}b"))

    def number(const) -> int:
        return int(const.as_string().replace("x", "0"), 2)

    def call(kind, *arguments):
        return number(getattr(library, "const_" + kind[1:])(*arguments))

    return SimpleNamespace(constant=constant, call=call, none=library.Const.from_string(""))


def _signs(kind: str) -> list[tuple[bool, bool]]:
    """B of a shift is a count; other operands have signs together or not at all. What `$shiftx`
    shifts in is undefined, so that a sign of its operand means nothing.
    """
    if kind == "$shiftx":
        return [(False, False)] * 2
    return [(False, False), (True, False if kind in SHIFTS or kind in UNARY else True)]


@pytest.mark.parametrize("kind", (*UNARY, *BINARY))
def test_cell_is_that_of_yosys(kind, yosys) -> None:
    rng = np.random.default_rng(sum(map(ord, kind)))
    for _, (a_sign, b_sign) in itertools.product(range(30), _signs(kind)):
        a_width, b_width, width = (int(rng.choice(WIDTHS)) for _ in range(3))
        if kind in SHIFTS:
            b_width = int(rng.choice([1, 3, 7, 8, 70]))
        a, b = numbers(a_width, rng, 24), numbers(b_width, rng, 24)[::-1]
        parameters = {"A_SIGNED": int(a_sign), "B_SIGNED": int(b_sign)}
        operands = {"A": (a_width, a)} | ({} if kind in UNARY else {"B": (b_width, b)})
        found = evaluated(kind, parameters, operands, width)
        for x, y, got in zip(a, b, found, strict=True):
            second = yosys.none if kind in UNARY else yosys.constant(y, b_width)
            expected = yosys.call(
                kind, yosys.constant(x, a_width), second, a_sign, b_sign, width
            )  # fmt: skip
            assert got == expected, (kind, a_width, b_width, width, a_sign, b_sign, x, y)


@pytest.mark.parametrize("width", sorted(set(WIDTHS)))
def test_selection_is_that_of_yosys(width, yosys) -> None:
    rng = np.random.default_rng(width)
    a, b, select = numbers(width, rng, 24), numbers(width, rng, 24)[::-1], [0, 1, 1, 0] * 6
    found = evaluated("$mux", {}, {"A": (width, a), "B": (width, b), "S": (1, select)}, width)
    for x, y, s, got in zip(a, b, select, found, strict=True):
        parts = [yosys.constant(v, w) for v, w in ((x, width), (y, width), (s, 1))]
        assert got == yosys.call("$mux", *parts)
    lines = [1 << i % 6 & 0x1F for i in range(24)]
    many = numbers(5 * width, rng, 24)
    operands = {"A": (width, a), "B": (5 * width, many), "S": (5, lines)}
    for x, y, s, got in zip(a, many, lines, evaluated("$pmux", {}, operands, width), strict=True):
        parts = [yosys.constant(v, w) for v, w in ((x, width), (y, 5 * width), (s, 5))]
        assert got == yosys.call("$pmux", *parts)


def test_first_line_of_several_wins() -> None:
    operands = {"A": (8, [9] * 4), "B": (24, [0x030201] * 4), "S": (3, [0b110, 0b101, 0b100, 0])}
    assert evaluated("$pmux", {}, operands, 8) == [2, 1, 3, 9]


def test_shift_by_an_amount_with_a_sign_is_refused() -> None:
    operands = {"A": (8, [1]), "B": (4, [1])}
    with pytest.raises(ToolError, match=r"\$shift: a shift by an amount with a sign"):
        evaluated("$shift", {"A_SIGNED": 0, "B_SIGNED": 1}, operands, 8)


# --- against C ----------------------------------------------------------------------------------
def _netlist(rng, per_kind: int) -> dict:
    """JSON of a module with cells of every type and random widths on common operands."""
    wide = 5 * max(WIDTHS)
    bits = {"a": list(range(2, 2 + wide)), "b": list(range(2 + wide, 2 + 2 * wide)),
            "s": list(range(2 + 2 * wide, 7 + 2 * wide))}  # fmt: skip
    ports = {p: {"direction": "input", "bits": b} for p, b in bits.items()}
    cells, fresh = {}, 7 + 2 * wide
    for kind, number in itertools.product(COMBINATIONAL, range(per_kind)):
        width = int(rng.choice(WIDTHS))
        out = list(range(fresh, fresh := fresh + width))
        name = f"{kind[1:]}{number}"
        ports[name] = {"direction": "output", "bits": out}
        cells[name] = _cell(kind, rng, bits, out)
    names = {n: {"bits": p["bits"], "attributes": {}} for n, p in ports.items()}
    module = {"attributes": {"top": "1"}, "ports": ports, "cells": cells, "netnames": names}
    return {"modules": {"zoo": module}}


def _cell(kind: str, rng, bits: dict, out: list[int]) -> dict:
    if kind in SELECTING:
        lines = 1 if kind == "$mux" else 5
        inputs = {"A": bits["a"][: len(out)], "B": bits["b"][: lines * len(out)],
                  "S": bits["s"][:lines]}  # fmt: skip
        parameters = {"WIDTH": format(len(out), "032b")}
    else:
        a_sign, b_sign = _signs(kind)[int(rng.integers(2))]
        widths = [int(rng.choice(WIDTHS)) for _ in "AB"]
        if kind in SHIFTS:
            widths[1] = int(rng.choice([1, 3, 7, 8, 70]))
        first = int(rng.integers(70))
        inputs = {"A": bits["a"][first : first + widths[0]], "B": bits["b"][: widths[1]]}
        parameters = {"A_SIGNED": format(a_sign, "b"), "B_SIGNED": format(b_sign, "b")}
        if kind in UNARY:
            del inputs["B"]
        elif rng.random() < 0.2:
            inputs["B"] = [str(int(rng.integers(2))) for _ in range(min(widths[1], 8))]
    directions = {**dict.fromkeys(inputs, "input"), "Y": "output"}
    return {"type": kind, "parameters": parameters, "port_directions": directions,
            "connections": {**inputs, "Y": out}}  # fmt: skip


@pytest.mark.parametrize("seed", range(2))
def test_cells_are_those_in_c(seed, tmp_path) -> None:
    rng = np.random.default_rng(seed)
    path = tmp_path / "zoo.json"
    path.write_text(json.dumps(_netlist(rng, 12)))
    assert agree(Lanes(path, 32), NumpyLanes(path, 32), cycles=30, seed=seed) > 1000
