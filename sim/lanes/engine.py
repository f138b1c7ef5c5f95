"""Faults in lanes: one program on one machine, a fault in every lane.

The first use of a machine compiles it (cached by content). docs/faults.md has what actions and
outcomes mean.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankside.cache import atomic_write, build_root, content_hash
from bankside.errors import ConfigError, ProgramError
from bankside.isa.machines import AnyMachine
from bankside.isa.program import Program
from bankside.registry import Lazy, Registry
from bankside.sim.elaborate import to_json
from bankside.sim.faults import (
    DEFAULT_LANES,
    OUTCOME,
    STORE,
    Action,
    Site,
    check_actions,
    default_limit,
)  # fmt: skip
from bankside.sim.lanes.build import build_lanes, design_of
from bankside.sim.lanes.lanes import WIDTH
from bankside.sim.lanes.places import Design, Place
from bankside.sim.lanes.ports import ports_header
from bankside.sim.lanes.segment import LIMB
from bankside.sim.lanes.values import count_of_lanes
from bankside.sim.rtl.tops import top_of

_FOLDER = Path(__file__).parent
_HEADERS = (
    "sweep.h", "fault_free.h", "regroup.h", "recording.h", "followers.h", "lane_group.h",
    "lane_store.h", "sweep_functions.h", "axi_lanes.h",
)  # fmt: skip
_SPACES = {"flop": 0, "memory": 1, "store": 2, "net": 3, "input": 4, "output": 5}
_KINDS = {"flop": "flop", "memory": "memory", "net": "net", "input": "port", "output": "port"}
_OPS = {"flip": 0, "hold": 1, "force": 2}
_FOREVER = (1 << 64) - 1
#: Bytes that the recording of a run without faults takes at most.
RECORDING_BYTES = 1 << 30

_DEED = np.dtype(
    [("op", "<u4"), ("space", "<u4"), ("offset", "<u8"),
     *((name, "<u4") for name in ("mask", "value", "bit", "limb", "limbs", "set")),
     ("first", "<u8"), ("last", "<u8")]
)  # fmt: skip
_STATISTICS = (
    "pilot_cycles",
    "group_cycles",
    "lane_cycles",
    "faults",
    "sweeps",
    "converged",
    "decided",
    "set_aside",
    "shared",
    "computed",
)


@dataclass(frozen=True)
class GoldenRun:
    """The run without faults: its outcome and what it delivers (bytes): the main memory afterwards,
    or the bursts to the host.
    """

    outcome: np.void
    image: NDArray[np.uint8]

    @property
    def cycles(self) -> int:
        return int(self.outcome["cycles"])


@dataclass(frozen=True)
class _Bench:
    """How an engine is driven: C++ file, headers, macros, traces, arguments of `sweep_new`."""

    source: str
    headers: tuple[str, ...]
    defines: Callable[[Any], Mapping[str, int]]
    traces: tuple[str, ...]
    arguments: Callable[[Any, Program], tuple[Any, ...]]


#: Engine -> its bench in lanes.
BENCHES: Registry[_Bench] = Registry("engine")
for _name in ("array", "npu", "pim"):
    BENCHES.add(_name, Lazy(f"bankside.sim.lanes.benches:{_name.upper()}"))


class FaultLanes(ABC):
    """What machines with faults in lanes have in common, whatever computes them."""

    golden: GoldenRun

    def __init__(self, machine: AnyMachine, program: Program, places: Iterable[Place]) -> None:
        self.machine, self.program = machine, program
        self.places = {p.path: p for p in places}
        self.sites = self._sites()

    @property
    def _store_bytes(self) -> int:
        """Of the main memory beside the design; 0 where there is none."""
        memory = getattr(self.machine.config, "memory", None)
        return int(memory.bytes) if memory is not None else 0

    @property
    def _image_bytes(self) -> int:
        """Of what a run delivers: the main memory, else what the program sends to the host."""
        count = sum(count for _, count in self.program.outputs.values())
        return self._store_bytes or 2 * count * int(self.machine.burst_elements)

    @property
    def _image(self) -> NDArray[np.uint8]:
        """Bytes from the host: the used part of the main memory, or bursts."""
        return np.ascontiguousarray(self.program.host_in).view(np.uint8).reshape(-1)

    def _sites(self) -> dict[str, Site]:
        sites = {
            p.path: Site(_KINDS[p.kind], p.path, p.width, p.depth, p.path.rpartition(".")[0])
            for p in self.places.values()
        }
        if self._store_bytes:
            sites[STORE] = Site("store", STORE, 8, self._store_bytes)
        return sites

    def run(
        self, faults: Sequence[Sequence[Action]], *, limit: int | None = None
    ) -> NDArray[np.void]:
        """One row of `OUTCOME` per fault, in the given order.

        Raises ConfigError for an action that does not fit its site.
        """
        limit = default_limit(self.golden.cycles) if limit is None else limit
        if limit <= self.golden.cycles:
            raise ConfigError(
                f"limit of {limit} cycles; the run without faults takes {self.golden.cycles}"
            )
        lists = []
        for actions in faults:
            check_actions(actions, self.sites)
            lists.append(sorted(actions, key=lambda action: action.first))
        outcomes = np.zeros(len(lists), OUTCOME)
        late = [not actions or actions[0].first > self.golden.cycles for actions in lists]
        outcomes[late] = self.golden.outcome  # nothing happens before the end
        order = sorted(
            (i for i in range(len(lists)) if not late[i]), key=lambda i: lists[i][0].first
        )
        if order:
            outcomes[order] = self._sweep([lists[i] for i in order], limit)
        return outcomes

    @abstractmethod
    def _sweep(self, faults: Sequence[Sequence[Action]], limit: int) -> NDArray[np.void]:
        """Outcomes of faults by the cycle of their first action; each has one within the run."""


class LaneFaults(FaultLanes):
    """`lanes` machines at once (rounded up to groups of 16; lane 0 of each runs without a fault).

    Args:
        machine, program: as for the other executions.
        netlist: of a changed design, such as a protected one; by default that of the machine.
        nets: combinational nets can be forced, which costs speed.
        limit: cycles of the run without faults at most.
        recording_bytes: of its recording at most; a run that needs more is computed anew in every
            sweep (`recorded` is False), with the same outcomes.

    Raises:
        ProgramError: the program does not end within `limit` cycles.
        ConfigError: no lanes; `recording_bytes` is negative or has more than 64 bits.
    """

    def __init__(
        self, machine: AnyMachine, program: Program, *, netlist: Path | None = None,
        lanes: int = DEFAULT_LANES, nets: bool = False, limit: int = 10_000_000,
        recording_bytes: int = RECORDING_BYTES,
    ) -> None:  # fmt: skip
        if not 0 <= recording_bytes < 1 << 64:
            raise ConfigError(
                f"recording_bytes is {recording_bytes}; expected 0 to 2^64 - 1 bytes, "
                f"{RECORDING_BYTES} where memory is not scarce"
            )
        bench = BENCHES.get(machine.engine)
        netlist = netlist if netlist is not None else to_json(*top_of(machine))
        header = _header(design_of(netlist, nets=nets)[0], bench)
        self._library, self.design = build_lanes(
            netlist, nets=nets,
            bench=(_FOLDER / bench.source, *(_FOLDER / h for h in _HEADERS), header,
                   *(_FOLDER.parent / "rtl" / h for h in bench.headers)),
            defines=[f"-I{header.parent}",
                     *(f"-D{k}={v}" for k, v in bench.defines(machine).items())],
        )  # fmt: skip
        super().__init__(machine, program, self.design.places)
        self.statistics: dict[str, int] = dict.fromkeys(_STATISTICS, 0)
        self._library.sweep_new.restype = ctypes.c_void_p
        self._library.sweep_golden.restype = ctypes.c_uint64
        image = self._image
        self._groups = -(-count_of_lanes(lanes) // WIDTH)
        self._handle: ctypes.c_void_p | None = ctypes.c_void_p(
            self._library.sweep_new(
                *bench.arguments(machine, program), _pointer(image), ctypes.c_uint64(image.nbytes),
                ctypes.c_uint64(self._store_bytes), ctypes.c_uint64(self._groups),
            )
        )  # fmt: skip
        # Of the library, which others may use with another limit.
        limit_of = ctypes.c_uint64.in_dll(self._library, "bankside_recording_bytes")
        limit_of.value = recording_bytes
        self.golden = self._golden(limit)

    def _golden(self, limit: int) -> GoldenRun:
        row = np.zeros(1, OUTCOME)
        if not self._library.sweep_golden(self._handle, ctypes.c_uint64(limit), _pointer(row)):
            raise ProgramError(f"not finished after {limit} cycles; raise the limit")
        image = np.zeros(self._image_bytes, np.uint8)
        self._library.sweep_image(self._handle, _pointer(image), ctypes.c_uint64(image.nbytes))
        return GoldenRun(row[0], image)

    @property
    def recorded(self) -> bool:
        """The run without faults is in memory, and sweeps need not compute it."""
        self._library.sweep_recorded.restype = ctypes.c_uint64
        return bool(self._library.sweep_recorded(self._handle))

    def close(self) -> None:
        """Free the machines."""
        if getattr(self, "_handle", None) is not None:
            self._library.sweep_delete(self._handle)
            self._handle = None

    def __del__(self) -> None:
        self.close()

    # --- faults -----------------------------------------------------------------------------------
    def _sweep(self, faults: Sequence[Sequence[Action]], limit: int) -> NDArray[np.void]:
        rows = [[deed for action in actions for deed in self._deeds(action)] for actions in faults]
        deeds = np.array([deed for row in rows for deed in row], _DEED)
        first = np.cumsum([0, *(len(row) for row in rows)]).astype("<u8")
        out, numbers = np.zeros(len(rows), OUTCOME), np.zeros(len(_STATISTICS), "<u8")
        self._library.sweep_run(
            self._handle, _pointer(deeds), _pointer(first), ctypes.c_uint64(len(rows)),
            _pointer(out), ctypes.c_uint64(limit), _pointer(numbers),
        )  # fmt: skip
        self.statistics = dict(zip(_STATISTICS, numbers.tolist(), strict=True))
        return out

    def _deeds(self, action: Action) -> list[tuple]:
        """An action limb by limb."""
        last = action.first if action.op == "flip" else (
            _FOREVER if action.last is None else action.last)  # fmt: skip
        value = 0 if action.value is None else action.value
        is_set = int(action.value is not None)
        common = (is_set, action.first, last)
        if action.site == STORE:
            return [(_OPS[action.op], 2, action.word, action.mask, value, 0, 0, 1, *common)]
        place = self.places[action.site]
        return [
            (_OPS[action.op], _SPACES[place.kind], _offset(place, action.word, limb),
             action.mask >> 32 * limb & 0xFFFFFFFF, value >> 32 * limb & 0xFFFFFFFF,
             int(place.width == 1 and place.kind != "memory"), limb, place.limbs, *common)
            for limb in range(place.limbs) if action.mask >> 32 * limb & 0xFFFFFFFF
        ]  # fmt: skip


def _header(design: Design, bench: _Bench) -> Path:
    """The generated C++ of the ports, which depends on where they lie."""
    text = ports_header(design, bench.traces)
    path = build_root() / "lane-ports" / content_hash({"text": text})[:24] / "lane_ports.h"
    if not path.exists():
        atomic_write(path, text)
    return path


def _offset(place: Place, word: int, limb: int) -> int:
    if place.kind == "net":
        return place.offset  # its flag
    return place.offset + LIMB * (word * place.limbs + limb)


def _pointer(array: NDArray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
