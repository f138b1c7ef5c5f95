"""The lane engine without a compiler: the same machines, evaluated by numpy.

For machines without a C compiler, and as a second opinion on `Lanes`: it
shares nothing with what turns a cell into C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError, ToolError
from bankside.sim.lanes.flatten import load
from bankside.sim.lanes.lanes import WIDTH, Lanes
from bankside.sim.lanes.netlist import width_of
from bankside.sim.lanes.numpy_code import (
    ModuleCode,
    State,
    array_of,
    joined_limbs,
    split_limbs,
)
from bankside.sim.lanes.places import Place
from bankside.sim.lanes.schedule import plan_all
from bankside.sim.lanes.values import count_of_cycles, count_of_lanes, place_of, rows_of, word_of
from bankside.sim.rtl.tools import find_cxx

Engine = Literal["auto", "compiled", "numpy"]


@dataclass(frozen=True)
class NumpyDesign:
    """The places of a design."""

    places: tuple[Place, ...]


@dataclass(frozen=True)
class _Home:
    """Where a place is: instances to walk down from the top, number of a word or memory, port."""

    path: tuple[int, ...]
    index: int
    port: str = ""


class NumpyLanes:
    """What `Lanes` is, without a compiler: the same names, arguments, values and errors.

    `offset` of a place is its number.
    """

    def __init__(self, netlist: Path, lanes: int = WIDTH, *, nets: bool = False) -> None:
        self.groups = -(-count_of_lanes(lanes) // WIDTH)
        self._top = load(netlist)
        made: dict[int, ModuleCode] = {}
        for plan in plan_all(self._top):
            made[id(plan.module)] = ModuleCode(plan, made, nets)
        self._code = made[id(self._top)]
        # Phases without inputs come first.
        self._early = sum(not phase.needs and not phase.last for phase in self._code.plan.phases)
        self.lanes = self.groups * WIDTH
        found = list(_places(self._code, "", ()))
        self.design = NumpyDesign(tuple(place for place, _ in found))
        self.places = {(p.kind, p.path): p for p, _ in found}
        self._homes = [home for _, home in found]
        self.reset()

    def close(self) -> None:
        """Free the machines."""
        self._state: State | None = None

    def reset(self) -> None:
        """Power-on: registers and memories have their first values, inputs are zero."""
        self._state = State(self._code, self.lanes)
        self._settled = 0  # phases whose values are those of registers, memories and inputs

    # --- one cycle --------------------------------------------------------------------------------
    def settle(self) -> None:
        """Outputs follow registers and inputs."""
        self._settle(len(self._code.phases))

    def settle_outputs(self) -> None:
        """Outputs follow registers and inputs; what only the next state needs is left out."""
        self._settle(len(self._code.phases) - 1)

    def _settle(self, phases: int) -> None:
        state = self._running()
        for phase in self._code.phases[self._settled : phases]:
            phase(state.w, state)
        self._settled = max(self._settled, phases)

    def step(self, cycles: int = 1) -> None:
        """Clock edges, with the inputs as they are."""
        for _ in range(count_of_cycles(cycles)):
            self.settle()
            self._running().edge()
            self._settled = 0

    def _running(self) -> State:
        if self._state is None:
            raise ConfigError("these lanes are closed; reset() makes new ones")
        return self._state

    # --- values -----------------------------------------------------------------------------------
    def find(self, kind: str, path: str) -> Place:
        return place_of(self.places, kind, path)

    def set(self, port: str, values: NDArray[np.uint32] | int) -> None:
        """An input of all lanes."""
        settled = self._settled
        self._put(self.find("input", port), values)
        self._settled = min(settled, self._early)

    def get(self, port: str) -> NDArray[np.uint32]:
        """An output as it was computed last."""
        place = self.find("output", port)
        return self._rows_of(self._at(place).out[port], place)

    def read(self, path: str) -> NDArray[np.uint32]:
        """A register."""
        place = self.find("flop", path)
        return self._rows_of(self._at(place).w[self._homes[place.offset].index], place)

    def write(self, path: str, values: NDArray[np.uint32] | int) -> None:
        """Deposit into a register; outputs follow with `settle` or `step`."""
        self._put(self.find("flop", path), values)

    def read_memory(self, path: str, word: int) -> NDArray[np.uint32]:
        place = self.find("memory", path)
        rows = self._at(place).memories[self._homes[place.offset].index].array[word_of(place, word)]
        return np.ascontiguousarray(rows, "<u8").view("<u4")[:, : place.limbs].astype(np.uint32)

    def write_memory(self, path: str, word: int, values: NDArray[np.uint32] | int) -> None:
        place = self.find("memory", path)
        ram = self._at(place).memories[self._homes[place.offset].index]
        ram.array[word_of(place, word)] = self._limbs_of(values, place)
        self._settled = 0

    def force(self, path: str, mask: int | NDArray[np.uint32], value: int | None = None) -> None:
        """Invert the bits of `mask` of a net (`nets=True`) for all who read it, or make them those
        of `value`, until `release`. `mask` may differ from lane to lane. A second force replaces
        the first.
        """
        place = self.find("net", path)
        bits = self._value_of(mask, place)
        ones = self._value_of((1 << place.width) - 1, place)
        nothing = ones ^ ones
        rule = (bits, ones, nothing)
        if value is not None:
            rule = (nothing, ones ^ bits, self._value_of(value, place) & bits)
        self._at(place).forces[self._homes[place.offset].index] = rule
        self._settled = 0

    def release(self, path: str) -> None:
        """End of a force."""
        place = self.find("net", path)
        self._at(place).forces.pop(self._homes[place.offset].index, None)
        self._settled = 0

    # --- of single lanes, for those who act in few of them ----------------------------------------
    def drive(self, port: str, values: Sequence[int]) -> None:
        """An input, an integer per lane."""
        place = self.find("input", port)
        self._at(place).w[self._homes[place.offset].index] = array_of(values, place.width)
        self._settled = min(self._settled, self._early)

    def show(self, port: str) -> NDArray[Any]:
        """An output as it was computed last, a bool or integer per lane; not to be written."""
        place = self.find("output", port)
        return np.broadcast_to(self._at(place).out[port], (self.lanes,))

    def deposit(self, place: Place, word: int, lane: int, change: Callable[[int], int]) -> None:
        """What `change` makes of a register, or of a word of a memory, in one lane."""
        state, index = self._at(place), self._homes[place.offset].index
        self._settled = 0
        if place.kind == "memory":
            row = state.memories[index].array[word, lane]
            value = change(sum(int(v) << 64 * i for i, v in enumerate(row)))
            row[:] = [value >> 64 * i & (1 << 64) - 1 for i in range(len(row))]
            return
        values = np.broadcast_to(state.w[index], (self.lanes,)).copy()
        values[lane] = change(int(values[lane]))
        state.w[index] = values

    def force_each(self, place: Place, rules: Mapping[int, tuple[int, int, int]]) -> None:
        """Of lane -> (flip, keep, bits): value of a net is ((value ^ flip) & keep) | bits."""
        whole = (1 << place.width) - 1
        given = [rules.get(lane, (0, whole, 0)) for lane in range(self.lanes)]
        flip, keep, bits = (array_of(part, place.width) for part in zip(*given, strict=True))
        self._at(place).forces[self._homes[place.offset].index] = flip, keep, bits
        self._settled = 0

    def differing(self) -> NDArray[np.bool_]:
        """Lanes whose registers or memories differ from those of lane 0."""
        return self._running().differing(self.lanes)

    # --- places -----------------------------------------------------------------------------------
    def _at(self, place: Place) -> State:
        state = self._running()
        for instance in self._homes[place.offset].path:
            state = state.below[instance]
        return state

    def _put(self, place: Place, values: NDArray[np.uint32] | int) -> None:
        self._at(place).w[self._homes[place.offset].index] = self._value_of(values, place)
        self._settled = 0

    def _value_of(self, values: NDArray[np.uint32] | int, place: Place) -> NDArray[Any]:
        return joined_limbs(self._limbs_of(values, place), place.width)

    def _limbs_of(self, values: NDArray[np.uint32] | int, place: Place) -> NDArray[np.uint64]:
        """[lanes, ceil(width / 64)]."""
        rows = rows_of(values, place, self.lanes)
        even = np.zeros((self.lanes, 2 * -(-place.limbs // 2)), "<u4")
        even[:, : place.limbs] = rows
        return even.view("<u8").astype(np.uint64)

    def _rows_of(self, value: NDArray[Any], place: Place) -> NDArray[np.uint32]:
        """[lanes, ceil(width / 32)]; constants have one element until here."""
        rows = split_limbs(value, -(-place.width // 64)).astype("<u8").view("<u4")
        whole = np.broadcast_to(rows[:, : place.limbs], (self.lanes, place.limbs))
        return whole.astype(np.uint32)


def _places(code: ModuleCode, path: str, down: tuple[int, ...]) -> Iterator[tuple[Place, _Home]]:
    """In the order of `emit`, so that of two equal names both engines mean the same."""
    number = 0
    for kind, name, width, depth, init, home in _rows(code, path, down):
        yield Place(kind, name, width, depth, number, init), home
        number += 1


def _rows(
    code: ModuleCode, path: str, down: tuple[int, ...]
) -> Iterator[tuple[str, str, int, int, tuple[int, ...], _Home]]:
    module = code.module
    for flop in module.flops:
        home = _Home(down, flop.word.index)
        yield "flop", path + flop.name, flop.word.width, 1, (flop.init,), home
    for index, memory in enumerate(module.memories):
        for read in memory.reads:
            home = _Home(down, read.word.index)
            yield "flop", path + read.word.name, memory.width, 1, (0,), home
        if memory.writes:
            home = _Home(down, index)
            yield "memory", path + memory.name, memory.width, memory.depth, memory.init, home
    for cell in module.cells if code.nets else ():
        word = cell.output
        yield "net", path + word.name, word.width, 1, (), _Home(down, word.index)
    if not down:
        for port, word in module.inputs.items():
            yield "input", port, word.width, 1, (), _Home(down, word.index)
        for port, sig in module.outputs.items():
            yield "output", port, width_of(sig), 1, (), _Home(down, 0, port)
    for number, instance in enumerate(module.instances):
        below = code.made[id(instance.module)]
        yield from _rows(below, f"{path}{instance.name}.", (*down, number))


def chosen(engine: Engine) -> Literal["compiled", "numpy"]:
    """`compiled` or `numpy`; `auto` is what there is a compiler for. Raises ConfigError."""
    if engine == "auto":
        try:
            find_cxx()
        except ToolError:
            return "numpy"
        return "compiled"
    if engine not in ("compiled", "numpy"):
        raise ConfigError(f"unknown engine {engine!r}; expected auto, compiled or numpy")
    return engine


def make_lanes(
    netlist: Path, lanes: int = WIDTH, *, engine: Engine = "auto", nets: bool = False
) -> Lanes | NumpyLanes:
    """Machines of a netlist, compiled where a C compiler is found (`auto`), else on numpy.

    Raises ToolError for `compiled` without a compiler, ConfigError for an unknown engine.
    """
    made = NumpyLanes if chosen(engine) == "numpy" else Lanes
    return made(netlist, lanes, nets=nets)
