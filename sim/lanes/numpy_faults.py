"""Faults in lanes without a compiler: what `LaneFaults` gives, evaluated by numpy.

Every lane computes everything in every cycle, from power-on to the end of its run: nothing is
recorded, followed or shared, and nothing here is shared with the engine in C but the order of
evaluation of a module (schedule.py). docs/faults.md has what actions and outcomes mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError
from bankside.isa.machines import AnyMachine
from bankside.isa.program import Program
from bankside.sim.elaborate import to_json
from bankside.sim.faults import (
    ALARM_PORTS,
    DEFAULT_LANES,
    END_LIMIT,
    OUTCOME,
    STORE,
    TRACE_PORTS,
    Action,
)  # fmt: skip
from bankside.sim.lanes.engine import FaultLanes, GoldenRun, LaneFaults
from bankside.sim.lanes.numpy_lanes import Engine, NumpyLanes, chosen
from bankside.sim.lanes.numpy_worlds import WORLDS, World
from bankside.sim.rtl.tops import top_of
from bankside.sim.rtl.verilate import say

#: Cycles that reading the registers after a run takes at most.
_READING = 1 << 16


class NumpyFaults(FaultLanes):
    """What `LaneFaults` is, without a compiler: the same arguments (but for the recording's),
    outcomes and errors, much slower: tens of milliseconds per cycle of all lanes. That hardly
    depends on `lanes`: 256 cost half as much again as 16. Lane 0 runs without a fault. Registers
    that a machine does not answer are given up sooner (docs/faults.md, Without a compiler).
    """

    def __init__(
        self, machine: AnyMachine, program: Program, *, netlist: Path | None = None,
        lanes: int = DEFAULT_LANES, nets: bool = False, limit: int = 10_000_000,
    ) -> None:  # fmt: skip
        netlist = netlist if netlist is not None else to_json(*top_of(machine))
        self._lanes = NumpyLanes(netlist, lanes, nets=nets)
        super().__init__(machine, program, self._lanes.design.places)
        self.golden, self._final = self._golden(limit)

    def _golden(self, limit: int) -> tuple[GoldenRun, World]:
        run = _Run(self, [], None)
        if not run.execute([0], cycles=limit + _READING):
            raise ProgramError(f"not finished after {limit} cycles; raise the limit")
        row, world = run.rows[0], run.worlds[0]
        row["state"] = 1
        final = run.judged(0, world)
        image = np.frombuffer(world.image(self._image_bytes), np.uint8)
        return GoldenRun(final, image), world

    def _sweep(self, faults: Sequence[Sequence[Action]], limit: int) -> NDArray[np.void]:
        size = self._lanes.lanes - 1
        outcomes = np.zeros(len(faults), OUTCOME)
        for first in range(0, len(faults), size):
            run = _Run(self, faults[first : first + size], limit)
            lanes = range(1, len(run.worlds))
            run.execute(lanes)
            for lane in lanes:
                outcomes[first + lane - 1] = run.judged(lane, self._final)
        return outcomes

    def close(self) -> None:
        """Free the machines."""
        self._lanes.close()


class _Run:
    """All lanes from power-on to the end of their runs; lane k has the k-th of `faults`, from 1.

    limit: cycles; None: the run without faults, which has none.
    """

    def __init__(
        self, owner: NumpyFaults, faults: Sequence[Sequence[Action]], limit: int | None
    ) -> None:
        self.lanes, self.places, self.limit = owner._lanes, owner.places, limit
        self.golden_cycles = None if limit is None else owner.golden.cycles
        self.actions: list[Sequence[Action]] = [(), *faults]
        ports = self.lanes.design.places
        self.inputs = {p.path: (1 << p.width) - 1 for p in ports if p.kind == "input"}
        self.outputs = [p.path for p in ports if p.kind == "output"]
        unseen = (*TRACE_PORTS[owner.machine.engine], *ALARM_PORTS)
        self.compared = [name for name in self.outputs if name not in unseen]
        self.alarms = [name for name in ALARM_PORTS if name in self.outputs]
        self.cycle = 0
        self.over, self.done = ([False] * len(self.actions) for _ in range(2))
        self.rows = np.zeros(len(self.actions), OUTCOME)
        self.rows["first"] = -1
        self.forced: dict[str, dict[int, _Rule]] = {}
        world = WORLDS.get(owner.machine.engine)(
            owner.machine, owner.program, [*self.inputs, *self.outputs]
        )
        self._set_up(world, owner.program)
        self.worlds: list[World] = [world, *(world.fork() for _ in faults)]

    # --- without faults ---------------------------------------------------------------------------
    def _set_up(self, world: World, program: Program) -> None:
        """From power-on to cycle 0, all lanes alike."""
        lanes = self.lanes
        lanes.reset()
        for drive in world.set_up(program):
            if not world.early:
                self._give([world], [])
            (lanes.settle_outputs if world.early else lanes.settle)()
            world.ports |= {name: int(lanes.show(name)[0]) for name in self.outputs}
            if drive is None:
                continue
            drive(world.ports)
            if world.early:
                self._give([world], [])
            lanes.step()

    # --- a cycle ----------------------------------------------------------------------------------
    def execute(self, wanted: Sequence[int], cycles: int | None = None) -> bool:
        """Until the runs of the lanes `wanted` are over; False: not within `cycles`."""
        while not all(self.done[lane] for lane in wanted):
            if self.cycle == cycles:
                return False
            self._cycle()
            self.cycle += 1
        return True

    def _cycle(self) -> None:
        lanes, early = self.lanes, self.worlds[0].early
        acting = list(self._acting())
        self._act(acting)
        if early:
            # With the inputs of the cycle before: what matters here does not depend on them.
            lanes.settle_outputs()
            self._host(self._shown(acting))
        self._give(self.worlds, acting)
        lanes.settle()
        shown = self._shown(acting)
        if not early:
            self._host(shown)
        self._observe(shown)
        lanes.step()

    def _acting(self) -> Iterator[tuple[int, Action]]:
        """Actions of this cycle, of lanes whose runs are not over."""
        for lane, actions in enumerate(self.actions):
            if self.over[lane] or self._late:
                continue
            for action in actions:
                last = action.first if action.op == "flip" else action.last
                if action.first <= self.cycle and (last is None or self.cycle <= last):
                    yield lane, action

    @property
    def _late(self) -> bool:
        return self.limit is not None and self.cycle >= self.limit

    def _act(self, acting: Sequence[tuple[int, Action]]) -> None:
        """Deposits, and which nets are forced."""
        rules: dict[str, dict[int, _Rule]] = {}
        for lane, action in acting:
            if action.site == STORE:
                memory = self.worlds[lane].memory
                memory[action.word] = changed(action, memory[action.word])
                continue
            place = self.places[action.site]
            if place.kind == "net":
                mine = rules.setdefault(action.site, {})
                mine[lane] = _then(mine.get(lane), action, (1 << place.width) - 1)
            elif place.kind in ("flop", "memory"):
                self.lanes.deposit(place, action.word, lane, partial(changed, action))
        if rules == self.forced:
            return
        for path in self.forced.keys() - rules.keys():
            self.lanes.release(path)
        for path, mine in rules.items():
            self.lanes.force_each(self.places[path], mine)
        self.forced = rules

    def _shown(self, acting: Sequence[tuple[int, Action]]) -> dict[str, NDArray[Any]]:
        """Outputs of all lanes, as everybody sees them."""
        shown = {name: self.lanes.show(name) for name in self.outputs}
        for lane, action in acting:
            if action.site != STORE and self.places[action.site].kind == "output":
                values = shown[action.site].copy()
                values[lane] = changed(action, int(values[lane]))
                shown[action.site] = values
        return shown

    def _give(self, worlds: Sequence[World], acting: Sequence[tuple[int, Action]]) -> None:
        """Inputs; lanes without a world have those of lane 0."""
        more = self.lanes.lanes - len(worlds)
        for name, mask in self.inputs.items():
            values = [world.ports[name] & mask for world in worlds]
            for lane, action in acting:
                if action.site == name and not self.over[lane]:
                    values[lane] = changed(action, values[lane])
            self.lanes.drive(name, values + [worlds[0].ports[name] & mask] * more)

    def _host(self, shown: Mapping[str, NDArray[Any]]) -> None:
        """What surrounds each machine sees outputs and gives inputs."""
        columns = [(name, values.tolist()) for name, values in shown.items()]
        odd: NDArray[np.bool_] | None = None
        for lane, world in enumerate(self.worlds):
            if self.done[lane]:
                continue
            world.ports |= {name: column[lane] for name, column in columns}
            if not self.over[lane] and (self._late or world.over()):
                odd = self.lanes.differing() if odd is None else odd
                self._ends(lane, bool(odd[lane]))
            self.done[lane] = world.drive(self.cycle, self.over[lane])

    def _ends(self, lane: int, differs: bool) -> None:
        self.over[lane], row = True, self.rows[lane]
        row["cycles"] = self.cycle
        row["state"] = self.cycle == self.golden_cycles and not differs
        row["end"] = END_LIMIT if self._late else 0

    def _observe(self, shown: Mapping[str, NDArray[Any]]) -> None:
        """Alarms, and the first cycle in which outputs differ from those of lane 0."""
        running = ~np.array(self.over)
        count = len(running)
        for name in self.alarms:
            self.rows[name] |= running & (shown[name][:count] != 0)
        if self.over[0]:
            return
        odd = np.zeros(count, np.bool_)
        for name in self.compared:
            values = shown[name]
            odd |= values[:count] != values[0]
        self.rows["first"][running & odd & (self.rows["first"] < 0)] = self.cycle

    # --- outcomes ---------------------------------------------------------------------------------
    def judged(self, lane: int, final: World) -> np.void:
        """The outcome of a lane; `final`: surroundings of the run without faults, at its end."""
        row, world = self.rows[lane].copy(), self.worlds[lane]
        row["status"] = world.status
        row["end"] = row["end"] or world.end
        row["output"] = world.delivers(final)
        row["counters"] = world.counters == final.counters
        return row


#: Of a forced net: value becomes ((value ^ flip) & keep) | bits.
_Rule = tuple[int, int, int]


def changed(action: Action, value: int) -> int:
    """A word after an action."""
    if action.value is None:
        return value ^ action.mask
    return (value & ~action.mask) | (action.value & action.mask)


def _then(rule: _Rule | None, action: Action, whole: int) -> _Rule:
    """What a net's rule becomes with a further action."""
    flip, keep, bits = rule or (0, whole, 0)
    if action.value is None:
        # Bits that are kept are inverted once more, those that have a value by themselves.
        return flip ^ (action.mask & keep), keep, bits ^ (action.mask & ~keep)
    kept = ~action.mask & whole
    return flip, keep & kept, (bits & kept) | (action.value & action.mask)


def make_faults(
    machine: AnyMachine, program: Program, *, engine: Engine = "auto",
    netlist: Path | None = None, lanes: int = DEFAULT_LANES, nets: bool = False,
    limit: int = 10_000_000,
) -> FaultLanes:  # fmt: skip
    """`LaneFaults` where a C++ compiler is found (`auto`), else `NumpyFaults`.

    Raises ToolError for `compiled` without a compiler, ConfigError for an unknown engine.
    """
    made: type[LaneFaults] | type[NumpyFaults] = LaneFaults
    if chosen(engine) == "numpy":
        made = NumpyFaults
        if engine == "auto":
            say("no C++ compiler: faults run on numpy, a thousand times slower; install g++")
    return made(machine, program, netlist=netlist, lanes=lanes, nets=nets, limit=limit)
