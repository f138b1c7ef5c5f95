"""The referee of soft errors: programs with faults on the Verilated RTL, one machine at a time.

Same actions, same outcomes as the lane engine (docs/faults.md). Every register and memory is
written through the model's own storage; before it is used, each site is shown to be one that keeps
what is written and whose readers see it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError, ToolError
from bankside.isa.machines import AnyMachine
from bankside.isa.program import Program
from bankside.sim.elaborate import to_json, to_verilog
from bankside.sim.faults import (
    OUTCOME,
    STORE,
    Action,
    Site,
    check_actions,
    default_limit,
)
from bankside.sim.rtl.compiled import CompiledModel, pointer
from bankside.sim.rtl.netlist_verilog import SABOTEUR, find_nets, netlist_verilog
from bankside.sim.rtl.referee_build import (
    GATE,
    NET,
    STATE,
    STORE_PLACE,
    Ports,
    chosen_nets,
    referee_library,
)
from bankside.sim.rtl.referee_jobs import JOBS, store_bytes
from bankside.sim.rtl.state import StateMap
from bankside.sim.rtl.tops import top_of

__all__ = ["Delivered", "Referee"]

_FLIP, _HOLD, _INVERT, _FORCE = range(4)
_WHOLE = (1 << 64) - 1
_NEVER = _WHOLE
_ACTION = np.dtype(
    [
        (name, "<u8")
        for name in ("op", "place", "site", "word", "chunk", "mask", "value", "first", "last")
    ]
)
_OUTCOME = np.dtype(
    [
        (name, "<u8")
        for name in ("end", "cycles", "status", "first", "output", "state", "counters", "alarms")
    ]
)
_BYTE = np.dtype([(name, "<u8") for name in ("address", "golden", "faulty")])


class Delivered(NamedTuple):
    """Bytes that a run with faults delivered otherwise than the fault-free one.

    address : [n], ascending; in the main memory, or in all bursts to the host one after the other.
    golden, faulty : [n], the byte without and with faults; 0 where a run sent no such burst.
    golden_size, faulty_size : bytes that both runs delivered in all.
    """

    address: NDArray[np.int64]
    golden: NDArray[np.uint8]
    faulty: NDArray[np.uint8]
    golden_size: int
    faulty_size: int


class Referee(CompiledModel):
    """One machine. The first use of a machine compiles it (cached by content).

    machine : of any engine.
    design : (netlist, Verilog) of the top, where it is not the machine's own (a protected design).
    waves : `record_waves` is possible; the model is compiled apart.
    nets : paths of the nets that faults may force. The Verilog is then that of the netlist, cell
        by cell, and a model of its own is compiled for each set of nets.

    Raises ConfigError for a net that is none, ToolError where a tool is missing or fails.
    """

    PREFIX = "referee"

    def __init__(
        self,
        machine: AnyMachine,
        *,
        design: tuple[Path, Path] | None = None,
        nets: Iterable[str] = (),
        waves: bool = False,
    ) -> None:
        self.machine = machine
        paths = sorted(set(nets))
        top, name = top_of(machine)
        netlist, verilog = design or (to_json(top, name), None)
        if paths:
            verilog = netlist_verilog(netlist, name)
        self.state = StateMap(netlist, verilog or to_verilog(top, name))
        self._nets = chosen_nets(find_nets(self.state.modules, name) if paths else (), paths)
        self._variables = self.state.variables()
        self._numbers = {(v.kind, v.path): i for i, v in enumerate(self._variables)}
        self._ports = Ports(machine.engine, self.state.modules[name]["ports"])
        self.sites = self._sites()
        self.cycles = 0
        self._golden_cycles: int | None = None
        self._proven: dict[tuple[int, int], int] = {}
        super().__init__(referee_library(machine, name, self.state, self._nets, self._ports, waves))

    # --- sites ------------------------------------------------------------------------------------
    def _sites(self) -> dict[str, Site]:
        """By path; where a register is an output port too, the register."""
        found = {name: Site("port", name, width) for name, width in self._ports.widths.items()}
        for v in self._variables:
            found[v.path] = Site(v.kind, v.path, v.width, v.depth, v.scope)
        found |= {net.path: Site("net", net.path, net.width, 1, net.scope) for net in self._nets}
        size = store_bytes(self.machine)
        if size:
            found[STORE] = Site("store", STORE, 8, size)
        return found

    def _new_arguments(self) -> tuple[Any, ...]:
        lines = (
            "\t".join((v.scope, v.variable, v.witness, v.select if v.kind == "memory" else ""))
            for v in self._variables
        )
        self._problem = ctypes.create_string_buffer(256)
        nets = (
            "\t".join((net.scope, *(net.register(kind) for kind in SABOTEUR))) for net in self._nets
        )
        tables = ("".join(f"{line}\n" for line in table).encode() for table in (lines, nets))
        return *tables, self._problem, ctypes.c_uint64(len(self._problem))

    def reset(self) -> None:
        """Power-on; forgets the program."""
        super().reset()
        self._golden_cycles = None
        if not self._handle:
            missing = self._problem.value.decode()
            self._handle = None
            raise ToolError(
                f"the Verilated model has no variable {missing!r}; expected every register and "
                f"memory of the netlist: report this"
            )

    # --- runs -------------------------------------------------------------------------------------
    def golden(
        self,
        program: Program,
        *,
        checkpoints: int | Sequence[int] = 0,
        limit: int = 10_000_000,
    ) -> np.void:
        """Run `program` without faults and remember it; returns its outcome.

        checkpoints : cycles from which runs may start, or how many, evenly spread.
        Raises ProgramError when the program does not fit or does not end well within `limit`.
        """
        JOBS[self.machine.engine](self, program)
        raw = self._golden(limit, [])
        if checkpoints:
            cycles = int(raw["cycles"])
            places = (
                [cycles * k // (checkpoints + 1) for k in range(1, checkpoints + 1)]
                if isinstance(checkpoints, int)
                else sorted(checkpoints)
            )
            raw = self._golden(limit, places)
        self._golden_cycles = int(raw["cycles"])
        return self._rows(raw)[0]

    def _golden(self, limit: int, cycles: Sequence[int]) -> np.void:
        raw, places = np.zeros(1, _OUTCOME), np.array(cycles, "<u8")
        done = self._call(
            "golden",
            ctypes.c_uint64(limit),
            pointer(places),
            ctypes.c_uint64(len(places)),
            pointer(raw),
        )
        self.cycles += int(raw[0]["cycles"])
        if not done:
            raise ProgramError(
                f"the fault-free run does not end well: end {raw[0]['end']} after "
                f"{raw[0]['cycles']} cycles, status {raw[0]['status']:#x}; correct the program or "
                f"raise the limit ({limit})"
            )
        return raw[0]

    def run(
        self,
        program: Program,
        faults: Iterable[Sequence[Action]],
        *,
        checkpoints: int | Sequence[int] = 0,
        limit: int | None = None,
        after: Callable[[int], None] = lambda _: None,
    ) -> NDArray[np.void]:
        """Outcomes (`OUTCOME`) of `program` with each of `faults`, every one from power-on or, with
        `checkpoints` (see `golden`), from the last one before its first action. `after` is called
        with the index of each, when `delivered`, `differences` and `peek` are those of its run.

        Raises ConfigError for an action that does not fit its site, and ToolError for a site that
        cannot be written from outside, by name.
        """
        lists = [tuple(actions) for actions in faults]
        for actions in lists:
            check_actions(actions, self.sites)
            self._prove(actions)
        golden = self.golden(program, checkpoints=checkpoints)
        limit = default_limit(int(golden["cycles"])) if limit is None else limit
        raw = np.zeros(len(lists), _OUTCOME)
        for index, actions in enumerate(lists):
            raw[index] = self._one(actions, bool(checkpoints), limit)
            after(index)
        return self._rows(raw)

    def _one(self, actions: Sequence[Action], from_checkpoint: bool, limit: int) -> np.void:
        packed, raw = self.packed(actions), np.zeros(1, _OUTCOME)
        if not self._call(
            "run",
            pointer(packed),
            ctypes.c_uint64(len(packed)),
            int(from_checkpoint),
            ctypes.c_uint64(limit),
            pointer(raw),
        ):
            raise ToolError("the machine did not start a second time; report this")
        self.cycles += int(raw[0]["cycles"])
        return raw[0]

    def delivered(self) -> Delivered:
        """What the last run with faults delivered otherwise; nothing before there is one."""
        sizes = np.zeros(2, "<u8")
        self._function("wrong_count").restype = ctypes.c_uint64
        rows = np.zeros(self._call("wrong_count", pointer(sizes)), _BYTE)
        self._call("wrong", pointer(rows))
        golden, faulty = (rows[name].astype(np.uint8) for name in ("golden", "faulty"))
        return Delivered(rows["address"].astype(np.int64), golden, faulty, *map(int, sizes))

    def differences(self) -> list[str]:
        """Paths of the registers and memories that, at the end of the last run, were not what they
        are at the end of the fault-free one.
        """
        numbers = np.zeros(self._call("difference_count"), "<u8")
        self._call("differences", pointer(numbers))
        return [self._variables[number].path for number in numbers.tolist()]

    def peek(self, path: str, word: int = 0) -> int:
        """A word of a register or memory now: after a run of `pim` at its end, of the others after
        the host has read their registers.
        """
        site = self.sites[path]
        number = self._numbers[site.kind, path]
        self._function("peek").restype = ctypes.c_uint64
        chunks = (
            self._call("peek", *(ctypes.c_uint64(v) for v in (number, word, chunk)))
            for chunk in range(-(-site.width // 64))
        )
        return sum(value << 64 * chunk for chunk, value in enumerate(chunks))

    def _rows(self, raw: NDArray[np.void] | np.void) -> NDArray[np.void]:
        raw = np.atleast_1d(raw)
        rows = np.zeros(len(raw), OUTCOME)
        for name in ("end", "cycles", "status", "output", "state", "counters"):
            rows[name] = raw[name]
        rows["first"] = raw["first"].astype(np.int64)
        for bit, name in enumerate(self._ports.alarms):
            rows[name] = raw["alarms"] >> np.uint64(bit) & np.uint64(1)
        return rows

    # --- actions ----------------------------------------------------------------------------------
    def packed(self, actions: Sequence[Action]) -> NDArray[np.void]:
        """`actions` by first cycle, as the shim takes them: 64 bits of a word each."""
        ordered = sorted(actions, key=lambda action: action.first)
        rows = [row for action in ordered for row in self._chunks(action)]
        return np.array(rows, _ACTION)

    def _chunks(self, action: Action) -> Iterator[tuple[int, ...]]:
        site = self.sites[action.site]
        place, number = self._place(site)
        if action.op == "force":
            op = _INVERT if action.value is None else _FORCE
        else:
            op = _FLIP if action.op == "flip" else _HOLD
        last = _NEVER if action.last is None else action.last
        for chunk in range(-(-site.width // 64)):
            mask = action.mask >> 64 * chunk & _WHOLE
            if mask:
                value = (action.value or 0) >> 64 * chunk & _WHOLE
                yield op, place, number, action.word, chunk, mask, value, action.first, last

    def _place(self, site: Site) -> tuple[int, int]:
        if site.kind == "store":
            return STORE_PLACE, 0
        if site.kind == "port":
            return self._ports.place(site.path)
        if site.kind == "net":
            return NET, [net.path for net in self._nets].index(site.path)
        number = self._numbers[site.kind, site.path]
        return GATE if self._variables[number].falling else STATE, number

    # --- proof ------------------------------------------------------------------------------------
    def _prove(self, actions: Iterable[Action]) -> None:
        for action in actions:
            site = self.sites[action.site]
            if site.kind in ("flop", "memory"):
                problem = self.problem(site, action.word, action.mask)
                if problem:
                    raise ToolError(f"site {site.path}, word {action.word}: {problem}")

    def problem(self, site: Site, word: int = 0, mask: int | None = None) -> str | None:
        """Why bits of a word cannot be hit from outside, None where they can: each is inverted,
        has to stay inverted without a clock edge, and what reads the word has to see it.
        """
        number = self._numbers[site.kind, site.path]
        mask = (1 << site.width) - 1 if mask is None else mask
        left = mask & ~self._proven.get((number, word), 0)
        for chunk in range(-(-site.width // 64)):
            bits = left >> 64 * chunk & _WHOLE
            if bits and self._proof(number, word, chunk, bits):
                each = [1 << i for i in range(64) if bits >> i & 1]
                bit, reason = next(
                    (b, r) for b in each if (r := self._proof(number, word, chunk, b))
                )
                return f"bit {64 * chunk + bit.bit_length() - 1} {reason}"
        self._proven[number, word] = self._proven.get((number, word), 0) | mask
        return None

    def _proof(self, number: int, word: int, chunk: int, bit: int) -> str | None:
        arguments = (ctypes.c_uint64(value) for value in (number, word, chunk, bit))
        return {
            0: None,
            1: "does not keep what is written from outside",
            2: "is written, but what reads it does not see that",
        }[self._call("prove", *arguments)]
