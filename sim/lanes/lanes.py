"""Many machines of one design, a SIMD lane each, driven from Python."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError
from bankside.sim.lanes.build import build_lanes
from bankside.sim.lanes.places import Place
from bankside.sim.lanes.segment import LANES
from bankside.sim.lanes.values import (
    count_of_cycles,
    count_of_lanes,
    ints,
    limbs,
    place_of,
    rows_of,
    word_of,
)

__all__ = ["WIDTH", "Lanes", "ints", "limbs"]

#: Lanes of a group.
WIDTH = LANES
_Q, _D, _T, _M = range(4)
_INPUTS, _OUTPUTS, _FLOPS, _MEMORIES = "input", "output", "flop", "memory"


class Lanes:
    """`lanes` machines, rounded up to whole groups of 16, at power-on.

    Values of a signal are arrays of uint32 [lanes, ceil(width / 32)], low limb first; `ints` and
    `limbs` convert. Raises ConfigError for an unknown name, with the nearest ones, for a word that
    a memory does not have, for values that do not fit their signal or the lanes, after `close`.
    """

    def __init__(self, netlist: Path, lanes: int = WIDTH, *, nets: bool = False) -> None:
        self.groups = -(-count_of_lanes(lanes) // WIDTH)
        self._library, self.design = build_lanes(netlist, nets=nets)
        self._library.lanes_new.restype = ctypes.c_void_p
        self._library.lanes_part.restype = ctypes.c_void_p
        self.lanes = self.groups * WIDTH
        self.places = {(p.kind, p.path): p for p in self.design.places}
        self._handle: ctypes.c_void_p | None = None
        self.reset()

    def close(self) -> None:
        """Free the machines."""
        if self._handle is not None:
            self._library.lanes_delete(self._handle)
            self._handle = None

    def __del__(self) -> None:
        if getattr(self, "_library", None) is not None:
            self.close()

    def reset(self) -> None:
        """Power-on: registers and memories have their first values, inputs are zero."""
        self.close()
        self._handle = ctypes.c_void_p(self._library.lanes_new(ctypes.c_uint64(self.groups)))
        if not self._handle:
            raise ConfigError(f"no memory for {self.lanes} lanes; take fewer")
        self._library.lanes_run_all(self._handle)

    def _running(self) -> ctypes.c_void_p:
        if self._handle is None:
            raise ConfigError("these lanes are closed; reset() makes new ones")
        return self._handle

    # --- one cycle --------------------------------------------------------------------------------
    def settle(self) -> None:
        """Outputs follow registers and inputs."""
        self._library.lanes_before(self._running())
        self._library.lanes_after(self._running())

    def step(self, cycles: int = 1) -> None:
        """Clock edges, with the inputs as they are."""
        self._library.lanes_steps(self._running(), ctypes.c_uint64(count_of_cycles(cycles)))

    # --- values -----------------------------------------------------------------------------------
    def find(self, kind: str, path: str) -> Place:
        return place_of(self.places, kind, path)

    def set(self, port: str, values: NDArray[np.uint32] | int) -> None:
        """An input of all lanes."""
        place = self.find(_INPUTS, port)
        self._put(place, rows_of(values, place, self.lanes))

    def get(self, port: str) -> NDArray[np.uint32]:
        """An output as it was computed last."""
        return self._get(self.find(_OUTPUTS, port))

    def read(self, path: str) -> NDArray[np.uint32]:
        """A register."""
        return self._get(self.find(_FLOPS, path))

    def write(self, path: str, values: NDArray[np.uint32] | int) -> None:
        """Deposit into a register; outputs follow with `settle` or `step`."""
        place = self.find(_FLOPS, path)
        self._put(place, rows_of(values, place, self.lanes))

    def read_memory(self, path: str, word: int) -> NDArray[np.uint32]:
        place = self.find(_MEMORIES, path)
        word = word_of(place, word)
        return np.concatenate([self._memory(g, place)[word].T for g in range(self.groups)])

    def write_memory(self, path: str, word: int, values: NDArray[np.uint32] | int) -> None:
        place = self.find(_MEMORIES, path)
        word, rows = word_of(place, word), rows_of(values, place, self.lanes)
        for group in range(self.groups):
            self._memory(group, place)[word] = rows[group * WIDTH : (group + 1) * WIDTH].T

    # --- places -----------------------------------------------------------------------------------
    def _view(
        self, group: int, part: int, offset: int, dtype: Any, shape: tuple[int, ...]
    ) -> NDArray:
        address = self._library.lanes_part(self._running(), ctypes.c_uint64(group), part) + offset
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)

    def _memory(self, group: int, place: Place) -> NDArray[np.uint32]:
        """[words, limbs, lanes] of a group."""
        return self._view(group, _M, place.offset, "<u4", (place.depth, place.limbs, WIDTH))

    def _get(self, place: Place) -> NDArray[np.uint32]:
        part = _Q if place.kind == _FLOPS else _T
        return np.concatenate([self._of_group(g, part, place) for g in range(self.groups)])

    def _of_group(self, group: int, part: int, place: Place) -> NDArray[np.uint32]:
        if place.width == 1:
            bits = int(self._view(group, part, place.offset, "<u2", (1,))[0])
            return (bits >> np.arange(WIDTH) & 1).astype(np.uint32)[:, None]
        return self._view(group, part, place.offset, "<u4", (place.limbs, WIDTH)).T.copy()

    def _put(self, place: Place, rows: NDArray[np.uint32]) -> None:
        # Registers that do not change are not written at the next edge: both copies have to agree.
        parts = (_Q, _D) if place.kind == _FLOPS else (_T,)
        for group in range(self.groups):
            values = rows[group * WIDTH : (group + 1) * WIDTH]
            for part in parts:
                if place.width == 1:
                    bits = int(
                        (values[:, 0].astype(np.uint64) << np.arange(WIDTH, dtype=np.uint64)).sum()
                    )
                    self._view(group, part, place.offset, "<u2", (1,))[0] = bits
                else:
                    self._view(group, part, place.offset, "<u4", (place.limbs, WIDTH))[:] = values.T
