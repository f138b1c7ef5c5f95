"""Any design in lanes and in Verilator, with the same inputs in every cycle."""

import ctypes
from pathlib import Path

import numpy as np

from bankside.sim.elaborate import to_json, to_verilog
from bankside.sim.lanes.lanes import Lanes, limbs
from bankside.sim.rtl.verilate import build_library

_SHIM = """
#include <vector>
#include "V{top}.h"
#include "bankside_shim.h"
using Model = bankside::Model<V{top}>;
extern "C" {{
void* model_new() {{ return new Model; }}
void model_delete(void* h) {{ delete static_cast<Model*>(h); }}
void model_settle(void* h, const uint64_t* in, uint64_t* out) {{
    auto& model = *static_cast<Model*>(h);
    auto& top = *model.top;
{put}
    model.settle();
    // Clock gates look at the falling edge, at which the inputs of a cycle are there already.
    model.fall();
    model.settle();
{get}
}}
void model_step(void* h) {{ static_cast<Model*>(h)->rise(); }}
}}
"""


class Verilated:
    """A Verilated design with inputs and outputs as 64-bit words, in the order of the places."""

    def __init__(self, component, top: str, lanes: Lanes, folder: Path) -> None:
        self.inputs = [p for p in lanes.design.places if p.kind == "input"]
        self.outputs = [p for p in lanes.design.places if p.kind == "output"]
        shim = folder / f"{top}_lockstep.cpp"
        put = self._lines(self.inputs, "put_words", "in")
        get = self._lines(self.outputs, "get_words", "out")
        shim.write_text(_SHIM.format(top=top, put=put, get=get))
        self.library = build_library(to_verilog(component, top), top, shim)
        self.library.model_new.restype = ctypes.c_void_p
        self.handle = ctypes.c_void_p(self.library.model_new())

    @staticmethod
    def _lines(places, function: str, array: str) -> str:
        lines, at = [], 0
        for place in places:
            name = place.path.replace("__", "___05F")
            lines.append(f"    bankside::{function}(top.{name}, {place.width}, {array} + {at});")
            at += -(-place.width // 64)
        return "\n".join(lines)

    def settle(self, values: np.ndarray) -> np.ndarray:
        out = np.zeros(sum(-(-p.width // 64) for p in self.outputs), "<u8")
        self.library.model_settle(
            self.handle, ctypes.c_void_p(values.ctypes.data), ctypes.c_void_p(out.ctypes.data)
        )
        return out

    def step(self) -> None:
        self.library.model_step(self.handle)

    def close(self) -> None:
        self.library.model_delete(self.handle)


def words(places, rows) -> np.ndarray:
    """64-bit words of one lane."""
    parts = []
    for place in places:
        row = np.zeros(2 * -(-place.width // 64), "<u4")
        row[: place.limbs] = rows[place.path]
        parts.append(row.view("<u8"))
    return np.concatenate(parts)


def random_inputs(places, lanes: int, rng, quiet: float) -> dict[str, np.ndarray]:
    """Random values; ports of a bit are often zero, so that something happens in between."""
    out = {}
    for place in places:
        size = -(-place.width // 8)
        drawn = [int.from_bytes(rng.bytes(size), "little") for _ in range(lanes)]
        rows = limbs(drawn, 8 * size)
        mask = limbs([(1 << place.width) - 1], place.width)
        rows = rows[:, : place.limbs] & mask
        if place.path == "rst":
            rows[:] = rng.random((lanes, 1)) < 0.002
        elif rng.random() < quiet:
            rows[:] = 0
        elif place.width > 4 and rng.random() < 0.5:
            rows &= limbs([7], place.width)  # small numbers, such as addresses that hit
        out[place.path] = rows
    return out


def lockstep(
    component, top: str, folder: Path, *, cycles: int, seed: int, models: int = 3, engine=Lanes
) -> int:
    """Compare all outputs of some lanes with Verilator's in every cycle; how many outputs were not
    zero. engine: class of the lanes.
    """
    lanes = engine(to_json(component, top), 16)
    rng = np.random.default_rng(seed)
    verilated = [Verilated(component, top, lanes, folder) for _ in range(models)]
    checked = sorted(rng.choice(lanes.lanes, models, replace=False).tolist())
    inputs, outputs = verilated[0].inputs, verilated[0].outputs
    seen = 0
    for cycle in range(cycles):
        values = next_inputs(inputs, lanes.lanes, rng, cycle)
        apply(lanes, values)
        got = {p.path: lanes.get(p.path) for p in outputs}
        for lane, model in zip(checked, verilated, strict=True):
            expected = model.settle(words(inputs, {k: v[lane] for k, v in values.items()}))
            found = words(outputs, {k: v[lane] for k, v in got.items()})
            _same(outputs, expected, found, f"cycle {cycle}, lane {lane} (seed {seed})")
            seen += int((expected != 0).sum())
            model.step()
        lanes.step()
    for model in verilated:
        model.close()
    return seen


def next_inputs(inputs, lanes: int, rng, cycle: int) -> dict[str, np.ndarray]:
    """Random inputs; reset in the first two cycles, and calm from time to time."""
    values = random_inputs(inputs, lanes, rng, 0.3 if cycle % 64 < 48 else 0.8)
    if cycle < 2 and "rst" in values:
        values["rst"][:] = 1
    return values


def apply(lanes, values: dict[str, np.ndarray]) -> None:
    for port, rows in values.items():
        lanes.set(port, rows)
    lanes.settle()


def _same(outputs, expected: np.ndarray, found: np.ndarray, where: str) -> None:
    at = 0
    for p in outputs:
        n = -(-p.width // 64)
        one, other = expected[at : at + n], found[at : at + n]
        assert np.array_equal(one, other), f"{where}, {p.path}: Verilator {one}, lanes {other}"
        at += n


def agree(first, second, *, cycles: int, seed: int) -> int:
    """Two engines of one design: all outputs in every cycle, registers and memories in between; how
    many outputs were not zero.
    """
    rng = np.random.default_rng(seed)
    inputs = [p for p in first.design.places if p.kind == "input"]
    seen = 0
    for cycle in range(cycles):
        values = next_inputs(inputs, first.lanes, rng, cycle)
        apply(first, values)
        apply(second, values)
        seen += same_outputs(first, second, f"cycle {cycle}")
        first.step()
        second.step()
        if cycle % 16 == 15:
            same_state(first, second, f"after cycle {cycle}")
    return seen


def same_outputs(first, second, where: str) -> int:
    seen = 0
    for p in first.design.places:
        if p.kind == "output":
            one, other = first.get(p.path), second.get(p.path)
            assert np.array_equal(one, other), f"{where}: output {p.path}: {one} {other}"
            seen += int(one.any())
    return seen


def same_state(first, second, where: str) -> None:
    for p in first.design.places:
        if p.kind == "flop":
            one, other = first.read(p.path), second.read(p.path)
            assert np.array_equal(one, other), f"{where}: register {p.path}: {one} {other}"
        elif p.kind == "memory":
            for word in range(p.depth):
                one, other = first.read_memory(p.path, word), second.read_memory(p.path, word)
                assert np.array_equal(one, other), f"{where}: {p.path}[{word}]: {one} {other}"
